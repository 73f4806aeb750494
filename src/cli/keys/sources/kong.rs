//! Reads the keys of Kong's declarative configuration (`kong.yml`, deck): consumers with key-auth
//! credentials.
//!
//! A limit of a consumer becomes a limit of each of its keys. Limits of a service, of a route or of
//! all requests are not imported. If the file has an `acl` plugin anywhere, no key is imported,
//! because this plugin restricts consumers.

use super::imported::{ImportedKey, ImportedKeys, Terms};
use super::limits::{add, networks, quota};
use super::tree::{boolean, count, fields, given, is_nothing, items, list, narrowed, scalar, text, unknown};
use crate::config::tree::Node;

/// The fields of a consumer by which other parts of the file refer to it.
const NAMES: [&str; 3] = ["username", "id", "custom_id"];
/// Plugins that do not restrict a consumer: they write logs or set identifiers.
const HARMLESS: [&str; 9] = [
    "correlation-id",
    "prometheus",
    "file-log",
    "http-log",
    "tcp-log",
    "udp-log",
    "syslog",
    "statsd",
    "opentelemetry",
];
const CONSUMER: [&str; 10] = [
    "id",
    "username",
    "custom_id",
    "tags",
    "created_at",
    "updated_at",
    "type",
    "keyauth_credentials",
    "plugins",
    "acls",
];
/// The windows of the plugin `rate-limiting` in seconds. A month and a year have no fixed length,
/// so they are missing.
const WINDOWS: [(&str, u64); 4] = [("second", 1), ("minute", 60), ("hour", 3600), ("day", 86_400)];
/// The limits of the plugin `rate-limiting` are imported only if all fields of the plugin are in
/// this list. With other fields, the plugin may count requests by something other than the
/// consumer.
const RATE_LIMITING: [&str; 21] = [
    "second",
    "minute",
    "hour",
    "day",
    "limit_by",
    "policy",
    "fault_tolerant",
    "hide_client_headers",
    "redis",
    "redis_host",
    "redis_port",
    "redis_database",
    "redis_timeout",
    "redis_username",
    "redis_password",
    "redis_server_name",
    "redis_ssl",
    "redis_ssl_verify",
    "error_code",
    "error_message",
    "sync_rate",
];

pub(super) fn is_one(root: &Node) -> bool {
    let has_credentials = |consumer: &Node| given(consumer, "keyauth_credentials").is_some();
    given(root, "_format_version").is_some()
        || given(root, "keyauth_credentials").is_some()
        || list(root, "consumers").iter().any(has_credentials)
}

pub(super) fn read(root: &Node) -> ImportedKeys {
    let mut sources = ImportedKeys::default();
    let has_acl = has_plugin(root, "acl");
    for consumer in list(root, "consumers") {
        let name = text(consumer, "username").or_else(|| text(consumer, "custom_id"));
        let terms = terms(root, consumer, has_acl);
        for credential in list(consumer, "keyauth_credentials") {
            let at = format!("line {}", credential.at.line);
            sources.take(at, terms.clone().and_then(|terms| key(credential, name, terms)));
        }
        for (field, value) in
            fields(consumer).iter().filter(|(field, _)| field.name.ends_with("_credentials"))
        {
            if field.name != "keyauth_credentials" && !is_nothing(value) {
                sources.pass_over(
                    format!("line {}", field.at.line),
                    "credentials of another kind than key-auth",
                );
            }
        }
    }
    // The file may also list credentials outside of its consumers. Each such credential names its
    // consumer in the field `consumer`.
    for credential in list(root, "keyauth_credentials") {
        let owner = given(credential, "consumer");
        let owner = owner.and_then(|owner| {
            scalar(owner).or_else(|| text(owner, "username")).or_else(|| text(owner, "id"))
        });
        let is_it = |consumer: &&Node| {
            ["username", "id", "custom_id"]
                .iter()
                .any(|field| owner.is_some() && text(consumer, field) == owner)
        };
        let consumer = list(root, "consumers").iter().find(is_it);
        let terms = consumer.map_or_else(
            || Err("its consumer is not in the file, so the limits of the consumer are not known".to_owned()),
            |consumer| terms(root, consumer, has_acl),
        );
        let name =
            consumer.and_then(|consumer| text(consumer, "username").or_else(|| text(consumer, "custom_id")));
        let at = format!("line {}", credential.at.line);
        sources.take(at, terms.and_then(|terms| key(credential, name, terms)));
    }
    sources
}

fn key(credential: &Node, name: Option<&str>, terms: Terms) -> Result<ImportedKey, String> {
    let known = ["key", "id", "tags", "created_at", "updated_at", "consumer"];
    match unknown(credential, &known) {
        // `ttl` counts seconds from a time that the file does not contain.
        Some("ttl") => return Err(narrowed("ttl")),
        Some(field) => return Err(narrowed(field)),
        None => {}
    }
    match text(credential, "key") {
        Some(key) => ImportedKey::of(key, name, terms),
        None => Err("no `key`: Kong would make one".to_owned()),
    }
}

/// Returns the limits that apply to all keys of a consumer.
fn terms(root: &Node, consumer: &Node, has_acl: bool) -> Result<Terms, String> {
    if has_acl {
        return Err(
            "the plugin `acl` restricts the services of its consumer, which can't be carried over".to_owned()
        );
    }
    let is_known = |field: &str| {
        CONSUMER.contains(&field) || field.ends_with("_credentials") || field.ends_with("_secrets")
    };
    let mut of_consumer = fields(consumer).iter();
    if let Some((field, _)) = of_consumer.find(|(field, value)| !is_known(&field.name) && !is_nothing(value))
    {
        return Err(narrowed(&field.name));
    }
    let named: Vec<&str> = NAMES.iter().filter_map(|field| text(consumer, field)).collect();
    if is_in_a_group(root, &named) {
        return Err(narrowed("consumer_groups"));
    }
    let mut terms = Terms::default();
    for plugin in list(consumer, "plugins") {
        plugin_terms(plugin, &mut terms)?;
    }
    // Plugins that are listed outside of the consumers may restrict this consumer, too, if their
    // field `consumer` names this consumer.
    let mut all = Vec::new();
    plugins_below(root, &mut all);
    for plugin in all {
        let owner = given(plugin, "consumer").and_then(|owner| {
            scalar(owner).or_else(|| text(owner, "username")).or_else(|| text(owner, "id"))
        });
        if owner.is_some_and(|owner| named.contains(&owner)) {
            plugin_terms(plugin, &mut terms)?;
        }
    }
    Ok(terms)
}

/// Whether the consumer with the names `named` is a member of a consumer group. The limits of a
/// group apply to its members.
fn is_in_a_group(root: &Node, named: &[&str]) -> bool {
    let of_groups = list(root, "consumer_groups").iter().filter_map(|group| given(group, "consumers"));
    let of_pairs = list(root, "consumer_group_consumers").iter();
    of_groups.chain(of_pairs).any(|members| names_one(members, named))
}

/// Whether a value in `node`, at any depth, is one of the names in `named`.
fn names_one(node: &Node, named: &[&str]) -> bool {
    scalar(node).is_some_and(|text| named.contains(&text))
        || fields(node).iter().any(|(_, value)| names_one(value, named))
        || items(node).iter().any(|item| names_one(item, named))
}

fn plugin_terms(plugin: &Node, terms: &mut Terms) -> Result<(), String> {
    let name = text(plugin, "name").unwrap_or_default();
    let is_off = given(plugin, "enabled").and_then(boolean) == Some(false);
    if is_off || HARMLESS.contains(&name) {
        return Ok(());
    }
    let is_for_all = ["service", "route"].iter().all(|field| given(plugin, field).is_none());
    let Some(config) = given(plugin, "config").filter(|_| is_for_all) else { return Err(narrowed(name)) };
    match name {
        "rate-limiting" => {
            let by = text(config, "limit_by").unwrap_or("consumer");
            if unknown(config, &RATE_LIMITING).is_some() || !matches!(by, "consumer" | "credential") {
                return Err(narrowed(name));
            }
            for (window, seconds) in WINDOWS {
                let Some(requests) = given(config, window) else { continue };
                let quota = count(requests).and_then(|requests| quota(requests, seconds));
                add(&mut terms.rate_limits, quota.ok_or_else(|| narrowed(name))?);
            }
            Ok(())
        }
        "ip-restriction" => {
            let allowed = given(config, "allow").and_then(networks);
            if unknown(config, &["allow", "status", "message"]).is_some()
                || allowed.is_none()
                || terms.allow_from.is_some()
            {
                return Err(narrowed(name));
            }
            terms.allow_from = allowed;
            Ok(())
        }
        _ => Err(narrowed(name)),
    }
}

/// Collects the plugins at any depth below `node`.
fn plugins_below<'n>(node: &'n Node, found: &mut Vec<&'n Node>) {
    for (key, value) in fields(node) {
        if key.name == "plugins" {
            found.extend(items(value));
        }
        plugins_below(value, found);
    }
    items(node).iter().for_each(|item| plugins_below(item, found));
}

fn has_plugin(root: &Node, name: &str) -> bool {
    let mut all = Vec::new();
    plugins_below(root, &mut all);
    all.iter().any(|plugin| {
        text(plugin, "name") == Some(name) && given(plugin, "enabled").and_then(boolean) != Some(false)
    })
}
