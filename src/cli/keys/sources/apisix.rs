//! Reads the keys of APISIX: consumers with the plugin `key-auth`, from the standalone
//! configuration or from an answer of the Admin API.

use super::imported::{ImportedKey, ImportedKeys, Terms};
use super::limits::{add, networks, quota, quota_with};
use super::tree::{boolean, count, fields, given, items, list, narrowed, scalar, text, unknown};
use crate::config::tree::Node;

/// Plugins that do not restrict a consumer: they write logs or set identifiers.
const HARMLESS: [&str; 6] =
    ["request-id", "prometheus", "file-logger", "http-logger", "opentelemetry", "real-ip"];
const CONSUMER: [&str; 8] =
    ["username", "desc", "labels", "plugins", "create_time", "update_time", "id", "credentials"];
/// Values of a plugin's field `key` with which the plugin's limit is imported: the limit counts
/// requests by consumer, or by client address (APISIX's default). A limit of each address becomes a
/// limit of the key, which all addresses of the consumer share.
const COUNTED_BY: [&str; 2] = ["consumer_name", "remote_addr"];

pub(super) fn is_one(root: &Node) -> bool {
    consumers(root).iter().any(|consumer| given(consumer, "username").is_some())
}

/// Returns the consumers in a standalone configuration, or in an answer of the Admin API.
fn consumers(root: &Node) -> Vec<&Node> {
    let listed = match given(root, "consumers") {
        Some(consumers) => items(consumers),
        None if !list(root, "list").is_empty() => list(root, "list"),
        None => items(root),
    };
    listed.iter().map(|item| given(item, "value").unwrap_or(item)).collect()
}

pub(super) fn read(root: &Node) -> ImportedKeys {
    let mut sources = ImportedKeys::default();
    let restricts = has_field(root, "consumer-restriction");
    for consumer in consumers(root) {
        let at = format!("line {}", consumer.at.line);
        let name = text(consumer, "username");
        let terms = match restricts {
            true => {
                Err("the plugin `consumer-restriction` restricts its consumer, which can't be carried over"
                    .to_owned())
            }
            false => terms(consumer),
        };
        let own = given(consumer, "plugins").and_then(|plugins| given(plugins, "key-auth"));
        // APISIX 3.11 and later allow a consumer to have several credentials, each with its own
        // plugins.
        let more = list(consumer, "credentials").iter().filter_map(|credential| {
            given(credential, "plugins").and_then(|plugins| given(plugins, "key-auth"))
        });
        let all: Vec<&Node> = own.into_iter().chain(more).collect();
        if all.is_empty() {
            sources.pass_over(&at, "a consumer without `key-auth`");
        }
        for plugin in all {
            let at = format!("line {}", plugin.at.line);
            sources.take(at, terms.clone().and_then(|terms| key(plugin, name, terms)));
        }
    }
    sources
}

fn key(plugin: &Node, name: Option<&str>, mut terms: Terms) -> Result<ImportedKey, String> {
    if let Some(field) = unknown(plugin, &["key", "header", "query", "hide_credentials", "_meta"]) {
        return Err(narrowed(field));
    }
    terms.disabled |= is_off(plugin);
    match text(plugin, "key") {
        Some(key) if is_reference(key) => {
            Err("a reference to a secret, not the secret; write the secret itself".to_owned())
        }
        Some(key) => ImportedKey::of(key, name, terms),
        None => Err("no `key`".to_owned()),
    }
}

/// Whether a key is only a reference to a secret, such as `$secret://…` or `$env://…`, in upper or
/// lower case.
fn is_reference(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    key.starts_with('$') && key.contains("://")
}

/// Whether a plugin is turned off by `_meta: {disable: true}`.
fn is_off(plugin: &Node) -> bool {
    given(plugin, "_meta").and_then(|meta| given(meta, "disable")).and_then(boolean) == Some(true)
}

fn terms(consumer: &Node) -> Result<Terms, String> {
    if let Some(field) = unknown(consumer, &CONSUMER) {
        return Err(narrowed(field));
    }
    let mut terms = Terms::default();
    for (name, plugin) in given(consumer, "plugins").map(fields).unwrap_or_default() {
        let name = name.name.as_str();
        if name != "key-auth" && !HARMLESS.contains(&name) && !is_off(plugin) {
            plugin_terms(name, plugin, &mut terms).ok_or_else(|| narrowed(name))?;
        }
    }
    Ok(terms)
}

/// Adds the limits of a plugin to `terms`. Returns `None` if bearward has no counterpart for these
/// limits.
fn plugin_terms(name: &str, plugin: &Node, terms: &mut Terms) -> Option<()> {
    let is_known = |known: &[&str]| unknown(plugin, &[known, &ANSWERS].concat()).is_none();
    let by = text(plugin, "key").unwrap_or("remote_addr");
    let is_counted = COUNTED_BY.contains(&by) && matches!(text(plugin, "key_type"), None | Some("var"));
    let number = |field: &str| given(plugin, field).and_then(count);
    match name {
        "limit-count" if is_counted && is_known(&["count", "time_window", "key", "key_type", "policy"]) => {
            let quota = quota(number("count")?, u64::from(number("time_window")?))?;
            add(&mut terms.rate_limits, quota);
        }
        "limit-req" if is_counted && is_known(&["rate", "burst", "key", "key_type", "nodelay"]) => {
            // In APISIX, `limit-req` permits `burst` requests at once in addition to its rate.
            let burst = given(plugin, "burst").and_then(scalar)?.parse::<u32>().ok()?;
            add(&mut terms.rate_limits, quota_with(number("rate")?, 1, burst.max(1))?);
        }
        "limit-conn"
            if is_counted
                && is_known(&[
                    "conn",
                    "burst",
                    "key",
                    "key_type",
                    "default_conn_delay",
                    "only_use_default_delay",
                ]) =>
        {
            // APISIX delays requests beyond `conn`. bearward refuses them.
            terms.max_concurrent = Some(number("conn")?);
        }
        "ip-restriction" if is_known(&["whitelist", "message"]) => {
            terms.allow_from = Some(given(plugin, "whitelist").and_then(networks)?);
        }
        _ => return None,
    }
    Some(())
}

/// Fields of a plugin that are ignored: they configure the plugin's answers, or the place where the
/// plugin stores its counts.
const ANSWERS: [&str; 12] = [
    "rejected_code",
    "rejected_msg",
    "show_limit_quota_header",
    "allow_degradation",
    "_meta",
    "response_code",
    "redis_host",
    "redis_port",
    "redis_database",
    "redis_timeout",
    "redis_cluster_nodes",
    "redis_cluster_name",
];

fn has_field(node: &Node, name: &str) -> bool {
    fields(node).iter().any(|(key, value)| (key.name == name && !is_off(value)) || has_field(value, name))
        || items(node).iter().any(|item| has_field(item, name))
}
