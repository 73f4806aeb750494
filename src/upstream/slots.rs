//! Slots: how many requests may be at an upstream, or at one of its endpoints.
//!
//! Invariant: no more than `limit` slots are taken, unless a reload has lowered the limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The slots of an upstream or of an endpoint, shared by all workers.
#[derive(Debug)]
pub(crate) struct Slots {
    taken: AtomicU32,
    limit: AtomicU32,
}

impl Slots {
    pub(super) fn new(limit: u32) -> Self {
        Slots { taken: AtomicU32::new(0), limit: AtomicU32::new(limit) }
    }

    pub(super) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::SeqCst);
    }

    pub(crate) fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Ordering::SeqCst)
    }

    pub(super) fn has_room(&self) -> bool {
        self.taken() < self.limit()
    }

    /// Takes a slot; `None` if all are taken.
    ///
    /// The order of all these operations and of those on the flag of the queue is the same for all threads.
    /// So either who gives a slot back sees that somebody waits, or who begins to wait sees the free slot.
    pub(super) fn take(self: &Arc<Self>) -> Option<TakenSlot> {
        let limit = self.limit();
        let taken = self
            .taken
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |taken| (taken < limit).then(|| taken + 1));
        taken.is_ok().then(|| TakenSlot(self.clone()))
    }
}

/// A slot that one request has. Dropping it gives the slot back.
#[derive(Debug)]
pub(crate) struct TakenSlot(Arc<Slots>);

impl Drop for TakenSlot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_limit_is_taken_by_any_number_of_threads() {
        let slots = Arc::new(Slots::new(3));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let taken = slots.take();
                        assert!(slots.taken() <= 3);
                        drop(taken);
                    }
                });
            }
        });
        assert_eq!(slots.taken(), 0);
        let _two = [slots.take(), slots.take()];
        slots.set_limit(1);
        assert!(slots.take().is_none() && !slots.has_room());
    }
}
