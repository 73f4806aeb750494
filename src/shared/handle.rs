//! The handle of the shared limits, for the workers that decide requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;

use super::link::{Link, LinkState};
use super::settings::Settings;
use crate::clock::Clock;
use crate::config::{AttemptQuota, WhenUnavailable};
use crate::limit::{
    Attempts, AttemptsCounted, BudgetAnswer, BudgetAsk, BudgetSettlement, KeyState, Lender, Standing,
};
use crate::redis_link::Server;

/// The time for a server to take what a replica has to tell at its end.
const LEAVING: Duration = Duration::from_secs(2);

/// What the thread is to do.
#[derive(Debug)]
pub(super) enum Job {
    /// Ask for the requests of a key that wait.
    Ask(Arc<KeyState>),
    /// Report what has changed for a key, soon.
    Report(Arc<KeyState>),
    /// Ask for the requests of a key that wait for slots.
    Slots(Arc<KeyState>),
    /// Report slots of a key that are no longer used, soon.
    SlotsReport(Arc<KeyState>),
    CountAttempts(Attempts, oneshot::Sender<AttemptsCounted>),
    /// Tell of attempts that were counted without the server.
    TellAttempts(Attempts),
    ReserveBudgets(Arc<BudgetAsk>, oneshot::Sender<BudgetAnswer>),
    SettleBudgets(Arc<KeyState>, Vec<BudgetSettlement>),
    /// Give back all that these keys hold, end the registration, and end.
    Leave(Vec<Arc<KeyState>>, oneshot::Sender<()>),
}

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct Sharing {
    pub(crate) link: Arc<Link>,
    /// The id of this replica.
    pub(crate) id: String,
    settings: Arc<ArcSwap<Settings>>,
    clock: Clock,
    jobs: UnboundedSender<Job>,
}

/// What the thread gets from the handle.
pub(super) struct Ends {
    pub(super) link: Arc<Link>,
    pub(super) settings: Arc<ArcSwap<Settings>>,
    pub(super) jobs: UnboundedReceiver<Job>,
}

impl Sharing {
    pub(super) fn new(settings: Settings, id: String, clock: Clock) -> (Self, Ends) {
        let link = Arc::new(Link::new(clock.monotonic_nanos()));
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let (sender, jobs) = unbounded_channel();
        let ends = Ends { link: link.clone(), settings: settings.clone(), jobs };
        (Sharing { link, id, settings, clock, jobs: sender }, ends)
    }

    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// Puts new settings into effect. A new server or prefix would begin with full limits, and takes a
    /// restart.
    pub(crate) fn configure(&self, settings: Settings) {
        let now = self.settings.load();
        let server = Server { address: now.server.address.clone(), ..settings.server };
        self.settings.store(Arc::new(Settings { server, prefix: now.prefix.clone(), ..settings }));
    }

    /// Gives back all that these keys hold, tells what was counted, and ends the registration of this
    /// replica. Waits for the server, but not long.
    pub(crate) async fn leave(&self, states: Vec<Arc<KeyState>>) {
        let (done, has_left) = oneshot::channel();
        let _is_sent = self.jobs.send(Job::Leave(states, done));
        // What was not given back in time comes back when it ends.
        let _in_time = tokio::time::timeout(LEAVING, has_left).await;
    }

    fn send(&self, job: Job) {
        // Without the thread, no answer comes, and requests go on after their timeout.
        let _is_sent = self.jobs.send(job);
    }

    fn part(&self, state: &LinkState, since: u64) -> Standing {
        let settings = self.settings.load();
        let part = match settings.when_unavailable {
            WhenUnavailable::Share => state.part(since, settings.assumed),
            WhenUnavailable::Refuse => None,
        };
        part.map_or(Standing::Refuses, Standing::Part)
    }
}

impl Lender for Sharing {
    fn ask(&self, state: &Arc<KeyState>) {
        self.send(Job::Ask(state.clone()));
    }

    fn report(&self, state: &Arc<KeyState>) {
        self.send(Job::Report(state.clone()));
    }

    fn ask_slots(&self, state: &Arc<KeyState>) {
        self.send(Job::Slots(state.clone()));
    }

    fn report_slots(&self, state: &Arc<KeyState>) {
        self.send(Job::SlotsReport(state.clone()));
    }

    fn count_attempts(&self, attempts: Attempts) -> oneshot::Receiver<AttemptsCounted> {
        let (reply, receiver) = oneshot::channel();
        self.send(Job::CountAttempts(attempts, reply));
        receiver
    }

    fn tell_attempts(&self, attempts: Attempts) {
        if attempts.count > 0 {
            self.send(Job::TellAttempts(attempts));
        }
    }

    fn reserve_budgets(&self, ask: &Arc<BudgetAsk>) -> oneshot::Receiver<BudgetAnswer> {
        let (reply, receiver) = oneshot::channel();
        self.send(Job::ReserveBudgets(ask.clone(), reply));
        receiver
    }

    fn settle_budgets(&self, state: &Arc<KeyState>, settlements: Vec<BudgetSettlement>) {
        state.note_settling(&settlements);
        self.send(Job::SettleBudgets(state.clone(), settlements));
    }

    fn part_of_attempts(&self, quota: AttemptQuota) -> AttemptQuota {
        let (state, settings) = (self.link.state(), self.settings.load());
        let part = state.part(state.since, settings.assumed);
        // Without a number of replicas, one attempt is the least that lets nobody guess for ever.
        let per_address = part.map_or(1, |part| part.share_of(quota.per_address));
        AttemptQuota { per_address, ..quota }
    }

    fn granted_away(&self) {
        self.link.granted_away.fetch_add(1, Ordering::Relaxed);
    }

    fn standing(&self) -> Standing {
        let state = self.link.state();
        if state.is_available {
            return Standing::Available;
        }
        self.part(&state, state.since)
    }

    fn timeout(&self) -> Duration {
        self.settings.load().server.timeout
    }

    fn standing_without_answer(&self) -> Standing {
        let state = self.link.state();
        let since = if state.is_available { self.clock.monotonic_nanos() } else { state.since };
        self.part(&state, since)
    }
}
