//! Whether the keys in service may be used.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Whether the keys in service may be used. They may not if no keys were ever read from a server, or
/// if the server could not be read for too long (`keys.max_stale`).
///
/// Invariant: only the last one that took over decides. A thread that followed another store and has
/// not ended yet changes nothing.
#[derive(Debug)]
pub(crate) struct Availability {
    is_available: AtomicBool,
    /// Number of the one that decides.
    turn: Mutex<u64>,
}

impl Default for Availability {
    fn default() -> Self {
        Availability { is_available: AtomicBool::new(true), turn: Mutex::default() }
    }
}

impl Availability {
    pub(crate) fn is_available(&self) -> bool {
        self.is_available.load(Ordering::Relaxed)
    }

    /// Makes the caller the one that decides. `is_available`: `None` to leave it as it is. Returns the
    /// caller's number.
    pub(crate) fn take_over(&self, is_available: Option<bool>) -> u64 {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn += 1;
        if let Some(is_available) = is_available {
            self.is_available.store(is_available, Ordering::Relaxed);
        }
        *turn
    }

    /// Decides, if the caller with this number still does. Returns whether the decision is a change.
    pub(crate) fn set(&self, turn: u64, is_available: bool) -> bool {
        let of_last = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *of_last == turn && self.is_available.swap(is_available, Ordering::Relaxed) != is_available
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_replaced_decides_nothing() {
        let availability = Availability::default();
        let first = availability.take_over(None);
        assert!(availability.set(first, false));
        assert!(!availability.set(first, false), "no change");
        let second = availability.take_over(Some(true));
        assert!(!availability.set(first, false) && availability.is_available());
        assert!(availability.set(second, false) && !availability.is_available());
    }
}
