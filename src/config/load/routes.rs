//! The routes of a configuration.

use http::{HeaderName, Method};

use super::keys::{header_name, is_ordinary};
use super::upstreams::route_timeouts;
use super::{non_empty, quotas};
use crate::config::decode::Decoder;
use crate::config::tree::{Kind, Node};
use crate::config::{Access, Ambiguity, LONGEST_METHOD, Position, Preset, Route, Upstream, presets};
use crate::host_pattern::HostPattern;
use crate::path_pattern::PathPattern;
use crate::path_pattern::reading::PathReading;
use crate::pattern_fault::PatternFault;
use crate::permission::Permission;

/// Methods that clients use (RFC 9110 and the registry that it refers to). Others are taken, unless they look like one of
/// these.
const METHODS: [&str; 20] = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "CONNECT",
    "TRACE",
    "PROPFIND",
    "PROPPATCH",
    "MKCOL",
    "COPY",
    "MOVE",
    "LOCK",
    "UNLOCK",
    "REPORT",
    "SEARCH",
    "MERGE",
    "QUERY",
];

/// A preset's name, or a list of routes and presets.
pub(super) fn routes(d: &mut Decoder<'_>, node: &Node, upstreams: Option<&[Upstream]>) -> Option<Vec<Route>> {
    if let Kind::Scalar { .. } = node.kind {
        return d.one_of(node, &Preset::ALL).map(presets::routes);
    }
    let mut names: Vec<(String, Option<&'static str>)> = Vec::new();
    let routes = non_empty(d, node, |d, node| {
        let (routes, preset) = item(d, node, upstreams)?;
        for route in &routes {
            check_name(d, node, route, preset, &names);
        }
        names.extend(routes.iter().map(|route| (route.name.clone(), preset)));
        Some(routes)
    })?;
    Some(routes.into_iter().flatten().collect())
}

/// The routes that an item of the list stands for, and the preset that they are of.
fn item(
    d: &mut Decoder<'_>,
    node: &Node,
    upstreams: Option<&[Upstream]>,
) -> Option<(Vec<Route>, Option<&'static str>)> {
    let is_preset =
        matches!(&node.kind, Kind::Map(entries) if entries.iter().any(|(key, _)| key.name == "preset"));
    if !is_preset {
        return Some((vec![route(d, node, upstreams)?], None));
    }
    let mut fields = d.fields(node, "a preset among routes")?;
    let preset = d.required(&mut fields, "preset", |d, node| d.one_of(node, &Preset::ALL));
    d.done(fields);
    let preset = preset?;
    let name = Preset::ALL.iter().find(|(_, known)| *known == preset).map(|(name, _)| *name);
    Some((presets::routes(preset), name))
}

/// Keys are narrowed to routes by their names, so each stands for one route. Presets agree on what a name means.
fn check_name(
    d: &mut Decoder<'_>,
    node: &Node,
    route: &Route,
    preset: Option<&str>,
    names: &[(String, Option<&'static str>)],
) {
    let name = &route.name;
    if name.contains(':') {
        d.fault(node.at, "the name of a route has no `:`").hint =
            Some("keys are narrowed to `bearward:admin` and `bearward:metrics` by such names".to_owned());
    }
    let Some((_, other)) = names.iter().find(|(known, _)| known == name) else { return };
    let message = match (preset, *other) {
        (Some(_), Some(_)) => return,
        (Some(preset), None) | (None, Some(preset)) => {
            format!("the preset {preset} has a route `{name}`, and so has this list")
        }
        (None, None) => format!("the route `{name}` stands twice"),
    };
    d.fault(node.at, message).hint = Some("a name of its own, since keys are narrowed by it".to_owned());
}

fn route(d: &mut Decoder<'_>, node: &Node, upstreams: Option<&[Upstream]>) -> Option<Route> {
    let mut fields = d.fields(node, "a route")?;
    let f = &mut fields;
    let name = d.required(f, "name", Decoder::word);
    let paths = d.required(f, "paths", |d, node| non_empty(d, node, path_patterns));
    let methods = d.optional(f, "methods", |d, node| Some(non_empty(d, node, method)));
    let hosts = d.optional(f, "hosts", |d, node| Some(non_empty(d, node, host)));
    let permission = d.optional(f, "permission", |d, node| Some(d.one_of(node, &Permission::ALL)));
    let public = d.optional(f, "public", Decoder::boolean);
    let upstream = d.optional(f, "upstream", |d, node| known_upstream(d, node, upstreams));
    let rate_limits = d.narrowing(f, "rate_limits", quotas);
    let strip_prefix = d.optional(f, "strip_prefix", |d, node| Some((node.at, prefix(d, node)?)));
    let max_body = d.optional(f, "max_body", Decoder::size);
    let timeouts = d.optional(f, "timeouts", route_timeouts);
    let upgrades = d.optional(f, "upgrades", |d, node| d.list(node, upgrade));
    let body_on_get = d.optional(f, "body_on_get", Decoder::boolean);
    let removes = d.narrowing(f, "removes", |d, node| d.list(node, removed_header));
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
    let paths: Vec<PathPattern> = paths?.into_iter().flatten().collect();
    if let Some((at, prefix)) = &strip_prefix {
        check_prefix(d, *at, prefix, &paths);
    }
    if let Some(upstreams) = upstreams {
        check_ambiguities(d, node, &paths, served_by(upstreams, upstream.as_deref()));
    }
    Some(Route {
        name: name?,
        paths,
        methods,
        hosts,
        access,
        upstream,
        rate_limits: rate_limits.unwrap_or_default(),
        strip_prefix: strip_prefix.map(|(_, prefix)| prefix),
        max_body,
        timeouts: timeouts.unwrap_or_default(),
        upgrades: upgrades.unwrap_or_default(),
        body_on_get: body_on_get.unwrap_or(false),
        removes: removes.unwrap_or_default(),
        accept_in_path: Vec::new(),
        reading: PathReading::EXACT,
    })
}

/// The upstream of a route: the first one where it names none.
fn served_by<'u>(upstreams: &'u [Upstream], name: Option<&str>) -> Option<&'u Upstream> {
    match name {
        Some(name) => upstreams.iter().find(|upstream| upstream.name == name),
        None => upstreams.first(),
    }
}

/// A pattern with what is refused in every path for its upstream would be believed to guard something.
fn check_ambiguities(d: &mut Decoder<'_>, node: &Node, paths: &[PathPattern], upstream: Option<&Upstream>) {
    let Some(upstream) = upstream else { return };
    for (path, (name, ambiguity)) in paths.iter().flat_map(|path| Ambiguity::ALL.map(|known| (path, known))) {
        let is_meant = path.as_str().contains(ambiguity.text());
        if is_meant && !upstream.accept_in_path.contains(&ambiguity) {
            let what = ambiguity.text();
            let message = format!("`{path}` never matches: a path with `{what}` is refused for its upstream");
            d.fault(node.at, message).hint =
                Some(format!("`accept_in_path: [{name}]` at the upstream {}", upstream.name));
        }
    }
}

/// A protocol's name, without its version. HTTP itself is none: what is spoken after it would pass unseen.
fn upgrade(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?.to_ascii_lowercase();
    if name.starts_with("h2") || name.starts_with("http") || name.starts_with("tls") {
        d.fault(node.at, format!("`{name}` is never forwarded: requests in it would pass without a key"));
        return None;
    }
    if !is_ordinary(&name) {
        d.fault(node.at, format!("`{name}` is not a protocol's name")).hint =
            Some("as in websocket".to_owned());
        return None;
    }
    Some(name)
}

fn removed_header(d: &mut Decoder<'_>, node: &Node) -> Option<HeaderName> {
    use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
    let name = header_name(d, node)?;
    if matches!(name, HOST | CONTENT_LENGTH | TRANSFER_ENCODING) || name.as_str().starts_with("x-bearward-") {
        d.fault(node.at, format!("`{name}` is written by bearward for each request, so it can't be removed"));
        return None;
    }
    Some(name)
}

fn path_patterns(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<PathPattern>> {
    let text = d.word(node)?;
    accepted(d, node.at, PathPattern::parse(&text))
}

/// Words by which other programs mean every method. Here it would be a method that no request has.
const EVERY_METHOD: [&str; 4] = ["ALL", "ANY", "EVERY", "*"];

/// Says what is right in the place of what other programs write for several methods, or all.
fn meant_methods(text: &str) -> Option<&'static str> {
    let text = text.trim();
    if EVERY_METHOD.iter().any(|every| text.eq_ignore_ascii_case(every)) {
        return Some("leave `methods` out, and the route takes all of them");
    }
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let is_several = text.contains(is_of_name) && !text.chars().all(is_of_name);
    is_several.then_some("a list of names, as in [GET, POST]")
}

fn method(d: &mut Decoder<'_>, node: &Node) -> Option<Method> {
    let text = d.text(node)?;
    if let Some(hint) = meant_methods(&text) {
        d.fault(node.at, format!("`{text}` never matches: it is no method that requests have")).hint =
            Some(hint.to_owned());
        return None;
    }
    let method: Method = d.parsed(node, "a method", "as in GET or POST")?;
    let (name, capitals) = (method.as_str(), method.as_str().to_ascii_uppercase());
    if name != capitals {
        d.fault(node.at, "methods are case-sensitive").hint = Some(format!("{capitals} is meant?"));
        return None;
    }
    if matches!(method, Method::CONNECT | Method::TRACE) || name.len() > LONGEST_METHOD {
        d.fault(
            node.at,
            format!("`{name}` never matches: a request with it is refused before its route is looked for"),
        );
        return None;
    }
    // One letter more, less or another one.
    let is_typo_of = |known: &&&str| strsim::damerau_levenshtein(name, known) == 1;
    if let Some(known) = METHODS.iter().find(is_typo_of).filter(|_| !METHODS.contains(&name)) {
        d.fault(node.at, format!("`{name}` is no method that clients use")).hint =
            Some(format!("did you mean `{known}`?"));
        return None;
    }
    Some(method)
}

/// A host's name, or `*.` and a domain.
pub(super) fn host(d: &mut Decoder<'_>, node: &Node) -> Option<HostPattern> {
    let text = d.word(node)?;
    accepted(d, node.at, HostPattern::parse(&text))
}

/// What was parsed, or its fault in this place.
fn accepted<T>(d: &mut Decoder<'_>, at: Position, parsed: Result<T, PatternFault>) -> Option<T> {
    parsed.map_err(|fault| d.fault(at, fault.message).hint = fault.hint).ok()
}

/// A host's name alone.
pub(super) fn exact_host(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    match host(d, node)? {
        HostPattern::Exact(name) => Some(name),
        pattern @ HostPattern::Under(_) => {
            d.fault(node.at, format!("`{pattern}`: each name is listed by itself here"));
            None
        }
    }
}

fn known_upstream(d: &mut Decoder<'_>, node: &Node, upstreams: Option<&[Upstream]>) -> Option<String> {
    let name = d.word(node)?;
    let Some(upstreams) = upstreams else { return Some(name) };
    if !upstreams.iter().any(|upstream| upstream.name == name) {
        let known: Vec<&str> = upstreams.iter().map(|upstream| upstream.name.as_str()).collect();
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
    accepted(d, node.at, PathPattern::parse_plain(&prefix))?;
    Some(prefix)
}

/// A prefix that no path of the route has would never be taken off.
fn check_prefix(d: &mut Decoder<'_>, at: Position, prefix: &str, paths: &[PathPattern]) {
    let whole = [prefix.to_owned(), format!("{prefix}/**")];
    let whole: Vec<PathPattern> =
        whole.iter().filter_map(|text| PathPattern::parse(text).ok()).flatten().collect();
    if !paths.iter().any(|path| whole.iter().any(|prefix| prefix.meets(path))) {
        d.fault(at, format!("no path of this route begins with `{prefix}`, so it is never taken off")).hint =
            Some(format!("`{prefix}/**` among its paths"));
    }
}
