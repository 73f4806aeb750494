//! A route, compiled: what it matches, and what it allows.

use std::cell::OnceCell;
use std::sync::Arc;

use http::{HeaderName, Method};

use crate::config::{self, Access, Ambiguity, Limits, Timeouts};
use crate::folding::folded;
use crate::host_pattern::HostPattern;
use crate::limit::{Limiter, Window};
use crate::path_pattern::PathPattern;
use crate::path_pattern::reading::{PathReading, fold};
use crate::upstream::Upstream;

/// A route, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    pub(crate) access: Access,
    pub(crate) upstream: Arc<Upstream>,
    /// The windows of the route's own limits. Each key has its own state in them.
    pub(crate) windows: Vec<Arc<Window>>,
    pub(crate) strip_prefix: Option<String>,
    pub(crate) max_body: Option<u64>,
    /// The timeouts of the upstream, replaced by the route's own where it has any.
    pub(crate) timeouts: Timeouts,
    /// The protocols that a request may be upgraded to, in lower case.
    pub(crate) upgrades: Vec<String>,
    /// Whether GET and HEAD may have a body.
    pub(super) body_on_get: bool,
    /// Request headers that are removed, folded.
    pub(crate) removes: Arc<[HeaderName]>,
    pub(super) accept_in_path: Vec<Ambiguity>,
    /// How its server reads paths.
    pub(super) reading: PathReading,
    /// The patterns of its paths, prepared for that reading.
    pub(super) paths: Vec<PathPattern>,
    /// The patterns of its paths, as they are configured.
    pub(super) written: Vec<PathPattern>,
    pub(super) methods: Option<Vec<Method>>,
    pub(super) hosts: Option<Vec<HostPattern>>,
}

/// The path that a route is searched for. It is folded at most once, however many routes ignore
/// case.
#[derive(Debug)]
pub(super) struct AskedPath<'p> {
    canonical: &'p str,
    folded: OnceCell<String>,
}

impl<'p> AskedPath<'p> {
    pub(super) fn new(canonical: &'p str) -> Self {
        AskedPath { canonical, folded: OnceCell::new() }
    }

    fn folded(&self) -> &str {
        self.folded.get_or_init(|| fold(self.canonical))
    }
}

impl Route {
    /// Which parts of a request match the route: host, method, path.
    pub(crate) fn compared(&self, host: &str, method: &Method, path: &str) -> [bool; 3] {
        [self.matches_host(host), self.matches_method(method), self.matches_path(&AskedPath::new(path))]
    }

    pub(super) fn matches(&self, host: &str, method: &Method, path: &AskedPath<'_>) -> bool {
        self.matches_host(host) && self.matches_method(method) && self.matches_path(path)
    }

    pub(super) fn matches_path(&self, path: &AskedPath<'_>) -> bool {
        let path = if self.reading.ignore_case { path.folded() } else { path.canonical };
        self.paths.iter().any(|pattern| pattern.matches(path))
    }

    pub(super) fn matches_host(&self, host: &str) -> bool {
        let Some(hosts) = &self.hosts else { return true };
        hosts.iter().any(|known| known.matches(host))
    }

    /// Whether the method matches. HEAD matches where GET does (RFC 9110, section 9.3.2).
    pub(super) fn matches_method(&self, method: &Method) -> bool {
        let Some(methods) = &self.methods else { return true };
        methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
    }

    /// Whether a request with this method may have a body. For GET and HEAD a body has no meaning
    /// (RFC 9110, section 9.3.1).
    pub(crate) fn takes_body(&self, method: &Method) -> bool {
        self.body_on_get || !matches!(*method, Method::GET | Method::HEAD)
    }

    /// The longest body of a request, in bytes.
    pub(crate) fn body_bytes(&self, limits: &Limits) -> u64 {
        let otherwise = match self.access {
            Access::Public => limits.public.body_bytes.min(limits.body_bytes),
            Access::Needs(_) => limits.body_bytes,
        };
        self.max_body.unwrap_or(otherwise)
    }

    /// This route with the bounds of `others` as well, which are the routes of other readings of a
    /// path. Of each bound the strictest one holds.
    pub(crate) fn bounded_by(&self, others: &[Arc<Route>], limits: &Limits) -> Self {
        let mut bounded = self.clone();
        let (mut bytes, mut removes) = (self.body_bytes(limits), self.removes.to_vec());
        for other in others {
            bytes = bytes.min(other.body_bytes(limits));
            removes.extend(other.removes.iter().filter(|name| !self.removes.contains(name)).cloned());
            bounded.body_on_get &= other.body_on_get;
            bounded.upgrades.retain(|protocol| other.upgrades.contains(protocol));
            for window in &other.windows {
                // A window is charged once, even if several routes have it.
                if !bounded.windows.iter().any(|known| Arc::ptr_eq(known, window)) {
                    bounded.windows.push(window.clone());
                }
            }
        }
        bounded.max_body = Some(bytes);
        bounded.removes = removes.into();
        bounded
    }

    /// Whether the route accepts this ambiguous part in paths.
    pub(crate) fn accepts(&self, ambiguity: Ambiguity) -> bool {
        self.accept_in_path.contains(&ambiguity)
    }

    /// The path that upstream gets.
    pub(crate) fn upstream_path<'p>(&self, path: &'p str) -> &'p str {
        let Some(prefix) = &self.strip_prefix else { return path };
        let is_prefix = |beginning: &str| match self.reading.ignore_case {
            true => fold(beginning) == fold(prefix),
            false => beginning == prefix,
        };
        match path
            .split_at_checked(prefix.len())
            .filter(|(beginning, _)| is_prefix(beginning))
            .map(|(_, rest)| rest)
        {
            Some("") => "/",
            Some(rest) if rest.starts_with('/') => rest,
            _ => path,
        }
    }
}

/// Compiles a route. `upstreams` are those of its configuration, in order.
///
/// # Errors
///
/// Its upstream does not exist.
pub(super) fn compile(
    route: &config::Route,
    upstreams: &[Arc<Upstream>],
    limiter: &Limiter,
) -> anyhow::Result<Route> {
    let upstream = match &route.upstream {
        Some(name) => upstreams.iter().find(|upstream| *upstream.name == **name),
        None => upstreams.first(),
    };
    let Some(upstream) = upstream else { anyhow::bail!("the route {} has no upstream", route.name) };
    let reading = route.reading.and(upstream.reading.unwrap_or(PathReading::EXACT));
    let mut accept_in_path = upstream.accept_in_path.clone();
    accept_in_path.extend(&route.accept_in_path);
    Ok(Route {
        name: route.name.as_str().into(),
        access: route.access,
        upstream: upstream.clone(),
        windows: route.rate_limits.iter().map(|quota| limiter.window(Some(&route.name), *quota)).collect(),
        strip_prefix: route.strip_prefix.clone(),
        max_body: route.max_body,
        timeouts: upstream.timeouts.overridden(route.timeouts),
        upgrades: route.upgrades.clone(),
        body_on_get: route.body_on_get,
        removes: route.removes.iter().map(folded).collect(),
        accept_in_path,
        reading,
        paths: route.paths.iter().flat_map(|pattern| reading.prepare(pattern)).collect(),
        written: route.paths.clone(),
        methods: route.methods.clone(),
        hosts: route.hosts.clone(),
    })
}
