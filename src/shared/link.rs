//! The state of the link to the server, for the workers that decide requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::clock::Clock;
use crate::limit::PartOf;
use crate::observe::histogram::Histogram;
use crate::redis_link::{RedisError, text_of};

/// Bounds of the times of asks, in seconds.
const ASK_BOUNDS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05];

/// Time between two messages about trouble. The status has the last one.
const TROUBLE_AGAIN: Duration = Duration::from_secs(60);

/// The link to the server.
#[derive(Debug)]
pub(crate) struct Link {
    state: ArcSwap<LinkState>,
    /// Number of requests that were granted while the server was unavailable.
    pub(super) granted_away: AtomicU64,
    counts: Mutex<Counts>,
}

/// Counts since the start.
#[derive(Debug)]
struct Counts {
    /// Times of the asks that had an answer in time.
    answered: Histogram,
    unanswered: u64,
    pace: Pace,
    /// Time without the server in the outages that have ended.
    away: Duration,
    /// What the server or the connection last said that it should not have, and when it was told.
    trouble: Option<(String, Instant)>,
}

/// Number of asks in the current span of time and in the one before.
#[derive(Debug)]
struct Pace {
    since: Instant,
    now: u32,
    before: u32,
}

impl Pace {
    const SPAN: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Pace { since: Instant::now(), now: 0, before: 0 }
    }

    fn note(&mut self, time: Instant) {
        let passed = time.duration_since(self.since);
        if passed >= Self::SPAN {
            self.before = if passed < 2 * Self::SPAN { self.now } else { 0 };
            (self.since, self.now) = (time, 0);
        }
        self.now += 1;
    }

    fn per_second(&self, time: Instant) -> f64 {
        let passed = time.duration_since(self.since);
        let (asks, span) = match passed < Self::SPAN {
            true => (self.before + self.now, Self::SPAN + passed),
            false => (self.now, passed),
        };
        f64::from(asks) / span.as_secs_f64()
    }
}

/// What operators see of the link.
#[derive(Debug)]
pub(crate) struct LinkReport {
    pub(crate) state: Arc<LinkState>,
    pub(crate) answered: Histogram,
    pub(crate) unanswered: u64,
    pub(crate) asks_per_second: f64,
    /// Time without the server since the start.
    pub(crate) away: Duration,
    pub(crate) granted_away: u64,
    /// The last trouble, if the server is unavailable.
    pub(crate) trouble: Option<String>,
}

/// Whether the server can be asked, and what is known of the replicas.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct LinkState {
    pub(crate) is_available: bool,
    /// Time of the last change of `is_available`, in nanoseconds of the clock.
    pub(crate) since: u64,
    /// All replicas in the order of their ids, as the server last knew them; empty if it was never
    /// reached.
    pub(crate) replicas: Vec<Replica>,
    /// Number of replicas before this one.
    pub(super) rank: Option<u32>,
    /// Greatest number of replicas of late. After an outage, they register again one after another.
    pub(super) most: u32,
    /// The last outage, in the server's time; zero for none.
    pub(super) outage: Outage,
}

/// A replica, as it describes itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) id: String,
    /// Number of changes of configuration, keys and certificates that it has applied since its start.
    pub(crate) generation: u64,
    /// The beginning of the digest of its configuration; empty if it has no file.
    pub(crate) configuration: String,
}

impl Replica {
    /// Reads what a replica says of itself. What is not understood is left empty.
    pub(super) fn read(id: String, about: &str) -> Self {
        let (generation, configuration) = about.split_once(' ').unwrap_or((about, ""));
        let generation = generation.parse().unwrap_or_default();
        Replica { id, generation, configuration: configuration.to_owned() }
    }

    pub(super) fn about(&self) -> String {
        format!("{} {}", self.generation, self.configuration)
    }
}

/// A time in which no replica reached the server, in microseconds since 2026.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outage {
    pub(super) from: u64,
    pub(super) to: u64,
    /// Whether the server has lost what it knew.
    pub(super) is_wiped: bool,
}

impl Link {
    /// Makes the link of a replica that has not reached the server yet.
    pub(crate) fn new(now: u64) -> Self {
        let state = LinkState {
            is_available: false,
            since: now,
            replicas: Vec::new(),
            rank: None,
            most: 0,
            outage: Outage::default(),
        };
        let counts = Counts {
            answered: Histogram::new(ASK_BOUNDS),
            unanswered: 0,
            pace: Pace::new(),
            away: Duration::ZERO,
            trouble: None,
        };
        Link {
            state: ArcSwap::from_pointee(state),
            granted_away: AtomicU64::new(0),
            counts: Mutex::new(counts),
        }
    }

    pub(crate) fn state(&self) -> arc_swap::Guard<Arc<LinkState>> {
        self.state.load()
    }

    pub(super) fn set(&self, state: LinkState) {
        self.state.store(Arc::new(state));
    }

    /// Returns what operators see.
    pub(crate) fn report(&self, clock: &Clock) -> LinkReport {
        let (state, counts) = (self.state.load_full(), self.counts());
        let is_away = !state.is_available;
        let nanos = if is_away { clock.monotonic_nanos().saturating_sub(state.since) } else { 0 };
        LinkReport {
            answered: counts.answered.clone(),
            unanswered: counts.unanswered,
            asks_per_second: counts.pace.per_second(Instant::now()),
            away: counts.away + Duration::from_nanos(nanos),
            granted_away: self.granted_away.load(Ordering::Relaxed),
            trouble: counts.trouble.as_ref().filter(|_| is_away).map(|(trouble, _)| trouble.clone()),
            state,
        }
    }

    pub(super) fn note_ask(&self, time: Duration, was_answered: bool) {
        let mut counts = self.counts();
        counts.pace.note(Instant::now());
        match was_answered {
            true => counts.answered.observe(time),
            false => counts.unanswered += 1,
        }
    }

    /// Records that the server is unavailable.
    pub(super) fn lose(&self, clock: &Clock) {
        let before = self.state();
        if before.is_available {
            let since = clock.monotonic_nanos();
            self.set(LinkState { is_available: false, since, ..LinkState::clone(&before) });
            tracing::warn!(target: "bearward::shared", "the server for shared limits is unavailable");
        }
    }

    /// Records that the server is available, after a time without it.
    pub(super) fn note_return(&self, away_since: u64, now: u64) {
        self.counts().away += Duration::from_nanos(now.saturating_sub(away_since));
        tracing::info!(target: "bearward::shared", "the server for shared limits is available");
    }

    /// Records what the server or the connection says that it should not, and tells it from time to time.
    pub(super) fn note_trouble(&self, error: &RedisError) {
        let text = text_of(error);
        let mut counts = self.counts();
        let told =
            counts.trouble.as_ref().map(|(_, told)| *told).filter(|told| told.elapsed() < TROUBLE_AGAIN);
        if told.is_none() {
            tracing::warn!(target: "bearward::shared", trouble = text, "the server for shared limits");
        }
        counts.trouble = Some((text, told.unwrap_or_else(Instant::now)));
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LinkState {
    /// Returns this replica's part of each limit, which begins at `since`. `assumed`: the number of
    /// replicas if the server was never reached. Returns `None` if no part is known.
    pub(crate) fn part(&self, since: u64, assumed: Option<u32>) -> Option<PartOf> {
        if self.replicas.is_empty() {
            return Some(PartOf { replicas: assumed?, rank: None, since });
        }
        let known = u32::try_from(self.replicas.len()).unwrap_or(u32::MAX);
        // The order is that of the replicas that are known. If there were more, it says nothing.
        let rank = self.rank.filter(|_| known >= self.most);
        Some(PartOf { replicas: known.max(self.most), rank, since })
    }
}
