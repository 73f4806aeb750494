//! Budgets: how much a holder of limits may use in a period of the calendar.
//!
//! A budget refuses a request if what was used in the period, what open requests have reserved, and
//! what the request reserves are more than its amount. What was used is never given back,
//! except a request that was counted and not sent. Invariant:
//! a clock that goes back makes no budget larger.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use smallvec::SmallVec;

use super::cost::Cost;
use crate::config::{BudgetQuota, Every, Period, Unit, Zone};

/// How far a clock may go back without a new period: NTP corrects a clock by less.
const CLOCK_MAY_GO_BACK: SignedDuration = SignedDuration::from_hours(24);

/// A budget, shared by all holders that have it.
#[derive(Debug)]
pub(crate) struct Budget {
    policy: String,
    quota: BudgetQuota,
}

/// The charge of a budget by a request that has not ended.
#[derive(Debug)]
pub(super) struct BudgetCharge {
    budget: Arc<Budget>,
    /// The period that was charged, by its number in this process.
    epoch: u64,
    reserved: u64,
    /// Requests that were counted as used at once.
    counted: u64,
}

/// What a holder has used of all its budgets.
#[derive(Debug, Default)]
pub(super) struct BudgetUses {
    uses: SmallVec<[BudgetUse; 1]>,
    /// What was kept over a restart of budgets that were not used since.
    restored: Vec<BudgetState>,
}

/// What a holder has used of a budget.
#[derive(Debug)]
struct BudgetUse {
    budget: Arc<Budget>,
    period: Period,
    /// Number of periods that have begun in this process.
    epoch: u64,
    /// What requests have used that have ended.
    used: u64,
    /// What requests may use that have not ended. If all replicas share the budget: what requests have used,
    /// and the server has not answered yet.
    reserved: u64,
    /// The share of the amount, in per cent, of which the audit log has told.
    told: u8,
    /// The later period that was left because the clock went back; `None` if it did not.
    ahead: Option<Ahead>,
}

/// A period that was left because the clock went back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) start: Timestamp,
    /// What was used in it.
    pub(crate) used: u64,
}

/// A budget as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BudgetState {
    pub(crate) unit: Unit,
    pub(crate) every: Every,
    pub(crate) period: Period,
    /// What requests have used that have ended.
    pub(crate) used: u64,
    pub(crate) told: u8,
    /// The later period that was left because the clock went back.
    pub(crate) ahead: Option<Ahead>,
}

/// A budget as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShownBudget {
    pub(crate) policy: String,
    pub(crate) limit: u64,
    /// What requests have used that have ended.
    pub(crate) used: u64,
    /// When the next period begins.
    pub(crate) resets_at: Timestamp,
}

/// A budget that has passed a share of its amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Passed {
    pub(crate) policy: String,
    /// 80 or 100 per cent.
    pub(crate) percent: u8,
    pub(crate) used: u64,
    pub(crate) limit: u64,
    pub(crate) resets_at: Timestamp,
}

impl Budget {
    /// Makes a budget. `holder`: the name before the policies of a group; `None` for a key.
    pub(super) fn new(holder: Option<&str>, quota: BudgetQuota) -> Self {
        let own = quota.policy();
        let policy = holder.map_or_else(|| own.clone(), |holder| format!("{holder}-{own}"));
        Budget { policy, quota }
    }

    /// Makes a budget again of which settlements were kept.
    pub(crate) fn kept(policy: String, unit: Unit, every: Every, amount: u64) -> Self {
        Budget { policy, quota: BudgetQuota { unit, amount, every, zone: Zone::utc() } }
    }

    pub(crate) fn policy(&self) -> &str {
        &self.policy
    }

    pub(crate) fn amount(&self) -> u64 {
        self.quota.amount
    }

    pub(crate) fn unit(&self) -> Unit {
        self.quota.unit
    }

    pub(crate) fn every(&self) -> Every {
        self.quota.every
    }

    /// Returns the budget's name among those of its holder in the server that has shared budgets.
    pub(crate) fn field(&self) -> String {
        format!("{}/{}", self.quota.unit.field(), self.quota.every.name())
    }

    /// Whether the budget counts requests, which are used at once.
    pub(crate) fn counts_requests(&self) -> bool {
        self.quota.unit == Unit::Requests
    }

    /// Returns what is told of the budget when it has passed a share of its amount.
    pub(crate) fn passed(&self, percent: u8, used: u64, resets_at: Timestamp) -> Passed {
        Passed { policy: self.policy.clone(), percent, used, limit: self.quota.amount, resets_at }
    }

    fn cost_of(&self, cost: Cost) -> u64 {
        u64::from(cost.of(self.quota.unit))
    }

    /// Whether this budget takes the place of another one at a reload.
    fn replaces(&self, (unit, every): (Unit, Every)) -> bool {
        (self.quota.unit, self.quota.every) == (unit, every)
    }
}

impl BudgetUse {
    /// Makes the use of a budget. `before`: what was kept of it over a restart.
    fn new(budget: &Arc<Budget>, before: Option<BudgetState>, now: Timestamp) -> Self {
        let period = budget.quota.period(now);
        let mut one = BudgetUse {
            budget: budget.clone(),
            period,
            epoch: 0,
            used: 0,
            reserved: 0,
            told: 0,
            ahead: None,
        };
        if let Some(BudgetState { period: before, used, told, ahead, .. }) = before {
            (one.used, one.told, one.ahead) = (used, told, ahead);
            // The clock may be behind that of the time before. In another zone, the budget goes on in its
            // period there.
            let is_over = now >= before.end;
            if is_over || before.start > now {
                one.period = before;
            }
        }
        one.roll(now);
        one
    }

    /// Begins the next period, if it is time.
    fn roll(&mut self, now: Timestamp) {
        if now >= self.period.end {
            self.period = self.budget.quota.period(now);
            self.epoch += 1;
            (self.reserved, self.told) = (0, 0);
            // A clock that went back, and is right again, brings nothing back.
            self.used = match self.ahead.take_if(|ahead| ahead.start <= self.period.start) {
                Some(ahead) if ahead.start == self.period.start => ahead.used.max(self.used),
                _ => 0,
            };
        } else if self.period.start.duration_since(now) > CLOCK_MAY_GO_BACK {
            // The clock is wrong now, or was wrong when the period began. What was used counts in both.
            self.ahead = Some(Ahead { start: self.period.start, used: self.used });
            self.period = self.budget.quota.period(now);
        }
    }

    fn state(&self) -> BudgetState {
        let BudgetQuota { unit, every, .. } = self.budget.quota;
        let BudgetUse { period, used, told, ahead, .. } = *self;
        BudgetState { unit, every, period, used, told, ahead }
    }

    fn shown(&self) -> ShownBudget {
        ShownBudget {
            policy: self.budget.policy.clone(),
            limit: self.budget.quota.amount,
            used: self.used,
            resets_at: self.period.end,
        }
    }

    fn left(&self) -> u64 {
        self.budget.quota.amount.saturating_sub(self.used).saturating_sub(self.reserved)
    }
}

impl BudgetUses {
    /// Restores what was kept.
    pub(super) fn restored(states: Vec<BudgetState>) -> Self {
        BudgetUses { uses: SmallVec::new(), restored: states }
    }

    /// Returns the use of a budget in the period of `now`.
    fn current(&mut self, budget: &Arc<Budget>, now: Timestamp) -> Option<&mut BudgetUse> {
        let policy = (budget.quota.unit, budget.quota.every);
        if !self.uses.iter().any(|one| one.budget.replaces(policy)) {
            let before = self.restored.iter().position(|before| (before.unit, before.every) == policy);
            let before = before.map(|index| self.restored.swap_remove(index));
            self.uses.push(BudgetUse::new(budget, before, now));
        }
        let one = self.uses.iter_mut().find(|one| one.budget.replaces(policy))?;
        if !Arc::ptr_eq(&one.budget, budget) {
            let is_elsewhere = one.budget.quota.zone != budget.quota.zone;
            one.budget = budget.clone();
            if is_elsewhere && now < one.period.end {
                one.period = budget.quota.period(now);
            }
        }
        one.roll(now);
        Some(one)
    }

    /// Whether a budget grants a request of this cost.
    ///
    /// # Errors
    ///
    /// Fails with the time at which the budget's next period begins.
    pub(super) fn judge(
        &mut self,
        budget: &Arc<Budget>,
        cost: Cost,
        now: Timestamp,
    ) -> Result<(), Timestamp> {
        let one = self.current(budget, now).ok_or(now)?;
        let least = u64::from(cost.least_of(budget.unit()));
        // A request that needs nothing is refused too when nothing is left.
        if one.left() >= least.max(1) { Ok(()) } else { Err(one.period.end) }
    }

    /// Charges a budget for a request. Returns what is settled when the request has ended; `None` if
    /// the budget counts requests, and the charge is not taken back.
    pub(super) fn charge(
        &mut self,
        budget: &Arc<Budget>,
        cost: Cost,
        now: Timestamp,
    ) -> Option<BudgetCharge> {
        let one = self.current(budget, now)?;
        // All that is left may be used: what is a guess reserves no more.
        let units = budget.cost_of(cost).min(one.left());
        if budget.unit() == Unit::Requests {
            one.used = one.used.saturating_add(units);
            let charge =
                BudgetCharge { budget: budget.clone(), epoch: one.epoch, reserved: 0, counted: units };
            return cost.may_be_taken_back.then_some(charge);
        }
        one.reserved = one.reserved.saturating_add(units);
        Some(BudgetCharge { budget: budget.clone(), epoch: one.epoch, reserved: units, counted: 0 })
    }

    /// Settles a charge. A request that ends in another period than it began in is charged to the one
    /// in which it began, which is over.
    pub(super) fn settle(&mut self, charge: &BudgetCharge, used: Cost, now: Timestamp) {
        let Some(one) = self.of(&charge.budget) else { return };
        one.roll(now);
        if one.epoch == charge.epoch {
            one.reserved = one.reserved.saturating_sub(charge.reserved);
            let used = one.used.saturating_add(charge.budget.cost_of(used));
            one.used = used.saturating_sub(charge.counted);
        }
    }

    /// Returns the current period of a budget that all replicas share, and what is known to be used of it.
    pub(super) fn known_of(&mut self, budget: &Arc<Budget>, now: Timestamp) -> Option<(Period, u64)> {
        let one = self.current(budget, now)?;
        Some((one.period, one.used.saturating_add(one.reserved)))
    }

    /// Notes what the server has told of a budget that all replicas share.
    pub(super) fn told(&mut self, budget: &Arc<Budget>, period: Period, used: u64) {
        if let Some(one) = self.of(budget) {
            (one.period, one.used) = (period, used);
        }
    }

    /// Notes what a request has used in the period that began at `from`, before the server is told.
    pub(super) fn settling(&mut self, budget: &Arc<Budget>, from: i64, used: u64) {
        if let Some(one) = self.of(budget).filter(|one| one.period.start.as_second() == from) {
            one.reserved = one.reserved.saturating_add(used);
        }
    }

    /// Notes that the server was told. `is_lost`: whether it knows nothing of the period, and is to learn of it.
    pub(super) fn settled(&mut self, budget: &Arc<Budget>, from: i64, used: u64, is_lost: bool) {
        let Some(one) = self.of(budget) else { return };
        if one.period.start.as_second() == from {
            one.reserved = one.reserved.saturating_sub(used);
        }
        if is_lost {
            one.used = one.used.saturating_add(used);
        }
    }

    fn of(&mut self, budget: &Budget) -> Option<&mut BudgetUse> {
        let policy = (budget.quota.unit, budget.quota.every);
        self.uses.iter_mut().find(|one| one.budget.replaces(policy))
    }

    /// Returns what is kept.
    pub(super) fn states(&self) -> impl Iterator<Item = BudgetState> + '_ {
        self.uses.iter().map(BudgetUse::state).chain(self.restored.iter().cloned())
    }

    /// Returns budgets as they are shown.
    pub(super) fn shown(&mut self, budgets: &[Arc<Budget>], now: Timestamp) -> Vec<ShownBudget> {
        budgets.iter().filter_map(|budget| self.current(budget, now).map(|one| one.shown())).collect()
    }

    /// Returns the budgets that were used since the start, as they are shown.
    pub(super) fn known(&mut self, now: Timestamp) -> Vec<ShownBudget> {
        self.uses.iter_mut().for_each(|one| one.roll(now));
        self.uses.iter().map(BudgetUse::shown).collect()
    }

    /// Returns the budgets that have passed 80 or 100 per cent since the last call.
    pub(super) fn take_passed(&mut self, now: Timestamp) -> Vec<Passed> {
        let mut passed = Vec::new();
        for one in &mut self.uses {
            one.roll(now);
            let limit = one.budget.quota.amount;
            let percent = match u128::from(one.used) * 100 / u128::from(limit.max(1)) {
                100.. => 100,
                80.. => 80,
                _ => 0,
            };
            for percent in [80, 100].into_iter().filter(|step| (one.told + 1..=percent).contains(step)) {
                let policy = one.budget.policy.clone();
                passed.push(Passed { policy, percent, used: one.used, limit, resets_at: one.period.end });
            }
            one.told = one.told.max(percent);
        }
        passed
    }

    /// Whether nothing was used in the periods of `now`.
    pub(super) fn are_unused(&self, now: Timestamp) -> bool {
        self.uses
            .iter()
            .all(|one| ((one.used == 0 && one.reserved == 0) || now >= one.period.end) && one.ahead.is_none())
            && self.restored.iter().all(|before| now >= before.period.end && before.ahead.is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Zone;

    fn budget(amount: u64) -> Arc<Budget> {
        let zone = Zone::named("Europe/Berlin").unwrap();
        Arc::new(Budget::new(None, BudgetQuota { unit: Unit::Tokens, amount, every: Every::Month, zone }))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn cost(output_tokens: u32) -> Cost {
        Cost { output_tokens, declared_output_tokens: output_tokens, ..Cost::REQUEST }
    }

    #[test]
    fn a_month_that_begins_in_mid_load_begins_once() {
        let (budget, mut uses) = (budget(100), BudgetUses::default());
        let before = at("2026-11-30T22:59:59Z");
        let open = uses.charge(&budget, cost(60), before).unwrap();
        assert_eq!(uses.judge(&budget, cost(41), before), Err(at("2026-11-30T23:00:00Z")));
        assert_eq!(uses.judge(&budget, cost(40), before), Ok(()));
        let after = at("2026-11-30T23:00:00Z");
        assert_eq!(uses.judge(&budget, cost(100), after), Ok(()), "the month has begun in Berlin");
        let second = uses.charge(&budget, cost(70), after).unwrap();
        uses.settle(&open, cost(60), after);
        assert_eq!(
            uses.shown(std::slice::from_ref(&budget), after)[0].used,
            0,
            "the request belongs to the month before"
        );
        uses.settle(&second, cost(50), after);
        // The clock goes back for a moment.
        assert_eq!(uses.judge(&budget, cost(51), before), Err(at("2026-12-31T23:00:00Z")));
        assert_eq!(uses.judge(&budget, cost(51), after), Err(at("2026-12-31T23:00:00Z")), "it begins once");
        assert_eq!(uses.judge(&budget, cost(50), after), Ok(()));
        // A clock that was wrong by years does not keep the budget in its period.
        assert_eq!(uses.judge(&budget, cost(100), at("2031-01-01T12:00:00Z")), Ok(()));
        uses.charge(&budget, cost(100), at("2031-01-01T12:00:00Z")).unwrap();
        assert_eq!(uses.judge(&budget, cost(1), after), Err(at("2026-12-31T23:00:00Z")));
        // It begins anew each month until it gets there.
        let next = at("2026-12-31T23:00:00Z");
        assert_eq!(uses.judge(&budget, cost(100), next), Ok(()));
    }

    #[test]
    fn a_clock_that_goes_back_and_is_right_again_brings_nothing_back() {
        let (budget, mut uses) = (budget(100), BudgetUses::default());
        let now = at("2026-12-01T12:00:00Z");
        let open = uses.charge(&budget, cost(90), now).unwrap();
        uses.settle(&open, cost(90), now);
        for wrong in ["2026-11-28T12:00:00Z", "1976-01-01T00:00:00Z"] {
            assert!(uses.judge(&budget, cost(11), at(wrong)).is_err(), "{wrong}");
            let kept: Vec<_> = uses.states().collect();
            assert!(uses.judge(&budget, cost(11), now).is_err(), "{wrong}");
            // The same over a restart while the clock is wrong.
            let mut again = BudgetUses::restored(kept.clone());
            assert!(again.judge(&budget, cost(11), now).is_err(), "{wrong}");
            let mut again = BudgetUses::restored(kept);
            assert!(again.judge(&budget, cost(11), at(wrong)).is_err(), "{wrong}");
            assert!(again.judge(&budget, cost(11), now).is_err(), "{wrong}");
            assert_eq!(again.judge(&budget, cost(10), now), Ok(()), "{wrong}");
        }
        assert_eq!(uses.judge(&budget, cost(100), at("2027-01-01T12:00:00Z")), Ok(()));
    }

    #[test]
    fn all_of_a_budget_may_be_used() {
        let (budget, mut uses) = (budget(1000), BudgetUses::default());
        let now = at("2026-12-01T12:00:00Z");
        // Nothing is declared: the output is a guess.
        let guessed = Cost { input_tokens: 5, least_input_tokens: 5, output_tokens: 2000, ..Cost::REQUEST };
        assert_eq!(uses.judge(&budget, guessed, now), Ok(()));
        let open = uses.charge(&budget, guessed, now).unwrap();
        assert!(uses.judge(&budget, guessed, now).is_err(), "all of it is reserved");
        uses.settle(&open, cost(994), now);
        assert_eq!(uses.judge(&budget, guessed, now), Ok(()));
        assert!(uses.judge(&budget, cost(7), now).is_err(), "a number that is declared must be left");
    }

    #[test]
    fn what_was_used_outlives_a_reload_and_a_restart() {
        let (first, mut uses) = (budget(100), BudgetUses::default());
        let now = at("2026-11-29T12:00:00Z");
        let open = uses.charge(&first, cost(60), now).unwrap();
        let lower = budget(50);
        assert!(uses.judge(&lower, cost(1), now).is_err());
        uses.settle(&open, cost(45), now);
        assert_eq!(uses.judge(&lower, cost(5), now), Ok(()));
        assert_eq!(uses.take_passed(now).iter().map(|passed| passed.percent).collect::<Vec<_>>(), [80]);
        assert!(uses.take_passed(now).is_empty(), "it is told once");
        let kept: Vec<_> = uses.states().collect();
        let mut uses = BudgetUses::restored(kept.clone());
        assert_eq!(uses.states().collect::<Vec<_>>(), kept, "what is not used yet is kept again");
        assert!(uses.take_passed(now).is_empty(), "also after a restart");
        assert_eq!(uses.judge(&lower, cost(5), now), Ok(()));
        assert!(uses.judge(&lower, cost(6), now).is_err());
        let zone = Zone::utc();
        let elsewhere = Budget::new(None, BudgetQuota { zone, ..lower.quota.clone() });
        assert!(uses.judge(&Arc::new(elsewhere), cost(6), now).is_err(), "another zone is no new budget");
        let open = uses.charge(&lower, cost(5), now).unwrap();
        uses.settle(&open, cost(9), now);
        assert_eq!(uses.take_passed(now).iter().map(|passed| passed.percent).collect::<Vec<_>>(), [100]);
        assert!(uses.judge(&lower, cost(0), now).is_err(), "a request without tokens, too");
    }
}
