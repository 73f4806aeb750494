//! The leases of one key, and its requests that wait for an ask.
//!
//! A request is charged to the leases of its key if they have enough units. Otherwise it waits for an
//! ask: one message to the server that has the buckets, for all requests of the key that wait. The
//! server grants each of them or refuses it, and adds a lease for the requests that will follow.
//!
//! Invariants: a unit is spent once; a key has one ask at a time.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::ask::{Answer, Ask, Granted, Reply, Waiting};
use super::charge::WindowCharge;
use super::cost::Cost;
use super::gcra::{Wait, Window};
use super::lease::Lease;
use super::part::PartOf;
use super::rate::Rate;
use super::status::{LimitStatus, WindowStatus};

/// Largest number of requests in one ask. The others wait for the next one.
const MOST_REQUESTS: usize = 64;

/// Time for which requests are refused without an ask after a refusal: at most the longer one, and
/// less if few requests come.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(25));

/// Requests that are refused in one pause, by the rate of late.
const REQUESTS_IN_PAUSE: f64 = 25.0;

/// The leases of one key.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    of_windows: SmallVec<[Lease; 2]>,
    waiting: VecDeque<Waiting>,
    /// Whether an ask is under way, or is about to be.
    is_asking: bool,
    /// Whether a report was announced, which waits for more to report.
    is_reporting: bool,
    /// Requests of the key for each second, granted or not.
    requests: Rate,
    /// Number of charges of parts that were opened.
    charges: u64,
    /// Time of the first of the asks in a row that had no answer in time, in nanoseconds of the clock;
    /// `None` if the last one had an answer.
    failing_since: Option<u64>,
}

/// The window that refuses a request, and what the request has to wait for.
type Refusal = (Arc<Window>, Wait);

/// The units of a request by the index of the window.
type Costs = SmallVec<[(usize, u32); 2]>;

/// How a request goes on.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would cost each request an allocation")]
pub(crate) enum Step {
    Done(Reply),
    /// The reply comes with the answer to an ask.
    Waits(oneshot::Receiver<Reply>),
}

impl Leases {
    /// Charges the windows of a request to the leases, or lets the request wait for an ask. The second
    /// value: whether the caller must start an ask.
    pub(crate) fn charge<'w>(
        &mut self,
        windows: impl Iterator<Item = &'w Arc<Window>> + Clone,
        cost: Cost,
        now: u64,
    ) -> (Step, bool) {
        self.requests.note(1, now);
        if self.failing_since.is_some() {
            // An ask that no request waits for finds out when the server answers again.
            return (Step::Done(Reply::Unavailable), false);
        }
        let (costs, would_refuse) = match self.costs(windows, cost, now) {
            Ok(costs) => costs,
            Err((window, wait)) => return (Step::Done(Reply::Refused(window, wait)), false),
        };
        let has = |(index, units): &(usize, u32)| {
            self.of_windows.get(*index).is_some_and(|lease| lease.has(*units))
        };
        if self.waiting.is_empty() && costs.iter().all(has) {
            for (index, units) in &costs {
                if let Some(lease) = self.of_windows.get_mut(*index) {
                    lease.spend(*units);
                }
            }
            let granted = self.granted(&costs, would_refuse, cost.may_be_taken_back, now);
            return (Step::Done(Reply::Granted(granted)), self.must_ask(now));
        }
        let refusal =
            costs.iter().find_map(|(index, units)| self.of_windows.get(*index)?.refuses(*units, now));
        if let Some((window, wait)) = refusal {
            return (Step::Done(Reply::Refused(window, wait)), false);
        }
        let (reply, receiver) = oneshot::channel();
        let may_be_taken_back = cost.may_be_taken_back;
        self.waiting.push_back(Waiting { costs, would_refuse, may_be_taken_back, reply });
        (Step::Waits(receiver), !std::mem::replace(&mut self.is_asking, true))
    }

    /// Charges the windows of a request to this replica's parts of them, because the server can't be
    /// asked. The second value: whether the caller must start an ask, which tells the server.
    pub(crate) fn charge_part<'w>(
        &mut self,
        windows: impl Iterator<Item = &'w Arc<Window>> + Clone,
        cost: Cost,
        of: PartOf,
        now: u64,
    ) -> (Reply, bool) {
        let (costs, mut would_refuse) = match self.costs(windows, cost, now) {
            Ok(costs) => costs,
            Err((window, wait)) => return (Reply::Refused(window, wait), false),
        };
        let of = self.part_since_failing(of);
        let mut charges = SmallVec::<[_; 2]>::new();
        for (index, units) in &costs {
            let Some(lease) = self.of_windows.get_mut(*index) else { continue };
            match lease.part_behind(*units, of, now) {
                Ok(after) => charges.push((*index, *units, after)),
                Err(wait) if lease.window.quota().is_enforced => {
                    return (Reply::Refused(lease.window.clone(), Wait::For(wait)), false);
                }
                Err(wait) => would_refuse = Some((lease.window.clone(), Wait::For(wait))),
            }
        }
        let mut settled_later = SmallVec::new();
        for (index, units, after) in charges {
            let Some(lease) = self.of_windows.get_mut(index) else { continue };
            self.charges += 1;
            let is_open = lease.window.counts_tokens() || cost.may_be_taken_back;
            let of = lease.spend_part(units, after, is_open.then_some(self.charges), now);
            if is_open {
                settled_later.push(WindowCharge { window: lease.window.clone(), of });
            }
        }
        let status = LimitStatus(self.statuses(&costs, |lease| lease.status_of_part(of, now)));
        // What parts have granted is given back by the open charges.
        let granted = Granted { status, settled_later, charged: SmallVec::new(), would_refuse };
        (Reply::Granted(granted), !std::mem::replace(&mut self.is_asking, true))
    }

    /// Returns the units of a request by the index of the window. Makes the leases that are missing.
    fn costs<'w>(
        &mut self,
        windows: impl Iterator<Item = &'w Arc<Window>>,
        cost: Cost,
        now: u64,
    ) -> Result<(Costs, Option<Refusal>), Refusal> {
        let (mut costs, mut would_refuse) = (SmallVec::new(), None);
        for window in windows {
            let mut units = window.counted(cost.of(window.unit()));
            if let Some(wait) = window.never_grants(cost) {
                let refusal = (window.clone(), wait);
                if window.quota().is_enforced {
                    return Err(refusal);
                }
                (units, would_refuse) = (0, Some(refusal));
            }
            let index = self.index_of(window, now);
            if let Some(lease) = self.of_windows.get_mut(index) {
                lease.need(units, now);
            }
            costs.push((index, units));
        }
        Ok((costs, would_refuse))
    }

    fn index_of(&mut self, window: &Arc<Window>, now: u64) -> usize {
        let known = self.of_windows.iter().position(|lease| Arc::ptr_eq(&lease.window, window));
        if let Some(index) = known {
            return index;
        }
        if let Some(index) = self.of_windows.iter().position(|lease| window.replaces(&lease.window)) {
            if let Some(lease) = self.of_windows.get_mut(index) {
                lease.replace(window);
            }
            return index;
        }
        self.of_windows.push(Lease::new(window.clone(), now));
        self.of_windows.len() - 1
    }

    /// Whether a lease should be renewed before it is used up, and no ask is under way.
    fn must_ask(&mut self, now: u64) -> bool {
        let is_paused = |lease: &Lease| lease.is_paused(now);
        let must = !self.is_asking
            && self.of_windows.iter().any(Lease::is_low)
            && !self.of_windows.iter().any(is_paused);
        self.is_asking |= must;
        must
    }

    fn granted(
        &mut self,
        costs: &[(usize, u32)],
        would_refuse: Option<Refusal>,
        may_be_taken_back: bool,
        now: u64,
    ) -> Granted {
        let not_charged = would_refuse.as_ref().map(|(window, _)| window);
        let charge = |(index, units): &(usize, u32)| {
            let lease = self.of_windows.get(*index)?;
            let is_charged = not_charged.is_none_or(|window| !Arc::ptr_eq(window, &lease.window));
            let is_open = (lease.window.counts_tokens() || may_be_taken_back) && is_charged;
            is_open.then(|| WindowCharge { window: lease.window.clone(), of: lease.charge_of(*units) })
        };
        let settled_later = costs.iter().filter_map(charge).collect();
        let is_charged = |(index, _): &&(usize, u32)| {
            let window = self.of_windows.get(*index).map(|lease| &lease.window);
            window.zip(not_charged).is_none_or(|(window, not_charged)| !Arc::ptr_eq(window, not_charged))
        };
        let charged = costs.iter().filter(is_charged).copied().collect();
        let status = LimitStatus(self.statuses(costs, |lease| lease.status(now)));
        Granted { status, settled_later, charged, would_refuse }
    }

    fn statuses(
        &self,
        costs: &[(usize, u32)],
        status: impl Fn(&Lease) -> WindowStatus,
    ) -> SmallVec<[WindowStatus; 2]> {
        costs.iter().filter_map(|(index, _)| self.of_windows.get(*index).map(&status)).collect()
    }

    /// A part goes on, even if the server was there in between, but not for this key.
    fn part_since_failing(&self, of: PartOf) -> PartOf {
        PartOf { since: self.failing_since.map_or(of.since, |since| since.min(of.since)), ..of }
    }

    /// Corrects a charge of `charged` units, of which `used` were used. Returns whether the caller must
    /// announce a report.
    pub(crate) fn settle(&mut self, charge: &WindowCharge, charged: u32, used: u32, now: u64) -> bool {
        // A reload may have replaced the window meanwhile. The key then goes on with the new one.
        let is_of_charge = |lease: &Lease| {
            Arc::ptr_eq(&lease.window, &charge.window) || lease.window.replaces(&charge.window)
        };
        let index = self.of_windows.iter().position(is_of_charge);
        let index = index.unwrap_or_else(|| self.index_of(&charge.window, now));
        let Some(lease) = self.of_windows.get_mut(index) else { return false };
        lease.settle(charge.of, charged, used, now);
        lease.owes() && !self.is_asking && !std::mem::replace(&mut self.is_reporting, true)
    }

    /// Returns the state of the windows without charging them. `part`: this replica's part of them, if
    /// the server can't be asked.
    pub(crate) fn status<'w>(
        &mut self,
        windows: impl Iterator<Item = &'w Arc<Window>>,
        part: Option<PartOf>,
        now: u64,
    ) -> LimitStatus {
        let part = part.map(|part| self.part_since_failing(part));
        let statuses = windows.map(|window| {
            let index = self.index_of(window, now);
            let lease = self.of_windows.get(index).map(|lease| match part {
                Some(part) => lease.status_of_part(part, now),
                None => lease.status(now),
            });
            lease.unwrap_or_else(|| WindowStatus::full(window.clone()))
        });
        LimitStatus(statuses.collect())
    }

    /// Whether any lease has units.
    pub(crate) fn has_units(&self, now: u64) -> bool {
        self.of_windows.iter().any(|lease| lease.has_units(now))
    }

    /// Whether nothing is held or owed, so that the leases can be forgotten.
    pub(crate) fn is_unused(&self, now: u64) -> bool {
        let is_unused = |lease: &Lease| lease.is_unused(now);
        !self.is_asking && self.waiting.is_empty() && self.of_windows.iter().all(is_unused)
    }

    /// Gives back what all leases have left. Returns whether the caller must ask.
    pub(crate) fn give_back(&mut self) -> bool {
        self.of_windows.iter_mut().for_each(Lease::give_back);
        self.of_windows.iter().any(Lease::owes) && !std::mem::replace(&mut self.is_asking, true)
    }

    /// Begins the report that was announced. Returns whether the caller must ask.
    pub(crate) fn begin_report(&mut self) -> bool {
        self.is_reporting = false;
        !std::mem::replace(&mut self.is_asking, true)
    }

    /// Replies to the requests that wait that the server can't be asked.
    pub(crate) fn fail_waiting(&mut self, now: u64) {
        self.failing_since.get_or_insert(now);
        self.waiting.drain(..).for_each(|waiting| drop(waiting.reply.send(Reply::Unavailable)));
    }

    /// Begins an ask for the requests that wait, and reports what has changed. Returns `None` if
    /// nothing is to be asked or reported; no ask is under way then.
    pub(crate) fn begin_ask(&mut self, now: u64) -> Option<Ask> {
        let waits = !self.waiting.is_empty();
        let count = self.waiting.len().min(MOST_REQUESTS);
        let waiting: Vec<Waiting> = self.waiting.drain(..count).collect();
        let mut has_report = false;
        let mut windows = SmallVec::new();
        for (index, lease) in self.of_windows.iter_mut().enumerate() {
            lease.end(now);
            let needs = |waiting: &Waiting| {
                waiting.costs.iter().any(|(of, units)| *of == index && !lease.has(*units))
            };
            if waiting.iter().any(needs) {
                // The server grants the requests from the bucket and the lease together.
                lease.give_back();
            }
            has_report |= lease.has_report();
            windows.push(lease.ask(now));
        }
        if !waits && !has_report && self.failing_since.is_none() {
            self.is_asking = false;
            return None;
        }
        let requests = waiting
            .iter()
            .map(|waiting| {
                let cost = |index| waiting.costs.iter().find(|(of, _)| *of == index).map(|(_, units)| *units);
                (0..self.of_windows.len()).map(cost).collect()
            })
            .collect();
        Some(Ask { windows, requests, waiting, sent: now })
    }

    /// Ends an ask with the server's answer; `None` if there was none in time. Requests that waited get
    /// their replies.
    pub(crate) fn end_ask(&mut self, ask: Ask, answer: Option<&Answer>, now: u64) {
        let Some(answer) = answer.filter(|answer| answer.answers(&ask)) else {
            for asked in &ask.windows {
                let is_asked = |lease: &&mut Lease| {
                    Arc::ptr_eq(&lease.window, &asked.window) || lease.window.replaces(&asked.window)
                };
                if let Some(lease) = self.of_windows.iter_mut().find(is_asked) {
                    lease.not_answered(asked);
                }
            }
            self.failing_since.get_or_insert(ask.sent);
            let waiting = ask.waiting.into_iter().chain(self.waiting.drain(..));
            waiting.for_each(|waiting| drop(waiting.reply.send(Reply::Unavailable)));
            return;
        };
        self.failing_since = None;
        let pause = self.pause();
        for (asked, of_window) in ask.windows.iter().zip(&answer.windows) {
            let lease = self.of_windows.iter_mut().find(|lease| Arc::ptr_eq(&lease.window, &asked.window));
            if let Some(lease) = lease {
                lease.answered(asked, of_window, ask.sent, now);
                lease.pause_if_empty(ask.sent, pause);
            }
        }
        for (waiting, outcome) in ask.waiting.into_iter().zip(&answer.requests) {
            let window = |index: usize| ask.windows.get(index).map(|asked| asked.window.clone());
            let reply = match outcome.refused.and_then(|(index, wait)| Some((window(index)?, wait))) {
                Some((window, wait)) => {
                    let wait = Duration::from_micros(wait);
                    self.note_refusal(&window, &waiting, ask.sent, wait, pause);
                    Reply::Refused(window, Wait::For(wait))
                }
                None => {
                    let would_refuse = outcome.would_refuse.and_then(|(index, wait)| {
                        Some((window(index)?, Wait::For(Duration::from_micros(wait))))
                    });
                    let would_refuse = would_refuse.or_else(|| waiting.would_refuse.clone());
                    Reply::Granted(self.granted(&waiting.costs, would_refuse, waiting.may_be_taken_back, now))
                }
            };
            if let Err(Reply::Granted(granted)) = waiting.reply.send(reply) {
                // The request has left meanwhile, or goes by this replica's part.
                self.take_back_units(&granted);
            }
        }
        self.refuse_waiting(now);
    }

    /// Takes back what was granted to a request of this cost that was refused elsewhere, or has left. Returns
    /// whether the caller must announce a report.
    pub(crate) fn take_back(&mut self, granted: &Granted, cost: Cost, now: u64) -> bool {
        let mut must_report = false;
        for charge in granted.settled_later.iter().filter(|charge| charge.is_of_part()) {
            must_report |= self.settle(charge, cost.of(charge.unit()), 0, now);
        }
        self.take_back_units(granted) || must_report
    }

    /// Takes units back that were taken out of the leases.
    fn take_back_units(&mut self, granted: &Granted) -> bool {
        for (index, units) in &granted.charged {
            if let Some(lease) = self.of_windows.get_mut(*index) {
                lease.take_back(*units);
            }
        }
        !granted.charged.is_empty() && !self.is_asking && !std::mem::replace(&mut self.is_reporting, true)
    }

    /// Refuses the requests that came while an ask was under way that has been refused.
    fn refuse_waiting(&mut self, now: u64) {
        let refusal = |leases: &Self, waiting: &Waiting| {
            let mut costs = waiting.costs.iter();
            costs.find_map(|(index, units)| leases.of_windows.get(*index)?.refuses(*units, now))
        };
        for waiting in std::mem::take(&mut self.waiting) {
            match refusal(self, &waiting) {
                Some((window, wait)) => {
                    let _left = waiting.reply.send(Reply::Refused(window, wait));
                }
                None => self.waiting.push_back(waiting),
            }
        }
    }

    /// Returns how long requests are refused without an ask after a refusal.
    fn pause(&self) -> Duration {
        let (shortest, longest) = PAUSES;
        let seconds = REQUESTS_IN_PAUSE / self.requests.per_second().max(1.0);
        Duration::from_secs_f64(seconds).clamp(shortest, longest)
    }

    fn note_refusal(
        &mut self,
        window: &Arc<Window>,
        waiting: &Waiting,
        sent: u64,
        wait: Duration,
        pause: Duration,
    ) {
        for (index, units) in &waiting.costs {
            let Some(lease) = self.of_windows.get_mut(*index) else { continue };
            if Arc::ptr_eq(&lease.window, window) {
                lease.note_refusal(*units, sent, wait, pause);
            }
        }
    }
}
