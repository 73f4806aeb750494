//! The keys of an issuer, as they are known, and when they are asked for again.
//!
//! Invariants: at most one request for the keys of an issuer is under way; tokens with unknown keys cause at most
//! one in [`ASKED_INTERVAL`]; keys that were confirmed too long ago verify nothing, whatever the thread does that
//! asks for them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use jiff::Timestamp;
use tokio::sync::{Notify, watch};

use super::jwks::KeySet;
use crate::clock::Clock;
use crate::config::{Issuer, KeysPlace};

/// Shortest time between two requests for the keys that tokens cause.
const ASKED_INTERVAL: Duration = Duration::from_secs(10);
/// The most requests of clients that wait for the keys of an issuer. More of them are refused at once.
const MOST_WAITING: usize = 512;
/// First and longest pause after a failed request.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// The shortest interval that an issuer's server may set by itself.
const LEAST_INTERVAL: Duration = Duration::from_secs(10);
/// Value of [`Source::confirmed`] for keys that are confirmed as long as they are there.
const ALWAYS: u64 = u64::MAX;

/// Where an issuer's keys are. Keys that are known stay known while this does not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) issuer: String,
    pub(super) keys: KeysPlace,
    pub(super) ca: Option<PathBuf>,
    pub(super) token_file: Option<PathBuf>,
}

impl Place {
    /// Whether both have the same keys, however these are reached.
    pub(super) fn has_keys_of(&self, other: &Place) -> bool {
        self.issuer == other.issuer && self.keys == other.keys
    }

    pub(super) fn of(issuer: &Issuer) -> Self {
        Place {
            issuer: issuer.issuer.clone(),
            keys: issuer.jwks.clone(),
            ca: issuer.ca.clone(),
            token_file: issuer.token_file.clone(),
        }
    }
}

/// How often the keys are asked for, and how long an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    pub(super) timeout: Duration,
    pub(super) refresh: Duration,
}

/// The keys of an issuer, as they are known.
#[derive(Debug)]
pub(crate) struct Source {
    pub(super) place: Place,
    pace: ArcSwap<Pace>,
    keys: ArcSwapOption<KeySet>,
    /// When the keys were last confirmed, in nanoseconds of the monotonic clock.
    confirmed: AtomicU64,
    cycle: Mutex<Cycle>,
    /// Notified when a request for the keys has ended.
    ended: watch::Sender<()>,
    /// The number of requests of clients that wait for that.
    waiting: Arc<AtomicUsize>,
    /// Notified when the keys are to be asked for.
    wake: Arc<Notify>,
    clock: Clock,
}

/// When the keys are asked for.
#[derive(Debug, Default)]
struct Cycle {
    /// When the next request is due, in nanoseconds of the monotonic clock.
    due: u64,
    is_asking: bool,
    /// When a token last caused a request.
    asked_at: Option<u64>,
    failures: u32,
    /// The URL that the last answer came from, and its ETag (RFC 9110, section 8.8.3).
    tag: Option<(String, String)>,
    fault: Option<(String, Timestamp)>,
    confirmed_at: Option<Timestamp>,
}

/// An answer about the keys of an issuer.
#[derive(Debug)]
pub(super) enum Answer {
    /// The keys are the ones that are known.
    Same {
        interval: Option<Duration>,
    },
    New {
        keys: KeySet,
        tag: Option<(String, String)>,
        interval: Option<Duration>,
    },
}

/// The end of a request for keys, for a client's request that may need other keys.
#[derive(Debug)]
pub(crate) struct Awaited {
    ended: watch::Receiver<()>,
    patience: Duration,
    _place: Waiting,
}

/// A place among the requests that wait, which is given back when it is dropped.
#[derive(Debug)]
struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    fn enter(waiting: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Waiting(waiting.clone());
        (waiting.fetch_add(1, Ordering::Relaxed) < MOST_WAITING).then_some(place)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Awaited {
    /// Waits for the end, at most as long as a request for the keys may take.
    pub(crate) async fn end(mut self) {
        let _late_or_ended = tokio::time::timeout(self.patience, self.ended.changed()).await;
    }
}

/// What is known of an issuer's keys, as it is shown to operators.
#[derive(Clone, Debug)]
pub(crate) struct ShownSource {
    pub(crate) issuer: String,
    /// The number of usable keys; `None` if they are not known.
    pub(crate) keys: Option<usize>,
    pub(crate) kinds: String,
    pub(crate) unusable: Vec<String>,
    pub(crate) confirmed_at: Option<Timestamp>,
    pub(crate) fault: Option<(String, Timestamp)>,
}

impl Source {
    pub(super) fn new(place: Place, pace: Pace, wake: Arc<Notify>, clock: Clock) -> Self {
        Source {
            place,
            pace: ArcSwap::from_pointee(pace),
            keys: ArcSwapOption::empty(),
            confirmed: AtomicU64::new(0),
            cycle: Mutex::default(),
            ended: watch::Sender::new(()),
            waiting: Arc::default(),
            wake,
            clock,
        }
    }

    fn cycle(&self) -> MutexGuard<'_, Cycle> {
        self.cycle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_file(&self) -> bool {
        matches!(self.place.keys, KeysPlace::File(_))
    }

    pub(super) fn set_pace(&self, pace: Pace) {
        self.pace.store(Arc::new(pace));
    }

    pub(super) fn pace(&self) -> Pace {
        **self.pace.load()
    }

    /// Returns the keys; `None` if none are known, or if they were confirmed longer ago than `max_stale`.
    pub(super) fn keys(&self, max_stale: Duration) -> Option<Arc<KeySet>> {
        self.is_fresh(max_stale).then(|| self.keys.load_full()).flatten()
    }

    /// Whether the keys were confirmed within `max_stale`.
    pub(super) fn is_fresh(&self, max_stale: Duration) -> bool {
        let confirmed = self.confirmed.load(Ordering::Acquire);
        confirmed == ALWAYS
            || confirmed > 0 && self.clock.monotonic_nanos().saturating_sub(confirmed) <= nanos(max_stale)
    }

    /// Puts the keys of a file into service. Returns whether they are others than before.
    pub(super) fn take_file(&self, keys: KeySet) -> bool {
        self.confirmed.store(ALWAYS, Ordering::Release);
        let mut cycle = self.cycle();
        cycle.confirmed_at = Some(self.clock.wall());
        cycle.fault = None;
        self.put(keys)
    }

    fn put(&self, keys: KeySet) -> bool {
        let is_other = self.keys.load().as_ref().is_none_or(|known| !known.is_same(&keys));
        if is_other {
            self.keys.store(Some(Arc::new(keys)));
        }
        is_other
    }

    /// Asks for the keys on behalf of a token, as soon as that may be done. Returns what ends when the keys are
    /// there; `None` if that would take longer than a client may wait, or if too many wait already.
    pub(crate) fn ask(&self) -> Option<Awaited> {
        if self.is_file() {
            return None;
        }
        let place = Waiting::enter(&self.waiting)?;
        let mut cycle = self.cycle();
        let (now, patience) = (self.clock.monotonic_nanos(), self.pace().timeout);
        if !cycle.is_asking && cycle.due > now {
            let allowed = cycle.asked_at.map_or(now, |at| at.saturating_add(nanos(ASKED_INTERVAL)).max(now));
            let next = cycle.due.min(allowed);
            if next - now > nanos(patience) {
                return None;
            }
            if next < cycle.due {
                (cycle.asked_at, cycle.due) = (Some(next), next);
            }
        }
        self.wake.notify_one();
        // The lock is held, so that the request can't end before somebody waits for its end.
        Some(Awaited { ended: self.ended.subscribe(), patience, _place: place })
    }

    /// Takes over the keys of an earlier source, until this one has been asked.
    pub(super) fn inherit(&self, before: &Source) {
        if !self.is_file() {
            self.keys.store(before.keys.load_full());
            self.confirmed.store(before.confirmed.load(Ordering::Acquire), Ordering::Release);
            self.cycle().confirmed_at = before.cycle().confirmed_at;
        }
    }

    /// Begins a request for the keys, if one is due and none is under way.
    pub(super) fn begin(&self) -> bool {
        let mut cycle = self.cycle();
        let begins = !self.is_file() && !cycle.is_asking && cycle.due <= self.clock.monotonic_nanos();
        cycle.is_asking |= begins;
        begins
    }

    /// Returns the time until the next request is due; `None` if none is due before the one that is under way
    /// has ended.
    pub(super) fn wait(&self) -> Option<Duration> {
        let cycle = self.cycle();
        let is_scheduled = !self.is_file() && !cycle.is_asking;
        is_scheduled.then(|| Duration::from_nanos(cycle.due.saturating_sub(self.clock.monotonic_nanos())))
    }

    /// Returns the ETag of the keys that are known, if they came from `url`.
    pub(super) fn tag(&self, url: &str) -> Option<String> {
        let cycle = self.cycle();
        cycle.tag.as_ref().filter(|(from, _)| from == url).map(|(_, tag)| tag.clone())
    }

    /// Ends a request for the keys. Returns whether the keys are others than before.
    pub(super) fn end(&self, answer: Result<Answer, String>) -> bool {
        let (mut cycle, pace) = (self.cycle(), self.pace());
        let now = self.clock.monotonic_nanos();
        cycle.is_asking = false;
        let within = |interval: Option<Duration>| {
            interval.map_or(pace.refresh, |interval| interval.max(LEAST_INTERVAL).min(pace.refresh))
        };
        let (is_other, pause) = match answer {
            Ok(Answer::Same { interval }) => (false, within(interval)),
            Ok(Answer::New { keys, tag, interval }) => {
                cycle.tag = tag;
                (self.put(keys), within(interval))
            }
            Err(fault) => {
                if cycle.fault.as_ref().is_none_or(|(known, _)| *known != fault) {
                    tracing::warn!(issuer = self.place.issuer, fault, "the keys of an issuer can't be had");
                }
                cycle.fault = Some((fault, self.clock.wall()));
                cycle.failures = cycle.failures.saturating_add(1);
                let pause = PAUSES.0.saturating_mul(1 << cycle.failures.min(10)) / 2;
                cycle.due =
                    now.saturating_add(nanos(pause.min(PAUSES.1).mul_f64(0.75 + fastrand::f64() / 2.0)));
                drop(cycle);
                self.ended.send_replace(());
                return false;
            }
        };
        if cycle.fault.take().is_some() || is_other {
            let keys = self.keys.load().as_ref().map(|keys| keys.shown()).unwrap_or_default();
            tracing::info!(issuer = self.place.issuer, keys, "the keys of an issuer are known");
        }
        cycle.failures = 0;
        cycle.confirmed_at = Some(self.clock.wall());
        cycle.due = now.saturating_add(nanos(pause));
        // Zero stands for keys that are not known.
        self.confirmed.store(now.max(1), Ordering::Release);
        drop(cycle);
        self.ended.send_replace(());
        is_other
    }

    pub(crate) fn shown(&self) -> ShownSource {
        let keys = self.keys.load_full();
        let cycle = self.cycle();
        ShownSource {
            issuer: self.place.issuer.clone(),
            keys: keys.as_ref().map(|keys| keys.len()),
            kinds: keys.as_ref().map(|keys| keys.shown()).unwrap_or_default(),
            unusable: keys.as_ref().map(|keys| keys.unusable.clone()).unwrap_or_default(),
            confirmed_at: cycle.confirmed_at,
            fault: cycle.fault.clone(),
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn source() -> (Source, Arc<crate::clock::Manual>) {
        let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
        hands.advance(SECOND);
        let place =
            Place { issuer: "https://a".to_owned(), keys: KeysPlace::Discovery, ca: None, token_file: None };
        let pace = Pace { timeout: SECOND, refresh: 300 * SECOND };
        (Source::new(place, pace, Arc::default(), clock), hands)
    }

    fn new(keys: &str) -> Result<Answer, String> {
        let keys = KeySet::parse(keys.as_bytes()).unwrap();
        Ok(Answer::New { keys, tag: None, interval: None })
    }

    #[test]
    fn one_request_at_a_time_and_tokens_cause_few() {
        let (source, hands) = source();
        assert!(source.begin() && !source.begin(), "the first request is due at once");
        assert!(source.ask().is_some() && !source.begin(), "a token waits for the one under way");
        assert!(source.end(new(r#"{"keys":[]}"#)));
        assert!(!source.begin());
        assert!(source.ask().is_some() && source.begin(), "a token with an unknown key");
        assert!(!source.end(Ok(Answer::Same { interval: None })));
        hands.advance(8 * SECOND);
        assert!(source.ask().is_none() && !source.begin());
        hands.advance(SECOND);
        assert!(source.ask().is_some() && !source.begin(), "it waits until the keys may be asked for");
        hands.advance(SECOND);
        assert!(source.ask().is_some() && source.begin());
        assert!(!source.end(Err("away".to_owned())));
        assert!(!source.begin(), "a failure is no reason to ask at once");
        hands.advance(2 * SECOND);
        assert!(source.begin(), "it is asked again after a pause");
    }

    #[test]
    fn few_requests_wait_for_keys() {
        let (source, _hands) = source();
        let mut waiting: Vec<Awaited> = (0..MOST_WAITING).filter_map(|_| source.ask()).collect();
        assert!(waiting.len() == MOST_WAITING && source.ask().is_none());
        waiting.pop();
        assert!(source.ask().is_some());
    }

    #[test]
    fn keys_are_used_for_a_while_without_their_issuer() {
        let (source, hands) = source();
        let max_stale = 60 * SECOND;
        assert!(source.keys(max_stale).is_none() && source.begin());
        source.end(new(r#"{"keys":[]}"#));
        hands.advance(59 * SECOND);
        assert!(source.keys(max_stale).is_some());
        assert!(source.ask().is_some() && source.begin());
        source.end(Err("away".to_owned()));
        assert!(source.keys(max_stale).is_some());
        hands.advance(2 * SECOND);
        assert!(source.keys(max_stale).is_none() && !source.is_fresh(max_stale));
        hands.advance(60 * SECOND);
        assert!(source.begin());
        source.end(Ok(Answer::Same { interval: None }));
        assert!(source.keys(max_stale).is_some());
    }

    #[test]
    fn a_server_may_ask_for_an_earlier_request_and_not_for_a_flood() {
        for (interval, wait) in
            [(None, 300), (Some(SECOND), 10), (Some(60 * SECOND), 60), (Some(9000 * SECOND), 300)]
        {
            let (source, _hands) = source();
            assert!(source.begin());
            source.end(Ok(Answer::Same { interval }));
            assert_eq!(source.wait(), Some(wait * SECOND), "{interval:?}");
        }
    }

    #[test]
    fn pauses_after_failures_grow_to_a_minute() {
        let (source, hands) = source();
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert!(source.begin());
            source.end(Err("away".to_owned()));
            let wait = source.wait().unwrap();
            waits.push(wait.as_secs_f64());
            hands.advance(wait);
        }
        assert!((0.7..=1.3).contains(&waits[0]) && (40.0..=80.0).contains(&waits[11]), "{waits:?}");
    }
}
