//! A compiled route: which requests it matches, and what it allows.

use std::cell::OnceCell;
use std::sync::Arc;

use http::{HeaderName, Method};

use crate::config::{self, Access, Ambiguity, Limits, ModelIn, RouteModel, Timeouts, Usage, UsesTokens};
use crate::cors::CorsPolicy;
use crate::folding::folded;
use crate::host_pattern::HostPattern;
use crate::limit::{Limiter, Window};
use crate::model::{self, Named, Server};
use crate::path_pattern::PathPattern;
use crate::path_pattern::reading::{PathReading, fold};
use crate::upstream::Upstream;

/// A route, compiled from its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) name: Arc<str>,
    pub(crate) access: Access,
    pub(crate) upstream: Arc<Upstream>,
    /// Windows of the route's own rate limits. Each key has a state of its own in these windows.
    pub(crate) windows: Vec<Arc<Window>>,
    pub(crate) strip_prefix: Option<String>,
    pub(crate) max_body: Option<u64>,
    /// The upstream's timeouts, replaced by the route's own timeouts if it has any.
    pub(crate) timeouts: Timeouts,
    /// Protocols to which a request may be upgraded, in lower case.
    pub(crate) upgrades: Vec<String>,
    /// Whether GET and HEAD requests may have a body.
    pub(super) body_on_get: bool,
    /// Names of request headers that the route removes, in folded form.
    pub(crate) removes: Arc<[HeaderName]>,
    /// The web pages that may read the route's answers: the route's own `cors`, or else the one at
    /// the top.
    pub(crate) cors: Option<Arc<CorsPolicy>>,
    /// Where requests name their model, and the rules for models and tokens.
    pub(crate) model: RouteModel,
    /// Whether the upstream is asked for the usage of streams.
    pub(crate) usage: Usage,
    pub(super) accept_in_path: Vec<Ambiguity>,
    /// How the route's upstream reads paths.
    pub(super) reading: PathReading,
    /// Patterns of the route's paths, prepared for the way in which its upstream reads paths.
    pub(super) paths: Vec<PathPattern>,
    /// Patterns of the route's paths, as they are configured.
    pub(super) written: Vec<PathPattern>,
    pub(super) methods: Option<Vec<Method>>,
    pub(super) hosts: Option<Vec<HostPattern>>,
}

/// The path of a request for which a route is searched. The case of the path is folded at most
/// once, however many routes ignore case.
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
    /// Returns which parts of a request match the route: host, method, path.
    pub(crate) fn compared(&self, host: &str, method: &Method, path: &str) -> [bool; 3] {
        [self.matches_host(host), self.matches_method(method), self.matches_path(&AskedPath::new(path))]
    }

    /// Returns the patterns of the route's paths, as they are configured.
    pub(crate) fn written_paths(&self) -> impl Iterator<Item = &str> {
        self.written.iter().map(PathPattern::as_str)
    }

    /// Returns the route's methods with commas between them, or `any method`.
    pub(crate) fn methods_text(&self) -> String {
        self.method_names().map_or_else(|| "any method".to_owned(), |methods| methods.join(", "))
    }

    /// Returns the names of the route's methods; `None` if it takes all methods.
    pub(crate) fn method_names(&self) -> Option<Vec<&str>> {
        Some(self.methods.as_ref()?.iter().map(Method::as_str).collect())
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

    /// Whether the route matches the method. A route that matches GET also matches HEAD (RFC 9110,
    /// section 9.3.2).
    pub(super) fn matches_method(&self, method: &Method) -> bool {
        let Some(methods) = &self.methods else { return true };
        methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
    }

    /// Whether a request with this method may have a body. A body of GET or HEAD has no meaning
    /// (RFC 9110, section 9.3.1).
    pub(crate) fn takes_body(&self, method: &Method) -> bool {
        self.body_on_get || !matches!(*method, Method::GET | Method::HEAD)
    }

    /// Returns the largest body of a request, in bytes.
    pub(crate) fn body_bytes(&self, limits: &Limits) -> u64 {
        let otherwise = match self.access {
            Access::Public => limits.public.body_bytes.min(limits.body_bytes),
            Access::Needs(_) => limits.body_bytes,
        };
        self.max_body.unwrap_or(otherwise)
    }

    /// Returns this route with the limits of `others`, the routes of the path's other readings. For
    /// each limit, the strictest value is used.
    pub(crate) fn bounded_by(&self, others: &[Arc<Route>], limits: &Limits) -> Self {
        let mut bounded = self.clone();
        let (mut bytes, mut removes) = (self.body_bytes(limits), self.removes.to_vec());
        for other in others {
            bytes = bytes.min(other.body_bytes(limits));
            removes.extend(other.removes.iter().filter(|name| !self.removes.contains(name)).cloned());
            bounded.body_on_get &= other.body_on_get;
            let caps = [bounded.model.request, other.model.request].into_iter().flatten();
            bounded.model.request = caps.min_by_key(|cap| cap.max_output_tokens);
            bounded.upgrades.retain(|protocol| other.upgrades.contains(protocol));
            for window in &other.windows {
                // A window that several of the routes have is charged only once.
                if !bounded.windows.iter().any(|known| Arc::ptr_eq(known, window)) {
                    bounded.windows.push(window.clone());
                }
            }
        }
        bounded.max_body = Some(bytes);
        bounded.removes = removes.into();
        bounded
    }

    /// Returns this route with another upstream.
    pub(crate) fn led_to(&self, upstream: &Arc<Upstream>) -> Self {
        Route { upstream: upstream.clone(), ..self.clone() }
    }

    /// Whether the route matches a request that names this model.
    pub(crate) fn matches_model(&self, model: &Named) -> bool {
        match (&self.model.models, model) {
            (None, _) => true,
            (Some(patterns), Named::Model(name)) => self.model.naming.is_allowed(patterns, name),
            (Some(_), Named::Absent | Named::Ambiguous) => false,
        }
    }

    /// Whether requests with this method use tokens.
    pub(crate) fn uses_tokens(&self, method: &Method) -> bool {
        may_generate(method.as_str())
            && match self.model.uses_tokens {
                UsesTokens::Always => true,
                UsesTokens::No => false,
                UsesTokens::Posts => !matches!(self.model.place, ModelIn::None | ModelIn::List),
            }
    }

    /// Whether requests on the route may generate output that nothing is known of: a route of the
    /// operator's own that does not say where its requests name their model, or a built-in one whose
    /// requests say it in a form that is not read.
    pub(crate) fn hides_output(&self, method: &str) -> bool {
        let RouteModel { place, models_free, uses_tokens, server, hides_output, .. } = &self.model;
        let says_nothing = *server == Server::Unknown
            && *uses_tokens == UsesTokens::Posts
            && matches!(place, ModelIn::None | ModelIn::List);
        !models_free && (says_nothing || *hides_output) && may_generate(method)
    }

    /// Returns the model that a path names.
    pub(crate) fn model_in_path(&self, path: &str) -> Named {
        let found = self.written.iter().find_map(|pattern| pattern.model_in(path));
        // Another spelling of the path, which the upstream reads as this one, names no clear model.
        found.map_or(Named::Ambiguous, model::in_path)
    }

    /// Returns the model of which a path asks for the entry in a list; `Absent` if the path asks
    /// for the list itself.
    pub(crate) fn model_in_list(&self, path: &str) -> Named {
        let item = |pattern: &PathPattern| match pattern.names_model() {
            true => Some(pattern.model_in(path)?),
            false => pattern.rest_of(path),
        };
        match self.written.iter().find_map(item) {
            Some(name) => model::in_path(name.trim_end_matches('/')),
            None if self
                .written
                .iter()
                .any(|pattern| pattern.exact() == Some(path.trim_end_matches('/'))) =>
            {
                Named::Absent
            }
            None => Named::Ambiguous,
        }
    }

    /// Whether the route accepts this kind of ambiguous part in paths.
    pub(crate) fn accepts(&self, ambiguity: Ambiguity) -> bool {
        self.accept_in_path.contains(&ambiguity)
    }

    /// Returns the path to send to upstream.
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

/// Compiles a route. `upstreams` are the upstreams of the same configuration, in order; `cors` is
/// the policy at the top of the configuration.
///
/// # Errors
///
/// Returns an error if the route names an upstream that does not exist.
pub(super) fn compile(
    route: &config::Route,
    upstreams: &[Arc<Upstream>],
    limiter: &Limiter,
    cors: Option<&Arc<CorsPolicy>>,
) -> anyhow::Result<Route> {
    let upstream = match &route.upstream {
        Some(name) => upstreams.iter().find(|upstream| *upstream.name == **name),
        None => upstreams.first(),
    };
    let Some(upstream) = upstream else { anyhow::bail!("the route {} has no upstream", route.name) };
    let config::Route { requests, forwarding, .. } = route;
    let own_cors = |own| Arc::new(CorsPolicy::new(own, std::iter::once(requests.methods.as_deref())));
    let reading = route.reading.and(upstream.paths.reading.unwrap_or(PathReading::EXACT));
    let mut accept_in_path = upstream.paths.accept_in_path.clone();
    accept_in_path.extend(&route.accept_in_path);
    Ok(Route {
        name: route.name.as_str().into(),
        access: route.access,
        upstream: upstream.clone(),
        windows: route.rate_limits.iter().map(|quota| limiter.window(Some(&route.name), *quota)).collect(),
        strip_prefix: forwarding.strip_prefix.clone(),
        max_body: forwarding.max_body,
        timeouts: upstream.timeouts.overridden(forwarding.timeouts),
        upgrades: forwarding.upgrades.clone(),
        body_on_get: forwarding.body_on_get,
        removes: forwarding.removes.iter().map(folded).collect(),
        cors: route.cors.as_ref().map(own_cors).or_else(|| cors.cloned()),
        model: route.model.clone(),
        usage: upstream.usage.unwrap_or(route.model.usage),
        accept_in_path,
        reading,
        paths: requests.paths.iter().flat_map(|pattern| reading.prepare(pattern)).collect(),
        written: requests.paths.clone(),
        methods: requests.methods.clone(),
        hosts: requests.hosts.clone(),
    })
}

/// Whether a server may generate output for a request with this method.
fn may_generate(method: &str) -> bool {
    !matches!(method, "GET" | "HEAD" | "OPTIONS" | "DELETE" | "TRACE" | "CONNECT")
}
