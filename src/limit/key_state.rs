//! The limit state of one key: its use of each window, and its requests in flight.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use smallvec::SmallVec;

use super::gcra::Window;

/// The limit state of one key.
#[derive(Debug, Default)]
pub(crate) struct KeyState {
    in_flight: AtomicU32,
    pub(super) slots: Mutex<SmallVec<[Slot; 2]>>,
}

/// The use of one window by one key: its theoretical arrival time, in nanoseconds of the clock.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) window: Arc<Window>,
    pub(super) arrival: u64,
}

/// A permit for one request in flight of one key. Dropping the permit gives it back.
#[derive(Debug)]
pub(crate) struct ConcurrencyPermit(Arc<KeyState>);

impl Drop for ConcurrencyPermit {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Release);
    }
}

impl KeyState {
    /// Returns the key's number of requests in flight. Requests are counted only if the number of
    /// requests in flight is limited for the key.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether all windows of the key are full.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().all(|slot| slot.arrival <= now)
    }

    /// Acquires one of `limit` permits; `None` if all of them are in use.
    pub(crate) fn enter(self: &Arc<Self>, limit: u32) -> Option<ConcurrencyPermit> {
        let below = |in_flight: u32| (in_flight < limit).then_some(in_flight + 1);
        self.in_flight.fetch_update(Ordering::Acquire, Ordering::Relaxed, below).ok()?;
        Some(ConcurrencyPermit(self.clone()))
    }
}

/// Returns a key's arrival time in a window; `None` if the key has not used the window.
///
/// If a reload has replaced the window by one with another number or burst, the key has used as
/// much of the new window as of the old one.
pub(super) fn arrival(slots: &[Slot], window: &Arc<Window>, now: u64) -> Option<u64> {
    if let Some(slot) = slots.iter().find(|slot| Arc::ptr_eq(&slot.window, window)) {
        return Some(slot.arrival);
    }
    let before = slots.iter().find(|slot| slot.window.name() == window.name())?;
    Some(window.taken_over(&before.window, before.arrival, now))
}

pub(super) fn store(slots: &mut SmallVec<[Slot; 2]>, window: &Arc<Window>, arrival: u64, now: u64) {
    if let Some(slot) = slots.iter_mut().find(|slot| Arc::ptr_eq(&slot.window, window)) {
        slot.arrival = arrival;
        return;
    }
    // A window whose arrival time has passed is full, like an unused window, so its slot is
    // removed. In this way, the slots of quotas that a reload has removed disappear, too. A slot
    // with the same name is of a window that this one replaces.
    slots.retain(|slot| slot.arrival > now && slot.window.name() != window.name());
    slots.push(Slot { window: window.clone(), arrival });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_come_back_when_they_are_dropped() {
        let state = Arc::new(KeyState::default());
        let first = state.enter(2).unwrap();
        let _second = state.enter(2).unwrap();
        assert!(state.enter(2).is_none());
        drop(first);
        assert!(state.enter(2).is_some());
    }
}
