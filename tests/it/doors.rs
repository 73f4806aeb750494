//! Listeners at which other proxies ask: what they may tell, what they are answered, what is charged.
//!
//! The real proxies are in tests/e2e/test_doors.py, and Envoy's own messages in tests/e2e/test_ext_authz.py.

use std::fmt::Write as _;

use crate::harness::{Answer, Door, Gateway, Running, Upstream, answer_of, bearward, eventually};

const ROUTES: &str = "routes:\n\
    - {name: admin, paths: [/admin/**], permission: admin}\n\
    - {name: open, paths: [/open], public: true}\n\
    - {name: chat, paths: [/v1/chat/completions], methods: [POST], permission: read, model_in: body}\n\
    - {name: other, paths: [/v1/**], permission: read, removes: [x_tenant]}";

/// The headers in which each proxy tells of a request.
const PROFILES: [(&str, [&str; 3]); 3] = [
    ("nginx", ["x-original-method", "x-original-uri", "x-original-host"]),
    ("caddy", ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host"]),
    ("traefik", ["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host"]),
];

async fn door(fields: &str, keys: &[(&str, &str)]) -> (Running, Upstream) {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).listener(fields).config(ROUTES);
    let gateway = keys.iter().fold(gateway, |gateway, (name, fields)| gateway.key(name, fields));
    (gateway.start().await, upstream)
}

/// Asks about a request with these headers, after the question's own.
async fn ask(gateway: &Running, headers: &[(&str, &str)]) -> Answer {
    let mut head = String::from("GET /question HTTP/1.1\r\nHost: bearward\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    gateway.sends(format!("{head}\r\n")).await
}

/// The credential of a key, as the value of a header.
fn credential(gateway: &Door, name: &str) -> String {
    format!("Bearer {}", gateway.token(name))
}

/// What nginx tells of a request.
fn of_nginx<'a>(method: &'a str, uri: &'a str, key: &'a str) -> Vec<(&'a str, &'a str)> {
    let told = [("x-original-method", method), ("x-original-uri", uri), ("x-original-host", "a.example")];
    told.into_iter().chain([("x-forwarded-for", "192.0.2.7"), ("authorization", key)]).collect()
}

fn status(answer: &Answer) -> (u16, Option<&str>) {
    (answer.status, answer.header("x-bearward-status"))
}

#[tokio::test]
async fn each_proxy_tells_of_the_request_in_its_own_headers_alone() {
    for (asker, names) in PROFILES {
        let keys = [("ci", "permissions: [read], environment: production")];
        let (gateway, upstream) = door(&format!("serves: forward_auth, asked_by: {asker}"), &keys).await;
        let key = credential(&gateway, "ci");
        let told = |uri| {
            let [method, uri_name, host] = names;
            let told =
                [(method, "GET"), (uri_name, uri), (host, "a.example"), ("x-forwarded-for", "192.0.2.7")];
            told.into_iter().chain([("authorization", &*key)]).collect::<Vec<_>>()
        };
        let granted = ask(&gateway, &told("/v1/models?x=/../y")).await;
        assert_eq!(granted.status, 200, "{asker}");
        assert!(granted.body.is_empty());
        let header = |name| granted.header(name).unwrap();
        assert!(header("x-bearward-key-id").starts_with("key_"));
        assert_eq!((header("x-bearward-key-name"), header("x-bearward-permissions")), ("ci", "read"));
        assert_eq!(header("x-bearward-environment"), "production");
        assert!(granted.header("x-request-id").is_some());
        let public = ask(&gateway, &told("/open")[..4]).await;
        assert_eq!((public.status, public.header("x-bearward-key-id")), (200, Some("-")), "{asker}");
        // What is missing, stands twice, or is told by another profile's headers is refused.
        for position in 0..3 {
            let mut less = told("/v1/models");
            let (name, value) = less.remove(position);
            let missing = ask(&gateway, &less).await;
            assert_ne!(missing.status, 200, "{asker} without {name}");
            let mut twice = told("/v1/models");
            twice.push((name, value));
            assert_ne!(ask(&gateway, &twice).await.status, 200, "{asker} with two {name}");
        }
        for (other, others) in PROFILES.iter().filter(|(_, others)| *others != names) {
            let told = [(others[0], "GET"), (others[1], "/v1/models"), (others[2], "a")];
            let told = told.into_iter().chain([("x-forwarded-for", "192.0.2.7"), ("authorization", &*key)]);
            let answer = ask(&gateway, &told.collect::<Vec<_>>()).await;
            assert_ne!(answer.status, 200, "{asker} is told as {other}");
        }
        assert!(upstream.requests().is_empty(), "nothing is sent to upstream");
    }
}

#[tokio::test]
async fn what_a_proxy_would_forward_otherwise_is_refused() {
    let (gateway, _upstream) =
        door("serves: forward_auth, asked_by: nginx", &[("ci", "permissions: [read]")]).await;
    let key = credential(&gateway, "ci");
    for uri in [
        "/v1/../admin/x",
        "/v1/%2e%2e/admin",
        "//v1/x",
        "/v1//x",
        "/%761/x",
        "/v1/x#/y",
        "v1/x",
        "*",
        "",
        "http://a/v1/x",
        "/v1/\\..",
        "/v1/%zz",
        "/v1/caf\u{e9}",
    ] {
        let answer = ask(&gateway, &of_nginx("GET", uri, &key)).await;
        assert_eq!(status(&answer), (403, Some("400")), "{uri}");
    }
    for (name, value) in [
        ("x-http-method-override", "DELETE"),
        ("x-original-url", "/admin/x"),
        ("x-rewrite-url", "/admin/x"),
        ("x-forwarded-uri", "/admin/x"),
        ("forwarded", "host=evil"),
        ("remote-user", "admin"),
        ("x-webauth-user", "admin"),
        ("x_bearward_key_id", "evil"),
        ("x-bearward-key.id", "evil"),
        ("x-bearward-foo", "evil"),
        ("x_api_key", "evil"),
        ("x-tenant", "evil"),
        ("x.tenant", "evil"),
        ("upgrade", "h2c"),
        ("upgrade", "websocket"),
        ("sec-websocket-protocol", "a, openai-insecure-api-key.k"),
        ("authorization", "Bearer other"),
    ] {
        let mut told = of_nginx("GET", "/v1/x", &key);
        told.push((name, value));
        assert_eq!(status(&ask(&gateway, &told).await), (403, Some("400")), "{name}: {value}");
    }
    // The proxy sets or removes these by its configuration.
    for (name, value) in [
        ("x-bearward-key-id", "evil"),
        ("x-api-key", "k"),
        ("x-real-ip", "192.0.2.7"),
        ("true-client-ip", "192.0.2.7"),
    ] {
        let mut told = of_nginx("GET", "/v1/x", &key);
        told.push((name, value));
        assert_eq!(ask(&gateway, &told).await.status, 200, "{name}");
    }
}

#[tokio::test]
async fn envoy_asks_with_the_request_itself() {
    let (gateway, _upstream) =
        door("serves: forward_auth, asked_by: envoy", &[("ci", "permissions: [read]")]).await;
    let key = credential(&gateway, "ci");
    let head = |line: &str, more: &str| {
        format!(
            "{line} HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.7\r\nAuthorization: {key}\r\n{more}\r\n"
        )
    };
    assert_eq!(gateway.sends(head("GET /v1/x", "")).await.status, 200);
    gateway.sends(head("DELETE /admin/x", "")).await.assert_denied(403, "INSUFFICIENT_PERMISSIONS");
    gateway.sends(head("GET /v1/../v1/x", "")).await.assert_denied(400, "BAD_REQUEST");
    // Another proxy asks here: its question is not the request.
    for more in
        ["X-Forwarded-Uri: /admin/x\r\n", "X-Forwarded-Method: DELETE\r\n", "X-Original-URI: /admin/x\r\n"]
    {
        gateway.sends(head("GET /v1/x", more)).await.assert_denied(400, "BAD_REQUEST");
    }
}

#[tokio::test]
async fn a_refusal_is_in_the_headers_of_nginx_and_in_the_body_of_the_others() {
    let keys = [("ci", "permissions: [read]")];
    let (nginx, _upstream) = door("serves: forward_auth, asked_by: nginx", &keys).await;
    let refused = ask(&nginx, &of_nginx("GET", "/admin/x", &credential(&nginx, "ci"))).await;
    assert_eq!(status(&refused), (403, Some("403")));
    assert!(refused.body.is_empty());
    let body: serde_json::Value = serde_json::from_str(refused.header("x-bearward-body").unwrap()).unwrap();
    assert_eq!(body["error"]["code"], "INSUFFICIENT_PERMISSIONS");
    assert!(refused.header("www-authenticate").unwrap().contains("insufficient_scope"));
    // Details that are too long for a header are left out.
    let long = format!("/none/{}", "x".repeat(4000));
    let refused = ask(&nginx, &of_nginx("GET", &long, &credential(&nginx, "ci"))).await;
    let body = refused.header("x-bearward-body").unwrap();
    assert!(body.len() < 200 && body.contains("\"details\":{}"), "{body}");
    let (caddy, _upstream) = door("serves: forward_auth, asked_by: caddy", &keys).await;
    let told = [("x-forwarded-method", "GET"), ("x-forwarded-uri", "/v1/x"), ("x-forwarded-host", "a")];
    // A client that calls itself gRPC gets the same form.
    for more in [vec![], vec![("content-type", "application/grpc")]] {
        let told = told.into_iter().chain([("x-forwarded-for", "192.0.2.7")]).chain(more);
        ask(&caddy, &told.collect::<Vec<_>>()).await.assert_denied(401, "MISSING_API_KEY");
    }
}

#[tokio::test]
async fn a_granted_question_is_charged_once_and_a_refused_one_not_at_all() {
    let (gateway, _upstream) = door(
        "serves: forward_auth, asked_by: nginx",
        &[("two", "permissions: [read], rate_limits: [{requests: 2, per: 1h, burst: 2}]")],
    )
    .await;
    let key = credential(&gateway, "two");
    for uri in ["/admin/x", "/none", "/v1/../x", "/v1/x#"] {
        assert_eq!(ask(&gateway, &of_nginx("GET", uri, &key)).await.status, 403, "{uri}");
    }
    for left in ["1", "0"] {
        let granted = ask(&gateway, &of_nginx("GET", "/v1/x", &key)).await;
        assert_eq!((granted.status, granted.header("x-ratelimit-remaining-requests")), (200, Some(left)));
    }
    let refused = ask(&gateway, &of_nginx("GET", "/v1/x", &key)).await;
    assert_eq!(status(&refused), (403, Some("429")));
    assert!(refused.header("retry-after").unwrap().parse::<u32>().unwrap() > 60);
}

#[tokio::test]
async fn keys_with_limits_that_cant_be_held_are_refused_unless_these_are_ignored() {
    let limits = [
        ("busy", "max_concurrent: 4", "max_concurrent"),
        ("tokens", "rate_limits: [{tokens: 100k, per: 1m}]", "tokens-1m"),
        ("output", "rate_limits: [{output_tokens: 100k, per: 1m}]", "output-tokens-1m"),
        ("input", "rate_limits: [{input_tokens: 100k, per: 1m}]", "input-tokens-1m"),
        ("capped", "request: {max_output_tokens: 5}", "max_output_tokens"),
    ];
    let free = ("free", "rate_limits: [{tokens: 1, per: 1h, enforce: false}, {requests: 100, per: 1m}]");
    let mut keys: Vec<(&str, String)> =
        limits.iter().map(|(name, fields, _)| (*name, format!("permissions: [read], {fields}"))).collect();
    keys.push((free.0, format!("permissions: [read], {}", free.1)));
    keys.push(("model", "permissions: [read], models: [a]".to_owned()));
    let keys: Vec<(&str, &str)> = keys.iter().map(|(name, fields)| (*name, &**fields)).collect();
    let (strict, _upstream) = door("serves: forward_auth, asked_by: nginx", &keys).await;
    let (lax, _other) = door("serves: forward_auth, asked_by: nginx, unenforceable: ignore", &keys).await;
    for (name, _, limit) in limits {
        let refused = ask(&strict, &of_nginx("GET", "/v1/x", &credential(&strict, name))).await;
        assert_eq!(status(&refused), (403, Some("403")), "{name}");
        let body = refused.header("x-bearward-body").unwrap();
        assert!(body.contains("UNENFORCEABLE_LIMIT") && body.contains(limit), "{name}: {body}");
        for _ in 0..6 {
            let granted = ask(&lax, &of_nginx("GET", "/v1/x", &credential(&lax, name))).await;
            assert_eq!(granted.status, 200, "{name}");
        }
    }
    for gateway in [&strict, &lax] {
        let granted = ask(gateway, &of_nginx("GET", "/v1/x", &credential(gateway, "free"))).await;
        assert_eq!(granted.status, 200, "a limit that only counts holds nobody up");
        // A rule for models holds in any case.
        let refused =
            ask(gateway, &of_nginx("POST", "/v1/chat/completions", &credential(gateway, "model"))).await;
        assert!(refused.header("x-bearward-body").unwrap().contains("\"limit\":\"models\""));
    }
}

#[tokio::test]
async fn a_default_limit_and_a_told_priority_count_as_well() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let with = |config: &str, of_upstream: &str| {
        let gateway = Gateway::guarding(&upstream).listener("serves: forward_auth, asked_by: nginx");
        let gateway = if of_upstream.is_empty() { gateway } else { gateway.upstream(of_upstream) };
        gateway.config(ROUTES).config(config).key("ci", "permissions: [read]")
    };
    let limited = with("max_concurrent: 5", "").start().await;
    let told = with("", "queue: {slots: 1}, priority: vllm").start().await;
    for (gateway, limit) in [(&limited, "max_concurrent"), (&told, "priority")] {
        let refused =
            ask(gateway, &of_nginx("POST", "/v1/chat/completions", &credential(gateway, "ci"))).await;
        assert!(refused.header("x-bearward-body").unwrap().contains(limit), "{limit}");
    }
    // A queue by itself holds nobody up.
    assert_eq!(ask(&told, &of_nginx("GET", "/v1/x", &credential(&told, "ci"))).await.status, 200);
}

#[tokio::test]
async fn the_address_that_the_proxy_states_counts() {
    let keys = [("ci", "permissions: [read], allow_from: [192.0.2.0/24]")];
    let (gateway, _upstream) = door("serves: forward_auth, asked_by: nginx", &keys).await;
    let key = credential(&gateway, "ci");
    for (from, expected) in [
        ("192.0.2.7", 200),
        ("10.0.0.1, 192.0.2.7", 200),
        ("192.0.2.7, 10.0.0.1", 403),
        ("127.0.0.1", 403),
        ("unix:", 403),
        ("", 403),
    ] {
        let mut told = of_nginx("GET", "/v1/x", &key);
        told[3].1 = from;
        assert_eq!(ask(&gateway, &told).await.status, expected, "{from}");
    }
    // A client that is not named has no address; that of the proxy is not its.
    let keys = [("here", "permissions: [read], allow_from: [127.0.0.0/8]"), ("free", "permissions: [read]")];
    let (gateway, _upstream) = door("serves: forward_auth, asked_by: nginx", &keys).await;
    for (name, expected) in [("here", 403), ("free", 200)] {
        let key = credential(&gateway, name);
        let mut told = of_nginx("GET", "/v1/x", &key);
        told.remove(3);
        assert_eq!(ask(&gateway, &told).await.status, expected, "{name}");
    }
}

#[tokio::test]
async fn the_log_names_the_door_and_the_request() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway =
        Gateway::guarding(&upstream).listener("serves: forward_auth, asked_by: nginx").config(ROUTES);
    let gateway = gateway.key("ci", "permissions: [read]").start_binary().await;
    let key = credential(&gateway, "ci");
    let told = |uri| {
        let told = of_nginx("DELETE", uri, &key);
        let lines: Vec<String> = told.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        format!("GET /question HTTP/1.1\r\nHost: a\r\n{}\r\n", lines.concat())
    };
    gateway.sends(told("/v1/../secret")).await;
    gateway.sends(told("/v1/x")).await;
    eventually("both lines", || gateway.access_lines().len() == 2).await;
    let lines = gateway.access_lines();
    for (line, path) in lines.iter().zip(["/v1/../secret", "/v1/x"]) {
        let seen = ["path", "method", "client", "door"].map(|field| line[field].as_str().unwrap_or_default());
        assert_eq!(seen, [path, "DELETE", "192.0.2.7", "nginx"]);
    }
}

#[tokio::test]
async fn explain_says_what_a_proxy_is_answered() {
    let (gateway, _upstream) = door(
        "serves: forward_auth, asked_by: nginx",
        &[("ci", "permissions: [read]"), ("model", "permissions: [read], models: [a]")],
    )
    .await;
    let config = gateway.path("bearward.yaml");
    let explain = |request: [&str; 2], proxy: &str, key: &str, body: &str| {
        let mut arguments = vec!["explain", request[0], request[1], "--as", proxy, "--key", key];
        arguments.extend(["--config", config.to_str().unwrap()]);
        if !body.is_empty() {
            arguments.extend(["--body", "-"]);
        }
        let said = bearward(&arguments, body);
        String::from_utf8(said.stdout).unwrap()
    };
    let chat = ["POST", "/v1/chat/completions"];
    let right = "{\"model\": \"a\"}";
    for (request, proxy, key, body, expected) in [
        (
            ["GET", "/v1/x"],
            "nginx",
            "ci",
            "",
            "nginx is answered that the request may pass, with x-bearward-key-id: key_",
        ),
        (["GET", "/v1/../v1/x"], "nginx", "ci", "", "with x-bearward-status: 400"),
        (["GET", "/admin/x"], "caddy", "ci", "", "caddy is answered 403"),
        (["GET", "/none"], "traefik", "ci", "", "traefik is answered 404"),
        (chat, "envoy", "model", right, "UNENFORCEABLE_LIMIT"),
        (chat, "ext_authz", "model", right, "ext_authz is answered that the request may pass"),
        (chat, "ext_authz", "model", "{\"model\": \"b\"}", "MODEL_NOT_ALLOWED"),
        (chat, "ext_authz", "model", "", "UNENFORCEABLE_LIMIT"),
    ] {
        let said = explain(request, proxy, key, body);
        assert!(said.contains(expected), "{proxy}: {said}");
    }
    let unknown = bearward(&["explain", "GET", "/x", "--as", "haproxy"], "");
    assert_eq!(unknown.status.code(), Some(2));
}
