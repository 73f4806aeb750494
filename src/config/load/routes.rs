//! The routes of a configuration.

use http::Method;

use super::upstreams::route_timeouts;
use super::{non_empty, quotas};
use crate::config::decode::Decoder;
use crate::config::tree::{Kind, Node};
use crate::config::{Access, Preset, Route, Routes};
use crate::path_pattern::PathPattern;
use crate::permission::Permission;

/// A preset's name, or a list of routes.
pub(super) fn routes(d: &mut Decoder<'_>, node: &Node, upstreams: Option<&[String]>) -> Option<Routes> {
    if let Kind::Scalar { .. } = node.kind {
        return d.one_of(node, &Preset::ALL).map(Routes::Preset);
    }
    let mut names: Vec<String> = Vec::new();
    let routes = non_empty(d, node, |d, node| {
        let route = route(d, node, upstreams)?;
        if route.name.contains(':') {
            d.fault(node.at, "the name of a route has no `:`").hint =
                Some("keys are narrowed to `bearward:admin` and `bearward:metrics` by such names".to_owned());
        }
        if names.contains(&route.name) {
            d.fault(node.at, format!("the route `{}` stands twice", route.name)).hint =
                Some("a name of its own, since keys are narrowed by it".to_owned());
        }
        names.push(route.name.clone());
        Some(route)
    })?;
    Some(Routes::Custom(routes))
}

fn route(d: &mut Decoder<'_>, node: &Node, upstreams: Option<&[String]>) -> Option<Route> {
    let mut fields = d.fields(node, "a route")?;
    let f = &mut fields;
    let name = d.required(f, "name", Decoder::word);
    let paths = d.required(f, "paths", |d, node| non_empty(d, node, path_glob));
    let methods = d.optional(f, "methods", |d, node| Some(non_empty(d, node, method)));
    let hosts = d.optional(f, "hosts", |d, node| Some(non_empty(d, node, host)));
    let permission = d.optional(f, "permission", |d, node| Some(d.one_of(node, &Permission::ALL)));
    let public = d.optional(f, "public", Decoder::boolean);
    let upstream = d.optional(f, "upstream", |d, node| known_upstream(d, node, upstreams));
    let rate_limits = d.optional(f, "rate_limits", quotas);
    let strip_prefix = d.optional(f, "strip_prefix", prefix);
    let max_body = d.optional(f, "max_body", Decoder::size);
    let timeouts = d.optional(f, "timeouts", route_timeouts);
    let upgrades = d.optional(f, "upgrades", |d, node| d.list(node, upgrade));
    d.done(fields);
    let access = match (permission, public) {
        // Told already.
        (Some(None), _) => return None,
        (Some(Some(permission)), None | Some(false)) => Access::Needs(permission),
        (None, Some(true)) => Access::Public,
        _ => {
            d.fault(node.at, "a route needs a `permission`, or `public: true`").hint =
                Some("permissions are read, write, admin and webhook".to_owned());
            return None;
        }
    };
    if access == Access::Public && rate_limits.as_ref().is_some_and(|limits| !limits.is_empty()) {
        d.fault(node.at, "a public route has no keys, so its `rate_limits` would limit nobody");
        return None;
    }
    // A faulty list must not turn into "all": `?` on the inner option.
    let methods = methods.map_or(Some(None), |methods| methods.map(Some))?;
    let hosts = hosts.map_or(Some(None), |hosts| hosts.map(Some))?;
    Some(Route {
        name: name?,
        paths: paths?,
        methods,
        hosts,
        access,
        upstream,
        rate_limits: rate_limits.unwrap_or_default(),
        strip_prefix,
        max_body,
        timeouts: timeouts.unwrap_or_default(),
        upgrades: upgrades.unwrap_or_default(),
    })
}

/// A protocol's name, without its version. HTTP itself is none: what is spoken after it would pass unseen.
fn upgrade(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?.to_ascii_lowercase();
    if name.starts_with("h2") || name.starts_with("http") || name.starts_with("tls") {
        d.fault(node.at, format!("`{name}` is never forwarded: requests in it would pass without a key"));
        return None;
    }
    if http::HeaderName::try_from(name.as_str()).is_err() {
        d.fault(node.at, format!("`{name}` is not a protocol's name")).hint =
            Some("as in websocket".to_owned());
        return None;
    }
    Some(name)
}

fn path_glob(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let glob = d.word(node)?;
    if !glob.starts_with('/') {
        d.fault(node.at, format!("`{glob}`: a path begins with `/`")).hint =
            Some(format!("/{glob} is meant?"));
        return None;
    }
    if let Err(error) = PathPattern::new(&glob) {
        d.fault(node.at, format!("`{glob}` is not a path pattern: {error}"));
        return None;
    }
    Some(glob)
}

fn method(d: &mut Decoder<'_>, node: &Node) -> Option<Method> {
    let method: Method = d.parsed(node, "a method", "as in GET or POST")?;
    if method.as_str() != method.as_str().to_ascii_uppercase() {
        d.fault(node.at, "methods are case-sensitive").hint =
            Some(format!("{} is meant?", method.as_str().to_ascii_uppercase()));
        return None;
    }
    Some(method)
}

/// A host's name, or `*.` and a domain.
pub(super) fn host(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let host = d.word(node)?.to_ascii_lowercase();
    let name = host.strip_prefix("*.").unwrap_or(&host);
    if name.is_empty() || name.contains(['*', '/', '@']) || (name.contains(':') && !name.starts_with('[')) {
        d.fault(node.at, format!("`{host}` is not a host")).hint =
            Some("without a port, as in api.example.com or *.example.com".to_owned());
        return None;
    }
    Some(host)
}

fn known_upstream(d: &mut Decoder<'_>, node: &Node, upstreams: Option<&[String]>) -> Option<String> {
    let name = d.word(node)?;
    let Some(known) = upstreams else { return Some(name) };
    if !known.contains(&name) {
        d.fault(node.at, format!("no upstream is named `{name}`")).hint =
            Some(format!("known are: {}", known.join(", ")));
        return None;
    }
    Some(name)
}

fn prefix(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let prefix = d.word(node)?;
    if !prefix.starts_with('/') || prefix.ends_with('/') {
        d.fault(node.at, "a prefix begins with `/` and does not end with one").hint =
            Some("as in /models".to_owned());
        return None;
    }
    Some(prefix)
}
