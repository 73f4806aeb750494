//! Warnings that `bearward check` reports, and that a server reports when it starts. They are about
//! settings that are allowed but most likely a mistake, and about problems to come, such as a
//! certificate that ends soon.

use std::path::Path;
use std::sync::Arc;

use http::Method;
use ipnet::IpNet;
use jiff::{SignedDuration, Timestamp};

use super::descriptors::carried_by_descriptors;
use super::door_warnings;
use super::weakness::weakness;
use crate::config::{Access, AgeAction, Config, Cors, Listener, Quota, Route, Unit};
use crate::key_cache::KeySet;
use crate::key_store::Store;
use crate::net::tls::ListenerTls;
use crate::plural::plural;
use crate::regular_file;
use crate::route::Shadow;
use crate::shell_word::{shell_word, shown};
use crate::snapshot::Snapshot;

/// The maximum number of warnings about keys that are reported one by one, and likewise of warnings
/// about routes. Of further warnings about keys, only the number is reported.
const MAX_NAMED: usize = 20;
/// The maximum number of keys that one warning names.
const MAX_LISTED: usize = 3;
/// A certificate whose remaining validity is shorter than this gets a warning.
const CERTIFICATE_NOTICE: SignedDuration = SignedDuration::from_hours(21 * 24);

pub(super) fn of(
    config: &Config,
    set: &KeySet,
    snapshot: &Snapshot,
    tls: &[Option<Arc<ListenerTls>>],
) -> Vec<String> {
    let mut warnings: Vec<String> = of_plain_keys(config).into_iter().collect();
    warnings.extend(of_state(config));
    warnings.extend(of_trusted_proxies(config));
    warnings.extend(of_clear_keys(config, is_in_container()));
    warnings.extend(of_admin_token(config));
    warnings.extend(of_certificates(tls));
    warnings.extend(of_upstreams(config, snapshot));
    let mut shadows = snapshot.routes.shadows();
    warnings.extend(shadows.by_ref().take(MAX_NAMED).map(|shadow| of_route(&shadow)));
    if shadows.next().is_some() {
        warnings.push("more routes shadow each other".to_owned());
    }
    warnings.extend(of_paths(snapshot).take(MAX_NAMED));
    warnings.extend(of_cors(config));
    warnings.extend(of_models(config));
    warnings.extend(of_tokens(config, set, snapshot));
    warnings.extend(of_caps(set, snapshot));
    warnings.extend(door_warnings::of(config, set));
    warnings.extend(of_descriptors(config));
    warnings.extend(of_keys(config, set, snapshot));
    warnings
}

/// Returns a warning if the state directory can't be made here.
fn of_state(config: &Config) -> Option<String> {
    let path = &config.state.as_ref()?.path;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty())?;
    (!parent.is_dir()).then(|| {
        let parent = parent.display();
        format!("state.path: {parent} does not exist here, and bearward does not start without it")
    })
}

/// Returns a warning if the key store holds keys as they are.
fn of_plain_keys(config: &Config) -> Option<String> {
    let is_plain = matches!(Store::at(&config.keys.path), Ok(Store::Text(_)));
    let path = config.keys.path.path();
    is_plain.then(|| {
        let (file, word) = (shown(path), shell_word(path));
        format!("{file} holds keys as they are; `bearward keys import {word} --keys keys.yaml` makes hashes of them")
    })
}

/// Returns warnings about trusted networks that include all addresses. Any client could then choose
/// the address that it seems to come from.
fn of_trusted_proxies(config: &Config) -> impl Iterator<Item = String> {
    // Also two halves of all addresses.
    let networks = IpNet::aggregate(&config.trusted_proxies.networks).into_iter();
    networks.filter(|network| network.prefix_len() == 0).map(|network| {
        format!("trusted_proxies has {network}: any client can choose the address that it seems to come from")
    })
}

/// Returns a warning for each listener of clients that lets keys travel in clear. A configuration that names
/// `trusted_proxies` or `proxy_protocol` has a proxy in front, which ends TLS. A container's wildcard address is
/// reached by what the container publishes.
fn of_clear_keys(config: &Config, is_in_container: bool) -> Vec<String> {
    let needs_keys = config.routes.iter().any(|route| route.access != Access::Public);
    let is_behind_proxy = !config.trusted_proxies.networks.is_empty();
    let is_in_clear = |listener: &&Listener| {
        let is_published = is_in_container && listener.address.is_of_all();
        let is_guarded = listener.tls.is_some() || listener.redirect_to_https || listener.door.is_some();
        let is_behind_balancer = listener.proxy_protocol.is_some();
        !is_guarded && !is_behind_balancer && !is_published && !listener.address.is_local()
    };
    let listeners = config.listeners.iter().filter(|_| needs_keys && !is_behind_proxy);
    let warnings = listeners.filter(is_in_clear).map(|listener| {
        format!(
            "the listener {} has no `tls`: keys travel in clear over the network; set `tls`, or name the proxy that ends TLS in \
             trusted_proxies",
            listener.address
        )
    });
    warnings.collect()
}

/// Whether this process runs in a container, as Docker, Podman and Kubernetes mark it.
fn is_in_container() -> bool {
    let is_marked = ["/.dockerenv", "/run/.containerenv"].iter().any(|mark| Path::new(mark).exists());
    is_marked || std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// Returns a warning if the admin token is easy to guess. This token can change keys, and failed
/// guesses are counted for a short time only.
fn of_admin_token(config: &Config) -> Option<String> {
    let path = config.admin.as_ref()?.token_file.as_ref()?;
    let token = regular_file::read_text(path).ok()?;
    let why = weakness(token.trim())?;
    Some(format!("the admin token in {} {why}; `openssl rand -hex 32` makes one", path.display()))
}

fn of_certificates(tls: &[Option<Arc<ListenerTls>>]) -> Vec<String> {
    let now = Timestamp::now();
    // bearward renews a certificate of its own before it needs a warning.
    let of_files = tls.iter().flatten().filter(|tls| tls.acme.is_none());
    let served = of_files.flat_map(|tls| &tls.certificates);
    let ends = served.filter_map(|served| Some((served.file.display(), served.not_after?)));
    let warnings = ends.filter_map(|(file, end)| {
        let left = end.duration_since(now);
        match () {
            () if left <= SignedDuration::ZERO => {
                Some(format!("{file} has ended, at {end}: clients refuse it"))
            }
            () if left < CERTIFICATE_NOTICE => {
                let days = plural(usize::try_from(left.as_hours() / 24).unwrap_or_default(), "day", "days");
                Some(format!("{file} ends in {days}, at {end}"))
            }
            () => None,
        }
    });
    warnings.collect()
}

/// Returns warnings about the `ca` files by which the certificates of upstreams are verified.
fn of_upstreams(config: &Config, snapshot: &Snapshot) -> Vec<String> {
    let compiled = config.upstreams.iter().zip(&snapshot.upstreams);
    let of_each = compiled.filter_map(|(config, upstream)| {
        let file = config.tls.ca.as_ref()?.display();
        let doubts = upstream.certificate_problems().into_iter();
        Some(doubts.map(move |doubt| format!("{file}, `ca` of the upstream {}, {doubt}", config.name)))
    });
    of_each.flatten().collect()
}

fn of_route(shadow: &Shadow<'_>) -> String {
    match shadow {
        Shadow::Whole { route, by } => {
            format!("the route {route} never matches: {by}, an earlier route, takes all of its requests")
        }
        Shadow::PublicPart { route, by } => format!(
            "the public route {by} comes before {route} and takes some of its requests, which then need no key"
        ),
        Shadow::Lookalike { route, by, upstream, how } => format!(
            "the paths of the route {route}, written {how}, are of the route {by}, which asks less or lets more through; where {upstream} takes \
             them for the same, `paths: {{ignore_case: true, ignore_trailing_slash: true}}` there has them decided alike \
             (false where it does not, and this warning ends)"
        ),
        Shadow::SecondDoor { route, by, upstream } => format!(
            "the route {by}, which asks less than {route}, leads to the same paths of {upstream}: one of them takes a prefix off"
        ),
    }
}

/// Returns warnings about paths that are written as regular expressions or templates. Taken as they are, they match
/// next to nothing, so that a later route takes the requests that were meant.
fn of_paths(snapshot: &Snapshot) -> impl Iterator<Item = String> {
    const SIGNS: [&str; 6] = ["(", ".*", ".+", "]+", "]*", "\\"];
    let is_variable = |segment: &str| segment.starts_with(':') && segment.len() > 1;
    let is_other =
        move |path: &str| SIGNS.iter().any(|sign| path.contains(sign)) || path.split('/').any(is_variable);
    snapshot.routes.routes().flat_map(move |route| {
        let paths = route.written_paths().filter(move |path| is_other(path));
        paths.map(|path| {
            format!(
                "the path {path} of the route {} looks like a regular expression or a template, and is none: `*` stands for \
                 characters of one segment, `**` for segments",
                route.name
            )
        })
    })
}

/// Returns warnings about each `cors` whose `headers` let no page send a key, although its routes
/// need one.
fn of_cors(config: &Config) -> Vec<String> {
    let keyed = || config.routes.iter().filter(|route| route.access != Access::Public);
    let top = config.cors.iter().filter(|_| keyed().any(|route| route.cors.is_none()));
    let top = top.map(|cors| ("at the top".to_owned(), cors));
    let of_routes =
        keyed().filter_map(|route| Some((format!("of the route {}", route.name), route.cors.as_ref()?)));
    let lets_no_key_pass = |cors: &Cors| {
        let is_of_key = |name| config.auth.headers.contains(name);
        cors.headers.as_ref().is_some_and(|names| !names.iter().any(is_of_key))
    };
    let useless = top.chain(of_routes).filter(|(_, cors)| lets_no_key_pass(cors));
    useless
        .map(|(place, _)| {
            format!("the `cors` {place} lets no page send a key: its `headers` have none of auth.headers")
        })
        .collect()
}

/// Returns warnings about rules for models by which all requests of a kind are refused.
fn of_models(config: &Config) -> Vec<String> {
    let memory = config.limits.model_memory;
    let of_route = |route: &Route| {
        Some((format!("model_prelude of the route {}", route.name), route.model.model_prelude?))
    };
    let preludes = config.routes.iter().filter_map(of_route);
    let preludes = preludes.chain([("limits.model_prelude".to_owned(), config.limits.model_prelude)]);
    let mut warnings: Vec<String> = preludes
        .filter(|(_, prelude)| *prelude > memory)
        .map(|(name, prelude)| {
            let (prelude, memory) = (bytesize::ByteSize(prelude), bytesize::ByteSize(memory));
            format!(
                "{name} is {prelude}, more than limits.model_memory ({memory}): no body of that size passes"
            )
        })
        .collect();
    for (index, route) in config.routes.iter().enumerate().filter(|(_, route)| route.model.models.is_some()) {
        let shares_path = |other: &&Route| {
            let paths = &route.requests.paths;
            other.requests.paths.iter().any(|path| paths.iter().any(|own| own.as_str() == path.as_str()))
        };
        let is_other = |other: &&Route| shares_path(other) && other.model.place != route.model.place;
        if let Some(other) = config.routes.iter().skip(index + 1).find(is_other) {
            warnings.push(format!(
                "the routes {} and {} have paths in common and different `model_in`: such requests are refused with 400",
                route.name, other.name
            ));
        }
    }
    warnings
}

/// Returns a warning if limits count tokens, and no route says which requests use tokens.
fn of_tokens(config: &Config, set: &KeySet, snapshot: &Snapshot) -> Option<String> {
    let counts_tokens = |quotas: &[Quota]| quotas.iter().any(|quota| quota.unit != Unit::Requests);
    let of_keys = || set.entries.iter().any(|(_, live)| live.key.rate_limits().is_some_and(counts_tokens));
    if snapshot.routes.routes().any(|route| route.uses_tokens(&Method::POST)) {
        return None;
    }
    let of_groups = || config.groups.iter().any(|group| counts_tokens(&group.rate_limits));
    (counts_tokens(&config.rate_limits) || of_groups() || of_keys()).then(|| {
        "limits count tokens, and no route has `model_in`, which says that its requests use tokens".to_owned()
    })
}

/// Returns a warning if keys have a cap on output, and a route does not say how its requests ask for
/// output.
fn of_caps(set: &KeySet, snapshot: &Snapshot) -> Option<String> {
    let is_capped = set.entries.iter().any(|(_, live)| live.key.output_cap().is_some())
        || snapshot.groups.all().any(|group| group.output_cap.is_some());
    let hidden = || snapshot.routes.routes().find(|route| route.hides_output("POST"));
    let route = is_capped.then(hidden).flatten()?;
    Some(format!(
        "keys have max_output_tokens, and the route {} has no `model_in`: it answers their POSTs with 400",
        route.name
    ))
}

fn of_descriptors(config: &Config) -> Option<String> {
    let limits = &config.limits;
    let carried = carried_by_descriptors();
    let wanted = [("limits.connections", limits.connections), ("limits.in_flight", limits.in_flight)];
    let (name, wanted) = wanted.into_iter().max_by_key(|(_, wanted)| *wanted)?;
    // There is no warning if the file descriptors allow at least 90 % of the configured
    // connections, because the default of the setting is a round number.
    (carried < wanted / 10 * 9).then(|| {
        format!(
            "{name} is {wanted}, and the descriptors carry {carried}, which is as many as are taken; raise `nofile` to {}",
            wanted * 2 + 128
        )
    })
}

fn of_keys(config: &Config, set: &KeySet, snapshot: &Snapshot) -> Vec<String> {
    let (now, max_age) = (Timestamp::now(), config.keys.max_age);
    let is_refused = max_age.is_some_and(|max_age| max_age.action == AgeAction::Refuse);
    let refused = if is_refused { ", and it is refused" } else { "" };
    let (mut warnings, mut more, mut endless) = (Vec::new(), 0, Vec::new());
    let mut warn = |warning: String| match warnings.len() < MAX_NAMED {
        // The set has one entry for each secret of a key, so a key with several secrets would get
        // the same warning several times.
        true if warnings.last() == Some(&warning) => {}
        true => warnings.push(warning),
        false => more += 1,
    };
    for (_, live) in &set.entries {
        let (key, id) = (&live.key, live.key.id());
        for narrowed_to in key.routes().into_iter().flatten() {
            if !snapshot.routes.names().any(|known| known == narrowed_to) {
                warn(format!("{id} is narrowed to the route {narrowed_to}, which does not exist"));
            }
        }
        match max_age.map(|max_age| key.end_of_age(max_age.age)) {
            Some(Some(_)) if key.is_made_later(now) => {
                warn(format!("the created_at of {id} lies ahead, so its age is not known{refused}"));
            }
            Some(Some(end)) if now >= end => warn(format!("{id} is past keys.max_age since {end}{refused}")),
            Some(None) => warn(format!("{id} has no created_at, so its age is not known{refused}")),
            _ => {}
        }
        if key.expires_at().is_none() && !key.disabled && endless.last() != Some(&id) {
            endless.push(id);
        }
    }
    if more > 0 {
        warnings.push(format!("{} of this kind", plural(more, "more warning", "more warnings")));
    }
    // `keys.max_age` ends a key even if the key has no `expires_at`.
    if !endless.is_empty() && max_age.is_none() {
        let listed = endless.get(..MAX_LISTED).unwrap_or(&endless).join(", ");
        let others = if endless.len() > MAX_LISTED { ", …" } else { "" };
        let number = endless.len();
        let verb = if number == 1 { "key never ends" } else { "keys never end" };
        warnings.push(format!(
            "{number} {verb} ({listed}{others}); `expires_at`, or keys.max_age, bounds what a lost one does"
        ));
    }
    warnings
}
