//! Permits for the requests in flight of one key (`max_concurrent`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::key_state::KeyState;
use super::leased_slots::LeasedSlots;
use super::lender::Lender;

/// A permit for one request in flight of one key. Dropping the permit gives it back.
#[derive(Debug)]
pub(crate) struct ConcurrencyPermit {
    state: Arc<KeyState>,
    /// The lender of slots, if the limit holds for all replicas together.
    lender: Option<Arc<dyn Lender>>,
}

impl ConcurrencyPermit {
    /// Acquires one of `limit` permits of this process; `None` if all of them are in use.
    pub(super) fn acquire(state: &Arc<KeyState>, limit: u32) -> Option<Self> {
        let below = |in_flight: u32| (in_flight < limit).then_some(in_flight + 1);
        state.in_flight.fetch_update(Ordering::Acquire, Ordering::Relaxed, below).ok()?;
        Some(ConcurrencyPermit { state: state.clone(), lender: None })
    }

    /// Makes the permit for a slot that was taken.
    pub(super) fn of_slot(state: &Arc<KeyState>, lender: &Arc<dyn Lender>) -> Self {
        ConcurrencyPermit { state: state.clone(), lender: Some(lender.clone()) }
    }
}

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        let Some(lender) = &self.lender else {
            self.state.in_flight.fetch_sub(1, Ordering::Release);
            return;
        };
        if self.state.with_slots(LeasedSlots::leave) == Some(true) {
            lender.report_slots(&self.state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back_when_they_are_dropped() {
        let state = Arc::new(KeyState::default());
        let acquire = || ConcurrencyPermit::acquire(&state, 2);
        let first = acquire().unwrap();
        let _second = acquire().unwrap();
        assert!(acquire().is_none());
        drop(first);
        assert!(acquire().is_some());
    }
}
