//! Budgets of all replicas together: what a server is asked, and what it answers.
//!
//! Each request reserves its units at the server, and settles them there. Nothing is taken out
//! beforehand: a budget regains nothing, so what a replica loses would be lost for the whole period.
//! While the server can't be asked, a replica's part of a budget is nothing, and requests are refused.

use std::sync::Arc;

use jiff::Timestamp;
use smallvec::SmallVec;

use super::awaited_reply::AwaitedReply;
use super::budget::Budget;
use super::budget_ask::{BudgetAnswer, BudgetAsk, BudgetSettlement, BudgetTold, BudgetWant};
use super::cost::Cost;
use super::holder::{Charge, Debit, Holder};
use super::judged::Refused;
use super::key_state::KeyState;
use super::lender::{Lender, Standing};
use super::{Charged, Limiter, NotGranted};
use crate::config::{Period, Unit};

/// What was reserved of the budgets of one holder. Dropping it gives it back.
struct Reserved<'a> {
    lender: &'a Arc<dyn Lender>,
    state: Arc<KeyState>,
    give_back: Vec<BudgetSettlement>,
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.give_back.is_empty() {
            self.lender.settle_budgets(&self.state, std::mem::take(&mut self.give_back));
        }
    }
}

impl Reserved<'_> {
    /// Returns the charges, which the request settles when it has ended. `may_be_taken_back`: whether
    /// requests are charges, too, which were counted at once.
    fn debits(mut self, may_be_taken_back: bool) -> SmallVec<[Debit; 2]> {
        let settled_later = std::mem::take(&mut self.give_back).into_iter();
        let settled_later = settled_later
            .filter(|settlement| may_be_taken_back || settlement.budget.unit() != Unit::Requests);
        settled_later
            .map(|BudgetSettlement { budget, from, reserved, .. }| Debit {
                state: self.state.clone(),
                charge: Charge::SharedBudget { budget, from, reserved },
            })
            .collect()
    }
}

impl KeyState {
    /// Notes what the server has told of budgets, so that it is shown, and told to a server that has lost
    /// it.
    pub(crate) fn note_told<'b>(&self, budgets: impl Iterator<Item = &'b Arc<Budget>>, told: &[BudgetTold]) {
        let mut uses = self.uses();
        let instant = |seconds: i64| Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX);
        for (budget, told) in budgets.zip(told).filter(|(_, told)| told.is_known()) {
            let period = Period { start: instant(told.from), end: instant(told.to) };
            uses.budgets().told(budget, period, told.used);
        }
    }
}

impl KeyState {
    /// Notes what requests have used, before the server is told. A server that has lost its data learns of
    /// it from the next request, too, if that comes before the answer to this settlement.
    pub(crate) fn note_settling(&self, settlements: &[BudgetSettlement]) {
        let mut uses = self.uses();
        for settlement in settlements {
            uses.budgets().settling(&settlement.budget, settlement.from, settlement.units());
        }
    }

    /// Notes the server's answer to settlements. What was used of budgets of which it knows nothing any more
    /// is kept here.
    pub(crate) fn note_settled(&self, settlements: &[BudgetSettlement], told: &[BudgetTold]) {
        let mut uses = self.uses();
        for (settlement, told) in settlements.iter().zip(told) {
            let BudgetSettlement { budget, from, .. } = settlement;
            uses.budgets().settled(budget, *from, settlement.units(), !told.is_known());
        }
    }
}

impl Limiter {
    /// Reserves units of the budgets of a key and its group at the server that has them, in all of them or
    /// in none. Waits for the server, but not longer than its timeout.
    ///
    /// # Errors
    ///
    /// A budget has less left; or the server can't be asked.
    pub(super) async fn reserve_budgets(
        &self,
        lender: &Arc<dyn Lender>,
        key: &Holder<'_>,
        group: Option<&Holder<'_>>,
        cost: Cost,
    ) -> Result<Charged, NotGranted> {
        let mut reserved: SmallVec<[Reserved<'_>; 2]> = SmallVec::new();
        for holder in std::iter::once(key).chain(group) {
            if !holder.budgets.is_empty() {
                // What the group refuses is given back to the key.
                reserved.push(self.reserve(lender, holder, cost).await?);
            }
        }
        let debits =
            reserved.into_iter().flat_map(|reserved| reserved.debits(cost.may_be_taken_back)).collect();
        Ok(Charged { debits, ..Charged::default() })
    }

    async fn reserve<'a>(
        &self,
        lender: &'a Arc<dyn Lender>,
        holder: &Holder<'_>,
        cost: Cost,
    ) -> Result<Reserved<'a>, NotGranted> {
        if !matches!(lender.standing(), Standing::Available) {
            return Err(NotGranted::Unavailable);
        }
        let now = self.clock.wall();
        let wants = wants(holder, cost, now);
        let ask = Arc::new(BudgetAsk { state: holder.state.clone(), wants });
        // An answer that comes when the request has left, or waits no longer, is given back.
        let give_back = |answer: BudgetAnswer| {
            if answer.refused.is_none() {
                lender.settle_budgets(holder.state, ask.taken_back(&answer));
            }
        };
        let reply = lender.reserve_budgets(&ask);
        let answer = AwaitedReply { reply, give_back }.within(lender.timeout()).await;
        let answer = answer.ok_or(NotGranted::Unavailable)?;
        holder.state.note_told(ask.wants.iter().map(|want| &want.budget), &answer.budgets);
        if let Some((index, told)) =
            answer.refused.and_then(|index| Some((index, answer.budgets.get(index)?)))
        {
            let budget = holder.budgets.get(index).ok_or(NotGranted::Unavailable)?.clone();
            let resets_at = Timestamp::from_second(told.to).unwrap_or(Timestamp::MAX);
            let wait = resets_at.duration_since(now).try_into().unwrap_or_default();
            return Err(NotGranted::Refused(Refused::Budget { budget, resets_at, wait }));
        }
        let give_back = ask.taken_back(&answer);
        Ok(Reserved { lender, state: holder.state.clone(), give_back })
    }
}

/// Returns what a request wants of a holder's budgets.
fn wants(holder: &Holder<'_>, cost: Cost, now: Timestamp) -> Vec<BudgetWant> {
    let mut uses = holder.state.uses();
    let want = |budget: &Arc<Budget>| {
        let (Period { start, end }, known) = uses.budgets().known_of(budget, now)?;
        Some(BudgetWant {
            budget: budget.clone(),
            from: start.as_second(),
            to: end.as_second(),
            units: u64::from(cost.of(budget.unit())),
            least: u64::from(cost.least_of(budget.unit())),
            known,
        })
    };
    holder.budgets.iter().filter_map(want).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Every;

    #[test]
    fn a_server_without_data_is_told_what_it_has_not_answered_yet() {
        let budget = Arc::new(Budget::kept("tokens-month".to_owned(), Unit::Tokens, Every::Month, 100));
        let (state, now) = (KeyState::default(), "2026-12-01T12:00:00Z".parse().unwrap());
        let known = || state.uses().budgets().known_of(&budget, now).unwrap();
        let (Period { start, end }, _) = known();
        let (from, to) = (start.as_second(), end.as_second());
        let settlements = [BudgetSettlement { budget: budget.clone(), from, reserved: 7, used: 5 }];
        state.note_settling(&settlements);
        assert_eq!(known().1, 5, "the answer has not come yet");
        let lost = BudgetTold { from, to: 0, used: 0, passed: 0, taken: 0 };
        state.note_settled(&settlements, &[lost]);
        assert_eq!(known().1, 5, "the server knew nothing");
        state.note_settling(&settlements);
        let told = BudgetTold { to, used: 10, ..lost };
        state.note_settled(&settlements, &[told]);
        state.note_told([&budget].into_iter(), &[told]);
        assert_eq!(known().1, 10, "the server has counted it");
    }
}
