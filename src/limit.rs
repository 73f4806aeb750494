//! Limits: requests per window for each key (GCRA, by the governor library), requests in flight,
//! and failed attempts of addresses.
//!
//! A quota of N requests per time T with a burst of B grants at most `B + N·t/T` requests in any time
//! span t. Tokens are known only afterwards: a request that needs more than a burst is granted by a full
//! window, which goes into debt. All windows of a request are judged at one instant, and either all of them are charged
//! or none. Limit state belongs to the id of a key and outlives every reload. It is forgotten when
//! its key no longer exists and its windows are full, because a newly made state would be equal.
//! A request of a key of a group is charged to both: each is a [`Holder`] of limits.

mod ask;
mod attempt_counts;
mod awaited_reply;
mod budget;
mod budget_ask;
mod changes;
mod charge;
mod companions;
mod concurrency;
mod cost;
mod gcra;
mod holder;
mod in_flight;
mod judged;
mod kept;
mod key_state;
mod lease;
mod leased_slots;
mod leases;
mod lender;
mod of_replicas;
mod open_charges;
mod part;
mod policy_header;
mod rate;
mod shared_budget;
mod status;
mod unsettled;
mod window_uses;

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use smallvec::SmallVec;

pub(crate) use ask::{Answer, AnswerOfWindow, Ask, Outcome};
pub(crate) use attempt_counts::FailedAttempts;
pub(crate) use budget::{Ahead, Budget, BudgetState, Passed, ShownBudget};
pub(crate) use budget_ask::{BudgetAnswer, BudgetAsk, BudgetSettlement, BudgetTold};
use companions::Companions;
pub(crate) use concurrency::ConcurrencyPermit;
pub(crate) use cost::Cost;
pub(crate) use gcra::{Wait, Window};
use holder::Charge;
pub(crate) use holder::{Debit, Holder};
use in_flight::{InFlight, PublicInFlight};
pub(crate) use in_flight::{InFlightPermit, PublicInFlightPermit};
use judged::Judged;
pub(crate) use judged::Refused;
pub(crate) use kept::{Changed, Kept, KeptWindow, ToKeep};
pub(crate) use key_state::KeyState;
use key_state::Uses;
pub(crate) use leased_slots::{LeasedSlots, SlotAsk};
pub(crate) use lender::{Attempts, AttemptsCounted, Lender, Standing};
pub(crate) use part::PartOf;
pub(crate) use status::LimitStatus;
pub(crate) use unsettled::{BudgetReport, Unsettled, UnsettledChanges};

use crate::clock::Clock;
use crate::config::{AttemptQuota, BudgetQuota, Quota};

/// The limit state of all keys and addresses, and the windows in use.
#[derive(Debug)]
pub(crate) struct Limiter {
    clock: Clock,
    states: DashMap<Box<str>, Arc<KeyState>>,
    windows: DashMap<(Option<String>, Quota), Arc<Window>>,
    budgets: DashMap<(Option<String>, BudgetQuota), Arc<Budget>>,
    /// Where changes are noted that survive a restart; `None` if nothing survives one.
    changed: Option<Arc<Changed>>,
    /// What was kept over a restart of keys and groups that were not used since, by their ids.
    restored: DashMap<String, Kept>,
    attempts: Arc<FailedAttempts>,
    companions: Companions,
    in_flight: InFlight,
    public: PublicInFlight,
    /// Largest number of requests in flight for which the process has room, whatever the
    /// configuration allows.
    capacity: usize,
    /// The lender of units, if limits hold for all replicas together.
    lender: Option<Arc<dyn Lender>>,
}

/// The outcome of charging the windows of a request.
#[derive(Debug, Default)]
pub(crate) struct Charged {
    pub(crate) status: LimitStatus,
    /// The charges that are settled when the request has ended: those of tokens, and all if the charge may
    /// be taken back.
    pub(crate) debits: SmallVec<[Debit; 2]>,
    /// The refusal of a window that is not enforced.
    pub(crate) would_refuse: Option<Refused>,
}

/// The reason why a request is not granted.
#[derive(Debug)]
pub(crate) enum NotGranted {
    Refused(Refused),
    /// The server that has the limits can't be asked.
    Unavailable,
}

impl Limiter {
    /// Makes a limiter. `capacity`: the largest number of requests that the process can have in
    /// flight.
    pub(crate) fn new(clock: Clock, capacity: usize) -> Self {
        Limiter {
            clock,
            states: DashMap::new(),
            windows: DashMap::new(),
            budgets: DashMap::new(),
            changed: None,
            restored: DashMap::new(),
            attempts: Arc::default(),
            companions: Companions::default(),
            in_flight: InFlight::default(),
            public: PublicInFlight::default(),
            capacity,
            lender: None,
        }
    }

    /// Makes limits hold for all replicas together. `lender`: the lender of units.
    pub(crate) fn shared_by(mut self, lender: Arc<dyn Lender>) -> Self {
        self.lender = Some(lender);
        self
    }

    /// Makes budgets and long windows survive a restart. `restored`: what was kept, by the ids of keys
    /// and groups. Whoever has the second value writes what has changed.
    pub(crate) fn keeping(mut self, restored: HashMap<String, Kept>) -> (Self, Arc<Changed>) {
        let changed = Arc::<Changed>::default();
        self.changed = Some(changed.clone());
        self.restored = restored.into_iter().collect();
        (self, changed)
    }

    /// Whether what was used of budgets survives a restart.
    pub(crate) fn keeps_budgets(&self) -> bool {
        self.changed.is_some() || self.lender.is_some()
    }

    /// Returns the failed attempts of addresses that this process knows of.
    pub(crate) fn attempts(&self) -> &Arc<FailedAttempts> {
        &self.attempts
    }

    /// Counts a failed attempt of an address in this process alone.
    ///
    /// # Errors
    ///
    /// Fails with the time that the address has to wait, if its failed attempts are used up.
    pub(crate) fn failed_attempt(&self, address: IpAddr, quota: AttemptQuota) -> Result<(), Duration> {
        self.attempts.note(address, quota, self.clock.monotonic_nanos())
    }

    /// Records a credential that was sent beside a key's secret and matches no key. Returns whether
    /// the credential is new.
    pub(crate) fn is_new_companion(&self, credential: impl Hash) -> bool {
        self.companions.note(credential)
    }

    /// Returns how long an address has to wait, if it has used up its failed attempts.
    pub(crate) fn attempts_exhausted(&self, address: IpAddr, quota: AttemptQuota) -> Option<Duration> {
        self.attempts.waits(address, quota, self.clock.monotonic_nanos())
    }

    /// Acquires a permit for a request in flight, one of `limit` permits.
    ///
    /// # Errors
    ///
    /// Fails with the number of permits if all permits are in use.
    pub(crate) fn enter(&self, limit: usize) -> Result<InFlightPermit, usize> {
        let limit = limit.min(self.capacity);
        self.in_flight.enter(limit).ok_or(limit)
    }

    /// Acquires a permit for a request without a key from this address. `limit`: the number of
    /// permits for all requests, with or without a key.
    ///
    /// # Errors
    ///
    /// Fails with the number of permits for requests without a key if all of these permits are in
    /// use.
    pub(crate) fn enter_public(
        &self,
        address: Option<IpAddr>,
        limit: usize,
    ) -> Result<PublicInFlightPermit, usize> {
        self.public.enter(address, limit.min(self.capacity))
    }

    /// Returns the limit state of the key with this id. Makes the state if the key has none yet.
    pub(crate) fn state(&self, key_id: &str) -> Arc<KeyState> {
        if let Some(state) = self.states.get(key_id) {
            return state.value().clone();
        }
        let state = || {
            let kept = self.restored.remove(key_id).map(|(_, kept)| kept).unwrap_or_default();
            let uses = kept.into_uses(self.clock.monotonic_nanos(), self.clock.wall());
            Arc::new(match self.lender {
                Some(_) => KeyState::shared(key_id, uses),
                None => KeyState::new(key_id, uses),
            })
        };
        self.states.entry(key_id.into()).or_insert_with(state).value().clone()
    }

    /// Forgets the state of a key that has left the store, if nothing refers to the state and all
    /// of its windows are full. Returns whether the key has no state now.
    pub(crate) fn forget(&self, key_id: &str) -> bool {
        let (now, wall) = (self.clock.monotonic_nanos(), self.clock.wall());
        let is_unused = |state: &Arc<KeyState>| Arc::strong_count(state) == 1 && state.is_unused(now, wall);
        self.states.remove_if(key_id, |_, state| is_unused(state));
        !self.states.contains_key(key_id)
    }

    /// Whether all windows of a key are full, nothing of its budgets was used, and it has no request in flight.
    pub(crate) fn holds_nothing_of(&self, state: &KeyState) -> bool {
        state.in_flight() == 0 && state.is_unused(self.clock.monotonic_nanos(), self.clock.wall())
    }

    /// Returns the states of all keys.
    pub(crate) fn states(&self) -> Vec<Arc<KeyState>> {
        self.states.iter().map(|state| state.value().clone()).collect()
    }

    /// Returns the limit state of the key with this id, if there is one, or if something was kept of it
    /// over a restart.
    pub(crate) fn known_state(&self, key_id: &str) -> Option<Arc<KeyState>> {
        if self.restored.contains_key(key_id) {
            return Some(self.state(key_id));
        }
        self.states.get(key_id).map(|state| state.value().clone())
    }

    /// Returns the window of a quota. `route`: the route that has the quota; `None` for
    /// a quota of keys. As long as the window is in use, each call for the same quota returns the
    /// same window, so that limit state survives a reload that keeps the quota.
    pub(crate) fn window(&self, route: Option<&str>, quota: Quota) -> Arc<Window> {
        let name = (route.map(str::to_owned), quota);
        self.windows.entry(name).or_insert_with(|| Arc::new(Window::new(route, quota))).value().clone()
    }

    /// Returns the budget of a quota. `holder`: the name before the policies of a group; `None` for a
    /// key. As for windows, each call for the same quota returns the same budget.
    pub(crate) fn budget(&self, holder: Option<&str>, quota: &BudgetQuota) -> Arc<Budget> {
        let name = (holder.map(str::to_owned), quota.clone());
        self.budgets
            .entry(name)
            .or_insert_with(|| Arc::new(Budget::new(holder, quota.clone())))
            .value()
            .clone()
    }

    /// Forgets the windows to which neither a configuration nor a key refers. Windows of a refused
    /// configuration are removed in this way.
    pub(crate) fn forget_unused_windows(&self) {
        self.windows.retain(|_, window| Arc::strong_count(window) > 1);
        self.budgets.retain(|_, budget| Arc::strong_count(budget) > 1);
    }

    /// Charges all enforced windows and all budgets of a request's key, and of the group of the key, for
    /// a request of this cost, or charges none of them. A window that is not enforced is charged if it would grant
    /// the request.
    ///
    /// # Errors
    ///
    /// Fails with the window or budget that has the longest wait, if any of them refuses the request.
    pub(crate) fn charge(
        &self,
        key: &Holder<'_>,
        group: Option<&Holder<'_>>,
        cost: Cost,
    ) -> Result<Charged, Refused> {
        // Whoever locks both states locks the key's first.
        let mut of_key = key.state.uses();
        let mut of_group = group.map(|group| (group, group.state.uses()));
        let now = self.clock.monotonic_nanos();
        let mut judged = Judged::default();
        judged.judge(&of_key.windows, key, cost, now);
        let mine = judged.charged.len();
        if let Some((group, uses)) = &of_group {
            judged.judge(&uses.windows, group, cost, now);
        }
        let wall = || self.clock.wall();
        judged.judge_budgets(&mut of_key, key, cost, wall);
        if let Some((group, uses)) = &mut of_group {
            judged.judge_budgets(uses, group, cost, wall);
        }
        let Judged { charged, refusal, would_refuse } = judged;
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let mut debits = SmallVec::new();
        for (index, (window, arrival)) in charged.into_iter().enumerate() {
            let (state, uses) = match &mut of_group {
                Some((group, uses)) if index >= mine => (group.state, &mut **uses),
                _ => (key.state, &mut *of_key),
            };
            match window.counts_tokens() || cost.may_be_taken_back {
                true => {
                    let charge = uses.windows.open(window, cost.of(window.unit()), arrival, now);
                    debits.push(Debit { state: state.clone(), charge: Charge::Window(charge) });
                }
                false => uses.windows.store(window, arrival, now),
            }
        }
        let mut status = LimitStatus::of(&of_key.windows, key.windows(), now);
        self.charge_budgets(&mut of_key, key, cost, &mut debits);
        if let Some((group, mut uses)) = of_group {
            status = status.and(LimitStatus::of(&uses.windows, group.windows(), now));
            self.charge_budgets(&mut uses, group, cost, &mut debits);
        }
        Ok(Charged { status, debits, would_refuse })
    }

    /// Charges the budgets of a holder, which have granted the request, and notes what has changed.
    fn charge_budgets(
        &self,
        uses: &mut Uses,
        holder: &Holder<'_>,
        cost: Cost,
        debits: &mut SmallVec<[Debit; 2]>,
    ) {
        for budget in holder.budgets {
            if let Some(charge) = uses.budgets().charge(budget, cost, self.clock.wall()) {
                debits.push(Debit { state: holder.state.clone(), charge: Charge::Budget(charge) });
            }
        }
        if let Some(changed) = self.changed.as_ref().filter(|_| holder.is_kept()) {
            changed.note(holder.state);
        }
    }

    /// Corrects the charges of a request when its actual cost is known: charges the difference, or
    /// gives it back. The difference is charged even if the window has fewer units left. The window
    /// then grants nothing until it has regained the missing units. What a window has regained of a
    /// charge is not given back a second time.
    pub(crate) fn settle(&self, debits: &[Debit], charged: Cost, used: Cost) {
        for Debit { state, charge } in debits {
            let now = self.clock.monotonic_nanos();
            let is_kept = match (charge, &self.lender) {
                (Charge::Budget(charge), _) => {
                    state.uses().budgets().settle(charge, used, self.clock.wall());
                    true
                }
                (Charge::SharedBudget { budget, from, reserved }, Some(lender)) => {
                    let mut used = i64::from(used.of(budget.unit()));
                    if budget.counts_requests() {
                        // The server has counted the request at once.
                        used -= i64::from(charged.requests);
                        if used == 0 {
                            continue;
                        }
                    }
                    let (budget, from, reserved) = (budget.clone(), *from, *reserved);
                    let settlement = BudgetSettlement { budget, from, reserved, used };
                    lender.settle_budgets(state, vec![settlement]);
                    false
                }
                // Without a lender, no budget is shared.
                (Charge::SharedBudget { .. }, None) => false,
                (Charge::Window(charge), None) => {
                    let (charged, used) = (charged.of(charge.unit()), used.of(charge.unit()));
                    state.uses().windows.close(charge, charged, used, now);
                    charge.window.is_kept()
                }
                (Charge::Window(charge), Some(lender)) => {
                    let (charged, used) = (charged.of(charge.unit()), used.of(charge.unit()));
                    if state.with_leases(|leases| leases.settle(charge, charged, used, now)) == Some(true) {
                        lender.report(state);
                    }
                    false
                }
            };
            if let Some(changed) = self.changed.as_ref().filter(|_| is_kept) {
                changed.note(state);
            }
        }
    }

    /// Returns the budgets of a holder, as they are shown.
    pub(crate) fn budgets(&self, holder: &Holder<'_>) -> Vec<ShownBudget> {
        match holder.budgets {
            [] => Vec::new(),
            budgets => holder.state.uses().budgets().shown(budgets, self.clock.wall()),
        }
    }

    /// Returns the budgets of the key with this id that were used since the start, as they are shown.
    pub(crate) fn known_budgets(&self, key_id: &str) -> Vec<ShownBudget> {
        let state = self.known_state(key_id);
        state.map(|state| state.uses().budgets().known(self.clock.wall())).unwrap_or_default()
    }

    /// Returns the state of a holder's windows without charging them.
    pub(crate) fn status(&self, holder: &Holder<'_>) -> LimitStatus {
        let now = self.clock.monotonic_nanos();
        if let Some(lender) = &self.lender {
            let part = match lender.standing() {
                Standing::Part(part) => Some(part),
                Standing::Available | Standing::Refuses => None,
            };
            let status = holder.state.with_leases(|leases| leases.status(holder.windows(), part, now));
            if let Some(status) = status {
                return status;
            }
        }
        LimitStatus::of(&holder.state.uses().windows, holder.windows(), now)
    }
}

#[cfg(test)]
mod tests;
