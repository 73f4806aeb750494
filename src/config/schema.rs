//! The JSON Schema of the configuration (draft 2020-12), for editors and programs.

use serde_json::{Value, json};

use crate::config::document::Config;
use crate::config::form::with;
use crate::config::section::schema_of;

/// Returns the JSON Schema of a whole configuration.
pub(crate) fn of_config() -> Value {
    let schema = schema_of::<Config>();
    let schema = with(schema, "$schema", json!("https://json-schema.org/draft/2020-12/schema"));
    let schema = with(schema, "$id", json!("https://github.com/bearward/bearward/config.schema.json"));
    with(schema, "title", json!("bearward's configuration"))
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

    /// Returns, for each section, the path of its schema, and a configuration in which this section
    /// has an unknown field.
    #[allow(clippy::too_many_lines, reason = "a table has a row for each section")]
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
        let keys_redis = |more: &str| but(KEYS, &format!("keys: {{path: 'redis://a', redis: {{{more}}}}}"));
        let acme = |more: &str| listener(&format!("tls: {{acme: {{domains: [a.example], {more}}}}}"));
        let issuer = |more: &str| but("", &format!("auth: {{jwt: [{{issuer: 'https://a', {more}}}]}}"));
        let of_token = |more: &str| issuer(&format!("identities: [{{when: {{sub: a}}, {more}}}]"));
        let of_certificate =
            |more: &str| but("", &format!("auth: {{certificates: [{{when: {{uri: a}}, {more}}}]}}"));
        let shared = |more: &str| but("", &format!("shared: {{redis: 'redis://a', {more}}}"));
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
            ("/properties/auth/properties/jwt/items", issuer("unheard_of: 1")),
            (
                "/properties/auth/properties/jwt/items/properties/jwks/anyOf/1",
                issuer("jwks: {file: a, unheard_of: 1}"),
            ),
            ("/properties/auth/properties/jwt/items/properties/identities/items", of_token("unheard_of: 1")),
            (
                "/properties/auth/properties/jwt/items/properties/identities/items/properties/rate_limits/anyOf/1/items",
                of_token("rate_limits: [{requests: 1, per: 1s, unheard_of: 1}]"),
            ),
            (
                "/properties/auth/properties/jwt/items/properties/identities/items/properties/budgets/items",
                of_token("budgets: [{tokens: 1, every: day, unheard_of: 1}]"),
            ),
            (
                "/properties/auth/properties/jwt/items/properties/identities/items/properties/request",
                of_token("request: {max_output_tokens: 1, unheard_of: 1}"),
            ),
            ("/properties/auth/properties/certificates/items", of_certificate("unheard_of: 1")),
            (
                "/properties/auth/properties/certificates/items/properties/rate_limits/anyOf/1/items",
                of_certificate("rate_limits: [{requests: 1, per: 1s, unheard_of: 1}]"),
            ),
            (
                "/properties/auth/properties/certificates/items/properties/budgets/items",
                of_certificate("budgets: [{tokens: 1, every: day, unheard_of: 1}]"),
            ),
            (
                "/properties/auth/properties/certificates/items/properties/request",
                of_certificate("request: {max_output_tokens: 1, unheard_of: 1}"),
            ),
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
            ("/properties/upstreams/items/properties/queue", upstream("queue: {slots: 1, unheard_of: 1}")),
            (
                "/properties/upstreams/items/properties/endpoints/items/anyOf/1",
                but(UPSTREAMS, "upstreams: [{name: m, endpoints: [{url: 'https://a', unheard_of: 1}]}]"),
            ),
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
            (
                "/properties/routes/anyOf/1/items/anyOf/0/properties/cors",
                route("cors: {origins: ['*'], unheard_of: 1}"),
            ),
            ("/properties/cors", but("", "cors: {origins: ['*'], unheard_of: 1}")),
            ("/properties/limits", but("", "limits: {unheard_of: 1}")),
            ("/properties/limits/properties/public", but("", "limits: {public: {unheard_of: 1}}")),
            ("/properties/log", but("", "log: {unheard_of: 1}")),
            ("/properties/metrics", but("", "metrics: {unheard_of: 1}")),
            (
                "/properties/routes/anyOf/1/items/anyOf/0/properties/request",
                route("model_in: body, request: {max_output_tokens: 1, unheard_of: 1}"),
            ),
            ("/properties/groups/items", but("", "groups: [{name: a, unheard_of: 1}]")),
            (
                "/properties/groups/items/properties/rate_limits/items",
                but("", "groups: [{name: a, rate_limits: [{requests: 1, per: 1s, unheard_of: 1}]}]"),
            ),
            (
                "/properties/groups/items/properties/request",
                but("", "groups: [{name: a, request: {max_output_tokens: 1, unheard_of: 1}}]"),
            ),
            (
                "/properties/groups/items/properties/budgets/items",
                but("", "groups: [{name: a, budgets: [{tokens: 1, every: day, unheard_of: 1}]}]"),
            ),
            ("/properties/listeners/items/properties/tls/properties/acme", acme("unheard_of: 1")),
            (
                "/properties/listeners/items/properties/tls/properties/acme/properties/external_account",
                acme("external_account: {key_id: a, hmac_key: {env: X}, unheard_of: 1}"),
            ),
            (
                "/properties/listeners/items/properties/tls/properties/acme/properties/external_account/properties/hmac_key",
                acme("external_account: {key_id: a, hmac_key: {env: X, unheard_of: 1}}"),
            ),
            ("/properties/state", but("", "state: {path: a, unheard_of: 1}")),
            ("/properties/keys/properties/redis", keys_redis("unheard_of: 1")),
            (
                "/properties/keys/properties/redis/properties/password",
                keys_redis("password: {env: X, unheard_of: 1}"),
            ),
            ("/properties/keys/properties/redis/properties/tls", keys_redis("tls: {unheard_of: 1}")),
            ("/properties/shared", shared("unheard_of: 1")),
            ("/properties/shared/properties/password", shared("password: {env: X, unheard_of: 1}")),
            ("/properties/shared/properties/tls", shared("tls: {unheard_of: 1}")),
            ("/properties/traces", but("", "traces: {endpoint: 'http://a:1', unheard_of: 1}")),
        ]
    }

    /// Counts the sections in a schema.
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
        assert_eq!(count(&schema), sections.len(), "each section is compared");
        for (path, source) in sections {
            let environment = |_: &str| Some("x".to_owned());
            let faults = Config::parse(Path::new("c.yaml"), &source, &environment).unwrap_err();
            let hint = faults.0.iter().find(|fault| fault.message.contains("unheard_of")).unwrap();
            let known = hint.hint.as_deref().unwrap().strip_prefix("known are: ").unwrap();
            let known: BTreeSet<&str> = known.split(", ").collect();
            let described = schema.pointer(&format!("{path}/properties")).unwrap().as_object().unwrap();
            assert_eq!(described.keys().map(String::as_str).collect::<BTreeSet<_>>(), known, "{path}");
        }
    }

    #[test]
    fn the_schema_in_the_repository_is_this_one() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config.schema.json");
        if std::env::var_os("UPDATE_EXPECTED").is_some() {
            std::fs::write(&path, format!("{:#}\n", of_config())).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let kept: Value = serde_json::from_str(&text).unwrap();
        assert!(kept == of_config(), "`UPDATE_EXPECTED=1 cargo test schema` writes it anew");
    }
}
