//! What survives a restart: budgets, and windows of an hour and more.

use std::sync::{Arc, Mutex, PoisonError};

use std::time::Duration;

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
    /// The time until then when it was kept. If the clock is behind now, no more is refused.
    pub(crate) ahead: Duration,
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
        let uses = &mut *self.uses();
        let passed = uses.budgets().take_passed(wall);
        let full_at = |ahead: u64| {
            let ahead = SignedDuration::from_nanos(i64::try_from(ahead).unwrap_or(i64::MAX));
            wall.checked_add(ahead).unwrap_or(Timestamp::MAX)
        };
        let windows = uses.windows.kept(now).map(|(field, ahead)| KeptWindow {
            field,
            full_at: full_at(ahead),
            ahead: Duration::from_nanos(ahead),
        });
        let windows = windows.collect();
        ToKeep { kept: Kept { budgets: uses.budgets().states().collect(), windows }, passed }
    }
}

impl Kept {
    /// Returns the use of windows and budgets that was kept.
    pub(super) fn into_uses(self, now: u64, wall: Timestamp) -> Uses {
        let arrival = |window: &KeptWindow| {
            let ahead = window.full_at.duration_since(wall).as_nanos();
            let ahead = u64::try_from(ahead).unwrap_or(0);
            now.saturating_add(ahead.min(u64::try_from(window.ahead.as_nanos()).unwrap_or(u64::MAX)))
        };
        let windows = self.windows.into_iter().map(|window| {
            let arrival = arrival(&window);
            (window.field, arrival)
        });
        let windows = WindowUses::restored(windows.collect());
        Uses::new(windows, (!self.budgets.is_empty()).then(|| BudgetUses::restored(self.budgets)))
    }
}
