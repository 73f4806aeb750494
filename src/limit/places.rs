//! The requests that the whole process has in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts requests in flight, up to a bound.
#[derive(Clone, Debug, Default)]
pub(super) struct Places(Arc<AtomicUsize>);

/// The place of one request in flight; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place(Arc<AtomicUsize>);

impl Places {
    /// Takes one of `limit` places, or none.
    pub(super) fn enter(&self, limit: usize) -> Option<Place> {
        // Counted first and looked at then: one that is refused is in the count for a moment, which errs on the side
        // of refusing, and costs one instruction where a loop would cost several under contention.
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let place = Place(self.0.clone());
        (before < limit).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_no_more_places_than_that_and_each_comes_back() {
        let places = Places::default();
        let first = places.enter(2).unwrap();
        let _second = places.enter(2).unwrap();
        assert!(places.enter(2).is_none());
        assert!(places.enter(2).is_none(), "who was refused has left nothing behind");
        drop(first);
        assert!(places.enter(2).is_some());
    }
}
