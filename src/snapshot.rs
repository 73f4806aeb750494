//! The compiled configuration: an immutable value. Each request is decided by the same snapshot
//! from start to end.
//!
//! State that outlives a reload (keys, limit state, connections) is kept outside of the snapshot,
//! in `proxy::Gateway`.

use std::path::Path;
use std::sync::Arc;

use http::HeaderName;

use crate::config::fault::{Fault, Faults};
use crate::config::{AttemptQuota, Auth, Config, Limits, MaxAge, ReadFile, StorePlace, TrustedProxies};
use crate::folding::folded;
use crate::group::Groups;
use crate::identity::{Identities, Rules};
use crate::key_store::provisions::Provided;
use crate::keys::id_secret::IdSecret;
use crate::limit::{Limiter, Window};
use crate::route::RouteTable;
use crate::upstream::queue::Queues;
use crate::upstream::{Endpoints, Upstream};

/// A configuration, compiled.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) routes: RouteTable,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// The beginning of the digest of the configuration file; empty if there is none.
    pub(crate) fingerprint: String,
    /// Place of the key store to which changes are written.
    pub(crate) keys_place: StorePlace,
    pub(crate) limits: Limits,
    pub(crate) trusted_proxies: TrustedProxies,
    /// Name of this environment. Keys of another environment are refused.
    pub(crate) environment: Option<String>,
    /// Greatest age of a key, and what happens when a key exceeds it.
    pub(crate) max_age: Option<MaxAge>,
    /// Whether open answers are cut when their key expires or is revoked.
    pub(crate) cut_open_streams: bool,
    /// Makes ids for credentials that contain no id.
    pub(crate) ids: Arc<IdSecret>,
    /// Places in which a request may have its credential.
    pub(crate) auth: Auth,
    /// Places in which a request to the admin listener may have its credential. These are only
    /// headers that a browser never sends on its own, whatever page it shows.
    pub(crate) admin_auth: Auth,
    /// What holders of tokens and certificates may do.
    pub(crate) identities: Arc<Rules>,
    /// Names of headers that may contain a credential, of a client or of an upstream. Such headers
    /// of a client are never forwarded.
    pub(crate) secret_headers: Arc<[HeaderName]>,
    /// Quota of the failed attempts of an address; `None` for no limit.
    pub(crate) failed_attempts: Option<AttemptQuota>,
    pub(crate) groups: Groups,
    /// What keys may need of the configuration.
    pub(crate) provided: Provided,
    /// Whether the holder of a key sees its own limits.
    pub(crate) self_service: bool,
    /// Windows of a key that has no rate limits of its own.
    pub(crate) default_windows: Vec<Arc<Window>>,
    /// Limit of requests in flight for a key that has no such limit of its own; `None` for no
    /// limit.
    pub(crate) default_max_concurrent: Option<u32>,
}

impl Snapshot {
    /// Compiles a configuration. Endpoints, queues and windows that did not change are shared with the
    /// previous snapshot.
    ///
    /// # Errors
    ///
    /// All faults of the files that the upstreams of the configuration name.
    pub(crate) fn new(
        config: &Config,
        ids: Arc<IdSecret>,
        limiter: &Limiter,
        endpoints: &Endpoints,
        queues: &Queues,
        identities: &Identities,
    ) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let rules = identities.compile(&config.auth, &ids).unwrap_or_else(|of_files| {
            faults.extend(of_files.0);
            Rules::default()
        });
        let mut upstreams = Vec::with_capacity(config.upstreams.len());
        for upstream in &config.upstreams {
            match Upstream::new(upstream, endpoints, queues) {
                Ok(upstream) => upstreams.push(Arc::new(upstream)),
                Err(of_files) => faults.extend(of_files.0),
            }
        }
        if !faults.is_empty() {
            return Err(Faults(faults));
        }
        let routes = RouteTable::new(config, &upstreams, limiter)
            .map_err(|error| Fault::of_file(Path::new("routes"), error.to_string()))?;
        Ok(Snapshot {
            routes,
            upstreams,
            fingerprint: config.source.as_ref().map(ReadFile::short_digest).unwrap_or_default(),
            keys_place: config.keys.path.clone(),
            limits: config.limits,
            trusted_proxies: config.trusted_proxies.clone(),
            environment: config.keys.environment.clone(),
            max_age: config.keys.max_age,
            cut_open_streams: config.keys.cut_open_streams,
            ids,
            auth: config.auth.clone(),
            admin_auth: Auth { headers: config.auth.headers.clone(), ..Auth::default() },
            identities: Arc::new(rules),
            secret_headers: secret_headers(config),
            failed_attempts: config.failed_attempts,
            self_service: config.self_service,
            provided: Provided::by(config).kept(limiter.keeps_budgets()),
            groups: Groups::new(&config.groups, limiter),
            default_windows: config.rate_limits.iter().map(|quota| limiter.window(None, *quota)).collect(),
            default_max_concurrent: config.max_concurrent,
        })
    }
}

impl Snapshot {
    /// Puts the endpoints and the queues of all upstreams, and the identities, into service, in place of those
    /// of the previous snapshot.
    pub(crate) fn put_into_service(&self, endpoints: &Endpoints, queues: &Queues, identities: &Identities) {
        identities.put_into_service(&self.identities);
        endpoints.adopt(self.upstreams.iter().flat_map(|upstream| upstream.in_use()));
        queues.adopt(self.upstreams.iter().map(|upstream| {
            let queue = upstream.queue.as_ref().map(|queue| (&queue.shared, &queue.settings));
            (&*upstream.name, queue)
        }));
    }
}

fn secret_headers(config: &Config) -> Arc<[HeaderName]> {
    let of_upstreams = config.upstreams.iter().filter_map(|upstream| upstream.credential.as_ref());
    let mut names = config.auth.headers.clone();
    names.extend(of_upstreams.map(|credential| credential.header.clone()));
    // The folded names are added, because a header whose name is not plain is also compared in its
    // folded form.
    names.extend(names.clone().iter().map(folded));
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names.into()
}
