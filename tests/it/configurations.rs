//! Configurations that must not load, each with a position and a hint, and odd ones that must.

use std::path::Path;

use bearward::{Config, Faults};

const LEAST: &str = "listeners:
  - address: 127.0.0.1:8080
upstreams:
  - name: model
    endpoints: [http://127.0.0.1:8000]
keys:
  path: keys.yaml
";

fn read(source: &str) -> Result<(), Faults> {
    let environment = |name: &str| match name {
        "EMPTY" => Some(String::new()),
        "SET" => Some("127.0.0.1:8080".to_owned()),
        _ => None,
    };
    Config::parse(Path::new("c.yaml"), source, &environment).map(|_| ())
}

/// The configuration with a line after one of its own, or at its end.
fn with(behind: &str, line: &str) -> String {
    match behind {
        "" => format!("{LEAST}{line}\n"),
        _ => LEAST.replace(behind, &format!("{behind}{line}\n")),
    }
}

const LISTENER: &str = "127.0.0.1:8080\n";
const UPSTREAM: &str = "8000]\n";
const KEYS: &str = "keys.yaml\n";

/// Fields of a route in line 8, in a list of its own.
fn route(fields: &str) -> String {
    with("", &format!("routes: [{{name: r, {fields}}}]"))
}

fn path(pattern: &str) -> String {
    route(&format!("permission: read, paths: [{pattern}]"))
}

fn host(host: &str) -> String {
    route(&format!("permission: read, paths: [/a], hosts: [{host}]"))
}

fn method(method: &str) -> String {
    route(&format!("permission: read, paths: [/a], methods: [{method}]"))
}

fn endpoint(endpoint: &str) -> String {
    LEAST.replace("[http://127.0.0.1:8000]", &format!("[\"{endpoint}\"]"))
}

fn field(fields: &str) -> String {
    route(&format!("permission: read, paths: [/a/**], {fields}"))
}

const EMPTY: &str = "there and has no value";
const LEAVE_OUT: &str = "leave the field out";

#[test]
fn faulty_configurations_are_refused_with_a_position_and_a_hint() {
    // The configuration, the fault's position, a part of the message, and a part of the hint.
    let cases: Vec<(String, &str, &str, &str)> = vec![
        // Empty fields that are bounds, and sections with such fields.
        (with(LISTENER, "    tls:"), "3:5", EMPTY, LEAVE_OUT),
        (with(LISTENER, "    tls: {}"), "3:10", "needs `certificate`", "tls.key"),
        (with(LISTENER, "    tls: {certificate: a, private_key: b, client_ca: }"), "3:43", EMPTY, LEAVE_OUT),
        (with(LISTENER, "    tls: {certificate: a, private_key: b, client_ca: ~}"), "3:43", EMPTY, LEAVE_OUT),
        (
            with(LISTENER, "    tls: {certificate: a, private_key: b, min_version: null}"),
            "3:43",
            EMPTY,
            LEAVE_OUT,
        ),
        (with(LISTENER, "    tls: {certificates: []}"), "3:25", "at least one", ""),
        (with("", "routes:"), "8:1", EMPTY, LEAVE_OUT),
        (with("", "routes: Null"), "8:1", EMPTY, LEAVE_OUT),
        (with("", "routes: []"), "8:9", "at least one", ""),
        (with("", "rate_limits:"), "8:1", EMPTY, LEAVE_OUT),
        (with("", "rate_limits: ~"), "8:1", EMPTY, LEAVE_OUT),
        (with("", "max_concurrent: "), "8:1", EMPTY, LEAVE_OUT),
        (with("", "failed_attempts:"), "8:1", EMPTY, LEAVE_OUT),
        (with("", "failed_attempts: {per_address: null}"), "8:19", EMPTY, LEAVE_OUT),
        (with("", "admin:"), "8:1", EMPTY, LEAVE_OUT),
        (with("", "admin: {token_file: }"), "8:9", EMPTY, LEAVE_OUT),
        (with("", "trusted_proxies:"), "8:1", EMPTY, LEAVE_OUT),
        (with("", "auth:"), "8:1", EMPTY, LEAVE_OUT),
        (with("", "auth: {headers: []}"), "8:17", "at least one", ""),
        (with("", "limits:"), "8:1", EMPTY, LEAVE_OUT),
        (with("", "limits: {body_bytes: }"), "8:10", EMPTY, LEAVE_OUT),
        (with("", "limits: {connections_per_address: null}"), "8:10", EMPTY, LEAVE_OUT),
        (with("", "limits: {in_flight: ~}"), "8:10", EMPTY, LEAVE_OUT),
        (with("", "limits: {body_bytes: \"${EMPTY:-}\"}"), "8:22", "not a size", ""),
        (with(KEYS, "  max_age:"), "8:3", EMPTY, LEAVE_OUT),
        (with(KEYS, "  environment: "), "8:3", EMPTY, LEAVE_OUT),
        (with(KEYS, "  environment: \"${EMPTY:-}\""), "8:16", "must not be empty", ""),
        (with(KEYS, "  cut_open_streams: "), "8:3", EMPTY, LEAVE_OUT),
        (with(KEYS, "  watch:"), "8:3", EMPTY, LEAVE_OUT),
        (with(UPSTREAM, "    credential:"), "6:5", EMPTY, LEAVE_OUT),
        (with(UPSTREAM, "    health:"), "6:5", EMPTY, LEAVE_OUT),
        (with(UPSTREAM, "    tls:"), "6:5", EMPTY, LEAVE_OUT),
        (with(UPSTREAM, "    paths:"), "6:5", EMPTY, LEAVE_OUT),
        (with(UPSTREAM, "    timeouts: {idle: }"), "6:16", EMPTY, LEAVE_OUT),
        (field("methods: []"), "8:63", "at least one", ""),
        (field("methods: "), "8:54", EMPTY, LEAVE_OUT),
        (field("hosts: []"), "8:61", "at least one", ""),
        (field("hosts: null"), "8:54", EMPTY, LEAVE_OUT),
        (field("rate_limits: []"), "8:54", EMPTY, LEAVE_OUT),
        (field("max_body: "), "8:54", EMPTY, LEAVE_OUT),
        (field("strip_prefix: "), "8:54", EMPTY, LEAVE_OUT),
        (field("removes: []"), "8:54", EMPTY, LEAVE_OUT),
        (field("upstream: "), "8:54", EMPTY, LEAVE_OUT),
        (route("paths: [/a], public: "), "8:33", EMPTY, LEAVE_OUT),
        (route("paths: [/a], permission: "), "8:33", EMPTY, LEAVE_OUT),
        (route("permission: read, paths: []"), "8:45", "at least one", ""),
        (host("null"), "8:59", "no value", LEAVE_OUT),
        (method("~"), "8:61", "no value", LEAVE_OUT),
        // Patterns that never match.
        (path("/geheim-ü/**"), "8:46", "never matches", "/geheim-%C3%BC/**"),
        (path("/admin//**"), "8:46", "never matches", "/admin/**"),
        (path("/%7eroot/**"), "8:46", "never matches", "/~root/**"),
        (path("/a b/**"), "8:46", "never matches", "/a%20b/**"),
        (path("/m%3Aunload"), "8:46", "never matches", "/m:unload"),
        (path("/a%c3%bc"), "8:46", "never matches", "/a%C3%BC"),
        (path("/a/../b"), "8:46", "never matches", "/b"),
        (path("/a/./b"), "8:46", "never matches", "/a/b"),
        (path("'/users/{id}'"), "8:46", "one alternative", "`*` for any segment"),
        (path("/a%00"), "8:46", "control byte", ""),
        (path("'/a\\b'"), "8:46", "backslash", ""),
        (path("'/a?b=c'"), "8:46", "query", ""),
        (path("/a**"), "8:46", "whole segments", "/**"),
        (path("'/a/{b'"), "8:46", "brace", "{chat,audio}"),
        (path("'/a[b'"), "8:46", "never matches", "/a%5Bb"),
        (path("'/a[/]b'"), "8:46", "class", "[a-z0-9]"),
        (path("a/b"), "8:46", "begins with `/`", "/a/b"),
        (path("/a%2Fb"), "8:10", "refused for its upstream", "accept_in_path: [encoded-slash]"),
        (path("/a;b"), "8:10", "refused for its upstream", "accept_in_path: [semicolon]"),
        (field("strip_prefix: /ü"), "8:68", "never matches", "/%C3%BC"),
        (field("strip_prefix: /a//b"), "8:68", "never matches", "/a/b"),
        (field("strip_prefix: /a/"), "8:68", "does not end with one", "/models"),
        (field("strip_prefix: '/a*'"), "8:68", "no pattern", ""),
        (field("strip_prefix: /b"), "8:68", "never removed", "`/b/**`"),
        // Hosts that no request names.
        (host("a.example:8080"), "8:59", "no host", "a.example is meant?"),
        (host("a.example."), "8:59", "no host", "a.example is meant?"),
        (host("bücher.example"), "8:59", "no host", "xn--bcher-kva.example is meant?"),
        (host("'*'"), "8:59", "no host", "*.example.com"),
        (host("'*example.com'"), "8:59", "no host", "*.example.com"),
        (host("'a.*'"), "8:59", "no host", ""),
        (host("'::1'"), "8:59", "no host", "[::1] is meant?"),
        (host("'[::1]:80'"), "8:59", "no host", "[::1] is meant?"),
        (host("'[0:0:0:0:0:0:0:1]'"), "8:59", "no host", "[::1] is meant?"),
        (host("https://a.example"), "8:59", "no host", "a.example is meant?"),
        (host("a..example"), "8:59", "no host", ""),
        (with("", "admin: {hosts: ['*.example.com']}"), "8:17", "listed by itself", ""),
        // Methods that no request has.
        (method("get"), "8:61", "case-sensitive", "GET is meant?"),
        (method("GTE"), "8:61", "no method", "`GET`"),
        (method("POSTS"), "8:61", "no method", "`POST`"),
        (method("'*'"), "8:61", "never matches", "leave `methods` out"),
        (method("ALL"), "8:61", "never matches", "leave `methods` out"),
        (method("any"), "8:61", "never matches", "leave `methods` out"),
        (method("Every"), "8:61", "never matches", "leave `methods` out"),
        (method("'GET|POST'"), "8:61", "never matches", "[GET, POST]"),
        (method("'GET,POST'"), "8:61", "never matches", "[GET, POST]"),
        (method("'GET, POST'"), "8:61", "never matches", "[GET, POST]"),
        (method("get|post"), "8:61", "never matches", "[GET, POST]"),
        (method("GET/POST"), "8:61", "never matches", "[GET, POST]"),
        (method("GET+POST"), "8:61", "never matches", "[GET, POST]"),
        (method("'GET*'"), "8:61", "never matches", "[GET, POST]"),
        (method("'!DELETE'"), "8:61", "never matches", "[GET, POST]"),
        (method("'^GET$'"), "8:61", "never matches", "[GET, POST]"),
        (method("CONNECT"), "8:61", "never matches", ""),
        (method("TRACE"), "8:61", "never matches", ""),
        (method(&"X".repeat(65)), "8:61", "never matches", ""),
        // Routes.
        (field("removes: [host]"), "8:64", "can't be removed", ""),
        (endpoint("http://127.0.0.1:8080"), "5:17", "bearward's own listener", "behind bearward"),
        (endpoint("http://localhost:8080"), "5:17", "bearward's own listener", "behind bearward"),
        (
            endpoint("https://[::1]:8443").replace("127.0.0.1:8080", "'[::]:8443'"),
            "5:17",
            "bearward's own listener",
            "behind bearward",
        ),
        (
            endpoint("http://127.0.0.1:9191") + "admin: {address: 0.0.0.0:9191}\n",
            "5:17",
            "bearward's own listener",
            "behind bearward",
        ),
        (
            endpoint("unix:/run/a.sock").replace("127.0.0.1:8080", "unix:/run/a.sock"),
            "5:17",
            "bearward's own listener",
            "behind bearward",
        ),
        (endpoint("http://a..b:1"), "5:17", "no name and no address", "as in http://127.0.0.1:8000"),
        (endpoint("http://*:1"), "5:17", "no name and no address", "as in http://127.0.0.1:8000"),
        (endpoint("http://127.0.0.1:0"), "5:17", "from 1 to 65535", "as in http://127.0.0.1:8000"),
        (endpoint("http://127.0.0.1:99999"), "5:17", "from 1 to 65535", "as in http://127.0.0.1:8000"),
        (endpoint("http://127.0.0.1:8000#x"), "5:17", "no fragment", "as in http://127.0.0.1:8000"),
        (with("", "workers: 100000"), "8:10", "too many", "one for each core"),
        (with("", "limits: {in_flight: 010}"), "8:21", "not a whole number", "digits only"),
        (with("", "limits: {in_flight: +5}"), "8:21", "not a whole number", "digits only"),
        (field("removes: ['x-internal-*']"), "8:64", "patterns are not supported", "each name by itself"),
        (field("removes: ['x-a|x-b']"), "8:64", "patterns are not supported", "each name by itself"),
        (field("removes: ['*']"), "8:64", "patterns are not supported", "each name by itself"),
        (field("upgrades: ['*']"), "8:65", "not the name of a protocol", "websocket"),
        (with("", "auth: {headers: ['*']}"), "8:18", "patterns are not supported", "each name by itself"),
        (with(LISTENER, "  - address: 127.0.0.1:8080"), "3:14", "already listened on", "one listener"),
        (with(LISTENER, "  - address: 0.0.0.0:8080"), "3:14", "already listened on", "one listener"),
        (with("", "admin: {address: 0.0.0.0:8080}"), "8:18", "already listened on", "one listener"),
        (with(LISTENER, "  - address: 127.0.0.1:9090"), "3:14", "the admin listener", "admin: off"),
        (
            with(LISTENER, "  - address: 127.0.0.1:9090\nadmin: {hosts: [a.example]}"),
            "3:14",
            "the admin listener",
            "admin: off",
        ),
        (endpoint("http://127.0.0.1:9090"), "5:17", "bearward's own listener", "behind bearward"),
        (
            endpoint("http://localhost.:9090") + "admin: {hosts: [a.example]}\n",
            "5:17",
            "bearward's own listener",
            "behind bearward",
        ),
        (with("", "routes: [{preset: opnai}]"), "8:19", "not known", "`openai`"),
        (with("", "routes: [{preset: openai, permission: read}]"), "8:27", "unknown field", "preset"),
        (
            with("", "routes: [{preset: openai}, {name: chat, paths: [/c], permission: admin}]"),
            "8:28",
            "the preset openai has a route `chat`",
            "a name of its own",
        ),
        (
            with("", "routes: [{name: chat, paths: [/c], permission: admin}, {preset: vllm}]"),
            "8:56",
            "the preset vllm has a route `chat`",
            "a name of its own",
        ),
        (route("paths: [/a], permission: read, public: true"), "8:10", "public: true", "read, write"),
        (with(UPSTREAM, "    paths: {ignore_cases: true}"), "6:13", "unknown field", "`ignore_case`"),
        (with(UPSTREAM, "    paths: {ignore_case: maybe}"), "6:26", "true or false", ""),
    ];
    assert!(cases.len() >= 60, "{}", cases.len());
    let mut wrong = Vec::new();
    for (source, position, message, hint) in &cases {
        let shown = source.replace(LEAST, "");
        match read(source) {
            Ok(()) => wrong.push(format!("it loads: {shown}")),
            Err(faults) => {
                let is_reported = faults.0.iter().any(|fault| {
                    format!("{}:{}", fault.at.line, fault.at.column) == *position
                        && fault.message.contains(message)
                        && fault.hint.as_deref().unwrap_or_default().contains(hint)
                });
                // A second fault may follow from it.
                if !is_reported || faults.0.len() > 2 {
                    wrong.push(format!(
                        "{shown}\n  expected {position}: {message} ({hint})\n  reported {faults}"
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn odd_and_valid_configurations_load() {
    let cases: Vec<String> = vec![
        LEAST.to_owned(),
        LEAST.replace("127.0.0.1:8080", "\"${SET}\""),
        LEAST.replace("127.0.0.1:8080", "'${UNSET:-127.0.0.1:8080}'"),
        LEAST.replace('\n', "\r\n"),
        format!("# a comment\n---\n{LEAST}"),
        with("", "rate_limits: []"),
        with("", "trusted_proxies: []"),
        with("", "trusted_proxies: [unix, 10.0.0.0/8, '2001:db8::/32', 192.0.2.7]"),
        with("", "admin: off"),
        with("", "admin: {}"),
        with("", "admin: {address: off}"),
        with("", "admin: {hosts: []}"),
        with("", "admin: {hosts: [Admin.Example, '[::1]']}"),
        with("", "failed_attempts: off"),
        with("", "failed_attempts: {}"),
        with("", "limits: {}"),
        with("", "limits: {body_bytes: 1GiB, connections_per_address: 1}"),
        with("", "log: {}"),
        with("", "metrics: {key_ids: 0}"),
        with(UPSTREAM, "    pool: {}"),
        with(UPSTREAM, "    pool: {max_idle: 0}"),
        with(UPSTREAM, "    retries: 0"),
        with(UPSTREAM, "    accept_in_path: []"),
        with(LISTENER, "  - address: 127.0.0.2:8080"),
        with(LISTENER, "  - address: '[::1]:8080'"),
        with(LISTENER, "  - address: '[::]:8080'"),
        with(LISTENER, "  - address: 127.0.0.1:0\n  - address: 127.0.0.1:0"),
        with(LISTENER, "  - address: unix:/run/a.sock\n  - address: unix:/run/b.sock"),
        with(LISTENER, "  - address: 127.0.0.1:9090\nadmin: off"),
        endpoint("http://model:8080"),
        endpoint("http://my_model.default.svc.cluster.local.:8080"),
        endpoint("http://[::1]:8080"),
        endpoint("http://[::1]"),
        endpoint("http://10.0.0.5:8080").replace("127.0.0.1:8080", "0.0.0.0:8080"),
        endpoint("http://127.0.0.1:8000/"),
        with("", "workers: 64"),
        with(UPSTREAM, "    paths: {}"),
        with(UPSTREAM, "    paths: {ignore_case: true}"),
        with(UPSTREAM, "    timeouts: {}"),
        with("", "routes: openai"),
        with("", "routes: [{preset: openai}]"),
        with("", "routes: [{preset: openai}, {preset: vllm}]"),
        with("", "routes: [{preset: llama-cpp}, {name: own, paths: [/own], permission: admin}]"),
        path("/"),
        path("/**"),
        path("/*"),
        path("/a/"),
        path("/a%20b/%C3%BC/**"),
        path("/~root/**"),
        path("\"/!$&'()+,=:@-._~\""),
        path("'/a[*]b'"),
        path("'/a[!b-d]?/**/x*y/{e,f/g,h{i,j}}'"),
        path("'/a%3Bb'"),
        path("'/%7Bname%7D'"),
        path("/v1/models/*:unload"),
        path("/..."),
        path("/.well-known/**"),
        host("API.Example"),
        host("'*.example.com'"),
        host("localhost"),
        host("127.0.0.1"),
        host("'[::1]'"),
        host("a_b.example"),
        host("xn--bcher-kva.example"),
        method("PURGE"),
        method("PROPFIND"),
        method("M-SEARCH"),
        method("HEAD"),
        method("VERSION-CONTROL"),
        method("RPC_IN_DATA"),
        field("strip_prefix: /a"),
        field("strip_prefix: /a/b"),
        field("upgrades: []"),
        field("timeouts: {}"),
        field("body_on_get: true"),
        field("removes: [X-Debug, x_conf]"),
        field("public: false"),
        route("paths: [/a, /a], permission: read"),
        with(UPSTREAM, "    accept_in_path: [semicolon]")
            + "routes: [{name: r, paths: ['/a;b'], permission: read}]\n",
        "x: &x {name: model, endpoints: [http://127.0.0.1:8000]}\n".replace("x: &x ", "upstreams:\n  - ")
            + "listeners: [&l {address: 127.0.0.1:8080}]\nkeys: {<<: {path: keys.yaml}}\n",
    ];
    assert!(cases.len() >= 60, "{}", cases.len());
    let refused = cases.iter().filter_map(|source| Some(format!("{source}\n  {}", read(source).err()?)));
    let refused: Vec<String> = refused.collect();
    assert!(refused.is_empty(), "{}", refused.join("\n"));
}
