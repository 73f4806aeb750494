//! Warnings about what can't be held where another proxy forwards the requests.

use crate::config::{Asker, BudgetQuota, Config, Door, Identity, ModelIn, Quota, Route, Unenforceable, Unit};
use crate::key_cache::KeySet;
use crate::keys::ApiKey;
use crate::plural::plural;

/// Those for whom a default limit holds.
const WITHOUT_OWN: &str = "all keys without one of their own";
/// The maximum number of keys that one warning names.
const MAX_LISTED: usize = 3;

/// Returns the warnings about all listeners at which another proxy asks.
pub(super) fn of(config: &Config, set: &KeySet) -> Vec<String> {
    let doors = config.listeners.iter().filter_map(|listener| Some((listener, listener.door?)));
    doors.flat_map(|(listener, door)| of_door(&listener.address.to_string(), door, config, set)).collect()
}

fn of_door(address: &str, door: Door, config: &Config, set: &KeySet) -> Vec<String> {
    let place = format!("{address}, where {} asks,", asker(door.asker));
    let outcome = match door.unenforceable {
        Unenforceable::Refuse => "such requests are refused there (UNENFORCEABLE_LIMIT)",
        Unenforceable::Ignore => "it does not hold for them there",
    };
    let unless_sent = match door.asker.may_send_body() {
        true => ", unless Envoy sends the whole body along",
        false => "",
    };
    let mut warnings = Vec::new();
    for limit in limits(config, set) {
        let Limit { name, of, is_in_body } = limit;
        let unless = if is_in_body { unless_sent } else { "" };
        warnings.push(format!("{place} can't hold {name} (of {}){unless}: {outcome}", of.join(", ")));
    }
    let restricted = of_groups(config, |group| group.models.is_some())
        .chain(of_keys(set, |key| key.models().is_some()))
        .collect::<Vec<_>>();
    // A body may name another model than the path or the query.
    let names_model = |route: &Route| route.model.place != ModelIn::None && !route.model.models_free;
    if !restricted.is_empty() && config.routes.iter().any(names_model) {
        let of = restricted.join(", ");
        warnings.push(format!(
            "{place} sees neither a body nor an answer with a list: requests of keys with `models` ({of}) whose model is \
             there are refused (UNENFORCEABLE_LIMIT){unless_sent}"
        ));
    }
    if let Some(route) = config.routes.iter().find(|route| route.model.models.is_some()) {
        let name = &route.name;
        warnings.push(format!(
            "{place} does not see the model by which the route {name} is selected: such requests are refused there \
             (UNENFORCEABLE_LIMIT){unless_sent}"
        ));
    }
    warnings.extend(of_forwarding(&place, outcome, config));
    let answers_nothing = !door.asker.may_send_body();
    if answers_nothing && (config.cors.is_some() || config.routes.iter().any(|route| route.cors.is_some())) {
        warnings.push(format!("{place} can't answer preflights: that proxy has to, before it asks"));
    }
    if config.self_service {
        warnings.push(format!("{place} can't answer GET /.bearward/me"));
    }
    warnings
}

/// Returns warnings about what bearward does when it forwards a request itself.
fn of_forwarding(place: &str, outcome: &str, config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for upstream in config.upstreams.iter().filter(|upstream| upstream.queue.is_some()) {
        let name = &upstream.name;
        warnings.push(format!("{place} passes requests by the queue of the upstream {name}"));
    }
    for upstream in config.upstreams.iter().filter(|upstream| upstream.priority.is_some()) {
        let name = &upstream.name;
        warnings
            .push(format!("{place} can't write `priority` into requests to the upstream {name}: {outcome}"));
    }
    for upstream in config.upstreams.iter().filter(|upstream| upstream.credential.is_some()) {
        let name = &upstream.name;
        warnings.push(format!("{place} sends no credential to the upstream {name}: that proxy has to"));
    }
    for upstream in config.upstreams.iter().filter(|upstream| upstream.host.is_some()) {
        let name = &upstream.name;
        warnings.push(format!("{place} sets no `host` for the upstream {name}: that proxy has to"));
    }
    for route in config.routes.iter().filter(|route| route.forwarding.strip_prefix.is_some()) {
        let name = &route.name;
        warnings.push(format!(
            "{place} strips no prefix on the route {name}: that proxy forwards the path that it has"
        ));
    }
    warnings
}

fn asker(asker: Asker) -> &'static str {
    match asker {
        Asker::Nginx => "nginx",
        Asker::Caddy => "Caddy",
        Asker::Traefik => "Traefik",
        Asker::Envoy | Asker::ExtAuthz => "Envoy",
    }
}

/// A limit that can't be held, and who has it.
struct Limit {
    name: &'static str,
    of: Vec<String>,
    /// Whether it can be held where the whole body is seen.
    is_in_body: bool,
}

fn limits(config: &Config, set: &KeySet) -> impl Iterator<Item = Limit> {
    let lacks_own = set.entries.iter().any(|(_, live)| live.key.max_concurrent().is_none());
    let lacks_own = lacks_own || config.auth.identities().any(|identity| identity.max_concurrent.is_none());
    let top = config.max_concurrent.filter(|_| lacks_own).map(|_| WITHOUT_OWN.to_owned());
    let concurrent = top
        .into_iter()
        .chain(of_groups(config, |group| group.max_concurrent.is_some()))
        .chain(of_identities(config, |identity| identity.max_concurrent.is_some()))
        .chain(of_keys(set, |key| key.max_concurrent().is_some()))
        .collect();
    let capped_route = config.routes.iter().filter(|route| route.model.request.is_some());
    let caps = of_groups(config, |group| group.request.is_some())
        .chain(capped_route.map(|route| format!("the route {}", route.name)))
        .chain(of_identities(config, |identity| identity.request.is_some()))
        .chain(of_keys(set, |key| key.output_cap().is_some()))
        .collect();
    let tokens = |is_meant: fn(Unit) -> bool| of_tokens(config, set, is_meant);
    [
        Limit { name: "max_concurrent", of: concurrent, is_in_body: false },
        Limit {
            name: "limits and budgets of tokens",
            of: tokens(|unit| matches!(unit, Unit::Tokens | Unit::OutputTokens)),
            is_in_body: false,
        },
        Limit {
            name: "limits and budgets of input tokens",
            of: tokens(|unit| unit == Unit::InputTokens),
            is_in_body: true,
        },
        Limit { name: "max_output_tokens", of: caps, is_in_body: true },
    ]
    .into_iter()
    .filter(|limit| !limit.of.is_empty())
}

/// Names who has a limit or a budget in a unit that is meant.
fn of_tokens(config: &Config, set: &KeySet, is_meant: fn(Unit) -> bool) -> Vec<String> {
    let rates = |quotas: &[Quota]| quotas.iter().any(|quota| quota.is_enforced && is_meant(quota.unit));
    let budgets = |quotas: &[BudgetQuota]| quotas.iter().any(|quota| is_meant(quota.unit));
    let of_route = config.routes.iter().filter(|route| rates(&route.rate_limits));
    let of_tokens = || config.auth.identities().any(|identity| identity.rate_limits.is_none());
    let lacks_own = || of_tokens() || set.entries.iter().any(|(_, live)| live.key.rate_limits().is_none());
    let top = (rates(&config.rate_limits) && lacks_own()).then(|| WITHOUT_OWN.to_owned());
    top.into_iter()
        .chain(of_groups(config, |group| rates(&group.rate_limits) || budgets(&group.budgets)))
        .chain(of_route.map(|route| format!("the route {}", route.name)))
        .chain(of_identities(config, |identity| {
            identity.rate_limits.as_deref().is_some_and(rates)
                || identity.budgets.as_deref().is_some_and(budgets)
        }))
        .chain(of_keys(set, |key| key.rate_limits().is_some_and(rates) || budgets(key.budgets())))
        .collect()
}

fn of_groups<'a>(
    config: &'a Config,
    is_meant: impl Fn(&crate::config::Group) -> bool + 'a,
) -> impl Iterator<Item = String> + 'a {
    let groups = config.groups.iter().filter(move |group| is_meant(group));
    groups.map(|group| format!("the group {}", group.name))
}

/// Names the holders of tokens and certificates, if one of their identities is meant.
fn of_identities(config: &Config, is_meant: impl Fn(&Identity) -> bool) -> Option<String> {
    config.auth.identities().any(is_meant).then(|| "holders of tokens and certificates".to_owned())
}

/// Names the keys that are meant: the first ones by their ids, the others by their number.
fn of_keys(set: &KeySet, is_meant: impl Fn(&ApiKey) -> bool) -> impl Iterator<Item = String> {
    let mut ids: Vec<&str> =
        set.entries.iter().filter(|(_, live)| is_meant(&live.key)).map(|(_, live)| live.key.id()).collect();
    ids.sort_unstable();
    ids.dedup();
    let more = ids.len().saturating_sub(MAX_LISTED);
    let mut named: Vec<String> = ids.into_iter().take(MAX_LISTED).map(str::to_owned).collect();
    named.extend((more > 0).then(|| plural(more, "more key", "more keys")));
    named.into_iter()
}
