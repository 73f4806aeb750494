//! Routes and settings as one immutable value: a request is decided by one snapshot whole.
//!
//! What outlives a reload (keys, limit state, connections) lives in `proxy::Gateway` beside it.

use std::sync::Arc;

use http::HeaderName;

use crate::config::{Config, Limits, TrustedProxies};
use crate::limit::{Limiter, Window};
use crate::route::RouteTable;
use crate::upstream::Upstream;

/// A configuration, compiled.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) routes: RouteTable,
    pub(crate) limits: Limits,
    pub(crate) trusted_proxies: TrustedProxies,
    /// Keys of other environments are refused.
    pub(crate) environment: Option<String>,
    /// Where a key may stand, in order.
    pub(crate) credential_headers: Vec<HeaderName>,
    /// The windows of a key that names none.
    pub(crate) default_windows: Vec<Arc<Window>>,
    /// The requests at once of a key that names none.
    pub(crate) default_max_concurrent: Option<u32>,
}

impl Snapshot {
    pub(crate) fn new(config: &Config, limiter: &Limiter) -> anyhow::Result<Self> {
        let upstreams: Vec<_> =
            config.upstreams.iter().map(|upstream| Arc::new(Upstream::new(upstream))).collect();
        Ok(Snapshot {
            routes: RouteTable::new(config, &upstreams, limiter)?,
            limits: config.limits,
            trusted_proxies: config.trusted_proxies.clone(),
            environment: config.keys.environment.clone(),
            credential_headers: config.auth.headers.clone(),
            default_windows: config.rate_limits.iter().map(|quota| limiter.window(None, *quota)).collect(),
            default_max_concurrent: config.max_concurrent,
        })
    }
}
