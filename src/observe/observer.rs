//! Observers, one for each worker. An observer logs and counts the requests of its worker.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::histogram::{Histogram, OF_OURS};
use super::history::Sums;
use super::key_history::KeyHistories;
use super::log::Logs;
use super::model_labels::ModelLabels;
use super::refused::Refused;
use super::repeats::{self, Repeated};
use super::tally::{Finished, Gone, NO_ROUTE, RECENT, Tally};
use super::token_minute::TokenSums;

/// Logs and counts of one worker's requests.
#[derive(Debug)]
pub(crate) struct Observer {
    pub(crate) logs: Logs,
    /// The number of the next refusal, shared by all workers.
    sequence: Arc<AtomicU64>,
    connections: AtomicUsize,
    connections_begun: AtomicU64,
    in_flight: AtomicUsize,
    streams: AtomicUsize,
    /// Counts of this worker's requests. The worker locks them briefly for each request; readers
    /// lock them, too.
    tally: Mutex<Tally>,
    /// The models with a label of their own in metrics.
    pub(super) models: Arc<ModelLabels>,
    /// The histories of the keys in use, shared by all workers.
    pub(super) key_histories: Arc<KeyHistories>,
}

/// Numbers of connections and requests at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    /// Number of open connections of clients.
    pub(crate) connections: usize,
    /// Number of all accepted connections, including open ones.
    pub(crate) connections_begun: u64,
    /// Number of requests whose answers have not ended.
    pub(crate) in_flight: usize,
    /// Number of requests whose answers have begun and not ended.
    pub(crate) streams: usize,
}

impl Observer {
    fn new(
        logs: Logs,
        sequence: Arc<AtomicU64>,
        models: Arc<ModelLabels>,
        key_histories: Arc<KeyHistories>,
    ) -> Self {
        Observer {
            logs,
            sequence,
            key_histories,
            connections: AtomicUsize::new(0),
            connections_begun: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            tally: Mutex::default(),
            models,
        }
    }

    /// Returns the number of open connections of the worker.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn connected(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.connections_begun.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn disconnected(&self) {
        let before = self.connections.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0);
    }

    pub(super) fn began(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds one to the number of answers that have begun and not ended.
    pub(super) fn answering(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a request that has ended. `was_answering`: its answer had begun.
    pub(super) fn finished(&self, finished: &Finished<'_>, was_answering: bool) {
        let before = self.in_flight.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0);
        if was_answering {
            let before = self.streams.fetch_sub(1, Ordering::Relaxed);
            debug_assert!(before > 0);
        }
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).finish(finished);
    }

    pub(super) fn refused(&self, refused: Refused, policy: Option<&str>) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let refused = Refused { sequence, ..refused };
        self.tally.lock().unwrap_or_else(PoisonError::into_inner).refuse(refused, policy);
    }
}

/// The observers of all workers.
#[derive(Debug)]
pub(crate) struct Observers {
    logs: Logs,
    models: Arc<ModelLabels>,
    pub(crate) key_histories: Arc<KeyHistories>,
    sequence: Arc<AtomicU64>,
    all: Mutex<Vec<Arc<Observer>>>,
    /// Lock that is held while the tallies of all workers are added up, or while series are dropped
    /// from all tallies. Without the lock, a sum that is made while series are dropped would look
    /// like a counter that was reset.
    whole: Mutex<()>,
}

impl Observers {
    /// `models`: the number of models with a label of their own in metrics.
    pub(crate) fn new(logs: Logs, models: usize) -> Self {
        Observers {
            logs,
            models: Arc::new(ModelLabels::new(models)),
            key_histories: Arc::default(),
            sequence: Arc::default(),
            all: Mutex::default(),
            whole: Mutex::default(),
        }
    }

    pub(crate) fn logs(&self) -> &Logs {
        &self.logs
    }

    /// Creates an observer for a worker. The counts of the observer are included in the sums.
    pub(crate) fn join(&self) -> Arc<Observer> {
        let observer = Arc::new(self.observer(self.sequence.clone()));
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(observer.clone());
        observer
    }

    /// Creates an observer for the admin listener. The counts of the observer are not included in
    /// the sums.
    pub(crate) fn apart(&self) -> Arc<Observer> {
        Arc::new(self.observer(Arc::default()))
    }

    fn observer(&self, sequence: Arc<AtomicU64>) -> Observer {
        Observer::new(self.logs.clone(), sequence, self.models.clone(), self.key_histories.clone())
    }

    fn all(&self) -> Vec<Arc<Observer>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the sum of the tallies of all workers.
    pub(crate) fn tally(&self) -> Tally {
        let _whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let mut sum = Tally::default();
        for observer in self.all() {
            sum.add(&observer.tally.lock().unwrap_or_else(PoisonError::into_inner));
        }
        sum
    }

    /// Returns the names of routes and of upstreams that have series.
    pub(crate) fn named(&self) -> (HashSet<Arc<str>>, HashSet<Arc<str>>) {
        let (mut routes, mut upstreams) = (HashSet::new(), HashSet::new());
        for observer in self.all() {
            let tally = observer.tally.lock().unwrap_or_else(PoisonError::into_inner);
            routes.extend(tally.routes.keys().filter(|route| &***route != NO_ROUTE).cloned());
            upstreams.extend(tally.upstreams.keys().cloned());
        }
        (routes, upstreams)
    }

    /// Drops the series in `gone`, and the series of policies that have refused no request after
    /// `idle_since`.
    pub(crate) fn forget(&self, mut gone: Gone, idle_since: Option<Instant>) {
        let _whole = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.all();
        if let Some(since) = idle_since {
            let mut busy: HashSet<Box<str>> = HashSet::new();
            for observer in &all {
                let tally = observer.tally.lock().unwrap_or_else(PoisonError::into_inner);
                let idle: HashSet<&str> = tally.idle_policies(since).collect();
                let of_tally = tally.exhausted.keys();
                busy.extend(of_tally.clone().filter(|policy| !idle.contains(&***policy)).cloned());
                gone.policies.extend(of_tally.cloned());
            }
            gone.policies.retain(|policy| !busy.contains(policy));
        }
        for observer in &all {
            observer.tally.lock().unwrap_or_else(PoisonError::into_inner).forget(&gone);
        }
    }

    /// Returns the sums of which the status page draws curves, without copying a tally.
    pub(crate) fn sums(&self) -> Sums {
        let added = Histogram::new(OF_OURS);
        let in_flight = self.levels().in_flight;
        let mut sums = Sums { requests: 0, refusals: 0, tokens: 0, added, in_flight };
        for observer in self.all() {
            let tally = observer.tally.lock().unwrap_or_else(PoisonError::into_inner);
            sums.requests += tally.requests();
            sums.refusals += tally.refusals.values().sum::<u64>();
            sums.tokens += tally.tokens.values().map(|of| of.input + of.output).sum::<u64>();
            sums.added.add(&tally.added);
        }
        sums
    }

    /// Returns the tokens since the start, by key and model.
    pub(crate) fn token_sums(&self) -> TokenSums {
        let mut sums = TokenSums::default();
        for observer in self.all() {
            observer.tally.lock().unwrap_or_else(PoisonError::into_inner).add_tokens(&mut sums);
        }
        sums
    }

    /// Returns the numbers of connections and requests at this moment, as sums over all workers.
    pub(crate) fn levels(&self) -> Levels {
        let mut sum = Levels::default();
        for observer in self.all() {
            sum.connections += observer.connections();
            sum.connections_begun += observer.connections_begun.load(Ordering::Relaxed);
            sum.in_flight += observer.in_flight.load(Ordering::Relaxed);
            sum.streams += observer.streams.load(Ordering::Relaxed);
        }
        sum
    }

    /// Returns the last refusals that earlier calls with the same `seen` did not return, oldest
    /// first. `seen`: for each worker, the number of its refusals at the last call.
    pub(crate) fn new_refusals(&self, seen: &mut Vec<u64>) -> Vec<Arc<Refused>> {
        let all = self.all();
        seen.resize(all.len(), 0);
        let mut recent = Vec::new();
        for (observer, seen) in all.iter().zip(seen) {
            let tally = observer.tally.lock().unwrap_or_else(PoisonError::into_inner);
            let (new, refused) = tally.refused_after(*seen);
            recent.extend(new.cloned());
            *seen = refused;
        }
        recent.sort_by_key(|refused| refused.sequence);
        let spare = recent.len().saturating_sub(RECENT);
        recent.split_off(spare)
    }

    /// Returns the refusals of all workers by kind, newest first.
    pub(crate) fn repeated_refusals(&self) -> Vec<Repeated> {
        let mut all = Vec::new();
        for observer in self.all() {
            let tally = observer.tally.lock().unwrap_or_else(PoisonError::into_inner);
            all.extend(tally.repeats.all().cloned());
        }
        repeats::merged(all)
    }
}
