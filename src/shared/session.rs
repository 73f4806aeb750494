//! One connection to the server, and the asks over it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::link::{Link, Outage};
use super::scripts::{Heard, Scripts};
use super::settings::Settings;
use crate::clock::Clock;
use crate::limit::{
    Attempts, AttemptsCounted, Budget, BudgetAnswer, BudgetAsk, BudgetReport, BudgetSettlement, KeyState,
    LeasedSlots, Passed, Unsettled,
};
use crate::observe::untold::Untold;
use crate::redis_link::{Connection, RedisError, RedisResult};

/// Time after which a replica without heartbeats is no longer one of the replicas, and its slots end.
const REGISTRATION: Duration = Duration::from_millis(2500);

/// Time without heartbeats of any replica after which there was an outage.
const OUTAGE: Duration = Duration::from_millis(1500);

/// Number of heartbeats in a row without an answer in time, after which the server is unavailable; and
/// after which the connection is made anew.
const FAILURES: u32 = 3;
const MANY_FAILURES: u32 = 10;

/// Longest time for which a report waits for more to report.
const REPORT_DELAY: Duration = Duration::from_millis(50);

/// Time for which slots are kept that are no longer used.
const SLOTS_DELAY: Duration = Duration::from_millis(20);

/// Largest number of asks that are under way.
const MOST_ASKS: usize = 1024;

/// Time after which no answer about a reservation is expected any more, and after which a settlement is sent
/// again.
const LATEST_ANSWER: Duration = Duration::from_secs(30);
const LATEST_SETTLEMENT: Duration = Duration::from_secs(2);

/// Largest number of renewals of slots among these.
const MOST_RENEWALS: usize = 32;

/// A connection, and what is known of it.
pub(super) struct Session {
    connection: Connection,
    scripts: Scripts,
    prefix: String,
    id: String,
    timeout: Duration,
    link: Arc<Link>,
    clock: Clock,
    /// Number of heartbeats in a row without an answer in time.
    failures: Cell<u32>,
    asks: Semaphore,
    renewals: Semaphore,
    later: Rc<Later>,
    is_broken: Cell<bool>,
    /// Whether another connection took the place of this one. Its asks may still end.
    is_over: Cell<bool>,
}

/// Gets each budget that has passed a share of its amount, with the id of its key or group.
pub(super) type Told = Box<dyn Fn(&str, &Passed) + Send>;

/// What outlasts a connection.
pub(super) struct Later {
    /// Gets the budgets that have passed a share of their amounts.
    pub(super) tell: Told,
    pub(super) unsent: RefCell<Unsent>,
    /// Where settlements are noted that have no answer yet.
    pub(super) unsettled: Arc<Unsettled>,
    /// Notified if an ask had no answer in time.
    pub(super) failed: Notify,
}

/// What is to be told when the server is available.
#[derive(Default)]
pub(super) struct Unsent {
    /// Keys that have something to report.
    pub(super) states: Vec<Arc<KeyState>>,
    /// Failed attempts that were counted without the server.
    pub(super) attempts: HashMap<IpAddr, Attempts>,
    /// What requests have used of budgets.
    pub(super) budgets: Vec<Arc<BudgetReport>>,
}

impl Later {
    /// Returns a settlement that is about to be sent, and notes it.
    pub(super) fn report(
        &self,
        state: Arc<KeyState>,
        clock: &Clock,
        settlements: Vec<BudgetSettlement>,
    ) -> Arc<BudgetReport> {
        let report = Arc::new(BudgetReport::new(state, clock.wall(), settlements));
        self.unsettled.begin(&report);
        report
    }
}

impl Session {
    pub(super) fn new(
        connection: Connection,
        settings: &Settings,
        id: &str,
        (link, clock): (&Arc<Link>, &Clock),
        later: &Rc<Later>,
    ) -> Rc<Self> {
        Rc::new(Session {
            connection,
            scripts: Scripts::default(),
            prefix: settings.prefix.clone(),
            id: id.to_owned(),
            timeout: settings.server.timeout,
            link: link.clone(),
            clock: clock.clone(),
            failures: Cell::new(0),
            asks: Semaphore::new(MOST_ASKS),
            renewals: Semaphore::new(MOST_RENEWALS),
            later: later.clone(),
            is_broken: Cell::new(false),
            is_over: Cell::new(false),
        })
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// Sends a heartbeat. `seen`: the last time of the server that is known. Returns `None` if there was
    /// no answer in time.
    pub(super) async fn beat(&self, seen: u64, about: &str) -> Option<Heard> {
        let times = (micros(REGISTRATION), seen, micros(OUTAGE));
        let mut connection = self.connection.clone();
        self.in_time(self.scripts.heartbeat(&mut connection, &self.prefix, &self.id, times, about)).await
    }

    /// Ends the registration of this replica.
    pub(super) async fn unregister(&self, seen: u64) {
        let times = (0, seen, micros(OUTAGE));
        let mut connection = self.connection.clone();
        let heartbeat = self.scripts.heartbeat(&mut connection, &self.prefix, &self.id, times, "");
        self.in_time(heartbeat).await;
    }

    /// Returns the answer, if it comes in time.
    async fn in_time<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> Option<T> {
        match timeout(self.timeout, answer).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                self.note_error(&error);
                None
            }
            Err(_elapsed) => None,
        }
    }

    /// Returns the answer to an ask, if it comes in time, and counts the ask.
    async fn asked<T>(&self, answer: impl Future<Output = RedisResult<T>>) -> Option<T> {
        let beginning = Instant::now();
        let answer = self.in_time(answer).await;
        self.link.note_ask(beginning.elapsed(), answer.is_some());
        if answer.is_none() {
            // A heartbeat finds out soon whether the server answers at all.
            self.later.failed.notify_one();
        }
        answer
    }

    /// Tells what could not be told before.
    pub(super) fn send_unsent(self: &Rc<Self>, outage: Outage) {
        let Unsent { states, attempts, budgets } = self.later.unsent.take();
        budgets.into_iter().for_each(|report| self.start_settling(report));
        states.into_iter().for_each(|state| self.start(state, outage));
        attempts.into_values().for_each(|attempts| self.start_attempts(attempts, None));
    }

    /// Starts an ask.
    pub(super) fn start(self: &Rc<Self>, state: Arc<KeyState>, outage: Outage) {
        let session = self.clone();
        tokio::task::spawn_local(async move { session.ask(state, outage).await });
    }

    /// Starts an ask after a moment, in which more may be reported.
    pub(super) fn start_later(self: &Rc<Self>, state: Arc<KeyState>, outage: Outage) {
        let session = self.clone();
        tokio::task::spawn_local(async move {
            sleep(REPORT_DELAY).await;
            if state.begin_report() {
                session.ask(state, outage).await;
            }
        });
    }

    /// Starts an ask for slots.
    pub(super) fn start_slots(self: &Rc<Self>, state: Arc<KeyState>, is_renewal: bool) {
        let session = self.clone();
        tokio::task::spawn_local(async move { session.ask_slots(state, is_renewal).await });
    }

    /// Starts an ask that gives slots back, after a moment in which they may be needed again.
    pub(super) fn start_slots_later(self: &Rc<Self>, state: Arc<KeyState>) {
        let session = self.clone();
        tokio::task::spawn_local(async move {
            sleep(SLOTS_DELAY).await;
            if state.with_slots(LeasedSlots::begin_report) == Some(true) {
                session.ask_slots(state, false).await;
            }
        });
    }

    /// Starts the count of failed attempts. `reply`: for the answer; `None` for attempts that were
    /// granted already.
    pub(super) fn start_attempts(
        self: &Rc<Self>,
        attempts: Attempts,
        reply: Option<oneshot::Sender<AttemptsCounted>>,
    ) {
        let session = self.clone();
        tokio::task::spawn_local(async move {
            let Ok(_permit) = session.asks.acquire().await else { return };
            let mut connection = session.connection.clone();
            let was_granted = reply.is_none();
            let counting = session.scripts.attempts(&mut connection, &session.prefix, &attempts, was_granted);
            match (session.asked(counting).await, reply) {
                (Some(counted), Some(reply)) => {
                    let _left = reply.send(counted);
                }
                (None, None) => session.later.unsent.borrow_mut().add_attempts(attempts),
                (Some(_), None) | (None, Some(_)) => {}
            }
        });
    }

    /// Starts to reserve units of budgets. An answer that nobody waits for any more is given back.
    pub(super) fn start_reserving(
        self: &Rc<Self>,
        ask: Arc<BudgetAsk>,
        reply: oneshot::Sender<BudgetAnswer>,
    ) {
        let session = self.clone();
        tokio::task::spawn_local(async move {
            let Ok(_permit) = session.asks.acquire().await else { return };
            if reply.is_closed() {
                return;
            }
            let (beginning, key) = (Instant::now(), session.budgets_of(ask.state.id()));
            let mut connection = session.connection.clone();
            // A late answer is worth waiting for: what it has reserved must be given back.
            let reserving = session.scripts.reserve_budgets(&mut connection, &key, &ask);
            let answer = match timeout(LATEST_ANSWER, reserving).await {
                Ok(Ok(answer)) => Some(answer),
                Ok(Err(error)) => {
                    session.note_error(&error);
                    None
                }
                Err(_elapsed) => None,
            };
            let is_in_time = answer.is_some() && beginning.elapsed() <= session.timeout;
            session.link.note_ask(beginning.elapsed(), is_in_time);
            if !is_in_time {
                session.later.failed.notify_one();
            }
            let Some(answer) = answer else { return };
            let budgets = ask.wants.iter().map(|want| &want.budget);
            ask.state.note_told(budgets.clone(), &answer.budgets);
            session.tell_of_budgets(ask.state.id(), budgets, &answer);
            if let Err(answer) = reply.send(answer)
                && answer.refused.is_none()
            {
                let given_back = ask.taken_back(&answer);
                session.start_settling(session.later.report(ask.state.clone(), &session.clock, given_back));
            }
        });
    }

    /// Starts to settle what a request has used of budgets. If no answer comes, it is sent again later; the
    /// server makes it once.
    pub(super) fn start_settling(self: &Rc<Self>, report: Arc<BudgetReport>) {
        let session = self.clone();
        tokio::task::spawn_local(async move {
            let Ok(_permit) = session.asks.acquire().await else { return };
            let BudgetReport { id, holder, state, settlements, .. } = &*report;
            let (key, mut connection) = (session.budgets_of(holder), session.connection.clone());
            let settling = session.scripts.settle_budgets(&mut connection, &key, id, settlements);
            match timeout(LATEST_SETTLEMENT, settling).await {
                Ok(Ok(answer)) => {
                    session.later.unsettled.end(id);
                    let budgets = settlements.iter().map(|settlement| &settlement.budget);
                    if let Some(state) = state {
                        state.note_settled(settlements, &answer.budgets);
                        state.note_told(budgets.clone(), &answer.budgets);
                    }
                    session.tell_of_budgets(holder, budgets, &answer);
                }
                Ok(Err(error)) => {
                    session.note_error(&error);
                    session.settle_later(report);
                }
                Err(_elapsed) => session.settle_later(report),
            }
        });
    }

    /// Settles when the server is available.
    pub(super) fn settle_later(&self, report: Arc<BudgetReport>) {
        self.later.unsent.borrow_mut().budgets.push(report);
    }

    fn budgets_of(&self, holder: &str) -> String {
        format!("{}:{{{holder}}}:budgets", self.prefix)
    }

    /// Tells of budgets of a holder that have passed a share.
    fn tell_of_budgets<'b>(
        &self,
        holder: &str,
        budgets: impl Iterator<Item = &'b Arc<Budget>>,
        answer: &BudgetAnswer,
    ) {
        for (budget, told) in budgets.zip(&answer.budgets).filter(|(_, told)| told.passed > 0) {
            let resets_at = Timestamp::from_second(told.to).unwrap_or(Timestamp::MAX);
            (self.later.tell)(holder, &budget.passed(told.passed, told.used, resets_at));
        }
    }

    /// Starts to tell what this replica has counted, until the server knows all of it.
    pub(super) fn start_telling(self: &Rc<Self>, untold: &Arc<Untold>) {
        let (session, untold) = (self.clone(), untold.clone());
        tokio::task::spawn_local(async move { session.tell_usage(&untold).await });
    }

    /// Tells what this replica has counted, one part after another, until one has no answer.
    pub(super) async fn tell_usage(&self, untold: &Untold) {
        let Ok(_permit) = self.asks.acquire().await else { return };
        while let Some(telling) = untold.take() {
            let mut connection = self.connection.clone();
            let told = self.scripts.usage.tell(&mut connection, &self.prefix, untold, &telling);
            let failed = match timeout(LATEST_SETTLEMENT, told).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => {
                    self.note_error(&error);
                    Some(telling)
                }
                Err(_elapsed) => Some(telling),
            };
            let is_over = failed.is_some();
            untold.told(failed);
            if is_over {
                return;
            }
        }
    }

    /// Waits until all that was asked has an answer.
    pub(super) async fn answered(&self) {
        let all = u32::try_from(MOST_ASKS).unwrap_or(u32::MAX);
        let _permits = self.asks.acquire_many(all).await;
    }

    /// Asks for slots of a key as long as requests wait for them.
    async fn ask_slots(&self, state: Arc<KeyState>, mut is_renewal: bool) {
        // Renewals of all keys come at once. They leave room for the asks of requests.
        let _renewal = match is_renewal {
            true => self.renewals.acquire().await.ok(),
            false => None,
        };
        let Ok(_permit) = self.asks.acquire().await else { return };
        let key = format!("{}:{{{}}}:slots", self.prefix, state.id());
        let life = micros(REGISTRATION);
        let mut connection = self.connection.clone();
        loop {
            let now = self.clock.monotonic_nanos();
            let ask = state.with_slots(|slots| slots.begin_ask(is_renewal, now)).flatten();
            let Some(ask) = ask else { return };
            let link = self.link.state();
            let part = link.part(link.since, None).map_or(0, |part| part.share_of(ask.limit));
            let of_outage = (life, part, link.outage);
            drop(link);
            let held = self.asked(self.scripts.slots(&mut connection, &key, &self.id, &ask, of_outage)).await;
            let goes_on = state.with_slots(|slots| {
                let goes_on = slots.end_ask(ask, held.map(|held| (held, life)));
                if held.is_none() {
                    slots.fail();
                }
                goes_on
            });
            if held.is_none() || goes_on != Some(true) {
                return;
            }
            is_renewal = false;
        }
    }

    /// Asks for a key as long as requests wait, or changes are to be reported.
    async fn ask(&self, state: Arc<KeyState>, outage: Outage) {
        let Ok(_permit) = self.asks.acquire().await else { return };
        let key = format!("{}:{{{}}}", self.prefix, state.id());
        let mut connection = self.connection.clone();
        while let Some(ask) = state.begin_ask(self.clock.monotonic_nanos()) {
            let answer = self.asked(self.scripts.lease(&mut connection, &key, &ask, outage)).await;
            state.end_ask(ask, answer.as_ref(), self.clock.monotonic_nanos());
            if answer.is_none() {
                self.later.unsent.borrow_mut().states.push(state);
                return;
            }
        }
    }

    /// Gives back all that a key holds.
    pub(super) async fn give_back(&self, state: Arc<KeyState>, outage: Outage) {
        if state.give_back() {
            self.ask(state.clone(), outage).await;
        }
        if state.with_slots(LeasedSlots::give_back) == Some(true) {
            self.ask_slots(state, false).await;
        }
    }

    /// Counts a heartbeat without an answer in time. Returns whether the server is unavailable.
    pub(super) fn beat_failed(&self) -> bool {
        self.failures.set(self.failures.get() + 1);
        if self.failures.get() >= MANY_FAILURES {
            self.is_broken.set(true);
        }
        self.failures.get() >= FAILURES || self.is_broken.get()
    }

    pub(super) fn beat_answered(&self) {
        self.failures.set(0);
    }

    /// Whether heartbeats had no answer of late.
    pub(super) fn is_doubtful(&self) -> bool {
        self.failures.get() > 0
    }

    /// Ends the session. Asks that are under way end without it.
    pub(super) fn end(&self) {
        self.is_over.set(true);
    }

    fn note_error(&self, error: &RedisError) {
        if self.is_over.get() {
            return;
        }
        self.link.note_trouble(error);
        // The client of a cluster connects again by itself.
        if self.connection.is_cluster() || error.is_timeout() {
            return;
        }
        if error.is_io_error() || error.is_connection_dropped() || error.is_unrecoverable_error() {
            self.is_broken.set(true);
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
