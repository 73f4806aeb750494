//! The JSON Schema of the configuration (draft 2020-12), for editors and for whoever makes one by program.
//!
//! A test holds its fields equal to those that the decoder knows.

use serde_json::{Value, json};

use super::Preset;

/// The schema of a whole configuration.
pub(crate) fn of_config() -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://github.com/bearward/bearward/config.schema.json",
        "title": "bearward's configuration",
        "type": "object",
        "required": ["listeners", "upstreams", "keys"],
        "additionalProperties": false,
        "properties": {
            "listeners": list("Where clients come in", listener()),
            "admin": {"anyOf": [off(), admin()], "description": "Probes, metrics and the admin API; off turns it off"},
            "keys": keys(),
            "auth": section("Where a key may stand", &[], json!({
                "headers": {"type": "array", "items": text("A header"), "default": ["authorization"]},
                "conflict": one_of(
                    "Whether a request with two different credentials is refused, or the one that is a key counts",
                    &["refuse", "any"],
                    "refuse",
                ),
                "basic": flag("Whether the password of a Basic credential is taken as the key", false),
                "websocket_protocol": flag(
                    "Whether `Sec-WebSocket-Protocol: openai-insecure-api-key.KEY` is taken as the key",
                    false,
                ),
            })),
            "rate_limits": quotas("What a key has that names no limits"),
            "max_concurrent": number("Requests in flight at once of a key that names no limit", 1),
            "failed_attempts": {"anyOf": [off(), section("Keys that open nothing, of one address", &[], json!({
                "per_address": number("How many, before the address is told to wait with 429", 1),
                "per": duration("In how long"),
            }))]},
            "upstreams": list("The servers that are guarded", upstream()),
            "routes": {"anyOf": [
                {"enum": Preset::ALL.map(|(name, _)| name), "description": "A built-in set"},
                list("The first that matches wins; `{preset: NAME}` stands for a built-in set at its place", json!({"anyOf": [route(), preset()]})),
            ], "default": "openai"},
            "limits": limits(),
            "trusted_proxies": {"type": "array", "items": text("A network, an address, or `unix`"), "default": []},
            "log": log(),
            "metrics": section("What metrics tell apart", &[], json!({
                "key_ids": number("Keys with series of their own; the others share one", 0),
            })),
            "traces": section("Where spans of requests go", &["endpoint"], json!({
                "endpoint": text("A collector that takes OTLP over HTTP, as in http://127.0.0.1:4318"),
                "sample": any_text(json!({"type": "number", "minimum": 0, "maximum": 1}), "Of the requests that come without a trace, the share that is recorded"),
                "service_name": text("What the collector knows us by"),
            })),
            "workers": number("Threads; left out: what the cgroup gives", 1),
        },
    })
}

fn listener() -> Value {
    let pair = json!({
        "certificate": text("PEM, the server's own certificate first"),
        "private_key": text("PEM"),
    });
    section(
        "A listener",
        &["address"],
        json!({
            "address": text("host:port, or unix:/path"),
            "tls": section("TLS", &[], json!({
                "certificate": text("PEM, the server's own certificate first"),
                "private_key": text("PEM"),
                "certificates": list("Several, chosen by the client's server name", section(
                    "A certificate", &["certificate", "private_key"], pair,
                )),
                "client_ca": text("Clients must present a certificate of this authority"),
                "min_version": one_of("The least version of TLS", &["1.2", "1.3"], "1.2"),
            })),
        }),
    )
}

fn admin() -> Value {
    section(
        "The admin listener",
        &[],
        json!({
            "address": text("host:port, unix:/path, or off"),
            "token_file": text("Holds the token that changes demand"),
            "hosts": {"type": "array", "items": text("A name that it is asked by"), "default": []},
            "ready_with_upstreams": flag("Whether readiness takes, for every upstream, an endpoint that can be connected to", false),
        }),
    )
}

fn keys() -> Value {
    section(
        "The key store",
        &["path"],
        json!({
            "path": text("A .yaml, .jsonl or .txt file, or a directory"),
            "allow_plaintext": flag("Whether a list of tokens as they are is accepted", false),
            "environment": text("Only keys with this label are let in"),
            "max_age": duration("How old a secret may be"),
            "max_age_action": one_of("Whether older ones are told of, or refused", &["warn", "refuse"], "warn"),
            "cut_open_streams": flag("Whether open answers and tunnels end with their key", false),
            "id_secret": section("What the ids of credentials that carry none are made with", &[], json!({
                "env": text("An environment variable that holds it"),
                "file": text("A file that holds it, at least 32 characters"),
            })),
            "watch": section("How changes are noticed", &[], json!({
                "poll": duration("All files are looked at so often, beside what the system tells"),
            })),
        }),
    )
}

fn upstream() -> Value {
    section(
        "An upstream",
        &["name", "endpoints"],
        json!({
            "name": text("Its name"),
            "endpoints": list("At least one", text("http://, https://, h2c:// with host and port, or unix:/path")),
            "balance": one_of("Which endpoint gets a request: of two taken at random the one with fewer in flight, or the next", &["least_requests", "round_robin"], "least_requests"),
            "tls": section("For https:// endpoints", &[], json!({
                "ca": text("The authorities that its certificate may be of, or that very certificate"),
                "server_name": text("The name that its certificate must have"),
                "client_certificate": text("What we present"),
                "client_key": text("Its key"),
            })),
            "retries": number("Other endpoints that a request may go to while nothing of it was sent", 0),
            "credential": section("What upstream gets in the place of the caller's key", &[], json!({
                "header": text("The header"),
                "env": text("A variable that holds it"),
                "file": text("A file that holds it"),
            })),
            "timeouts": timeouts(),
            "pool": section("Connections that are kept", &[], json!({
                "idle": duration("How long one waits for a request"),
                "max_idle": number("How many a worker keeps", 0),
                "max_age": with_default(duration("How old one may be that takes another request; what is in flight on it finishes"), json!("5m")),
            })),
            "health": section("A GET that each endpoint is asked again and again, with the upstream's Host and credential; one that fails it gets no requests. Not for gRPC", &["path"], json!({
                "path": text("What a GET asks for; 2xx and 3xx are well"),
                "interval": with_default(duration("How often"), json!("5s")),
                "timeout": with_default(duration("The longest that an answer may take"), json!("2s")),
                "failures": with_default(number("Failures one after the other that make an endpoint unfit", 1), json!(2)),
                "successes": with_default(number("Successes one after the other that make it fit again", 1), json!(1)),
            })),
            "host": text("The Host that it gets; left out: what the client named"),
            "reuse_after_body": flag("Whether a connection over HTTP/1.1 that carried the body of a POST, PUT or PATCH may serve another request; false for a server that leaves bodies unread, which `bearward check --probe` finds", true),
            "resolve": with_default(duration("How often the names of its endpoints are looked up; each address is an endpoint of its own"), json!("10s")),
            "accept_in_path": {"type": "array", "default": [], "description": "What a path may hold that servers read in different ways; all else is 400", "items": {"enum": ["encoded-slash", "encoded-backslash", "semicolon"]}},
            "paths": section("What it does not tell apart in paths, so that routes take either for the same; said, `check` warns of neither", &[], json!({
                "ignore_case": flag("Whether /ADMIN is /admin to it", false),
                "ignore_trailing_slash": flag("Whether /admin/ is /admin to it", false),
            })),
        }),
    )
}

fn preset() -> Value {
    section(
        "A built-in set among other routes",
        &["preset"],
        json!({"preset": {"enum": Preset::ALL.map(|(name, _)| name), "description": "Its name"}}),
    )
}

fn route() -> Value {
    section(
        "A route",
        &["name", "paths"],
        json!({
            "name": text("What a key's `routes` narrows it to"),
            "paths": list("`*` stays within a segment, `**` does not", text("A path pattern")),
            "methods": list("Left out: all", text("A method")),
            "hosts": list("Left out: all", text("A host, or *. and a domain")),
            "permission": {"enum": ["read", "write", "admin", "webhook"], "description": "What a key needs for it; this, or `public: true`"},
            "public": flag("Whether it needs no key", false),
            "upstream": text("Left out: the first one"),
            "body_on_get": flag("Whether GET and HEAD may have a body; else it is 400", false),
            "removes": list("Request headers that do not pass, in any spelling that folds to them", text("A header")),
            "rate_limits": quotas("In addition to the key's own; a bucket for each key"),
            "strip_prefix": text("What is taken off the path"),
            "max_body": size("The longest body"),
            "timeouts": timeouts(),
            "upgrades": {"type": "array", "items": text("A protocol that a request may change to"), "default": []},
        }),
    )
}

fn timeouts() -> Value {
    section(
        "Timeouts",
        &[],
        json!({
            "connect": duration("Until there is a connection"),
            "response_headers": duration("From the end of the request to the head of the answer"),
            "idle": duration("Between bytes of an answer"),
        }),
    )
}

fn limits() -> Value {
    section(
        "What a client may have us hold",
        &[],
        json!({
            "header_bytes": size("All headers of a request; past it 431"),
            "header_count": number("How many headers a request has at most; past it 431", 1),
            "underscores_in_headers": one_of("Names with `_`: those that alias one of ours never pass; the others do, or are a 400", &["pass", "refuse"], "pass"),
            "uri_bytes": size("The request target; past it 414"),
            "body_bytes": size("A request's body; past it 413"),
            "connections": number("Connections of clients at once; clamped to what the descriptors carry", 1),
            "connections_per_address": number("Connections of one client (IPv6 by /64); past it 503. trusted_proxies are exempt", 1),
            "in_flight": number("Requests at once, streams included; past it 503", 1),
            "header_timeout": duration("For a request's head, from its first byte to its last"),
            "body_idle_timeout": duration("For a request's body that stalls; then 408"),
            "idle_timeout": duration("Between requests of a connection"),
            "client_stall_timeout": duration("For a client that reads nothing of its answer; one without a key has 5 s at most"),
            "handshake_timeout": duration("For a TLS handshake"),
            "drain_timeout": duration("For what is in flight when the server stops"),
            "public": section(
                "Requests without a key, on public routes",
                &[],
                json!({
                    "total": duration("From a request's head to the end of its answer; then 408 or 504, or a cut answer"),
                    "body_bytes": size("A request's body, where the route has no max_body; past it 413"),
                    "header_bytes": size("All headers of a request; past it 431"),
                }),
            ),
        }),
    )
}

fn log() -> Value {
    section(
        "What is told, and where",
        &[],
        json!({
            "format": one_of("auto is pretty on a terminal, else json", &["auto", "json", "pretty"], "auto"),
            "level": one_of("Of the events", &["error", "warn", "info", "debug", "trace"], "info"),
            "access": flag("Whether each request has a line", true),
            "access_to": text("Where access lines go: stderr, stdout or a file"),
            "access_sample": any_text(json!({"type": "number", "minimum": 0, "maximum": 1}), "Of the requests that went well, the share that has a line"),
            "audit": flag("Whether each refusal, and what is worth a look, has a line", true),
            "audit_to": text("Where audit lines go: stderr, stdout or a file"),
        }),
    )
}

/// One of these words.
fn one_of(description: &str, words: &[&str], default: &str) -> Value {
    json!({"enum": words, "default": default, "description": description})
}

fn quotas(description: &str) -> Value {
    json!({"type": "array", "description": description, "default": [], "items": section("A rate limit", &["requests", "per"], json!({
        "requests": number("How many", 1),
        "per": duration("In how long"),
        "burst": number("How many at once; a tenth of requests where left out", 1),
    }))})
}

fn section(description: &str, required: &[&str], properties: Value) -> Value {
    json!({
        "type": "object",
        "description": description,
        "required": required,
        "additionalProperties": false,
        "properties": properties,
    })
}

fn list(description: &str, items: Value) -> Value {
    json!({"type": "array", "minItems": 1, "description": description, "items": items})
}

fn text(description: &str) -> Value {
    json!({"type": "string", "description": description})
}

fn off() -> Value {
    // YAML 1.1 readers take the word for a boolean.
    json!({"enum": ["off", false]})
}

/// A value of this form, or text with `${VAR}` in it.
fn any_text(form: Value, description: &str) -> Value {
    json!({"anyOf": [form, {"type": "string", "pattern": "\\$\\{"}], "description": description})
}

fn flag(description: &str, default: bool) -> Value {
    with_default(any_text(json!({"type": "boolean"}), description), Value::Bool(default))
}

fn with_default(mut schema: Value, default: Value) -> Value {
    if let Some(fields) = schema.as_object_mut() {
        fields.insert("default".to_owned(), default);
    }
    schema
}

fn number(description: &str, least: u64) -> Value {
    any_text(json!({"type": "integer", "minimum": least}), description)
}

fn duration(description: &str) -> Value {
    let form = json!({"type": "string", "pattern": "^\\s*([0-9]+(\\.[0-9]+)?\\s*[a-zµ]+\\s*)+$"});
    any_text(form, description)
}

fn size(description: &str) -> Value {
    let forms = json!({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9.]+ ?[kKMGT]?i?B?$"}]});
    any_text(forms, description)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const LISTENERS: &str = "listeners: [{address: 127.0.0.1:1}]\n";
    const UPSTREAMS: &str = "upstreams: [{name: m, endpoints: [https://a]}]\n";
    const KEYS: &str = "keys: {path: k.yaml}\n";

    /// Each section with where its schema is, and a configuration with a field in it that nothing has.
    #[allow(clippy::too_many_lines, reason = "a table is as long as it has rows")]
    fn sections() -> Vec<(&'static str, String)> {
        let but = |missing: &str, section: &str| {
            let rest = [LISTENERS, UPSTREAMS, KEYS].into_iter().filter(|part| *part != missing);
            format!("{}{section}\n", rest.collect::<String>())
        };
        let listener = |more: &str| but(LISTENERS, &format!("listeners: [{{address: 127.0.0.1:1, {more}}}]"));
        let upstream =
            |more: &str| but(UPSTREAMS, &format!("upstreams: [{{name: m, endpoints: [https://a], {more}}}]"));
        let route =
            |more: &str| but("", &format!("routes: [{{name: r, paths: [/a], permission: read, {more}}}]"));
        vec![
            ("", but("", "unheard_of: 1")),
            ("/properties/listeners/items", listener("unheard_of: 1")),
            (
                "/properties/listeners/items/properties/tls",
                listener("tls: {certificate: a, private_key: b, unheard_of: 1}"),
            ),
            (
                "/properties/listeners/items/properties/tls/properties/certificates/items",
                listener("tls: {certificates: [{certificate: a, private_key: b, unheard_of: 1}]}"),
            ),
            ("/properties/admin/anyOf/1", but("", "admin: {unheard_of: 1}")),
            ("/properties/keys", but(KEYS, "keys: {path: k.yaml, unheard_of: 1}")),
            ("/properties/keys/properties/watch", but(KEYS, "keys: {path: k.yaml, watch: {unheard_of: 1}}")),
            (
                "/properties/keys/properties/id_secret",
                but(KEYS, "keys: {path: k.yaml, id_secret: {unheard_of: 1}}"),
            ),
            ("/properties/auth", but("", "auth: {unheard_of: 1}")),
            (
                "/properties/rate_limits/items",
                but("", "rate_limits: [{requests: 1, per: 1s, unheard_of: 1}]"),
            ),
            ("/properties/failed_attempts/anyOf/1", but("", "failed_attempts: {unheard_of: 1}")),
            ("/properties/upstreams/items", upstream("unheard_of: 1")),
            ("/properties/upstreams/items/properties/tls", upstream("tls: {unheard_of: 1}")),
            (
                "/properties/upstreams/items/properties/credential",
                upstream("credential: {env: X, unheard_of: 1}"),
            ),
            ("/properties/upstreams/items/properties/timeouts", upstream("timeouts: {unheard_of: 1}")),
            ("/properties/upstreams/items/properties/pool", upstream("pool: {unheard_of: 1}")),
            ("/properties/upstreams/items/properties/health", upstream("health: {path: /h, unheard_of: 1}")),
            ("/properties/upstreams/items/properties/paths", upstream("paths: {unheard_of: 1}")),
            ("/properties/routes/anyOf/1/items/anyOf/0", route("unheard_of: 1")),
            (
                "/properties/routes/anyOf/1/items/anyOf/1",
                but("", "routes: [{preset: openai, unheard_of: 1}]"),
            ),
            (
                "/properties/routes/anyOf/1/items/anyOf/0/properties/rate_limits/items",
                route("rate_limits: [{requests: 1, per: 1s, unheard_of: 1}]"),
            ),
            (
                "/properties/routes/anyOf/1/items/anyOf/0/properties/timeouts",
                route("timeouts: {unheard_of: 1}"),
            ),
            ("/properties/limits", but("", "limits: {unheard_of: 1}")),
            ("/properties/limits/properties/public", but("", "limits: {public: {unheard_of: 1}}")),
            ("/properties/log", but("", "log: {unheard_of: 1}")),
            ("/properties/metrics", but("", "metrics: {unheard_of: 1}")),
            ("/properties/traces", but("", "traces: {endpoint: 'http://a:1', unheard_of: 1}")),
        ]
    }

    /// How many closed sections there are in a schema.
    fn count(schema: &Value) -> usize {
        let own = usize::from(schema.get("additionalProperties") == Some(&Value::Bool(false)));
        let below: usize = match schema {
            Value::Object(fields) => fields.values().map(count).sum(),
            Value::Array(items) => items.iter().map(count).sum(),
            _ => 0,
        };
        own + below
    }

    #[test]
    fn the_schema_has_the_fields_that_the_decoder_knows() {
        let schema = of_config();
        let sections = sections();
        assert_eq!(count(&schema), sections.len(), "each section is looked at");
        for (place, source) in sections {
            let environment = |_: &str| Some("x".to_owned());
            let faults = Config::parse(Path::new("c.yaml"), &source, &environment).unwrap_err();
            let hint = faults.0.iter().find(|fault| fault.message.contains("unheard_of")).unwrap();
            let known = hint.hint.as_deref().unwrap().strip_prefix("known are: ").unwrap();
            let known: BTreeSet<&str> = known.split(", ").collect();
            let described = schema.pointer(&format!("{place}/properties")).unwrap().as_object().unwrap();
            assert_eq!(described.keys().map(String::as_str).collect::<BTreeSet<_>>(), known, "{place}");
        }
    }

    #[test]
    fn the_schema_in_the_repository_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.schema.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let kept: Value = serde_json::from_str(&text).unwrap();
        assert!(kept == of_config(), "`bearward schema > config.schema.json` writes it anew");
    }
}
