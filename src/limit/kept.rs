//! What survives a restart: budgets, and windows of an hour and more.

use std::sync::{Arc, Mutex, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::budget::{BudgetState, BudgetUses, Passed};
use super::key_state::{KeyState, Uses};
use super::window_uses::WindowUses;

/// What is kept of one holder of limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) budgets: Vec<BudgetState>,
    pub(crate) windows: Vec<KeptWindow>,
}

/// A window as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeptWindow {
    /// The window's name among those of its holder.
    pub(crate) field: String,
    /// When the window is full again.
    pub(crate) full_at: Timestamp,
}

/// The holders of which something has changed that is kept.
#[derive(Debug, Default)]
pub(crate) struct Changed(Mutex<Vec<Arc<KeyState>>>);

impl Changed {
    /// Notes that something has changed.
    pub(super) fn note(&self, state: &Arc<KeyState>) {
        if state.is_changed.note() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(state.clone());
        }
    }

    /// Returns the holders that have changed since the last call.
    pub(crate) fn take(&self) -> Vec<Arc<KeyState>> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What one holder has to keep now, and the budgets that have passed a share of their amounts.
#[derive(Debug)]
pub(crate) struct ToKeep {
    pub(crate) kept: Kept,
    pub(crate) passed: Vec<Passed>,
}

impl KeyState {
    /// Returns what is to be kept of this holder now.
    pub(crate) fn to_keep(&self, now: u64, wall: Timestamp) -> ToKeep {
        // What changes from here on is written at the next time.
        self.is_changed.clear();
        let Uses { windows, budgets } = &mut *self.uses();
        let passed = budgets.take_passed(wall);
        let full_at = |ahead: u64| {
            let ahead = SignedDuration::from_nanos(i64::try_from(ahead).unwrap_or(i64::MAX));
            wall.checked_add(ahead).unwrap_or(Timestamp::MAX)
        };
        let windows = windows.kept(now).map(|(field, ahead)| KeptWindow { field, full_at: full_at(ahead) });
        ToKeep { kept: Kept { budgets: budgets.states().collect(), windows: windows.collect() }, passed }
    }
}

impl Kept {
    /// Returns the use of windows and budgets that was kept.
    pub(super) fn into_uses(self, now: u64, wall: Timestamp) -> Uses {
        let arrival = |full_at: Timestamp| {
            let ahead = full_at.duration_since(wall).as_nanos();
            now.saturating_add(u64::try_from(ahead).unwrap_or(0))
        };
        let windows = self.windows.into_iter().map(|window| (window.field, arrival(window.full_at)));
        Uses { windows: WindowUses::restored(windows.collect()), budgets: BudgetUses::restored(self.budgets) }
    }
}
