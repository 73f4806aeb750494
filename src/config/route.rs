//! A route: the requests that it matches, and the rules for them.

use http::{HeaderName, Method};

use crate::config::ambiguity::Ambiguity;
use crate::config::cors::{Cors, cors};
use crate::config::decode::{Decoder, KnownUpstream};
use crate::config::field::not_in_files;
use crate::config::form::{Form, boolean, list_of, non_empty, one_of, size, text, word};
use crate::config::header_name::{header_name, is_ordinary};
use crate::config::host::{accepted, host};
use crate::config::method::method;
use crate::config::model::{ModelIn, RouteModel};
use crate::config::quota::{Quota, Unit, rate_limits};
use crate::config::section::{fields_of, nested, section};
use crate::config::timeouts::RouteTimeouts;
use crate::config::tree::Node;
use crate::host_pattern::HostPattern;
use crate::path_pattern::PathPattern;
use crate::path_pattern::reading::PathReading;
use crate::permission::Permission;

section! {
    /// A route: the requests that it matches, and the rules for them.
    #[derive(Clone, Debug)]
    pub(crate) struct Route in "a route" {
        /// The name of the route. A key's `routes` narrows the key to routes by their names.
        name: String = word().required();
        requests: MatchedRequests = fields_of();
        access: Access = fields_of::<WrittenAccess>().then(access);
        /// The name of the upstream that requests go to. Left out: the first upstream.
        upstream: Option<String> = text(known_upstream).optional();
        /// Rate limits of the route, in addition to those of the key. Each key has its own count.
        rate_limits: Vec<Quota> = rate_limits().or_default().narrowing();
        /// The web pages of other origins whose scripts may read the route's answers, instead of the
        /// pages in the `cors` at the top.
        cors: Option<Cors> = cors().optional();
        forwarding: Forwarding = fields_of();
        model: RouteModel = fields_of();
        /// Ambiguous parts that are accepted in the paths of requests on this route, in addition to
        /// the parts that the route's upstream accepts.
        accept_in_path: Vec<Ambiguity> = not_in_files();
        /// Differences between paths that the server ignores on this route, in addition to the
        /// differences that the route's upstream ignores.
        reading: PathReading = not_in_files();
    }
}

section! {
    /// The requests that a route matches.
    #[derive(Clone, Debug)]
    pub(crate) struct MatchedRequests in "a route" {
        /// Path patterns, at least one. `*` matches within a segment, `**` across segments.
        paths: Vec<PathPattern> = path_patterns().required();
        /// Methods that the route matches, at least one. Left out: all methods.
        methods: Option<Vec<Method>> = non_empty(text(method)).optional();
        /// Host names, or `*.` and a domain, that the route matches, at least one. Left out: all
        /// hosts.
        hosts: Option<Vec<HostPattern>> = non_empty(text(host)).optional();
    }
}

section! {
    /// Rules for forwarding the requests of a route.
    #[derive(Clone, Debug)]
    pub(crate) struct Forwarding: Default in "a route" {
        /// The prefix that is removed from a request's path before the request is forwarded.
        strip_prefix: Option<String> = text(prefix).optional();
        /// The size of a request's body; a larger one is answered with 413. Left out: the size in
        /// `limits`.
        max_body: Option<u64> = size().optional();
        timeouts: RouteTimeouts = nested().or_default();
        /// Protocols that a request may be upgraded to, for example websocket.
        upgrades: Vec<String> = list_of(text(upgrade).shown()).or_default();
        /// Whether GET and HEAD requests may have a body. If false, such a request is refused with
        /// 400.
        body_on_get: bool = boolean().or(false);
        /// Request headers that are removed, along with spellings that servers read as the same
        /// name (`x_debug` for `x-debug`).
        removes: Vec<HeaderName> = list_of(text(removed_header).shown()).or_default().narrowing();
    }
}

section! {
    /// The keys that may use a route.
    #[derive(Clone, Debug)]
    struct WrittenAccess in "a route" {
        /// The permission that a key needs. Each route has either a permission or `public: true`.
        permission: Option<Permission> = one_of(&Permission::ALL).optional();
        /// Whether requests are accepted without a key.
        public: bool = boolean().or(false);
    }
}

/// The keys that may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Requests are accepted without a key.
    Public,
    /// Only keys with this permission may use the route.
    Needs(Permission),
}

fn access(d: &mut Decoder<'_>, node: &Node, written: WrittenAccess) -> Option<Access> {
    match (written.permission, written.public) {
        (Some(permission), false) => Some(Access::Needs(permission)),
        (None, true) => Some(Access::Public),
        _ => d.hinted(
            node.at,
            "a route needs a `permission`, or `public: true`",
            "permissions are read, write, admin and webhook",
        ),
    }
}

pub(super) fn route() -> Form<Route> {
    nested::<Route>().checked(|d, node, route| {
        if route.access == Access::Public && !route.rate_limits.is_empty() {
            d.fault(node.at, "a public route has no keys, so its `rate_limits` would limit no request");
            return None;
        }
        if let Some(prefix) = &route.forwarding.strip_prefix {
            check_prefix(d, node, prefix, &route.requests.paths);
        }
        check_cors(d, node, &route);
        check_ambiguities(d, node, &route);
        check_model(d, node, &route);
        Some(route)
    })
}

/// Refuses a method in the `cors` of a route that the route does not match: the `cors` would never
/// hold for this method, because such a request belongs to another route or to none.
fn check_cors(d: &mut Decoder<'_>, node: &Node, route: &Route) {
    let (Some(cors), Some(matched)) = (&route.cors, &route.requests.methods) else { return };
    let is_matched = |method: &Method| {
        matched.contains(method) || (*method == Method::HEAD && matched.contains(&Method::GET))
    };
    for method in cors.methods.iter().flatten().filter(|method| !is_matched(method)) {
        let message = format!("the `cors` of this route has `{method}`, which the route does not match");
        d.fault(node.position_of("cors"), message).hint =
            Some("leave `methods` out for those of the route".to_owned());
    }
}

/// Refuses rules for models that could never hold.
fn check_model(d: &mut Decoder<'_>, node: &Node, route: &Route) {
    let (model, paths) = (&route.model, &route.requests.paths);
    let names_model = !matches!(model.place, ModelIn::None | ModelIn::List);
    let mut refuse = |field: &str, message: &str, hint: &str| {
        d.fault(node.position_of(field), message.to_owned()).hint = Some(hint.to_owned());
    };
    if model.models.is_some() && !names_model {
        refuse(
            "models",
            "a route with `models` has to say where a request names its model",
            "`model_in: body`",
        );
    }
    if model.place == ModelIn::Path && paths.iter().any(|path| !path.names_model()) {
        refuse(
            "paths",
            "with `model_in: path`, each path has a segment `{model}`",
            "as in /models/{model}/infer",
        );
    }
    if !matches!(model.place, ModelIn::Path | ModelIn::List) && paths.iter().any(PathPattern::names_model) {
        refuse("paths", "`{model}` in a path needs `model_in: path`", "or `*` for any segment");
    }
    if model.models_free && model.place != ModelIn::None {
        refuse(
            "models_free",
            "`models_free` is for routes whose requests name no model",
            "remove `model_in`",
        );
    }
    let counts_tokens = |quota: &Quota| quota.unit != Unit::Requests;
    if route.rate_limits.iter().any(counts_tokens) && !names_model {
        refuse(
            "rate_limits",
            "requests of this route use no tokens, so a limit of tokens would never hold",
            "`model_in` says where a request names its model, as in `model_in: body`",
        );
    }
    if model.request.is_some() && !matches!(model.place, ModelIn::Body | ModelIn::Path | ModelIn::Query) {
        refuse(
            "request",
            "the output that a request asks for is known only with `model_in`",
            "`model_in: body`",
        );
    }
}

/// Refuses a path pattern with an ambiguous part that the upstream does not accept. Requests with
/// such a part in their path are refused before routes are compared, so the pattern would never
/// match, and would only seem to guard a path.
fn check_ambiguities(d: &mut Decoder<'_>, node: &Node, route: &Route) {
    let Some(upstreams) = &d.context.upstreams else { return };
    let is_named =
        |upstream: &&KnownUpstream| route.upstream.as_ref().is_none_or(|name| *name == upstream.name);
    let Some(upstream) = upstreams.iter().find(is_named) else { return };
    let (accepted, upstream) = (upstream.accept_in_path.clone(), upstream.name.clone());
    for (path, (name, part)) in
        route.requests.paths.iter().flat_map(|path| Ambiguity::ALL.map(|known| (path, known)))
    {
        let text = part.text();
        if path.as_str().contains(text) && !accepted.contains(&part) {
            let message = format!("`{path}` never matches: a path with `{text}` is refused for its upstream");
            d.fault(node.at, message).hint =
                Some(format!("`accept_in_path: [{name}]` at the upstream {upstream}"));
        }
    }
}

/// Decodes the name of a protocol, without its version. HTTP and TLS are refused, because requests
/// inside an upgraded connection would pass unchecked.
fn upgrade(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?.to_ascii_lowercase();
    if name.starts_with("h2") || name.starts_with("http") || name.starts_with("tls") {
        d.fault(node.at, format!("`{name}` is never forwarded: requests in it would pass without a key"));
        return None;
    }
    if !is_ordinary(&name) {
        return d.hinted(node.at, format!("`{name}` is not the name of a protocol"), "as in websocket");
    }
    Some(name)
}

fn removed_header(d: &mut Decoder<'_>, node: &Node) -> Option<HeaderName> {
    use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
    let name = header_name(d, node)?;
    if matches!(name, HOST | CONTENT_LENGTH | TRANSFER_ENCODING) || name.as_str().starts_with("x-bearward-") {
        d.fault(node.at, format!("`{name}` can't be removed: bearward writes it for each request"));
        return None;
    }
    Some(name)
}

/// Returns the `Form` of a list of path patterns. A text with braces, as in `/{a,b}`, stands for
/// several patterns.
fn path_patterns() -> Form<Vec<PathPattern>> {
    let patterns = text(|d: &mut Decoder<'_>, node: &Node| {
        let text = d.word(node)?;
        accepted(d, node.at, PathPattern::parse(&text))
    });
    non_empty(patterns).then(|_, _, patterns| Some(patterns.into_iter().flatten().collect()))
}

fn known_upstream(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?;
    let Some(upstreams) = &d.context.upstreams else { return Some(name) };
    if !upstreams.iter().any(|upstream| upstream.name == name) {
        let known: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
        let hint = format!("known are: {}", known.join(", "));
        return d.hinted(node.at, format!("no upstream is named `{name}`"), hint);
    }
    Some(name)
}

fn prefix(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let prefix = d.word(node)?;
    if !prefix.starts_with('/') || prefix.ends_with('/') {
        return d.hinted(node.at, "a prefix begins with `/` and does not end with one", "as in /models");
    }
    accepted(d, node.at, PathPattern::parse_plain(&prefix))?;
    Some(prefix)
}

/// Refuses a `strip_prefix` with which no path of the route begins, because such a prefix would
/// never be removed.
fn check_prefix(d: &mut Decoder<'_>, node: &Node, prefix: &str, paths: &[PathPattern]) {
    let whole = [prefix.to_owned(), format!("{prefix}/**")];
    let whole: Vec<PathPattern> =
        whole.iter().filter_map(|text| PathPattern::parse(text).ok()).flatten().collect();
    debug_assert!(!whole.is_empty(), "a plain path is a pattern");
    if !paths.iter().any(|path| whole.iter().any(|prefix| prefix.meets(path))) {
        let message = format!("no path of this route begins with `{prefix}`, so it is never removed");
        d.fault(node.position_of("strip_prefix"), message).hint =
            Some(format!("`{prefix}/**` among its paths"));
    }
}
