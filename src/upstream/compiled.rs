//! An upstream, compiled from its configuration: its settings and its endpoints.
//!
//! `snapshot` compiles an upstream, `forward` picks endpoints from it, and `app` checks their
//! health. [`super::balance`] chooses the endpoint for a request.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use http::HeaderValue;

use super::connect_error::ConnectError;
use super::endpoints::{Endpoint, EndpointSet, Endpoints, LookUp, Named, authority_of};
use super::queue::{Queue, Queues};
use super::slots::Slots;
use super::tls::{CertificateProblem, ClientTls};
use crate::config::fault::Faults;
use crate::config::{
    self, Ambiguity, Balance, HealthCheck, Pool, TellsPriority, Timeouts, UpstreamCredential, Usage,
};
use crate::path_pattern::reading::PathReading;

/// A named upstream, compiled from the configuration.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: Arc<str>,
    /// One set of endpoints for each configured endpoint, because a configured host name may have
    /// several addresses.
    pub(crate) sets: Vec<Arc<EndpointSet>>,
    pub(super) selection: Selection,
    pub(crate) requests: RequestSettings,
    pub(crate) connections: ConnectionSettings,
    pub(crate) timeouts: Timeouts,
    pub(crate) paths: PathRules,
    /// Settings of the active health checks; `None` if none are configured.
    pub(crate) check: Option<HealthCheck>,
    /// Interval between two lookups of an endpoint's host name.
    pub(crate) resolve: Duration,
    /// Whether the upstream is asked for the usage of streams; `None` to decide by the route.
    pub(crate) usage: Option<Usage>,
    /// The queue for the slots of the upstream; `None` if any number of requests may be at it.
    pub(crate) queue: Option<UpstreamQueue>,
    /// The server whose own queue is told the class of each request.
    pub(crate) tells_priority: Option<TellsPriority>,
}

/// The queue of an upstream, and what the configuration says of it.
#[derive(Debug)]
pub(crate) struct UpstreamQueue {
    pub(crate) shared: Arc<Queue>,
    pub(crate) settings: config::Queue,
    /// The slots of each endpoint set; `None` if the slots are of all of them together.
    pub(crate) of_sets: Option<Vec<u32>>,
    /// A number that upstreams share which have the same slots.
    pub(super) id: u64,
}

/// Settings for choosing the endpoint of a request.
#[derive(Debug)]
pub(super) struct Selection {
    pub(super) balance: Balance,
    /// Number of choices that round robin has made so far.
    pub(super) rounds: AtomicUsize,
    /// Maximum number of times that a request is sent to another endpoint. A request is sent again
    /// only if no byte of it was written.
    pub(super) retries: usize,
}

/// Settings that apply to every request to an upstream.
#[derive(Debug)]
pub(crate) struct RequestSettings {
    /// The Host to send to upstream; `None` to forward the client's Host.
    pub(crate) host: Option<HeaderValue>,
    pub(crate) credential: Option<UpstreamCredential>,
}

/// Settings for keeping connections to an upstream open for further requests.
#[derive(Debug)]
pub(crate) struct ConnectionSettings {
    pub(crate) pool: Pool,
    /// Whether an HTTP/1.1 connection that carried a request's body may serve another request.
    pub(crate) reuse_after_body: bool,
}

/// How an upstream reads paths, and which ambiguous parts of paths it accepts.
#[derive(Debug)]
pub(crate) struct PathRules {
    pub(crate) accept_in_path: Vec<Ambiguity>,
    /// Differences between paths that the upstream ignores; `None` if none are configured.
    pub(crate) reading: Option<PathReading>,
}

impl UpstreamQueue {
    /// Returns the slots that are taken, and how many there are. `sets`: the endpoint sets of the upstream.
    pub(crate) fn slots(&self, sets: &[Arc<EndpointSet>]) -> (u64, u64) {
        let whole = [self.shared.whole()];
        let all: Vec<_> = match self.of_sets {
            Some(_) => sets.iter().map(|set| &set.slots).collect(),
            None => whole.to_vec(),
        };
        let sum = |number: fn(&Slots) -> u32| all.iter().map(|slots| u64::from(number(slots))).sum::<u64>();
        (sum(Slots::taken), sum(Slots::limit))
    }
}

impl Upstream {
    /// Compiles an upstream from its configuration.
    ///
    /// # Errors
    ///
    /// Returns all faults of the upstream's TLS files.
    pub(crate) fn new(
        config: &config::Upstream,
        endpoints: &Endpoints,
        queues: &Queues,
    ) -> Result<Self, Faults> {
        let has_tls =
            config.endpoints.iter().any(|endpoint| matches!(endpoint.url, config::EndpointAddress::Https(_)));
        let tls = has_tls.then(|| ClientTls::load(&config.tls)).transpose()?;
        let sets = config.endpoints.iter().map(|endpoint| {
            let tls = tls.as_ref().filter(|_| matches!(endpoint.url, config::EndpointAddress::Https(_)));
            endpoints.find_or_make(&config.name, endpoint, tls)
        });
        let sets: Vec<_> = sets.collect();
        let queue = config.queue.as_ref().map(|settings| UpstreamQueue {
            shared: queues.find_or_make(&config.name, settings),
            settings: settings.clone(),
            of_sets: config.endpoints.iter().map(|endpoint| endpoint.slots).collect(),
            id: slots_id(&sets),
        });
        debug_assert!(!config.endpoints.is_empty(), "an upstream has an endpoint");
        let host = config.host.as_ref().map(|host| HeaderValue::try_from(host.as_str())).transpose();
        debug_assert!(host.is_ok(), "the configuration accepts no Host that is no header value");
        let host = host.ok().flatten();
        Ok(Upstream {
            name: config.name.as_str().into(),
            sets,
            selection: Selection {
                balance: config.balance,
                rounds: AtomicUsize::new(0),
                retries: config.retries,
            },
            requests: RequestSettings { host, credential: config.credential.clone() },
            connections: ConnectionSettings { pool: config.pool, reuse_after_body: config.reuse_after_body },
            timeouts: config.timeouts,
            paths: PathRules {
                accept_in_path: config.paths.accepted_parts.clone(),
                reading: config.paths.reading,
            },
            check: config.health.clone(),
            resolve: config.resolve,
            usage: config.usage,
            queue,
            tells_priority: config.priority,
        })
    }

    /// Returns the Host of a forwarded request: the configured Host, or else the client's Host
    /// (`named`), or else the authority of the first endpoint, because a client of HTTP/1.0 may
    /// send no Host.
    pub(crate) fn host_for(&self, named: Option<&HeaderValue>) -> HeaderValue {
        let host = self.requests.host.as_ref().or(named).cloned();
        host.unwrap_or_else(|| authority_of(self.sets.first().map(|set| &set.address)))
    }

    /// Whether connections to this upstream can be upgraded. A connection to an h2c endpoint can't
    /// be upgraded, because it always speaks HTTP/2.
    pub(crate) fn supports_upgrades(&self) -> bool {
        self.sets.iter().all(|set| !matches!(set.address, config::EndpointAddress::H2c(_)))
    }

    /// Returns all current endpoints of the upstream. A later lookup of a host name may change
    /// them.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.sets.iter().flat_map(|set| set.endpoints()).collect()
    }

    /// Iterates over the endpoint sets, each with the name of this upstream, and the slots that the set has;
    /// `None` if the slots are of all sets together. A later snapshot finds an endpoint set by this name.
    pub(crate) fn in_use(&self) -> impl Iterator<Item = (&str, &Arc<EndpointSet>, Option<u32>)> {
        let slots = self.queue.as_ref().and_then(|queue| queue.of_sets.as_deref()).unwrap_or_default();
        let others = if self.queue.is_some() { None } else { Some(u32::MAX) };
        let slots = slots.iter().copied().map(Some).chain(std::iter::repeat(others));
        self.sets.iter().zip(slots).map(|(set, slots)| (&*self.name, set, slots))
    }

    pub(super) fn visit(&self, mut visit: impl FnMut(&Arc<Endpoint>) -> bool) -> bool {
        self.sets.iter().all(|set| set.visit(&mut visit))
    }

    pub(super) fn set_of(&self, endpoint: &Arc<Endpoint>) -> Option<&Arc<EndpointSet>> {
        self.sets.iter().find(|set| set.contains(endpoint))
    }

    /// Records that no connection to the endpoint could be made, and ejects the endpoint for a
    /// while.
    pub(crate) fn note_failure(&self, endpoint: &Arc<Endpoint>, error: &ConnectError) {
        let ejection = endpoint.health.record_failure(Instant::now());
        if let Some(set) = self.set_of(endpoint)
            && let Some(named) = set.named()
            && (ejection.is_some() || !set.has_healthy())
        {
            // A lookup is requested, because the host name may have other addresses by now.
            named.request_look_up();
        }
        let Some(ejection) = ejection else { return };
        let (upstream, seconds) = (&*self.name, ejection.as_secs_f64());
        tracing::warn!(
            target: "bearward::upstream",
            upstream,
            %endpoint,
            %error,
            seconds,
            "an endpoint is ejected: connections to it fail"
        );
    }

    /// Records that the endpoint accepted a connection or answered a request. This ends an ejection
    /// of the endpoint.
    pub(crate) fn note_success(&self, endpoint: &Endpoint) {
        if endpoint.health.record_success() {
            tracing::info!(upstream = &*self.name, %endpoint, "an ejected endpoint accepts connections again");
            self.note_change();
        }
    }

    /// Notes that the health or the addresses of the upstream have changed: those who wait may have a slot
    /// now, or no endpoint.
    pub(crate) fn note_change(&self) {
        if let Some(queue) = &self.queue {
            queue.shared.hand_out_awaited();
        }
    }

    /// Waits until a lookup of one of the upstream's host names has found an address, for `limit`
    /// at most. The wait also ends when the first lookup of every host name has failed.
    ///
    /// Returns whether the upstream has an address when the wait ends.
    pub(crate) async fn wait_for_addresses(&self, limit: Duration) -> bool {
        let until = Instant::now() + limit;
        while !self.has_addresses() {
            let pending = self.named().filter(|named| named.look_up() == LookUp::Pending);
            let ends: Vec<_> = pending.map(|named| Box::pin(named.first_look_up())).collect();
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

    /// Whether the upstream has an address to connect to.
    pub(crate) fn has_addresses(&self) -> bool {
        self.sets.iter().any(|set| set.named().is_none_or(Named::has_addresses))
    }

    /// Returns the reason why the upstream has no address, as a sentence for logs.
    pub(crate) fn no_address_reason(&self) -> String {
        let of_each = self.named().map(|named| {
            let reason = named.fault().unwrap_or_else(|| "its lookup takes too long".to_owned());
            format!("{} can't be looked up: {reason}", named.host())
        });
        of_each.collect::<Vec<_>>().join("; ")
    }

    /// Returns those problems of the trusted certificates that will make TLS handshakes with the
    /// endpoints fail.
    pub(crate) fn certificate_problems(&self) -> Vec<CertificateProblem> {
        let https = || self.sets.iter().filter_map(|set| Some((set.address.host_and_port()?.0, set.tls()?)));
        let hosts: Vec<&str> = https().map(|(host, _)| host).collect();
        https().next().map(|(_, tls)| tls.certificate_problems(&hosts)).unwrap_or_default()
    }

    /// Whether a first lookup of one of the upstream's host names has not ended.
    pub(super) fn awaits_look_up(&self) -> bool {
        self.named().any(|named| named.look_up() == LookUp::Pending)
    }

    fn named(&self) -> impl Iterator<Item = &Named> {
        self.sets.iter().filter_map(|set| set.named())
    }
}

/// Returns a number that lists of the same endpoint sets share.
fn slots_id(sets: &[Arc<EndpointSet>]) -> u64 {
    let places: Vec<usize> = sets.iter().map(|set| Arc::as_ptr(set).addr()).collect();
    foldhash::quality::FixedState::default().hash_one(places)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::config::Config;

    fn upstream(fields: &str, endpoints: &Endpoints) -> Upstream {
        let source = format!(
            "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1, http://127.0.0.2:1, http://127.0.0.3:1]{fields}}}]\nkeys: {{path: k.yaml}}\n"
        );
        let config = Config::parse(Path::new("c.yaml"), &source, &|_| None).unwrap();
        Upstream::new(&config.upstreams[0], endpoints, &Queues::default()).unwrap()
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
    fn round_robin_picks_all_endpoints_equally_often() {
        assert_eq!(picked(&upstream(", balance: round_robin", &Endpoints::default()), 30), [10, 10, 10]);
    }

    #[test]
    fn the_endpoint_with_fewer_requests_in_flight_is_picked() {
        let upstream = upstream("", &Endpoints::default());
        let _busy: Vec<_> = (0..5).map(|_| upstream.endpoints()[1].health.start_request()).collect();
        let counts = picked(&upstream, 300);
        assert_eq!(counts[1], 0, "either of the others has fewer requests");
        assert!(counts[0] > 60 && counts[2] > 60, "{counts:?}");
    }

    #[test]
    fn an_ejected_endpoint_is_skipped_unless_all_are_ejected() {
        let upstream = upstream("", &Endpoints::default());
        let now = Instant::now() + Duration::from_secs(60);
        upstream.endpoints()[0].health.record_failure(now);
        assert_eq!(picked(&upstream, 50)[0], 0);
        upstream.endpoints()[1].health.record_failure(now);
        upstream.endpoints()[2].health.record_failure(now);
        assert!(picked(&upstream, 300).iter().all(|count| *count > 0));
        let tried: Vec<_> = upstream.endpoints();
        assert!(upstream.pick(&tried).is_none() && !upstream.has_untried(&tried));
        assert!(upstream.has_untried(&tried[..2]));
        assert!(upstream.pick(&tried[..2]).is_some_and(|last| Arc::ptr_eq(&last, &tried[2])));
    }

    #[test]
    fn a_reload_keeps_endpoints_that_stay_and_forgets_removed_ones() {
        let endpoints = Endpoints::default();
        let before = Arc::new(upstream("", &endpoints));
        let refused = upstream("", &endpoints);
        let is_shared = |a: &Upstream, b: &Upstream| Arc::ptr_eq(&a.endpoints()[0], &b.endpoints()[0]);
        assert!(!is_shared(&before, &refused), "endpoints are in use once they are adopted");
        endpoints.adopt(before.in_use());
        let after = upstream(", retries: 0", &endpoints);
        assert!(before.endpoints().iter().zip(&after.endpoints()).all(|(a, b)| Arc::ptr_eq(a, b)));
        endpoints.adopt([].into_iter());
        assert!(!is_shared(&upstream("", &endpoints), &after));
    }

    #[test]
    fn a_change_of_health_during_a_pick_fails_no_request() {
        let upstream = upstream(", balance: round_robin", &Endpoints::default());
        let ends = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for endpoint in upstream.endpoints() {
                let ends = &ends;
                scope.spawn(move || {
                    let later = Instant::now() + Duration::from_secs(60);
                    while !ends.load(Ordering::Relaxed) {
                        endpoint.health.record_failure(later);
                        endpoint.health.record_success();
                    }
                });
            }
            let found = (0..200_000).all(|_| upstream.pick(&[]).is_some());
            ends.store(true, Ordering::Relaxed);
            assert!(found);
        });
    }
}
