//! The limiter's questions to the lender: limits that hold for all replicas together.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::ask::{Ask, Granted, Reply};
use super::awaited_reply::AwaitedReply;
use super::concurrency::ConcurrencyPermit;
use super::gcra::Window;
use super::holder::Charge;
use super::key_state::KeyState;
use super::leased_slots::{LeasedSlots, SlotReply, SlotStep};
use super::leases::{Leases, Step};
use super::lender::{Attempts, Lender, Standing};
use super::{Charged, Cost, Debit, Holder, Limiter, NotGranted, Refused};
use crate::clock::Clock;
use crate::config::{AttemptQuota, Quota};

impl Limiter {
    /// Returns an ask for one unit of an unused window of this quota, to try a server.
    pub(crate) fn ask_for_check(quota: Quota) -> Option<Ask> {
        let window = Arc::new(Window::new(None, quota));
        let mut leases = Leases::default();
        let (_waits, _must_ask) = leases.charge([&window].into_iter(), Cost::REQUEST, 0);
        leases.begin_ask(0)
    }

    /// Whether limits hold for all replicas together.
    pub(crate) fn is_shared(&self) -> bool {
        self.lender.is_some()
    }

    /// Returns the number of keys of which this replica holds units.
    pub(crate) fn leases(&self) -> usize {
        let now = self.clock.monotonic_nanos();
        self.states
            .iter()
            .filter(|state| state.with_leases(|leases| leases.has_units(now)) == Some(true))
            .count()
    }

    /// Whether an address has failed of late in this process.
    pub(crate) fn has_failed(&self, address: IpAddr, quota: AttemptQuota) -> bool {
        self.attempts.failures(address, quota, self.clock.monotonic_nanos()).0 > 0
    }

    /// Counts failed attempts of an address in all replicas together, which this process has counted
    /// already. Waits for the server that has
    /// these, but not longer than its timeout. `count`: zero to find out only whether the address has
    /// used up its attempts.
    ///
    /// # Errors
    ///
    /// Fails with the time that the address has to wait, if its failed attempts were used up.
    pub(crate) async fn count_attempts(
        &self,
        address: IpAddr,
        quota: AttemptQuota,
        count: u32,
    ) -> Result<(), Duration> {
        let Some(lender) = &self.lender else { return Ok(()) };
        let attempts = Attempts { address, quota, count };
        let counted = match lender.standing() {
            Standing::Available => {
                let counted = lender.count_attempts(attempts);
                tokio::time::timeout(lender.timeout(), counted).await.ok().and_then(Result::ok)
            }
            Standing::Part(_) | Standing::Refuses => None,
        };
        let now = self.clock.monotonic_nanos();
        let Some(counted) = counted else {
            return self.count_attempts_in_part(lender.as_ref(), attempts, now);
        };
        if let Some(wait) = counted.wait {
            self.attempts.exhaust(address, quota.per, wait, now);
        }
        match (counted.is_refused, counted.wait) {
            (true, wait) => Err(wait.unwrap_or(quota.per)),
            (false, _) => Ok(()),
        }
    }

    /// Judges failed attempts by this replica's part of them, because the server can't be asked.
    fn count_attempts_in_part(
        &self,
        lender: &dyn Lender,
        attempts: Attempts,
        now: u64,
    ) -> Result<(), Duration> {
        let Attempts { address, quota, count } = attempts;
        let part = lender.part_of_attempts(quota).per_address;
        let (failures, left) = self.attempts.failures(address, quota, now);
        let wait = if failures > 0 { left } else { quota.per };
        // Without a guess, the question is whether there may be another one.
        let is_refused = failures > part || (count == 0 && failures > 0 && failures >= part);
        if failures >= part && (failures > 0 || is_refused) {
            self.attempts.exhaust(address, quota.per, wait, now);
        }
        if is_refused {
            return Err(wait);
        }
        lender.tell_attempts(attempts);
        Ok(())
    }

    /// Acquires one of the `limit` permits that a key has, in all replicas together if limits are
    /// shared; `None` if all of them are in use. Waits for the server that has these, but not longer
    /// than its timeout.
    ///
    /// # Errors
    ///
    /// The server can't be asked, and the configuration grants nothing then.
    pub(crate) async fn enter_key(
        &self,
        state: &Arc<KeyState>,
        limit: u32,
    ) -> Result<Option<ConcurrencyPermit>, NotGranted> {
        match &self.lender {
            None => Ok(ConcurrencyPermit::acquire(state, limit)),
            // The future is boxed, because most limits are of this process alone.
            Some(lender) => Box::pin(self.enter_lent(lender, state, limit)).await,
        }
    }

    async fn enter_lent(
        &self,
        lender: &Arc<dyn Lender>,
        state: &Arc<KeyState>,
        limit: u32,
    ) -> Result<Option<ConcurrencyPermit>, NotGranted> {
        let mut standing = lender.standing();
        let mut reply = SlotReply::Unavailable;
        if matches!(standing, Standing::Available) {
            let now = self.clock.monotonic_nanos();
            let step = state.with_slots(|slots| slots.enter(limit, now));
            let Some((step, must_ask)) = step else { return Err(NotGranted::Unavailable) };
            if must_ask {
                lender.ask_slots(state);
            }
            reply = match step {
                SlotStep::Done(reply) => reply,
                SlotStep::Waits(reply) => {
                    let give_back = |reply| {
                        let is_granted = reply == SlotReply::Granted;
                        if is_granted && state.with_slots(LeasedSlots::leave) == Some(true) {
                            lender.report_slots(state);
                        }
                    };
                    let reply = AwaitedReply { reply, give_back }.within(lender.timeout()).await;
                    reply.unwrap_or(SlotReply::Unavailable)
                }
            };
            if reply == SlotReply::Unavailable {
                standing = lender.standing_without_answer();
            }
        }
        if let (SlotReply::Unavailable, Standing::Part(part)) = (reply, standing) {
            let of_part = state.with_slots(|slots| slots.enter_part(limit, part));
            reply = of_part.unwrap_or(SlotReply::Unavailable);
            // The server is told of it when it can be.
            lender.report_slots(state);
        }
        match reply {
            SlotReply::Granted => Ok(Some(ConcurrencyPermit::of_slot(state, lender))),
            SlotReply::Refused => Ok(None),
            SlotReply::Unavailable => Err(NotGranted::Unavailable),
        }
    }

    /// Charges the windows as [`Limiter::charge`] does, in the limits of all replicas together if there
    /// are any. Waits for the server that has these, but not longer than its timeout.
    ///
    /// # Errors
    ///
    /// As [`Limiter::charge`]; or the server can't be asked, and the configuration grants nothing then.
    pub(crate) async fn charge_shared(
        &self,
        key: &Holder<'_>,
        group: Option<&Holder<'_>>,
        cost: Cost,
    ) -> Result<Charged, NotGranted> {
        match &self.lender {
            None => self.charge(key, group, cost).map_err(NotGranted::Refused),
            // The future is boxed, because most limits are of this process alone.
            Some(lender) => Box::pin(self.charge_lent(lender, key, group, cost)).await,
        }
    }

    async fn charge_lent(
        &self,
        lender: &Arc<dyn Lender>,
        key: &Holder<'_>,
        group: Option<&Holder<'_>>,
        cost: Cost,
    ) -> Result<Charged, NotGranted> {
        // The buckets of a key and of its group may be in different nodes of a cluster. What the group
        // refuses is given back to the key.
        let has_budgets = std::iter::once(key).chain(group).any(|holder| !holder.budgets.is_empty());
        let group_with_windows = group.filter(|group| group.has_windows());
        let of_key = match key.has_windows() {
            true => Some(self.lent(lender, key, cost, has_budgets || group_with_windows.is_some()).await?),
            false => None,
        };
        let of_group = match group_with_windows {
            Some(group) => Some(self.lent(lender, group, cost, has_budgets).await?),
            None => None,
        };
        let of_budgets = self.reserve_budgets(lender, key, group, cost).await?;
        let charged = of_key.into_iter().chain(of_group).map(Lent::charged);
        Ok(charged.fold(of_budgets, Charged::and))
    }

    /// Charges the windows of one holder. `may_be_refused`: whether others may refuse the request then.
    async fn lent<'a>(
        &'a self,
        lender: &'a Arc<dyn Lender>,
        holder: &Holder<'a>,
        cost: Cost,
        may_be_refused: bool,
    ) -> Result<Lent<'a>, NotGranted> {
        let state = holder.state;
        let lent = |granted| Lent { state, lender, clock: &self.clock, cost, granted: Some(granted) };
        let standing = match lender.standing() {
            Standing::Available => {
                let now = self.clock.monotonic_nanos();
                let step = state.with_leases(|leases| leases.charge(holder.windows(), cost, now));
                let Some((step, must_ask)) = step else { return Err(NotGranted::Unavailable) };
                if must_ask {
                    lender.ask(state);
                }
                let reply = match step {
                    Step::Done(reply) => reply,
                    Step::Waits(reply) => {
                        let give_back = |reply| {
                            if let Reply::Granted(granted) = reply {
                                drop(lent(granted));
                            }
                        };
                        let reply = AwaitedReply { reply, give_back }.within(lender.timeout()).await;
                        reply.unwrap_or(Reply::Unavailable)
                    }
                };
                match reply {
                    Reply::Unavailable => lender.standing_without_answer(),
                    reply => return decided(reply).map(lent),
                }
            }
            other => other,
        };
        let Standing::Part(part) = standing else { return Err(NotGranted::Unavailable) };
        let now = self.clock.monotonic_nanos();
        // A part gives back only what is known to be open.
        let open = cost.to_be_taken_back(cost.may_be_taken_back || may_be_refused);
        let charged = state.with_leases(|leases| leases.charge_part(holder.windows(), open, part, now));
        let Some((reply, must_ask)) = charged else { return Err(NotGranted::Unavailable) };
        if must_ask {
            lender.ask(state);
        }
        if let Reply::Granted(_) = reply {
            lender.granted_away();
        }
        decided(reply).map(lent)
    }
}

/// What a holder's windows have granted to a request. Dropping it gives it back.
struct Lent<'a> {
    state: &'a Arc<KeyState>,
    lender: &'a Arc<dyn Lender>,
    clock: &'a Clock,
    cost: Cost,
    granted: Option<Granted>,
}

impl Lent<'_> {
    /// Returns the charge of the request, which keeps it.
    fn charged(mut self) -> Charged {
        let Some(Granted { status, settled_later, would_refuse, .. }) = self.granted.take() else {
            return Charged::default();
        };
        let debit = |charge| Debit { state: self.state.clone(), charge: Charge::Window(charge) };
        let debits = settled_later.into_iter().map(debit).collect();
        let would_refuse = would_refuse.map(|(window, wait)| Refused::Window { window, wait });
        Charged { status, debits, would_refuse }
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let Some(granted) = self.granted.take() else { return };
        let now = self.clock.monotonic_nanos();
        if self.state.with_leases(|leases| leases.take_back(&granted, self.cost, now)) == Some(true) {
            self.lender.report(self.state);
        }
    }
}

impl Charged {
    /// Adds the charges of another holder.
    fn and(mut self, other: Charged) -> Self {
        self.debits.extend(other.debits);
        let would_refuse = self.would_refuse.or(other.would_refuse);
        Charged { status: self.status.and(other.status), debits: self.debits, would_refuse }
    }
}

/// Returns what a reply grants.
fn decided(reply: Reply) -> Result<Granted, NotGranted> {
    match reply {
        Reply::Granted(granted) => Ok(granted),
        Reply::Refused(window, wait) => Err(NotGranted::Refused(Refused::Window { window, wait })),
        Reply::Unavailable => Err(NotGranted::Unavailable),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::budget::Budget;
    use super::super::budget_ask::{BudgetAnswer, BudgetAsk, BudgetSettlement};
    use super::super::lender::AttemptsCounted;
    use super::super::part::PartOf;
    use super::*;
    use crate::config::{Every, Unit};
    use tokio::sync::oneshot;

    /// A server that can't be asked. Each replica goes by its part, and this one is alone.
    #[derive(Debug)]
    struct Away;

    impl Lender for Away {
        fn ask(&self, _: &Arc<KeyState>) {}

        fn report(&self, _: &Arc<KeyState>) {}

        fn ask_slots(&self, _: &Arc<KeyState>) {}

        fn report_slots(&self, _: &Arc<KeyState>) {}

        fn count_attempts(&self, _: Attempts) -> oneshot::Receiver<AttemptsCounted> {
            oneshot::channel().1
        }

        fn tell_attempts(&self, _: Attempts) {}

        fn part_of_attempts(&self, quota: AttemptQuota) -> AttemptQuota {
            quota
        }

        fn reserve_budgets(&self, _: &Arc<BudgetAsk>) -> oneshot::Receiver<BudgetAnswer> {
            oneshot::channel().1
        }

        fn settle_budgets(&self, _: &Arc<KeyState>, _: Vec<BudgetSettlement>) {}

        fn granted_away(&self) {}

        fn standing(&self) -> Standing {
            Standing::Part(PartOf { replicas: 1, rank: Some(0), since: 1 })
        }

        fn timeout(&self) -> Duration {
            Duration::from_secs(1)
        }

        fn standing_without_answer(&self) -> Standing {
            self.standing()
        }
    }

    #[tokio::test]
    async fn what_a_group_or_a_budget_refuses_costs_the_key_nothing_while_the_server_is_away() {
        let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
        let limiter = Limiter::new(clock, usize::MAX).shared_by(Arc::new(Away));
        let window = |unit, amount| {
            limiter.window(None, Quota::new(unit, amount, Duration::from_secs(60), Some(amount)))
        };
        let (key, group) = (limiter.state("key_a"), limiter.state("group"));
        let (of_key, of_group) =
            ([window(Unit::Requests, 60), window(Unit::Tokens, 6000)], [window(Unit::Requests, 1)]);
        let budgets = [Arc::new(Budget::kept("b".to_owned(), Unit::Tokens, Every::Month, 1000))];
        let cost = Cost { output_tokens: 100, ..Cost::REQUEST };
        let holder = |state, windows| Holder { state, windows: [windows, &[]], budgets: &[] };
        let (plain, in_group) = (holder(&key, &of_key[..]), holder(&group, &of_group[..]));
        let remaining = || limiter.status(&plain).0.iter().map(|window| window.remaining).collect::<Vec<_>>();
        // Parts begin empty, a nanosecond after the clock.
        assert!(limiter.charge_shared(&plain, None, cost).await.is_err());
        hands.advance(Duration::from_secs(10) + Duration::from_nanos(1));
        assert_eq!(remaining(), [10, 1000]);
        for _ in 0..5 {
            let refused = limiter.charge_shared(&plain, Some(&in_group), cost).await;
            assert!(matches!(refused, Err(NotGranted::Refused(_))), "{refused:?}");
            let with_budget = Holder { budgets: &budgets, ..plain };
            let refused = limiter.charge_shared(&with_budget, None, cost).await;
            assert!(matches!(refused, Err(NotGranted::Unavailable)));
        }
        assert_eq!(remaining(), [10, 1000], "nothing was charged");
        assert!(limiter.charge_shared(&plain, None, cost).await.is_ok());
        assert_eq!(remaining(), [9, 900]);
    }
}
