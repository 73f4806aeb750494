//! Routes and settings as one immutable value: a request is decided by one snapshot whole.
//!
//! What outlives a reload (keys, limit state, connections) lives in `proxy::Gateway` beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::HeaderName;

use crate::config::fault::{Fault, Faults};
use crate::config::{AttemptQuota, Auth, Config, Limits, MaxAge, TrustedProxies};
use crate::folding::folded;
use crate::keys::id_secret::IdSecret;
use crate::limit::{Limiter, Window};
use crate::route::RouteTable;
use crate::upstream::{Endpoints, Upstream};

/// A configuration, compiled.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) routes: RouteTable,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// Where changes of keys go.
    pub(crate) keys_path: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) trusted_proxies: TrustedProxies,
    /// Keys of other environments are refused.
    pub(crate) environment: Option<String>,
    /// How old a key may be.
    pub(crate) max_age: Option<MaxAge>,
    /// Whether a key that goes takes its open answers with it.
    pub(crate) cut_open_streams: bool,
    /// What names credentials that carry no id.
    pub(crate) ids: Arc<IdSecret>,
    /// Where a key may stand.
    pub(crate) auth: Auth,
    /// The same on the admin listener: in a header that a browser never sends by itself, wherever a page leads it.
    pub(crate) admin_auth: Auth,
    /// These, and those that upstreams get credentials of ours in: nothing of a caller's passes in one.
    pub(crate) secret_headers: Arc<[HeaderName]>,
    /// How many bad keys an address may present.
    pub(crate) failed_attempts: Option<AttemptQuota>,
    /// The windows of a key that names none.
    pub(crate) default_windows: Vec<Arc<Window>>,
    /// The requests at once of a key that names none.
    pub(crate) default_max_concurrent: Option<u32>,
}

impl Snapshot {
    /// Compiles a configuration. Endpoints and windows that it shares with one before are the same.
    ///
    /// # Errors
    ///
    /// All that is wrong with the files that its upstreams name.
    pub(crate) fn new(
        config: &Config,
        ids: Arc<IdSecret>,
        limiter: &Limiter,
        endpoints: &Endpoints,
    ) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let mut upstreams = Vec::with_capacity(config.upstreams.len());
        for upstream in &config.upstreams {
            match Upstream::new(upstream, endpoints) {
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
            keys_path: config.keys.path.clone(),
            limits: config.limits,
            trusted_proxies: config.trusted_proxies.clone(),
            environment: config.keys.environment.clone(),
            max_age: config.keys.max_age,
            cut_open_streams: config.keys.cut_open_streams,
            ids,
            auth: config.auth.clone(),
            admin_auth: Auth { headers: config.auth.headers.clone(), ..Auth::default() },
            secret_headers: secret_headers(config),
            failed_attempts: config.failed_attempts,
            default_windows: config.rate_limits.iter().map(|quota| limiter.window(None, *quota)).collect(),
            default_max_concurrent: config.max_concurrent,
        })
    }
}

fn secret_headers(config: &Config) -> Arc<[HeaderName]> {
    let of_upstreams = config.upstreams.iter().filter_map(|upstream| upstream.credential.as_ref());
    let mut names = config.auth.headers.clone();
    names.extend(of_upstreams.map(|credential| credential.header.clone()));
    // Whatever folds to one of them is compared by what it folds to.
    names.extend(names.clone().iter().map(folded));
    names.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    names.dedup();
    names.into()
}
