//! A named upstream, compiled: its endpoints, and how one of them is chosen.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::HeaderValue;
use smallvec::SmallVec;

use super::connect_error::ConnectError;
use super::endpoints::{Endpoint, EndpointSet, Endpoints, Looked, Named};
use super::tls::{ClientTls, Doubt};
use crate::config::fault::Faults;
use crate::config::{self, Ambiguity, Balance, HealthCheck, Pool, Timeouts, UpstreamCredential};
use crate::path_pattern::reading::PathReading;

/// A named upstream, compiled.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: Arc<str>,
    /// One for each configured endpoint.
    pub(crate) sets: Vec<Arc<EndpointSet>>,
    balance: Balance,
    /// How many endpoints have had a turn.
    turns: AtomicUsize,
    /// Other endpoints that a request may be given to while nothing of it was sent.
    pub(crate) retries: usize,
    pub(crate) credential: Option<UpstreamCredential>,
    pub(crate) timeouts: Timeouts,
    pub(crate) pool: Pool,
    /// How its endpoints are asked how they are.
    pub(crate) check: Option<HealthCheck>,
    /// The Host that it gets; `None`: what the client named.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) accept_in_path: Vec<Ambiguity>,
    /// Whether an HTTP/1.1 connection that carried a request's body may serve another request.
    pub(crate) reuse_after_body: bool,
    /// How often the names of its endpoints are looked up.
    pub(crate) resolve: Duration,
    /// What it does not tell apart in paths; `None` where the configuration does not say.
    pub(crate) reading: Option<PathReading>,
}

impl Upstream {
    /// Compiles an upstream.
    ///
    /// # Errors
    ///
    /// All that is wrong with the files of its TLS.
    pub(crate) fn new(config: &config::Upstream, endpoints: &Endpoints) -> Result<Self, Faults> {
        let has_tls =
            config.endpoints.iter().any(|address| matches!(address, config::EndpointAddress::Https(_)));
        let tls = has_tls.then(|| ClientTls::load(&config.tls)).transpose()?;
        let sets = config.endpoints.iter().map(|address| {
            let tls = tls.as_ref().filter(|_| matches!(address, config::EndpointAddress::Https(_)));
            endpoints.find_or_make(&config.name, address, tls)
        });
        Ok(Upstream {
            name: config.name.as_str().into(),
            sets: sets.collect(),
            balance: config.balance,
            turns: AtomicUsize::new(0),
            retries: config.retries,
            credential: config.credential.clone(),
            timeouts: config.timeouts,
            pool: config.pool,
            check: config.health.clone(),
            host: config.host.as_ref().and_then(|host| HeaderValue::try_from(host.as_str()).ok()),
            accept_in_path: config.accept_in_path.clone(),
            reuse_after_body: config.reuse_after_body,
            resolve: config.resolve,
            reading: config.reading,
        })
    }

    /// The Host that it gets: as configured, else what the client named. A client of HTTP/1.0 may name none; then it is
    /// the first endpoint's own.
    pub(crate) fn host_for(&self, named: Option<&HeaderValue>) -> HeaderValue {
        let host = self.host.as_ref().or(named).cloned();
        let of_endpoint = || HeaderValue::try_from(self.sets.first()?.address.authority()?).ok();
        host.or_else(of_endpoint).unwrap_or_else(|| HeaderValue::from_static("localhost"))
    }

    /// Whether a connection can be upgraded: HTTP/2 has no upgrades.
    pub(crate) fn takes_upgrades(&self) -> bool {
        self.sets.iter().all(|set| !matches!(set.address, config::EndpointAddress::H2c(_)))
    }

    /// All endpoints of the moment: a name may have other addresses later.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.sets.iter().flat_map(|set| set.endpoints()).collect()
    }

    /// Its endpoint sets, each by the names that a later snapshot finds it by.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (&str, &Arc<EndpointSet>)> {
        self.sets.iter().map(|set| (&*self.name, set))
    }

    fn visit(&self, mut visit: impl FnMut(&Arc<Endpoint>) -> bool) -> bool {
        self.sets.iter().all(|set| set.visit(&mut visit))
    }

    /// The endpoint that a request goes to next, of those that it was not `tried` on; `None` where it was tried
    /// on all. One that its checks have found unfit is none of them.
    ///
    /// One whose time-out for failing is over gets this one request, as a probe. Where none is well, any may be
    /// tried: an endpoint that is back sooner than expected must not be missed.
    pub(crate) fn pick(&self, tried: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        if let [set] = self.sets.as_slice()
            && let Some(only) = set.fixed()
        {
            return (tried.is_empty() && !only.health.is_failing_checks()).then(|| only.clone());
        }
        // Each endpoint's health is read once: it may change meanwhile, and two readings would disagree.
        let (mut healthy, mut others) = (Candidates::new(), Candidates::new());
        let (now, mut due) = (Instant::now(), None);
        self.visit(|endpoint| {
            if is_untried(endpoint, tried) {
                if endpoint.health.claims_probe(now) {
                    due = Some(endpoint.clone());
                } else if endpoint.health.is_healthy() {
                    healthy.push(endpoint.clone());
                } else {
                    others.push(endpoint.clone());
                }
            }
            due.is_none()
        });
        due.or_else(|| self.choose(if healthy.is_empty() { others } else { healthy }))
    }

    /// Whether there is an endpoint that a request was not `tried` on.
    pub(crate) fn has_untried(&self, tried: &[Arc<Endpoint>]) -> bool {
        !self.visit(|endpoint| !is_untried(endpoint, tried))
    }

    fn choose(&self, mut candidates: Candidates) -> Option<Arc<Endpoint>> {
        let index = match (candidates.len(), self.balance) {
            (0, _) => return None,
            (1, _) => 0,
            (count, Balance::RoundRobin) => self.turns.fetch_add(1, Ordering::Relaxed) % count,
            // The power of two choices: nearly as even as looking at all, and no herd runs after the emptiest
            // (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
            (count, Balance::LeastRequests) => {
                let first = fastrand::usize(..count);
                let second = (first + fastrand::usize(1..count)) % count;
                let in_flight = |index: usize| candidates.get(index).map(|one| one.health.in_flight());
                if in_flight(second) < in_flight(first) { second } else { first }
            }
        };
        Some(candidates.swap_remove(index))
    }

    /// The endpoints that may stand in for this one while it is connected to: the other addresses of its name.
    pub(super) fn stand_ins(&self, endpoint: &Arc<Endpoint>, tried: &[Arc<Endpoint>]) -> Vec<Arc<Endpoint>> {
        if endpoint.looked_up().is_none() {
            return Vec::new();
        }
        let mut others = self.set_of(endpoint).map(|set| set.endpoints()).unwrap_or_default();
        others.retain(|other| !Arc::ptr_eq(other, endpoint) && is_untried(other, tried));
        // In the resolver's order otherwise: the sort is stable.
        others.sort_by_key(|other| !other.health.is_healthy());
        others
    }

    fn set_of(&self, endpoint: &Arc<Endpoint>) -> Option<&Arc<EndpointSet>> {
        self.sets.iter().find(|set| set.contains(endpoint))
    }

    /// Notes that an endpoint could not be connected to.
    pub(crate) fn note_failure(&self, endpoint: &Arc<Endpoint>, error: &ConnectError) {
        let ejection = endpoint.health.failed(Instant::now());
        if let Some(set) = self.set_of(endpoint)
            && let Some(named) = set.named()
            && (ejection.is_some() || !set.has_healthy())
        {
            // The name may have moved.
            named.suspect();
        }
        let Some(ejection) = ejection else { return };
        let (upstream, seconds) = (&*self.name, ejection.as_secs_f64());
        tracing::warn!(upstream, %endpoint, %error, seconds, "an endpoint is left out for a while");
    }

    /// Notes that an endpoint was connected to, or answered.
    pub(crate) fn note_success(&self, endpoint: &Endpoint) {
        if endpoint.health.succeeded() {
            tracing::info!(upstream = &*self.name, %endpoint, "an endpoint is back");
        }
    }

    /// Waits for the first look-ups of names until one has found an address, or all have ended, for `limit` at most.
    ///
    /// Returns whether there is an endpoint then.
    pub(crate) async fn is_found_within(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.has_addresses() {
            let pending = self.named().filter(|named| named.ended() == Looked::NotYet);
            let ends: Vec<_> = pending.map(|named| Box::pin(named.first_end())).collect();
            if ends.is_empty() {
                return false;
            }
            let next = futures_util::future::select_all(ends);
            if tokio::time::timeout_at(until.into(), next).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Whether there is anything to connect to.
    pub(crate) fn has_addresses(&self) -> bool {
        self.sets.iter().any(|set| set.named().is_none_or(Named::has_addresses))
    }

    /// Why there is nothing to connect to.
    pub(crate) fn why_no_address(&self) -> String {
        let of_each = self.named().map(|named| {
            let why = named.fault().unwrap_or_else(|| "its look-up takes too long".to_owned());
            format!("{} can't be looked up: {why}", named.host())
        });
        of_each.collect::<Vec<_>>().join("; ")
    }

    /// What of the certificates that are trusted will keep its endpoints from being connected to.
    pub(crate) fn doubts(&self) -> Vec<Doubt> {
        let https = || self.sets.iter().filter_map(|set| Some((set.address.host_and_port()?.0, set.tls()?)));
        let hosts: Vec<&str> = https().map(|(host, _)| host).collect();
        https().next().map(|(_, tls)| tls.doubts(&hosts)).unwrap_or_default()
    }

    fn named(&self) -> impl Iterator<Item = &Named> {
        self.sets.iter().filter_map(|set| set.named())
    }
}

/// Endpoints that a request may go to.
type Candidates = SmallVec<[Arc<Endpoint>; 8]>;

/// Whether an endpoint may be tried, and was not yet.
fn is_untried(endpoint: &Arc<Endpoint>, tried: &[Arc<Endpoint>]) -> bool {
    !endpoint.health.is_failing_checks() && !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn upstream(fields: &str, endpoints: &Endpoints) -> Upstream {
        let source = format!(
            "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1, http://127.0.0.2:1, http://127.0.0.3:1]{fields}}}]\nkeys: {{path: k.yaml}}\n"
        );
        let config = Config::parse(Path::new("c.yaml"), &source, &|_| None).unwrap();
        Upstream::new(&config.upstreams[0], endpoints).unwrap()
    }

    fn picked(upstream: &Upstream, times: usize) -> Vec<usize> {
        let all = upstream.endpoints();
        let mut counts = vec![0; all.len()];
        for _ in 0..times {
            let endpoint = upstream.pick(&[]).unwrap();
            counts[all.iter().position(|known| Arc::ptr_eq(known, &endpoint)).unwrap()] += 1;
        }
        counts
    }

    #[test]
    fn each_has_its_turn() {
        assert_eq!(picked(&upstream(", balance: round_robin", &Endpoints::default()), 30), [10, 10, 10]);
    }

    #[test]
    fn the_busier_one_of_two_is_spared() {
        let upstream = upstream("", &Endpoints::default());
        let _busy: Vec<_> = (0..5).map(|_| upstream.endpoints()[1].health.enter()).collect();
        let counts = picked(&upstream, 300);
        assert_eq!(counts[1], 0, "it loses to either of the others");
        assert!(counts[0] > 60 && counts[2] > 60, "{counts:?}");
    }

    #[test]
    fn one_that_failed_is_left_out_and_all_are_tried_where_all_failed() {
        let upstream = upstream("", &Endpoints::default());
        let now = Instant::now() + Duration::from_secs(60);
        upstream.endpoints()[0].health.failed(now);
        assert_eq!(picked(&upstream, 50)[0], 0);
        upstream.endpoints()[1].health.failed(now);
        upstream.endpoints()[2].health.failed(now);
        assert!(picked(&upstream, 300).iter().all(|count| *count > 0));
        let tried: Vec<_> = upstream.endpoints();
        assert!(upstream.pick(&tried).is_none() && !upstream.has_untried(&tried));
        assert!(upstream.has_untried(&tried[..2]));
        assert!(upstream.pick(&tried[..2]).is_some_and(|last| Arc::ptr_eq(&last, &tried[2])));
    }

    #[test]
    fn a_reload_finds_the_same_endpoints_again_and_forgets_those_that_went() {
        let endpoints = Endpoints::default();
        let before = Arc::new(upstream("", &endpoints));
        let refused = upstream("", &endpoints);
        let is_shared = |a: &Upstream, b: &Upstream| Arc::ptr_eq(&a.endpoints()[0], &b.endpoints()[0]);
        assert!(!is_shared(&before, &refused), "what is compiled is not in use before it is adopted");
        endpoints.adopt(before.in_use());
        let after = upstream(", retries: 0", &endpoints);
        assert!(before.endpoints().iter().zip(&after.endpoints()).all(|(a, b)| Arc::ptr_eq(a, b)));
        endpoints.adopt([].into_iter());
        assert!(!is_shared(&upstream("", &endpoints), &after));
    }

    #[test]
    fn an_endpoint_that_changes_while_one_is_chosen_costs_no_request() {
        let upstream = upstream(", balance: round_robin", &Endpoints::default());
        let ends = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for endpoint in upstream.endpoints() {
                let ends = &ends;
                scope.spawn(move || {
                    let later = Instant::now() + Duration::from_secs(60);
                    while !ends.load(Ordering::Relaxed) {
                        endpoint.health.failed(later);
                        endpoint.health.succeeded();
                    }
                });
            }
            let found = (0..200_000).all(|_| upstream.pick(&[]).is_some());
            ends.store(true, Ordering::Relaxed);
            assert!(found);
        });
    }
}
