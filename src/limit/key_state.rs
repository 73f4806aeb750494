//! The limit state of one key: its use of each window, and its requests in flight.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ask::{Answer, Ask};
use super::leased_slots::LeasedSlots;
use super::leases::Leases;
use super::window_uses::WindowUses;

/// The limit state of one key.
#[derive(Debug, Default)]
pub(crate) struct KeyState {
    pub(super) in_flight: AtomicU32,
    uses: Mutex<WindowUses>,
    /// The leases of the key; `None` if its limits are this process's own.
    shared: Option<Box<SharedKey>>,
}

/// The part of a key's state that concerns limits of all replicas together.
#[derive(Debug)]
struct SharedKey {
    id: Box<str>,
    leases: Mutex<Leases>,
    slots: Mutex<LeasedSlots>,
}

impl KeyState {
    /// Makes the state of a key whose limits hold for all replicas together.
    pub(super) fn shared(id: &str) -> Self {
        let shared = SharedKey { id: id.into(), leases: Mutex::default(), slots: Mutex::default() };
        KeyState { shared: Some(Box::new(shared)), ..KeyState::default() }
    }

    /// Returns the use of all windows, locked.
    pub(super) fn uses(&self) -> MutexGuard<'_, WindowUses> {
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the id of the key, if its limits hold for all replicas together.
    pub(crate) fn id(&self) -> &str {
        self.shared.as_ref().map(|shared| &*shared.id).unwrap_or_default()
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

    /// Whether all windows of the key are full.
    pub(super) fn is_unused(&self, now: u64) -> bool {
        self.uses().is_unused(now)
            && self.with_leases(|leases| leases.is_unused(now)).unwrap_or(true)
            && self.with_slots(|slots| slots.is_unused(now)).unwrap_or(true)
    }
}
