//! The thread that has the connection to the server: it connects, registers this replica by heartbeats,
//! and decides whether the server is available.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::handle::{Ends, Job, Sharing};
use super::link::{Link, LinkState, Outage, Replica};
use super::scripts::Heard;
use super::session::{Later, Session, Told, Unsent};
use super::settings::Settings;
use crate::clock::Clock;
use crate::limit::{Attempts, BudgetReport, FailedAttempts, KeyState, LeasedSlots, Passed, Unsettled};
use crate::observe::untold::{Collected, Untold};
use crate::thread_supervisor::Ended;

/// Time between two heartbeats, and between two while the server is unavailable.
const HEARTBEAT: Duration = Duration::from_millis(500);
const PROBE: Duration = Duration::from_millis(100);

/// Number of heartbeats in a row with an answer in time, after which the server is available again.
const SUCCESSES: u32 = 2;

/// Time for which replicas still count that do not register again.
const REMEMBERED: Duration = Duration::from_secs(3);

/// Time between two attempts to connect: at first, and at most.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));

/// Time after which what was counted here is told again.
const TELLING: Duration = Duration::from_secs(1);

/// Largest number of addresses of which attempts are told later.
const MOST_UNTOLD: usize = 4096;

/// The work of the thread.
pub(crate) struct Asker {
    settings: Arc<ArcSwap<Settings>>,
    id: String,
    link: Arc<Link>,
    clock: Clock,
    jobs: UnboundedReceiver<Job>,
    attempts: Arc<FailedAttempts>,
    describe: Box<dyn Fn() -> Replica + Send>,
    tell: Told,
    /// What is counted here and told to the server, and the settlements that have no answer yet.
    ours: Ours,
    /// The keys of which slots may be held, by their ids.
    holders: HashMap<String, Arc<KeyState>>,
    heard: LastHeard,
    last_told: Instant,
}

/// What this replica has counted and settled.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) untold: Arc<Untold>,
    /// What counts usage; `None` if the thread of the state directory does.
    pub(crate) collected: Option<Collected>,
    pub(crate) unsettled: Arc<Unsettled>,
    /// Settlements of before the start.
    pub(crate) unsent: Vec<Arc<BudgetReport>>,
}

/// What the server said last.
#[derive(Clone, Copy, Debug, Default)]
struct LastHeard {
    /// The server's time, in microseconds since 2026.
    time: u64,
    outage: Outage,
    /// Greatest number of replicas of late, and the last time at which there were as many, in nanoseconds
    /// of the clock.
    most: (u32, u64),
}

/// What comes after a connection.
enum Next {
    Reconnects,
    /// All was given back, or nobody needs the thread any more.
    Ends,
}

/// Makes the handle of the shared limits, and the work of their thread. `id`: that of this replica.
pub(crate) fn share(settings: Settings, id: String, clock: Clock) -> (Sharing, Asker) {
    let (sharing, Ends { link, settings, jobs }) = Sharing::new(settings, id.clone(), clock.clone());
    let ours = Ours {
        untold: Arc::new(Untold::new(id.clone(), false)),
        collected: None,
        unsettled: Arc::default(),
        unsent: Vec::new(),
    };
    let asker = Asker {
        settings,
        id,
        link,
        clock,
        jobs,
        attempts: Arc::default(),
        describe: Box::new(Replica::default),
        tell: Box::new(|_, _| {}),
        ours,
        holders: HashMap::new(),
        heard: LastHeard::default(),
        last_told: Instant::now(),
    };
    (sharing, asker)
}

impl Asker {
    /// Sets where the addresses are recorded that have used up their failed attempts elsewhere.
    pub(crate) fn recording(self, attempts: &Arc<FailedAttempts>) -> Self {
        Asker { attempts: attempts.clone(), ..self }
    }

    /// Sets what this replica tells of usage and budgets.
    pub(crate) fn telling_of(self, ours: Ours) -> Self {
        Asker { ours, ..self }
    }

    /// Sets how this replica describes itself.
    pub(crate) fn described_by(self, describe: impl Fn() -> Replica + Send + 'static) -> Self {
        Asker { describe: Box::new(describe), ..self }
    }

    /// Sets who gets the budgets that have passed a share of their amounts, with the ids of their holders.
    pub(crate) fn telling(self, tell: impl Fn(&str, &Passed) + Send + 'static) -> Self {
        Asker { tell: Box::new(tell), ..self }
    }

    /// Runs on this thread until it is asked to leave, or all handles are dropped.
    pub(crate) fn run_thread(self) -> Ended {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        match runtime {
            Ok(runtime) => {
                tokio::task::LocalSet::new().block_on(&runtime, self.run());
                Ended::Asked
            }
            Err(_no_runtime) => Ended::Early,
        }
    }

    async fn run(mut self) {
        let tell = std::mem::replace(&mut self.tell, Box::new(|_, _| {}));
        let unsent = Unsent { budgets: std::mem::take(&mut self.ours.unsent), ..Unsent::default() };
        let unsettled = self.ours.unsettled.clone();
        let later = Later { tell, unsent: RefCell::new(unsent), unsettled, failed: Notify::new() };
        let (mut pause, later) = (RECONNECT.0, Rc::new(later));
        loop {
            let settings = self.settings.load_full();
            match settings.server.connect().await {
                Ok(connection) => {
                    let session =
                        Session::new(connection, &settings, &self.id, (&self.link, &self.clock), &later);
                    let (has_worked, next) = self.serve(&session, &later).await;
                    session.end();
                    if has_worked {
                        pause = RECONNECT.0;
                    }
                    if let Next::Ends = next {
                        return;
                    }
                }
                Err(error) => self.link.note_trouble(&error),
            }
            self.link.lose(&self.clock);
            if let Next::Ends = self.wait(pause, &later).await {
                return;
            }
            pause = (pause * 2).min(RECONNECT.1);
        }
    }

    /// Waits before the next attempt to connect. Requests that wait for the server go on.
    async fn wait(&mut self, pause: Duration, later: &Later) -> Next {
        let waiting = Instant::now();
        while let Some(left) = pause.checked_sub(waiting.elapsed()) {
            match timeout(left, self.jobs.recv()).await {
                Ok(Some(Job::Report(state))) if !state.begin_report() => {}
                Ok(Some(Job::Ask(state) | Job::Report(state))) => {
                    state.fail_ask(self.clock.monotonic_nanos());
                    later.unsent.borrow_mut().states.push(state);
                }
                Ok(Some(Job::Slots(state) | Job::SlotsReport(state))) => {
                    state.with_slots(LeasedSlots::fail);
                    self.holders.insert(state.id().to_owned(), state);
                }
                Ok(Some(Job::SettleBudgets(state, settlements))) => {
                    let report = later.report(state, &self.clock, settlements);
                    later.unsent.borrow_mut().budgets.push(report);
                }
                Ok(Some(Job::ReserveBudgets(..))) => {}
                Ok(Some(Job::TellAttempts(attempts))) => later.unsent.borrow_mut().add_attempts(attempts),
                Ok(Some(Job::CountAttempts(..))) => {}
                Ok(Some(Job::Leave(..)) | None) => return Next::Ends,
                Err(_elapsed) => break,
            }
        }
        Next::Reconnects
    }

    /// Serves jobs over one connection, until it breaks. Returns whether the server was available.
    async fn serve(&mut self, session: &Rc<Session>, later: &Later) -> (bool, Next) {
        let (mut successes, mut has_worked) = (SUCCESSES - 1, false);
        loop {
            let beginning = Instant::now();
            match session.beat(self.heard.time, &(self.describe)().about()).await {
                Some(heard) if heard.replicas.iter().any(|replica| replica.id == self.id) => {
                    successes += 1;
                    session.beat_answered();
                    let is_available = self.link.state().is_available || successes >= SUCCESSES;
                    self.heard(heard, is_available);
                    has_worked |= is_available;
                    if is_available {
                        session.send_unsent(self.heard.outage);
                        self.renew_slots(session);
                        self.tell_usage(session);
                    }
                }
                // An answer that does not know this replica is none.
                Some(_) | None => {
                    successes = 0;
                    if session.beat_failed() {
                        self.link.lose(&self.clock);
                    }
                }
            }
            if session.is_broken() {
                return (has_worked, Next::Reconnects);
            }
            let is_steady = self.link.state().is_available && !session.is_doubtful();
            let interval = if is_steady { HEARTBEAT } else { PROBE };
            let next = sleep(interval.saturating_sub(beginning.elapsed()));
            tokio::pin!(next);
            loop {
                tokio::select! {
                    () = &mut next => break,
                    () = later.failed.notified() => {
                        // An ask had no answer in time: a heartbeat finds out soon whether others have.
                        let soon = next.deadline().min(beginning + PROBE);
                        next.as_mut().reset(soon);
                    }
                    job = self.jobs.recv() => match job {
                        Some(Job::Leave(states, done)) => {
                            self.leave(session, states, done).await;
                            return (has_worked, Next::Ends);
                        }
                        Some(job) => self.start(session, later, job),
                        None => return (has_worked, Next::Ends),
                    },
                }
            }
        }
    }

    fn start(&mut self, session: &Rc<Session>, later: &Later, job: Job) {
        let outage = self.heard.outage;
        match job {
            Job::Ask(state) => session.start(state, outage),
            Job::Report(state) => session.start_later(state, outage),
            Job::Slots(state) => {
                session.start_slots(state.clone(), false);
                self.holders.insert(state.id().to_owned(), state);
            }
            Job::SlotsReport(state) => {
                session.start_slots_later(state.clone());
                self.holders.insert(state.id().to_owned(), state);
            }
            Job::CountAttempts(attempts, reply) => session.start_attempts(attempts, Some(reply)),
            Job::TellAttempts(attempts) => session.start_attempts(attempts, None),
            Job::ReserveBudgets(ask, reply) => session.start_reserving(ask, reply),
            Job::SettleBudgets(state, settlements) if self.link.state().is_available => {
                session.start_settling(later.report(state, &self.clock, settlements));
            }
            Job::SettleBudgets(state, settlements) => {
                session.settle_later(later.report(state, &self.clock, settlements));
            }
            Job::Leave(..) => {}
        }
    }

    /// Tells what was counted here, once a second.
    fn tell_usage(&mut self, session: &Rc<Session>) {
        if self.last_told.elapsed() >= TELLING {
            self.last_told = Instant::now();
            self.collect();
            session.start_telling(&self.ours.untold);
        }
    }

    fn collect(&mut self) {
        if let Some(collected) = &mut self.ours.collected {
            collected.collect(&self.ours.untold, self.clock.wall());
        }
    }

    /// Gives back all that keys hold, tells what was counted, and ends the registration.
    async fn leave(&mut self, session: &Rc<Session>, states: Vec<Arc<KeyState>>, done: oneshot::Sender<()>) {
        for state in states {
            session.give_back(state, self.heard.outage).await;
        }
        session.answered().await;
        self.collect();
        session.tell_usage(&self.ours.untold).await;
        session.unregister(self.heard.time).await;
        let _nobody_waits = done.send(());
    }

    /// Renews the slots that are held, and forgets the keys of which none are.
    fn renew_slots(&mut self, session: &Rc<Session>) {
        let now = self.clock.monotonic_nanos();
        self.holders.retain(|_, state| state.with_slots(|slots| !slots.is_unused(now)) == Some(true));
        for state in self.holders.values() {
            if state.with_slots(LeasedSlots::begin_renewal) == Some(true) {
                session.start_slots(state.clone(), true);
            }
        }
    }

    fn heard(&mut self, heard: Heard, is_available: bool) {
        let Heard { now, outage, replicas, exhausted } = heard;
        let clock_now = self.clock.monotonic_nanos();
        for (address, per, end) in exhausted.into_iter().filter(|(_, _, end)| *end > now) {
            let (per, left) = (Duration::from_micros(per), Duration::from_micros(end - now));
            self.attempts.exhaust(address, per, left, clock_now);
        }
        let before = self.link.state();
        let since = if before.is_available == is_available { before.since } else { clock_now };
        let count = u32::try_from(replicas.len()).unwrap_or(u32::MAX);
        let (most, mut seen) = self.heard.most;
        if is_available && !before.is_available {
            // Those that were there before are given time to come back.
            seen = clock_now;
        }
        let is_over =
            clock_now.saturating_sub(seen) > u64::try_from(REMEMBERED.as_nanos()).unwrap_or(u64::MAX);
        let most = if count >= most || is_over { (count, clock_now) } else { (most, seen) };
        self.heard = LastHeard { time: now, outage, most };
        let rank = replicas.iter().position(|replica| replica.id == self.id);
        let rank = rank.and_then(|rank| u32::try_from(rank).ok());
        self.link.set(LinkState { is_available, since, replicas, rank, most: most.0, outage });
        if is_available && !before.is_available {
            self.link.note_return(before.since, clock_now);
            // The server may have lost what it knew.
            self.ours.untold.want_all();
        }
    }
}

impl Unsent {
    /// Adds attempts of an address, of which the server is told later. Those of too many addresses are
    /// left out: this process goes on to count them.
    pub(super) fn add_attempts(&mut self, attempts: Attempts) {
        if let Some(known) = self.attempts.get_mut(&attempts.address) {
            known.count = known.count.saturating_add(attempts.count);
        } else if self.attempts.len() < MOST_UNTOLD {
            self.attempts.insert(attempts.address, attempts);
        }
    }
}
