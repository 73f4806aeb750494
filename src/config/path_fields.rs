//! Tests that each path in a configuration is relative to the directory of the configuration.
//!
//! The table has a row for each field of the schema whose value is a path. A field of plain text that is neither in
//! the table nor known as no path fails, so that a new field can't be forgotten.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use crate::config::document::Config;
use crate::config::files::Content;
use crate::config::schema;

const LISTENERS: &str = "listeners: [{address: 127.0.0.1:1}]\n";
const UPSTREAMS: &str = "upstreams: [{name: m, endpoints: [https://a]}]\n";
const KEYS: &str = "keys: {path: k.yaml}\n";

/// The fields of text that are no paths of files. A field is known by its last name, or by its whole path.
const NO_PATHS: [&str; 37] = [
    // Unix sockets have absolute paths.
    "address",
    "audience",
    "directory",
    "domains",
    "email",
    "endpoint",
    "endpoints",
    "env",
    "environment",
    "expose",
    "group",
    "header",
    "headers",
    "host",
    "hosts",
    "issuer",
    "jwks",
    "key_id",
    "methods",
    "models",
    "name",
    "origins",
    "paths",
    "prefix",
    "proxy_protocol",
    "removes",
    "routes",
    "server_name",
    "service_name",
    "strip_prefix",
    "trusted_proxies",
    "upgrades",
    "upstream",
    "upstreams.health.path",
    "url",
    "zone",
    "keys.path.",
];

/// Returns, for each field that is a path, the field, and a configuration in which its value is `./in/FILE`. A field
/// with a default needs its section.
#[allow(clippy::too_many_lines, reason = "a table has a row for each field")]
fn rows() -> Vec<(&'static str, String)> {
    let but = |missing: &str, section: String| {
        let rest = [LISTENERS, UPSTREAMS, KEYS].into_iter().filter(|part| *part != missing);
        format!("{}{section}\n", rest.collect::<String>())
    };
    let tls =
        |fields: &str| but(LISTENERS, format!("listeners: [{{address: 127.0.0.1:1, tls: {{{fields}}}}}]"));
    let acme = |fields: &str| tls(&format!("acme: {{domains: [a.example], {fields}}}"));
    let upstream = |fields: &str| {
        but(UPSTREAMS, format!("upstreams: [{{name: m, endpoints: ['https://a'], {fields}}}]"))
    };
    let of_issuer = "issuer: 'https://a', audience: b, identities: [{when: {sub: a}, permissions: [read]}]";
    let issuer = |fields: &str| but("", format!("auth: {{jwt: [{{{of_issuer}, {fields}}}]}}"));
    let keys = |fields: &str| but(KEYS, format!("keys: {{{fields}}}"));
    let keys_redis = |fields: &str| but(KEYS, format!("keys: {{path: 'rediss://a', redis: {{{fields}}}}}"));
    let shared = |fields: &str| but("", format!("shared: {{redis: 'rediss://a', {fields}}}"));
    let log = |fields: &str| but("", format!("log: {{{fields}}}"));
    vec![
        ("admin.token_file", but("", "admin: {token_file: ./in/FILE}".to_owned())),
        ("auth.deny", but("", format!("auth: {{deny: ./in/FILE, jwt: [{{{of_issuer}}}]}}"))),
        ("auth.jwt.ca", issuer("ca: ./in/FILE")),
        ("auth.jwt.jwks.file", issuer("jwks: {file: ./in/FILE}")),
        ("auth.jwt.token_file", issuer("token_file: ./in/FILE")),
        ("keys.id_secret.file", keys("path: k.yaml, id_secret: {file: ./in/FILE}")),
        ("keys.path", keys("path: ./in/FILE")),
        ("keys.redis.password.file", keys_redis("password: {file: ./in/FILE}")),
        ("keys.redis.tls.ca", keys_redis("tls: {ca: ./in/FILE}")),
        (
            "keys.redis.tls.client_certificate",
            keys_redis("tls: {client_certificate: ./in/FILE, client_key: /k}"),
        ),
        ("keys.redis.tls.client_key", keys_redis("tls: {client_certificate: /c, client_key: ./in/FILE}")),
        ("listeners.tls.acme.ca", acme("ca: ./in/FILE")),
        (
            "listeners.tls.acme.external_account.hmac_key.file",
            acme("external_account: {key_id: a, hmac_key: {file: ./in/FILE}}"),
        ),
        ("listeners.tls.acme.storage", acme("storage: ./in/FILE")),
        ("listeners.tls.certificate", tls("certificate: ./in/FILE, private_key: /k")),
        (
            "listeners.tls.certificates.certificate",
            tls("certificates: [{certificate: ./in/FILE, private_key: /k}]"),
        ),
        (
            "listeners.tls.certificates.private_key",
            tls("certificates: [{certificate: /c, private_key: ./in/FILE}]"),
        ),
        ("listeners.tls.client_ca", tls("certificate: /c, private_key: /k, client_ca: ./in/FILE")),
        (
            "listeners.tls.client_crl",
            tls("certificate: /c, private_key: /k, client_ca: /a, client_crl: ./in/FILE"),
        ),
        ("listeners.tls.private_key", tls("certificate: /c, private_key: ./in/FILE")),
        ("log.access_to", log("access_to: ./in/FILE")),
        ("log.audit_to", log("audit_to: ./in/FILE")),
        ("shared.password.file", shared("password: {file: ./in/FILE}")),
        ("shared.tls.ca", shared("tls: {ca: ./in/FILE}")),
        ("shared.tls.client_certificate", shared("tls: {client_certificate: ./in/FILE, client_key: /k}")),
        ("shared.tls.client_key", shared("tls: {client_certificate: /c, client_key: ./in/FILE}")),
        ("state.path", but("", "state: {path: ./in/FILE}".to_owned())),
        ("upstreams.credential.file", upstream("credential: {file: ./in/FILE}")),
        ("upstreams.tls.ca", upstream("tls: {ca: ./in/FILE}")),
        (
            "upstreams.tls.client_certificate",
            upstream("tls: {client_certificate: ./in/FILE, client_key: /k}"),
        ),
        ("upstreams.tls.client_key", upstream("tls: {client_certificate: /c, client_key: ./in/FILE}")),
    ]
}

/// Adds the fields of plain text below `schema`, whose path is `path`. The items of a list have the path of the list;
/// the items of `keys.path`, which are URLs, have a dot behind it.
fn texts(schema: &Value, path: &str, found: &mut BTreeSet<String>) {
    let is_text = schema.get("type").is_some_and(|kind| kind == "string");
    if is_text && schema.get("pattern").is_none() && schema.get("enum").is_none() {
        found.insert(path.to_owned());
    }
    for (name, field) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        texts(field, &path, found);
    }
    if let Some(items) = schema.get("items") {
        texts(items, &if path == "keys.path" { format!("{path}.") } else { path.to_owned() }, found);
    }
    for form in schema.get("anyOf").and_then(Value::as_array).into_iter().flatten() {
        texts(form, path, found);
    }
}

#[test]
fn each_field_of_text_is_known_as_a_path_or_as_none() {
    let mut found = BTreeSet::new();
    texts(&schema::of_config(), "", &mut found);
    let is_no_path = |field: &String| {
        NO_PATHS.iter().any(|known| field == known || field.rsplit('.').next() == Some(known))
    };
    let paths: BTreeSet<&str> = found.iter().filter(|field| !is_no_path(field)).map(String::as_str).collect();
    let rows: BTreeSet<&str> = rows().iter().map(|(field, _)| *field).collect();
    assert!(rows.len() > 20, "{rows:?}");
    assert_eq!(paths, rows, "a new path needs a row, and any other text a line in NO_PATHS");
}

#[test]
fn each_path_is_relative_to_the_directory_of_the_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("in/FILE");
    std::fs::create_dir(directory.path().join("in")).unwrap();
    std::fs::write(&file, "pF3kQ9vLx2Rt7Wm8Zc5Nb1Hy6Jd4Sg0aUeTo").unwrap();
    for (field, source) in rows() {
        // Secrets are read at once, and only from the directory: the working directory has no such file.
        let config = Config::parse(&directory.path().join("bearward.yaml"), &source, &|_| None);
        let config = config.unwrap_or_else(|faults| panic!("{field}: {faults}"));
        let named = config.named_files.files.iter().find(|named| named.path == file);
        let is_shown = format!("{config:?}").contains(file.to_str().unwrap());
        let is_read_at_once = field.ends_with(".file") && field != "auth.jwt.jwks.file";
        assert!(is_shown || (is_read_at_once && named.is_some()), "{field}: {config:?}");
        assert_eq!(named.is_none(), field.starts_with("log."), "{field}");
        let holds_secret = ["_key", ".token_file", "keys.path"].iter().any(|end| field.ends_with(end));
        let expected = match field {
            "state.path" | "listeners.tls.acme.storage" => Content::Own,
            _ if holds_secret || is_read_at_once => Content::Secret,
            _ => Content::Public,
        };
        assert!(named.is_none_or(|named| named.content == expected), "{field}");
    }
}

#[test]
fn paths_in_a_configuration_of_the_working_directory_stay_as_they_are_written() {
    for path in ["bearward.yaml", "./bearward.yaml"] {
        let source = [LISTENERS, UPSTREAMS, KEYS].concat();
        let config = Config::parse(Path::new(path), &source, &|_| None).unwrap();
        assert_eq!(config.keys.path.path(), Path::new("k.yaml"));
    }
}
