//! The servers behind bearward: where they are, how they fare, and the connections to them.
//!
//! An [`Upstream`] is part of a snapshot; its [`Endpoint`]s outlive snapshots, so that a reload forgets neither
//! connections nor health. Connections are each worker's own ([`pool`]), so that no request ever changes thread.

pub(crate) mod check;
pub(crate) mod connect;
pub(crate) mod health;
pub(crate) mod pool;
pub(crate) mod stall;
pub(crate) mod tls;
pub(crate) mod unconnected;
pub(crate) mod upload;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;

use crate::config::fault::Faults;
use crate::config::{self, Ambiguity, Balance, HealthCheck, Pool, Timeouts, UpstreamCredential};
use crate::path_pattern::reading::PathReading;
use health::Health;
use tls::ClientTls;

/// A named upstream, compiled.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: Arc<str>,
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
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
    /// What it does not tell apart in paths; `None` where the configuration does not say.
    pub(crate) reading: Option<PathReading>,
}

/// One address of an upstream.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Tells pools apart; never used twice in a process.
    pub(crate) id: u64,
    pub(crate) address: config::Endpoint,
    /// For `https://` alone.
    tls: Option<ClientTls>,
    /// It spoke HTTP/1.1 last.
    is_http1: AtomicBool,
    /// Shared with the endpoints of this address that went before.
    pub(crate) health: Arc<Health>,
}

/// All endpoints in use, by upstream and address: a reload finds those again that it leaves as they were.
#[derive(Debug, Default)]
pub(crate) struct Endpoints(Mutex<HashMap<(String, config::Endpoint), Arc<Endpoint>>>);

impl Endpoints {
    fn find_or_make(
        &self,
        upstream: &str,
        address: &config::Endpoint,
        tls: Option<&ClientTls>,
    ) -> Arc<Endpoint> {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (upstream.to_owned(), address.clone());
        let earlier = known.get(&name);
        if let Some(same) = earlier.filter(|endpoint| endpoint.tls.as_ref() == tls) {
            return same.clone();
        }
        // With another way of proving who is who, connections must not be shared; health may.
        let health = earlier.map(|endpoint| endpoint.health.clone()).unwrap_or_default();
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let endpoint = Arc::new(Endpoint {
            id,
            address: address.clone(),
            tls: tls.cloned(),
            is_http1: AtomicBool::new(false),
            health,
        });
        known.insert(name, endpoint.clone());
        endpoint
    }

    /// Forgets the endpoints that none of these upstreams has.
    pub(crate) fn keep_only(&self, upstreams: &[Arc<Upstream>]) {
        let is_used = |endpoint: &Arc<Endpoint>| {
            upstreams.iter().flat_map(|upstream| &upstream.endpoints).any(|used| Arc::ptr_eq(used, endpoint))
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, endpoint| is_used(endpoint));
    }
}

impl Endpoint {
    /// The name that it is asked by where no client has named one.
    fn authority(&self) -> HeaderValue {
        use config::Endpoint::{H2c, Http, Https, Unix};
        let authority = match &self.address {
            Http(authority) | Https(authority) | H2c(authority) => authority.as_str(),
            Unix(_) => "localhost",
        };
        HeaderValue::try_from(authority).unwrap_or_else(|_| HeaderValue::from_static("localhost"))
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a connection to it can be made within `limit`. It is closed again, and counts for nothing.
    pub(crate) async fn is_reachable(&self, limit: Duration) -> bool {
        tokio::time::timeout(limit, connect::connect(self, false)).await.is_ok_and(|made| made.is_ok())
    }
}

impl Upstream {
    /// Compiles an upstream.
    ///
    /// # Errors
    ///
    /// All that is wrong with the files of its TLS.
    pub(crate) fn new(config: &config::Upstream, endpoints: &Endpoints) -> Result<Self, Faults> {
        let has_tls = config.endpoints.iter().any(|address| matches!(address, config::Endpoint::Https(_)));
        let tls = has_tls.then(|| ClientTls::load(&config.tls)).transpose()?;
        let endpoints = config.endpoints.iter().map(|address| {
            let tls = tls.as_ref().filter(|_| matches!(address, config::Endpoint::Https(_)));
            endpoints.find_or_make(&config.name, address, tls)
        });
        Ok(Upstream {
            name: config.name.as_str().into(),
            endpoints: endpoints.collect(),
            balance: config.balance,
            turns: AtomicUsize::new(0),
            retries: config.retries,
            credential: config.credential.clone(),
            timeouts: config.timeouts,
            pool: config.pool,
            check: config.health.clone(),
            host: config.host.as_ref().and_then(|host| HeaderValue::try_from(host.as_str()).ok()),
            accept_in_path: config.accept_in_path.clone(),
            reading: config.reading,
        })
    }

    /// The Host that it gets: as configured, else what the client named. A client of HTTP/1.0 may name none; then it is
    /// the first endpoint's own.
    pub(crate) fn host_for(&self, named: Option<&HeaderValue>) -> HeaderValue {
        let host = self.host.as_ref().or(named).cloned();
        let of_endpoint = || self.endpoints.first().map(|endpoint| endpoint.authority());
        host.or_else(of_endpoint).unwrap_or_else(|| HeaderValue::from_static("localhost"))
    }

    /// Whether a connection can be upgraded: HTTP/2 has no upgrades.
    pub(crate) fn takes_upgrades(&self) -> bool {
        self.endpoints.iter().all(|endpoint| !matches!(endpoint.address, config::Endpoint::H2c(_)))
    }

    /// The endpoint that a request goes to next, of those that it was not `tried` on; `None` where it was tried
    /// on all. One that its checks have found unfit is none of them.
    ///
    /// One whose time-out for failing is over gets this one request, as a probe. Where none is well, any may be
    /// tried: an endpoint that is back sooner than expected must not be missed.
    pub(crate) fn pick(&self, tried: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        if let [only] = self.endpoints.as_slice() {
            return (tried.is_empty() && !only.health.is_unfit()).then(|| only.clone());
        }
        let now = Instant::now();
        let untried = || self.endpoints.iter().filter(|endpoint| is_untried(endpoint, tried));
        if let Some(due) = untried().find(|endpoint| endpoint.health.claims_probe(now)) {
            return Some(due.clone());
        }
        let well = || untried().filter(|endpoint| endpoint.health.is_well());
        match well().count() {
            0 => self.choose(untried, untried().count()),
            count => self.choose(well, count),
        }
    }

    /// Whether there is an endpoint that a request was not `tried` on.
    pub(crate) fn has_untried(&self, tried: &[Arc<Endpoint>]) -> bool {
        self.endpoints.iter().any(|endpoint| is_untried(endpoint, tried))
    }

    fn choose<'e, I>(&self, candidates: impl Fn() -> I, count: usize) -> Option<Arc<Endpoint>>
    where
        I: Iterator<Item = &'e Arc<Endpoint>>,
    {
        let chosen = match (count, self.balance) {
            (0, _) => None,
            (1, _) => candidates().next(),
            (_, Balance::RoundRobin) => candidates().nth(self.turns.fetch_add(1, Ordering::Relaxed) % count),
            // The power of two choices: nearly as even as looking at all, and no herd runs after the emptiest
            // (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001).
            (_, Balance::LeastRequests) => {
                let first = fastrand::usize(..count);
                let second = (first + fastrand::usize(1..count)) % count;
                let (first, second) = (candidates().nth(first)?, candidates().nth(second)?);
                Some(if second.health.in_flight() < first.health.in_flight() { second } else { first })
            }
        };
        chosen.cloned()
    }
}

/// Whether an endpoint may be tried, and was not yet.
fn is_untried(endpoint: &Arc<Endpoint>, tried: &[Arc<Endpoint>]) -> bool {
    !endpoint.health.is_unfit() && !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn upstream(fields: &str, endpoints: &Endpoints) -> Upstream {
        let source = format!(
            "listeners: [{{address: 127.0.0.1:1}}]\nupstreams: [{{name: m, endpoints: [http://a:1, http://b:1, http://c:1]{fields}}}]\nkeys: {{path: k.yaml}}\n"
        );
        let config = Config::parse(Path::new("c.yaml"), &source, &|_| None).unwrap();
        Upstream::new(&config.upstreams[0], endpoints).unwrap()
    }

    fn picked(upstream: &Upstream, times: usize) -> Vec<usize> {
        let mut counts = vec![0; upstream.endpoints.len()];
        for _ in 0..times {
            let endpoint = upstream.pick(&[]).unwrap();
            counts[upstream.endpoints.iter().position(|known| Arc::ptr_eq(known, &endpoint)).unwrap()] += 1;
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
        let _busy: Vec<_> = (0..5).map(|_| upstream.endpoints[1].health.enter()).collect();
        let counts = picked(&upstream, 300);
        assert_eq!(counts[1], 0, "it loses to either of the others");
        assert!(counts[0] > 60 && counts[2] > 60, "{counts:?}");
    }

    #[test]
    fn one_that_failed_is_left_out_and_all_are_tried_where_all_failed() {
        let upstream = upstream("", &Endpoints::default());
        let now = Instant::now() + Duration::from_secs(60);
        upstream.endpoints[0].health.failed(now);
        assert_eq!(picked(&upstream, 50)[0], 0);
        upstream.endpoints[1].health.failed(now);
        upstream.endpoints[2].health.failed(now);
        assert!(picked(&upstream, 300).iter().all(|count| *count > 0));
        let tried: Vec<_> = upstream.endpoints.clone();
        assert!(upstream.pick(&tried).is_none() && !upstream.has_untried(&tried));
        assert!(upstream.has_untried(&tried[..2]));
        assert!(upstream.pick(&tried[..2]).is_some_and(|last| Arc::ptr_eq(&last, &tried[2])));
    }

    #[test]
    fn a_reload_finds_the_same_endpoints_again_and_forgets_those_that_went() {
        let endpoints = Endpoints::default();
        let before = upstream("", &endpoints);
        let after = upstream(", retries: 0", &endpoints);
        assert!(before.endpoints.iter().zip(&after.endpoints).all(|(a, b)| Arc::ptr_eq(a, b)));
        endpoints.keep_only(&[]);
        assert!(!Arc::ptr_eq(&upstream("", &endpoints).endpoints[0], &after.endpoints[0]));
    }
}
