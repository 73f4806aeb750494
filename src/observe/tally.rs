//! Counts of one worker's requests. Only that worker writes them; readers add up the counts of all
//! workers.
//!
//! Invariant: the number of counts is bounded by the configuration (names of routes, upstreams and
//! policies), by the keys with a label of their own, and by the last [`RECENT`] refusals. Series of
//! removed names are dropped after a while. Refusals by kind are bounded by `repeats`.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::histogram::{Histogram, OF_OURS, OF_REQUESTS};
use super::refused::Refused;
use super::repeats::Repeats;
use super::token_minute::{OfModel, TokenSums};
use super::usage::KeyLabel;
use crate::config::{Asker, Priority};
use crate::token_report::Tokens;

/// Maximum number of the last refusals that are kept with their details.
pub(crate) const RECENT: usize = 100;
/// Maximum number of policies with their own series, because a million keys may have many policies.
/// Further policies share one series.
const MAX_POLICIES: usize = 100;
/// Value of the label `route` for requests to which no route was assigned.
pub(super) const NO_ROUTE: &str = "none";
const OTHER_POLICY: &str = "other";

/// Values of the label `status`: the classes of HTTP statuses, and `none` for requests without an
/// answer.
pub(crate) const STATUS_CLASSES: [&str; 6] = ["none", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// Counts of one worker's requests, or the sum of all workers' counts.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// Counts of requests, by the route's name.
    pub(crate) routes: HashMap<Arc<str>, OfRoute, RandomState>,
    /// Durations of requests to upstream, by the upstream's name.
    pub(crate) upstreams: HashMap<Arc<str>, OfUpstream, RandomState>,
    /// Time that requests spent in this process, not with upstream.
    pub(crate) added: Histogram,
    /// Numbers of refusals, by code.
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    /// Refusals that rate limits caused, by the policy of the rate limit.
    pub(crate) exhausted: BTreeMap<Box<str>, Exhausted>,
    /// Numbers of requests that limits that only count would have refused, by code.
    pub(crate) would_refuse: BTreeMap<&'static str, u64>,
    /// Numbers of questions of other proxies, by proxy and by class of status.
    pub(crate) doors: BTreeMap<Asker, [u64; STATUS_CLASSES.len()]>,
    /// Tokens by key, model, and how they became known.
    pub(crate) tokens: HashMap<(KeyLabel, Arc<str>, &'static str), OfModel, RandomState>,
    /// The last refusals, oldest first.
    pub(crate) recent: VecDeque<Arc<Refused>>,
    /// The refusals by kind.
    pub(super) repeats: Repeats,
    /// The number of all refusals.
    refused: u64,
    /// Number of all requests that have ended, including those of removed routes whose series were
    /// dropped.
    finished: u64,
}

impl Default for Tally {
    fn default() -> Self {
        Tally {
            routes: HashMap::default(),
            upstreams: HashMap::default(),
            added: Histogram::new(OF_OURS),
            refusals: BTreeMap::new(),
            exhausted: BTreeMap::new(),
            would_refuse: BTreeMap::new(),
            doors: BTreeMap::new(),
            tokens: HashMap::default(),
            recent: VecDeque::new(),
            repeats: Repeats::default(),
            refused: 0,
            finished: 0,
        }
    }
}

/// Refusals by the rate limits of one policy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exhausted {
    pub(crate) count: u64,
    /// When the policy last refused a request.
    last: Instant,
}

/// Requests of one route.
#[derive(Clone, Debug)]
pub(crate) struct OfRoute {
    /// Numbers of requests, by key and by class of status.
    pub(crate) requests: HashMap<KeyLabel, [u64; STATUS_CLASSES.len()], RandomState>,
    /// Time from the head of a request to the end of its answer.
    pub(crate) duration: Histogram,
    /// Time from the head of a request to the first byte of the answer's body.
    pub(crate) first_byte: Histogram,
}

impl Default for OfRoute {
    fn default() -> Self {
        OfRoute {
            requests: HashMap::default(),
            duration: Histogram::new(OF_REQUESTS),
            first_byte: Histogram::new(OF_REQUESTS),
        }
    }
}

/// Requests to one upstream.
#[derive(Clone, Debug)]
pub(crate) struct OfUpstream {
    /// Time that requests waited for a new connection.
    pub(crate) connect: Histogram,
    /// Time from the moment a request had a connection to the head of the answer.
    pub(crate) response: Histogram,
    /// The queue of the upstream; `None` if it has none.
    pub(crate) queue: Option<Box<OfQueue>>,
}

/// Requests that passed through the queue of an upstream.
#[derive(Clone, Debug)]
pub(crate) struct OfQueue {
    /// Time that requests waited, by class; without those that did not wait.
    waits: [Histogram; Priority::ALL.len()],
    /// Numbers of requests that did not wait, by class.
    at_once: [u64; Priority::ALL.len()],
    /// Numbers of requests that waited too long, by key.
    pub(crate) timeouts: HashMap<KeyLabel, u64, RandomState>,
}

impl Default for OfQueue {
    fn default() -> Self {
        let waits = Priority::ALL.map(|_| Histogram::new(OF_REQUESTS));
        OfQueue { waits, at_once: [0; Priority::ALL.len()], timeouts: HashMap::default() }
    }
}

impl OfQueue {
    fn note(&mut self, class: Priority, waited: Duration) {
        if let (true, Some(at_once)) = (waited.is_zero(), self.at_once.get_mut(class.index())) {
            *at_once += 1;
        } else if let Some(waits) = self.waits.get_mut(class.index()) {
            waits.observe(waited);
        }
    }

    /// Returns the times that requests of each class waited. Those that did not wait count as zero.
    pub(crate) fn waits(&self) -> impl Iterator<Item = (Priority, Histogram)> {
        let all = self.waits.iter().zip(self.at_once).map(|(waits, at_once)| waits.with_zeros(at_once));
        Priority::ALL.into_iter().zip(all)
    }

    fn add(&mut self, other: &OfQueue) {
        self.waits.iter_mut().zip(&other.waits).for_each(|(ours, theirs)| ours.add(theirs));
        self.at_once.iter_mut().zip(other.at_once).for_each(|(ours, theirs)| *ours += theirs);
        for (key, count) in &other.timeouts {
            *self.timeouts.entry(*key).or_default() += count;
        }
    }
}

impl Default for OfUpstream {
    fn default() -> Self {
        OfUpstream {
            connect: Histogram::new(OF_REQUESTS),
            response: Histogram::new(OF_REQUESTS),
            queue: None,
        }
    }
}

/// A request that has ended.
#[derive(Debug)]
pub(super) struct Finished<'a> {
    pub(super) route: Option<&'a Arc<str>>,
    pub(super) upstream: Option<&'a Arc<str>>,
    pub(super) key: KeyLabel,
    /// The status of the answer; zero without an answer.
    pub(super) status: u16,
    pub(super) took: Duration,
    pub(super) first_byte: Option<Duration>,
    pub(super) added: Option<Duration>,
    pub(super) connect: Option<Duration>,
    pub(super) response: Option<Duration>,
    /// The label of the model, and the tokens of the request, if it used any.
    pub(super) tokens: Option<(Arc<str>, Tokens)>,
    /// The code with which a limit that only counts would have refused the request.
    pub(super) would_refuse: Option<&'static str>,
    /// The class of the request, and how long it waited in the queue of its upstream.
    pub(super) queued: Option<(Priority, Duration)>,
    /// Whether it waited too long.
    pub(super) is_queue_timeout: bool,
    /// The proxy that asked about the request.
    pub(super) door: Option<Asker>,
}

impl Tally {
    pub(super) fn finish(&mut self, finished: &Finished<'_>) {
        self.finished += 1;
        let of_route = named(&mut self.routes, finished.route);
        let classes = of_route.requests.entry(finished.key).or_default();
        if let Some(count) = classes.get_mut(usize::from(finished.status / 100)) {
            *count += 1;
        }
        of_route.duration.observe(finished.took);
        if let Some(first_byte) = finished.first_byte {
            of_route.first_byte.observe(first_byte);
        }
        if let Some(added) = finished.added {
            self.added.observe(added);
        }
        let was_sent = finished.connect.is_some() || finished.response.is_some();
        if finished.upstream.is_some() && (was_sent || finished.queued.is_some()) {
            let of_upstream = named(&mut self.upstreams, finished.upstream);
            if let Some((class, waited)) = finished.queued {
                let queue = of_upstream.queue.get_or_insert_default();
                queue.note(class, waited);
                if finished.is_queue_timeout {
                    *queue.timeouts.entry(finished.key).or_default() += 1;
                }
            }
            finished.connect.into_iter().for_each(|connect| of_upstream.connect.observe(connect));
            finished.response.into_iter().for_each(|response| of_upstream.response.observe(response));
        }
        if let Some((model, tokens)) = &finished.tokens {
            self.count_tokens(finished.key, model, tokens);
        }
        if let Some(asker) = finished.door
            && let Some(count) =
                self.doors.entry(asker).or_default().get_mut(usize::from(finished.status / 100))
        {
            *count += 1;
        }
        if let Some(code) = finished.would_refuse {
            *self.would_refuse.entry(code).or_default() += 1;
        }
    }

    /// Counts the tokens of a request.
    fn count_tokens(&mut self, key: KeyLabel, model: &Arc<str>, tokens: &Tokens) {
        let Tokens { input, cached, output, by } = *tokens;
        let used = OfModel { input, cached: cached.unwrap_or(0), output };
        self.tokens.entry((key, model.clone(), by.name())).or_default().add(used);
    }

    /// Adds the tokens of this worker to `sums`, by key and model.
    pub(super) fn add_tokens(&self, sums: &mut TokenSums) {
        for ((key, model, _), used) in &self.tokens {
            sums.entry((*key, model.clone())).or_default().add(*used);
        }
    }

    /// Counts a refusal. `policy`: the policy of the rate limit that refused the request, if one
    /// did.
    pub(super) fn refuse(&mut self, refused: Refused, policy: Option<&str>) {
        *self.refusals.entry(refused.code).or_default() += 1;
        if let Some(policy) = policy {
            let is_full = self.exhausted.len() >= MAX_POLICIES && !self.exhausted.contains_key(policy);
            let policy = if is_full { OTHER_POLICY } else { policy };
            self.exhaust(policy.into(), Exhausted { count: 1, last: Instant::now() });
        }
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        let refused = Arc::new(refused);
        self.repeats.add(&refused);
        self.recent.push_back(refused);
        self.refused += 1;
    }

    /// Returns the kept refusals except those among the first `seen` refusals, and the number of
    /// all refusals.
    pub(super) fn refused_after(&self, seen: u64) -> (impl Iterator<Item = &Arc<Refused>>, u64) {
        let new = usize::try_from(self.refused.saturating_sub(seen)).unwrap_or(usize::MAX);
        (self.recent.iter().skip(self.recent.len().saturating_sub(new)), self.refused)
    }

    /// Adds the counts of another worker to these counts.
    pub(super) fn add(&mut self, other: &Tally) {
        for (name, theirs) in &other.routes {
            let ours = named(&mut self.routes, Some(name));
            for (key, classes) in &theirs.requests {
                let sums = ours.requests.entry(*key).or_default();
                sums.iter_mut().zip(classes).for_each(|(sum, count)| *sum += count);
            }
            ours.duration.add(&theirs.duration);
            ours.first_byte.add(&theirs.first_byte);
        }
        for (name, theirs) in &other.upstreams {
            let ours = named(&mut self.upstreams, Some(name));
            ours.connect.add(&theirs.connect);
            ours.response.add(&theirs.response);
            if let Some(theirs) = &theirs.queue {
                ours.queue.get_or_insert_default().add(theirs);
            }
        }
        self.added.add(&other.added);
        self.finished += other.finished;
        for (code, count) in &other.refusals {
            *self.refusals.entry(code).or_default() += count;
        }
        for (policy, count) in &other.exhausted {
            self.exhaust(policy.clone(), *count);
        }
        for (code, count) in &other.would_refuse {
            *self.would_refuse.entry(code).or_default() += count;
        }
        for (asker, theirs) in &other.doors {
            let ours = self.doors.entry(*asker).or_default();
            ours.iter_mut().zip(theirs).for_each(|(sum, count)| *sum += count);
        }
        for ((key, model, by), theirs) in &other.tokens {
            self.tokens.entry((*key, model.clone(), by)).or_default().add(*theirs);
        }
    }

    /// Returns the number of all requests that have ended.
    pub(crate) fn requests(&self) -> u64 {
        self.finished
    }

    fn exhaust(&mut self, policy: Box<str>, more: Exhausted) {
        let of_policy = self.exhausted.entry(policy).or_insert(Exhausted { count: 0, last: more.last });
        *of_policy = Exhausted { count: of_policy.count + more.count, last: of_policy.last.max(more.last) };
    }

    /// Returns the policies that have refused no request after the instant `since`.
    pub(super) fn idle_policies(&self, since: Instant) -> impl Iterator<Item = &str> {
        self.exhausted.iter().filter(move |(_, of)| of.last < since).map(|(policy, _)| &**policy)
    }

    /// Drops the series of the names in `gone`.
    pub(super) fn forget(&mut self, gone: &Gone) {
        self.routes.retain(|route, _| !gone.routes.contains(route));
        self.upstreams.retain(|upstream, _| !gone.upstreams.contains(upstream));
        for of_route in self.routes.values_mut() {
            of_route.requests.retain(|key, _| !gone.keys.contains(key));
        }
        for queue in self.upstreams.values_mut().filter_map(|of_upstream| of_upstream.queue.as_mut()) {
            queue.timeouts.retain(|key, _| !gone.keys.contains(key));
        }
        self.tokens.retain(|(key, _, _), _| !gone.keys.contains(key));
        self.exhausted.retain(|policy, _| !gone.policies.contains(&**policy));
    }
}

/// Routes, upstreams, keys and policies whose series are dropped.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    pub(crate) routes: HashSet<Arc<str>>,
    pub(crate) upstreams: HashSet<Arc<str>>,
    pub(crate) keys: HashSet<KeyLabel>,
    pub(super) policies: HashSet<Box<str>>,
}

/// Returns the counts of the route or upstream with this name, and creates them if there are none.
fn named<'t, T: Default>(
    all: &'t mut HashMap<Arc<str>, T, RandomState>,
    name: Option<&Arc<str>>,
) -> &'t mut T {
    all.entry(name.cloned().unwrap_or_else(|| NO_ROUTE.into())).or_default()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn finished(route: &Arc<str>, key: KeyLabel, status: u16) -> Finished<'_> {
        let took = Duration::from_millis(3);
        Finished {
            route: Some(route),
            upstream: None,
            key,
            status,
            took,
            first_byte: Some(took),
            added: None,
            connect: None,
            response: None,
            tokens: None,
            would_refuse: None,
            queued: None,
            is_queue_timeout: false,
            door: None,
        }
    }

    fn refused(sequence: u64) -> Refused {
        Refused {
            sequence,
            at: Timestamp::UNIX_EPOCH,
            code: "RATE_LIMIT_EXCEEDED",
            reason: String::new(),
            request_id: String::new(),
            client: None,
            method: String::new(),
            path: String::new(),
            is_of_key: false,
            key_id: None,
            claimed_key_id: None,
            route: None,
            model: None,
        }
    }

    #[test]
    fn two_workers_add_up() {
        let route: Arc<str> = "chat".into();
        let (mut one, mut other) = (Tally::default(), Tally::default());
        one.finish(&finished(&route, KeyLabel::Id(0), 200));
        other.finish(&finished(&route, KeyLabel::Id(0), 204));
        other.finish(&finished(&route, KeyLabel::None, 401));
        one.refuse(refused(1), Some("requests-1m"));
        other.refuse(refused(2), Some("requests-1m"));
        one.add(&other);
        let of_chat = &one.routes["chat"];
        assert_eq!(of_chat.requests[&KeyLabel::Id(0)], [0, 0, 2, 0, 0, 0]);
        assert_eq!(of_chat.requests[&KeyLabel::None], [0, 0, 0, 0, 1, 0]);
        assert_eq!((of_chat.duration.count(), one.requests()), (3, 3));
        assert_eq!(one.refusals["RATE_LIMIT_EXCEEDED"], 2);
        assert_eq!(one.exhausted["requests-1m"].count, 2);
    }

    #[test]
    fn counts_that_an_unauthenticated_client_can_cause_are_bounded() {
        let mut tally = Tally::default();
        for number in 0..300 {
            tally.refuse(refused(number), Some(&format!("requests-{number}s")));
        }
        assert_eq!((tally.recent.len(), tally.recent[0].sequence), (RECENT, 200));
        assert_eq!(tally.exhausted.len(), MAX_POLICIES + 1);
        assert_eq!(tally.exhausted["other"].count, 200);
    }
}
