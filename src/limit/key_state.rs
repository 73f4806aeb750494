//! The limit state of one key: its use of each window, and its requests in flight.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::Timestamp;

use super::ask::{Answer, Ask};
use super::budget::BudgetUses;
use super::changes::IsChanged;
use super::leased_slots::LeasedSlots;
use super::leases::Leases;
use super::window_uses::WindowUses;

/// The limit state of one key.
#[derive(Debug, Default)]
pub(crate) struct KeyState {
    /// The id of the key; `group:` and the name of a group.
    id: Box<str>,
    pub(super) in_flight: AtomicU32,
    uses: Mutex<Uses>,
    pub(super) is_changed: IsChanged,
    /// The leases of the key; `None` if its limits are this process's own.
    shared: Option<Box<SharedKey>>,
}

/// What a key has used of its windows and its budgets.
#[derive(Debug, Default)]
pub(super) struct Uses {
    pub(super) windows: WindowUses,
    /// Few of a hundred thousand holders have budgets, so the others have no memory for them.
    budgets: Option<Box<BudgetUses>>,
}

impl Uses {
    /// Makes the use of windows and budgets of what was kept of them; `None` if nothing was of budgets.
    pub(super) fn new(windows: WindowUses, budgets: Option<BudgetUses>) -> Self {
        Uses { windows, budgets: budgets.map(Box::new) }
    }

    /// Returns the use of budgets.
    pub(super) fn budgets(&mut self) -> &mut BudgetUses {
        self.budgets.get_or_insert_default()
    }

    fn are_unused(&self, now: u64, wall: Timestamp) -> bool {
        let are_unused = self.budgets.as_ref().is_none_or(|budgets| budgets.are_unused(wall));
        self.windows.is_unused(now) && are_unused
    }
}

/// The part of a key's state that concerns limits of all replicas together.
#[derive(Debug)]
struct SharedKey {
    leases: Mutex<Leases>,
    slots: Mutex<LeasedSlots>,
}

impl KeyState {
    /// Makes the state of a key. `uses`: what was kept over a restart.
    pub(super) fn new(id: &str, uses: Uses) -> Self {
        KeyState { id: id.into(), uses: Mutex::new(uses), ..KeyState::default() }
    }

    /// Makes the state of a key whose limits hold for all replicas together.
    pub(super) fn shared(id: &str, uses: Uses) -> Self {
        let shared = SharedKey { leases: Mutex::default(), slots: Mutex::default() };
        KeyState { shared: Some(Box::new(shared)), ..KeyState::new(id, uses) }
    }

    /// Returns the use of all windows and budgets, locked.
    pub(super) fn uses(&self) -> MutexGuard<'_, Uses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the id of the key; `group:` and the name of a group.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Calls `work` with the leases of the key, if its limits hold for all replicas together.
    pub(super) fn with_leases<T>(&self, work: impl FnOnce(&mut Leases) -> T) -> Option<T> {
        let shared = self.shared.as_ref()?;
        Some(work(&mut shared.leases.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Calls `work` with the slots of the key, if its limits hold for all replicas together.
    pub(crate) fn with_slots<T>(&self, work: impl FnOnce(&mut LeasedSlots) -> T) -> Option<T> {
        let shared = self.shared.as_ref()?;
        Some(work(&mut shared.slots.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Begins an ask. Returns `None` if nothing is to be asked or reported.
    pub(crate) fn begin_ask(&self, now: u64) -> Option<Ask> {
        self.with_leases(|leases| leases.begin_ask(now)).flatten()
    }

    /// Ends an ask with the server's answer; `None` if there was none in time.
    pub(crate) fn end_ask(&self, ask: Ask, answer: Option<&Answer>, now: u64) {
        self.with_leases(|leases| leases.end_ask(ask, answer, now));
    }

    /// Replies to the requests that wait for an ask that the server can't be asked.
    pub(crate) fn fail_ask(&self, now: u64) {
        self.with_leases(|leases| leases.fail_waiting(now));
    }

    /// Prepares the report of what leases have left. Returns whether the caller must ask.
    pub(crate) fn give_back(&self) -> bool {
        self.with_leases(Leases::give_back).unwrap_or(false)
    }

    /// Begins the report of what has changed. Returns whether the caller must ask.
    pub(crate) fn begin_report(&self) -> bool {
        self.with_leases(Leases::begin_report).unwrap_or(false)
    }

    /// Returns the key's number of requests in flight. Requests are counted only if the number of
    /// requests in flight is limited for the key.
    pub(crate) fn in_flight(&self) -> u32 {
        self.with_slots(|slots| slots.in_use()).unwrap_or_else(|| self.in_flight.load(Ordering::Relaxed))
    }

    /// Whether all windows of the key are full, and nothing of its budgets was used.
    pub(super) fn is_unused(&self, now: u64, wall: Timestamp) -> bool {
        self.uses().are_unused(now, wall)
            && self.with_leases(|leases| leases.is_unused(now)).unwrap_or(true)
            && self.with_slots(|slots| slots.is_unused(now)).unwrap_or(true)
    }
}
