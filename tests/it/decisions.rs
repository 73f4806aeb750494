//! What decides, and what reaches upstream: one form of each path, patterns, presets, headers, bodies of GET.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Version};

use crate::harness::{Gateway, Running, Upstream, answer_of, in_time};

/// What `check` says of a configuration, and how it ends.
fn checked(config: &str, files: &[(&str, &str)]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let hash = format!("sha256:{}", "0".repeat(63) + "1");
    let keys = format!(
        "keys:\n  - {{id: key_0123456789, hash: \"{hash}\", permissions: [read], expires_at: 2999-01-01T00:00:00Z}}\n"
    );
    for (name, content) in [("keys.yaml", keys.as_str()), ("bearward.yaml", config)].iter().chain(files) {
        fs::write(directory.path().join(name), content).unwrap();
    }
    fs::set_permissions(directory.path().join("keys.yaml"), fs::Permissions::from_mode(0o600)).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_bearward"))
        .args(["check", "--config", "bearward.yaml"])
        .current_dir(directory.path())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

const LEAST: &str = "admin: off\nlisteners: [{address: 127.0.0.1:0}]\nupstreams: [{name: m, endpoints: [http://127.0.0.1:1]}]\nkeys: {path: keys.yaml}\n";

async fn in_front_of(upstream: &Upstream, config: &str) -> Running {
    Gateway::guarding(upstream)
        .key("reader", "permissions: [read]")
        .key("writer", "permissions: [read, write]")
        .key("admin", "permissions: [admin]")
        .config(config)
        .start()
        .await
}

/// Sends a request with a key, or none, and returns its status.
async fn status(gateway: &Running, line: &str, key: &str, fields: &str) -> u16 {
    let bearer = if key.is_empty() { String::new() } else { gateway.bearer(key) };
    gateway.sends(format!("{line} HTTP/1.1\r\nHost: a.example\r\n{bearer}{fields}\r\n")).await.status
}

#[tokio::test]
async fn routes_by_the_documentation_close_what_a_set_leaves_open() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/routes.md")).unwrap();
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let (upstreams, routes) = rest.split_once("```").unwrap().0.split_once("routes:").unwrap();
    let paths = upstreams.trim().split_once("paths: ").unwrap().1.strip_suffix("}]").unwrap();
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .upstream(&format!("paths: {paths}"))
        .key("reader", "permissions: [read]")
        .config(&format!("routes:{routes}"))
        .start()
        .await;
    for path in ["/health", "/health/", "/ping", "/ping/"] {
        let line = format!("GET {path}");
        assert_eq!(status(&gateway, &line, "", "").await, 401, "{line}");
        assert_eq!(status(&gateway, &line, "reader", "").await, 200, "{line}");
    }
}

#[tokio::test]
async fn what_may_stand_raw_in_a_path_is_decided_and_forwarded_in_one_form() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = in_front_of(
        &upstream,
        "routes: [{name: unload, paths: ['/v1/models/*:unload'], permission: admin}, {name: odd, paths: [\"/!$&'()+,=:@\"], permission: admin}, {name: all, paths: ['/v1/**'], permission: read}]",
    )
    .await;
    for path in
        ["/v1/models/m:unload", "/v1/models/m%3Aunload", "/v1/models/m%3aunload", "/v1/models/%6d%3Aunload"]
    {
        let line = format!("POST {path}");
        assert_eq!(status(&gateway, &line, "reader", "Content-Length: 0\r\n").await, 403, "{path}");
        upstream.forget();
        assert_eq!(status(&gateway, &line, "admin", "Content-Length: 0\r\n").await, 200, "{path}");
        assert_eq!(upstream.only_request().target(), "/v1/models/m:unload");
    }
    upstream.forget();
    assert_eq!(status(&gateway, "GET /%21%24%26%27%28%29%2B%2c%3D%3a%40", "admin", "").await, 200);
    assert_eq!(upstream.only_request().target(), "/!$&'()+,=:@");
}

#[tokio::test]
async fn a_class_does_not_cross_a_slash() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway =
        in_front_of(&upstream, "routes: [{name: a, paths: ['/v1[!b]x/y'], public: true}, {name: b, paths: ['/**'], permission: read}]").await;
    assert_eq!(status(&gateway, "GET /v1ax/y", "", "").await, 200);
    assert_eq!(status(&gateway, "GET /v1/x/y", "", "").await, 401);
}

#[tokio::test]
async fn a_host_has_one_form_and_one_with_an_empty_label_is_none() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let config = "routes: [{name: a, paths: [/**], hosts: [A.example, '[::1]'], public: true}, {name: b, paths: [/**], permission: read}]";
    let gateway = in_front_of(&upstream, config).await;
    for (host, expected) in [
        ("a.example", 200),
        ("A.EXAMPLE.:80", 200),
        ("[0:0::1]", 200),
        ("b.example", 401),
        ("a.example..", 400),
        ("a..", 400),
        (".a.example", 400),
        ("a..example", 400),
        (".", 400),
    ] {
        let answer = gateway.sends(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(answer.status, expected, "{host}");
    }
}

#[tokio::test]
async fn a_client_of_http_1_0_need_not_name_a_host() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = in_front_of(&upstream, "").await;
    assert_eq!(gateway.sends("GET /health HTTP/1.0\r\n\r\n").await.status, 200);
    let seen = upstream.only_request();
    assert_eq!(seen.headers("host"), [upstream.address.to_string()], "its own name");
    assert!(seen.headers("x-forwarded-host").is_empty());
    assert_eq!(gateway.sends("GET /health HTTP/1.1\r\n\r\n").await.status, 400);
}

/// Upstream gets the name of its endpoint then, which a route may name.
#[tokio::test]
async fn a_client_of_http_1_0_names_a_host_where_hosts_decide() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for routes in [
        "[{name: a, paths: [/health], hosts: [a.example], public: true}]",
        "[{name: a, paths: [/**], hosts: [127.0.0.1], permission: admin}, {name: b, paths: [/**], permission: read}]",
        "[{name: b, paths: [/health], public: true}, {name: a, paths: ['/h*'], hosts: ['*.example'], permission: admin}]",
    ] {
        let gateway = in_front_of(&upstream, &format!("routes: {routes}")).await;
        for key in ["", "reader", "admin"] {
            let bearer = if key.is_empty() { String::new() } else { gateway.bearer(key) };
            let answer = gateway.sends(format!("GET /health HTTP/1.0\r\n{bearer}\r\n")).await;
            answer.assert_denied(400, "BAD_REQUEST");
        }
        assert!(upstream.requests().is_empty(), "{routes}");
    }
    // A load balancer's check of a path that no host has a say in is served.
    let elsewhere = "routes: [{name: b, paths: [/health], public: true}, {name: a, paths: [/x], hosts: ['*.example'], permission: admin}]";
    let gateway = in_front_of(&upstream, elsewhere).await;
    assert_eq!(gateway.sends("GET /health HTTP/1.0\r\n\r\n").await.status, 200);
    let guarded = "routes: [{name: a, paths: [/**], hosts: [127.0.0.1], permission: admin}, {name: b, paths: [/**], permission: read}]";
    let gateway = in_front_of(&upstream, guarded).await;
    for (host, expected) in [("127.0.0.1", 403), ("a.example", 200)] {
        let head = format!("GET /health HTTP/1.0\r\nHost: {host}\r\n{}\r\n", gateway.bearer("reader"));
        assert_eq!(gateway.sends(head).await.status, expected, "{host}");
    }
}

#[tokio::test]
async fn get_and_head_have_no_body() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let config = "routes: [{name: body, paths: [/body], permission: read, body_on_get: true}, {name: open, paths: [/open], public: true}, {name: all, paths: [/**], permission: read}]";
    let gateway = in_front_of(&upstream, config).await;
    let nested = "POST /v1/admin/wipe HTTP/1.1\r\nHost: a\r\nx-bearward-key-id: key_admin\r\nContent-Length: 0\r\n\r\n";
    let length = format!("Content-Length: {}\r\n\r\n{nested}", nested.len());
    let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{nested}\r\n0\r\n\r\n", nested.len());
    for (line, key, framing, expected) in [
        ("GET /open", "", length.as_str(), 400),
        ("HEAD /open", "", &length, 400),
        ("GET /open", "", &chunked, 400),
        ("GET /x", "reader", &length, 400),
        ("GET /x", "reader", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("GET /x", "", &length, 401),
        ("GET /open", "", "Content-Length: 0\r\n\r\n", 200),
        ("GET /body", "reader", "Content-Length: 2\r\n\r\nhi", 200),
        ("POST /x", "reader", "Content-Length: 2\r\n\r\nhi", 200),
        ("DELETE /x", "reader", "Content-Length: 2\r\n\r\nhi", 200),
    ] {
        upstream.forget();
        let mut raw = gateway.raw().await;
        let bearer = if key.is_empty() { String::new() } else { gateway.bearer(key) };
        raw.send(format!("{line} HTTP/1.1\r\nHost: a\r\n{bearer}{framing}")).await;
        let answer = if line.starts_with("HEAD") { raw.answer_to_head().await } else { raw.answer().await };
        assert_eq!(answer.status, expected, "{line} {framing:?}");
        assert_eq!(upstream.requests().len(), usize::from(expected == 200), "{line} {framing:?}");
    }
}

/// Sends a request on HTTP/2 whose head does not end it, and then these bytes, if any, as its end.
async fn h2_status(
    gateway: &Running,
    request: http::request::Builder,
    body: Option<&'static str>,
) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = request.version(Version::HTTP_2).body(()).unwrap();
    let (answer, mut sending) = client.send_request(request, false).unwrap();
    if let Some(body) = body {
        // It may be refused, and reset, before.
        let _refused = sending.send_data(Bytes::from_static(body.as_bytes()), true);
    }
    let answer = in_time("an answer", answer).await.unwrap();
    let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (answer.status().as_u16(), content_type)
}

#[tokio::test]
async fn on_http2_a_get_says_that_it_has_no_body() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = in_front_of(&upstream, "routes: [{name: open, paths: [/open], public: true}]").await;
    let get = || Request::get("http://a.example/open");
    assert_eq!(h2_status(&gateway, get(), Some("x")).await.0, 400);
    assert_eq!(h2_status(&gateway, get(), None).await.0, 400, "nobody waits for it");
    assert!(upstream.requests().is_empty());
    assert_eq!(h2_status(&gateway, get().header("content-length", "0"), Some("")).await.0, 200);
    let seen = upstream.only_request();
    assert!(seen.headers("transfer-encoding").is_empty() && seen.body.is_empty(), "{}", seen.head);
}

#[tokio::test]
async fn only_what_is_grpc_is_answered_as_grpc() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = in_front_of(&upstream, "").await;
    for (method, content_type, is_grpc) in [
        ("POST", "application/grpc", true),
        ("POST", "application/grpc+proto", true),
        ("POST", "application/grpc-evil", false),
        ("POST", "application/grpc-web", false),
        ("POST", "application/grpcx", false),
        ("POST", "application/json", false),
        ("PUT", "application/grpc", false),
    ] {
        let request = Request::builder()
            .method(method)
            .uri("http://a.example/v1/files")
            .header("content-type", content_type);
        let (status, found) = h2_status(&gateway, request, Some("")).await;
        let expected = if is_grpc { (200, "application/grpc") } else { (401, "application/json") };
        assert_eq!((status, found.as_str()), expected, "{method} {content_type}");
    }
    for content_type in ["application/grpc", "application/grpc+proto", "application/grpc-evil"] {
        let fields = format!("Content-Type: {content_type}\r\nContent-Length: 0\r\n\r\n");
        let answer = gateway.sends(format!("POST /v1/files HTTP/1.1\r\nHost: a\r\n{fields}")).await;
        answer.assert_denied(401, "MISSING_API_KEY");
    }
}

#[tokio::test]
async fn a_content_type_gives_nobody_without_a_key_more_time() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let config = "limits: {body_idle_timeout: 50ms}\nroutes: [{name: open, paths: [/open], public: true}]";
    let gateway = in_front_of(&upstream, config).await;
    let request = Request::post("http://a.example/open").header("content-type", "application/grpc");
    let answered = tokio::time::timeout(Duration::from_secs(10), h2_status(&gateway, request, None)).await;
    // A gRPC status, since it is gRPC; in time, since it is nobody's.
    assert_eq!(answered.expect("it is not waited for"), (200, "application/grpc".to_owned()));
}

/// Names that no caller may say to upstream, in odd spellings, too.
const NEVER: &[&str] = &[
    "X-Original-URL",
    "X-Original-URI",
    "X-Original-Host",
    "X-Original-Method",
    "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-HTTP-Host-Override",
    "X-Host",
    "Destination",
    "X-Rewrite-Path",
    "X-Host-Override",
    "X-Sendfile-Type",
    "X-Accel-Mapping",
    "X-Middleware-Subrequest",
    "apikey",
    "Ocp-Apim-Subscription-Key",
    "Helicone-Auth",
    "Cf-Aig-Authorization",
    "X-Portkey-Api-Key",
    "x_original_url",
    "X.Rewrite.URL",
    "Proxy",
    "X.Bearward.Key-Id",
    "x_bearward~key",
    "x|bearward|anything",
    "X-Bearward.Permissions",
    "X.Forwarded.For",
    "X~Forwarded~Host",
    "X-Forwarded",
    "X.Real.IP",
    "X!Api!Key",
    "x.request.id",
    "Proxy.Authorization",
    "Content.Length",
    "Transfer^Encoding",
];

/// Names that say who a client is, or where, which trusted proxies alone may, in their plain
/// spelling: another one is their client's.
const ADDRESSES: &[&str] = &[
    "Remote-User",
    "Remote-Groups",
    "Remote-Email",
    "Client-Cert",
    "Tailscale-User-Login",
    "X-Remote-User",
    "X-Remote-Group",
    "X-Remote-Extra-Scopes",
    "X-WebAuth-User",
    "X-Auth-Request-User",
    "X-Auth-Request-Email",
    "X-Consumer-Username",
    "X-Goog-Authenticated-User-Email",
    "X-SSL-Client-Verify",
    "X-ARR-ClientCert",
    "CF-Connecting-IP",
    "CF-Connecting-IPv6",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "Fastly-Client-IP",
    "X-Envoy-External-Address",
    "X-Original-Forwarded-For",
    "X-Azure-ClientIP",
    "Fly-Client-IP",
    "Client-IP",
    "X-Remote-Addr",
    "Forwarded-For",
    "True.Client_IP",
    "CF.Connecting.IP",
    "x_client_ip",
];

/// Names that nobody minds.
const FREE: &[&str] = &[
    "X-Custom",
    "X.Custom",
    "x_custom",
    "X-Stainless-Lang",
    "X-Originals",
    "Client-Version",
    "Proxied",
    "X-Hosted",
    "X-Forward",
    "X-Bearwards-Id",
    "cf-ray",
    "Traceparent2",
    "OpenAI-Organization",
];

#[tokio::test]
async fn what_overrides_a_decision_or_looks_like_our_word_does_not_pass() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for (trusted, are_addresses_believed) in
        [("trusted_proxies: []", false), ("trusted_proxies: [127.0.0.1]", true)]
    {
        let gateway = in_front_of(&upstream, &format!("routes: any\n{trusted}")).await;
        let all = NEVER.iter().chain(ADDRESSES).chain(FREE);
        // The framing of this very request is none of them.
        let fields: String = all.map(|name| format!("{name}: spoof\r\n")).collect();
        upstream.forget();
        assert_eq!(status(&gateway, "GET /x", "reader", &fields).await, 200);
        let seen = upstream.only_request();
        for name in NEVER {
            assert!(!seen.headers(name).contains(&"spoof"), "{name}: {}", seen.head);
        }
        for name in ADDRESSES {
            let is_plain = !name.contains(['.', '_']);
            assert_eq!(
                !seen.headers(name).is_empty(),
                are_addresses_believed && is_plain,
                "{name}, {trusted}: {}",
                seen.head
            );
        }
        for name in FREE {
            assert_eq!(seen.headers(name), ["spoof"], "{name}: {}", seen.head);
        }
    }
}

#[tokio::test]
async fn nor_does_it_pass_in_trailers() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = in_front_of(&upstream, "routes: any\ntrusted_proxies: [127.0.0.1]").await;
    let bearer = gateway.bearer("writer");
    let named = NEVER.iter().chain(ADDRESSES).copied().collect::<Vec<_>>().join(", ");
    let trailers: String =
        NEVER.iter().chain(ADDRESSES).chain(&["X-Sum"]).map(|name| format!("{name}: spoof\r\n")).collect();
    let answer = gateway
        .sends(format!(
            "POST /x HTTP/1.1\r\nHost: a\r\n{bearer}TE: trailers\r\nTrailer: X-Sum, {named}\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n{trailers}\r\n"
        ))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(upstream.only_request().trailers, "x-sum: spoof\n");
}

#[tokio::test]
async fn an_upstream_cant_say_our_names_in_other_spellings() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nx.bearward.key-id: spoof\r\nx_bearward~key: spoof\r\nx-kept: 1\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let gateway = in_front_of(&upstream, "routes: any").await;
    let answer = gateway.get("/x", "reader").await;
    assert!(answer.header("x.bearward.key-id").is_none() && answer.header("x_bearward~key").is_none());
    assert_eq!(answer.header("x-kept"), Some("1"));
}

#[tokio::test]
async fn a_route_removes_headers_in_every_spelling() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let config = "routes: [{name: a, paths: [/a], permission: read, removes: [X-Debug, x_conf]}, {name: b, paths: [/b], permission: read}]";
    let gateway = in_front_of(&upstream, config).await;
    let fields = "X-Debug: 1\r\nx_debug: 1\r\nX.Debug: 1\r\nX-Conf: 1\r\nx_conf: 1\r\nX-Other: 1\r\n";
    for (path, kept) in [("/a", 0), ("/b", 1)] {
        upstream.forget();
        assert_eq!(status(&gateway, &format!("GET {path}"), "reader", fields).await, 200);
        let seen = upstream.only_request();
        for name in ["x-debug", "x_debug", "x.debug", "x-conf", "x_conf"] {
            assert_eq!(seen.headers(name).len(), kept, "{path} {name}: {}", seen.head);
        }
        assert_eq!(seen.headers("x-other"), ["1"]);
    }
}

#[tokio::test]
async fn generation_is_generation_in_every_spelling_of_its_path() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for (preset, method, path, expected) in [
        ("openai", "POST", "/v1/chat/completions/", 200),
        ("openai", "POST", "/v1/responses/", 200),
        ("openai", "POST", "/v1/responses/compact", 200),
        ("openai", "POST", "/v1/responses/input_tokens", 200),
        ("openai", "POST", "/v1/chat/completions/input_tokens", 200),
        ("openai", "POST", "/v1/embeddings/", 200),
        ("openai", "GET", "/v1/models/", 200),
        ("openai", "GET", "/v1/responses", 200),
        ("openai", "POST", "/v1/responses/r/cancel", 403),
        ("openai", "POST", "/v1/files/", 403),
        ("openai", "POST", "/v1/admin/", 403),
        ("openai", "GET", "/v1/models/org%2Fmodel", 400),
        ("vllm", "POST", "/v1/chat/completions/", 200),
        ("vllm", "POST", "/v1/responses/compact", 200),
        ("vllm", "POST", "/v1/responses/input_tokens/", 200),
        ("vllm", "POST", "/sleep/", 403),
        ("vllm", "GET", "/metrics/", 403),
        ("vllm", "GET", "/v1/models/org%2Fmodel", 200),
        ("vllm", "GET", "/v1/models/org/model", 200),
        ("vllm", "GET", "/v1/models/..%2F..%2Fmetrics", 400),
        ("vllm", "GET", "/v1%2Fmodels", 400),
        ("vllm", "POST", "/v1/chat%2Fcompletions", 400),
        ("llama-cpp", "POST", "/completion/", 200),
        ("llama-cpp", "POST", "/slots/0/", 403),
        ("ollama", "POST", "/api/chat/", 200),
        ("ollama", "POST", "/api/pull/", 403),
        ("triton", "POST", "/v2/models/m/infer/", 200),
        ("triton", "POST", "/v2/repository/models/m/load/", 403),
    ] {
        let gateway = in_front_of(&upstream, &format!("routes: {preset}")).await;
        upstream.forget();
        let fields = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
        let found = status(&gateway, &format!("{method} {path}"), "reader", fields).await;
        assert_eq!(found, expected, "{preset}: {method} {path}");
        if expected == 200 {
            assert_eq!(upstream.only_request().target(), path, "it is forwarded as it came");
        }
    }
}

#[tokio::test]
async fn llama_cpp_gets_no_conversation_id_that_would_outlive_its_client() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for (preset, kept) in [("llama-cpp", 0), ("openai", 1)] {
        let gateway = in_front_of(&upstream, &format!("routes: {preset}")).await;
        upstream.forget();
        let fields =
            "X-Conversation-Id: c\r\nx_conversation_id: c\r\nX.Conversation.Id: c\r\nContent-Length: 0\r\n";
        assert_eq!(status(&gateway, "POST /v1/chat/completions", "reader", fields).await, 200);
        for name in ["x-conversation-id", "x_conversation_id", "x.conversation.id"] {
            assert_eq!(upstream.only_request().headers(name).len(), kept, "{preset} {name}");
        }
    }
}

#[tokio::test]
async fn a_preset_stands_among_other_routes_at_its_place() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let config = "routes: [{name: own, paths: [/v1/models], permission: admin}, {preset: openai}, {name: rest, paths: [/**], permission: write}]";
    let gateway = in_front_of(&upstream, config).await;
    for (line, key, expected) in [
        ("GET /v1/models", "reader", 403),
        ("GET /v1/models/x", "reader", 200),
        ("GET /health", "", 200),
        ("GET /other", "reader", 403),
        ("GET /other", "writer", 200),
    ] {
        assert_eq!(status(&gateway, line, key, "").await, expected, "{line} {key}");
    }
}

#[tokio::test]
async fn a_stranger_learns_of_no_route_by_an_ambiguous_path() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let other = Upstream::answering(answer_of("hi")).await;
    // A second upstream stands behind the harness's own.
    let second = format!(
        "accept_in_path: [encoded-slash]}}\n  - {{name: not, endpoints: [\"http://{}\"]",
        other.address
    );
    let gateway = Gateway::guarding(&upstream)
        .upstream(&second)
        .key("reader", "permissions: [read]")
        .config("routes: [{name: a, paths: [/takes/**], permission: read}, {name: b, paths: [/not/**], permission: read, upstream: not}]")
        .start()
        .await;
    let mut found = Vec::new();
    for path in ["/takes/a%2Fb", "/not/a%2Fb", "/nothing/a%2Fb"] {
        found.push(status(&gateway, &format!("GET {path}"), "", "").await);
    }
    assert_eq!(found, [401, 401, 401]);
    assert_eq!(status(&gateway, "GET /takes/a%2Fb", "reader", "").await, 200);
    assert_eq!(status(&gateway, "GET /not/a%2Fb", "reader", "").await, 400);
    assert_eq!(status(&gateway, "GET /nothing/a%2Fb", "reader", "").await, 400);
    // What nobody takes is 400 for everybody.
    assert_eq!(status(&gateway, "GET /takes/a%5Cb", "", "").await, 400);
    assert!(other.requests().is_empty());
}

#[tokio::test]
async fn whoever_sends_an_ambiguous_path_must_be_allowed_all_that_it_may_be_read_as() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("accept_in_path: [encoded-slash, semicolon]")
        .key("reader", "permissions: [read]")
        .key("admin", "permissions: [admin]")
        .config(
            "routes: [{name: admin, paths: [/v1/admin/**, '/v1/x;y/**', '/v1/p%3Bq'], permission: admin}, \
             {name: open, paths: [/open/**], public: true}, {name: all, paths: [/**], permission: read}]",
        )
        .start()
        .await;
    for (path, key, expected) in [
        ("/v1/x%3By/z", "reader", 403),
        ("/v1/x%3by/z", "admin", 200),
        ("/v1/p;q", "reader", 403),
        ("/v1/p%3Bq", "admin", 200),
        ("/v1/admin%3Bx/wipe", "reader", 403),
        ("/v1/a%3Bb", "reader", 200),
        ("/v1/admin%2Fwipe", "reader", 403),
        ("/v1/admin%2Fwipe", "admin", 200),
        ("/v1/admin;x/wipe", "reader", 403),
        ("/v1%2Fadmin;x%2Fwipe", "reader", 403),
        ("/v1%2F%2Fadmin%2Fwipe", "reader", 403),
        ("/v1/files/a%2Fb", "reader", 200),
        ("/open/a%2Fb", "", 200),
        ("/open%2Fb", "", 401),
    ] {
        assert_eq!(status(&gateway, &format!("GET {path}"), key, "").await, expected, "{path} {key}");
    }
}

#[tokio::test]
async fn whoever_sends_an_ambiguous_path_is_held_to_the_bounds_of_all_that_it_may_be_read_as() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("accept_in_path: [encoded-slash, semicolon]")
        .key("reader", "permissions: [read]")
        .config(
            "routes:
  - {name: gen, paths: [/v1/gen/**], permission: read, rate_limits: [{requests: 1, per: 1h, burst: 1}]}
  - {name: small, paths: [/v1/small/**], permission: read, max_body: 5B}
  - {name: strip, paths: [/v1/strip/**], permission: read, removes: [x-foo]}
  - {name: rest, paths: [/v1/**], permission: read, body_on_get: true, upgrades: [websocket]}",
        )
        .start()
        .await;
    let long = "Content-Length: 10\r\n\r\n0123456789";
    let short = "Content-Length: 5\r\n\r\n01234";
    for (line, fields, expected) in [
        ("POST /v1/small%2Frun", long, 413),
        ("POST /v1/small;x/run", long, 413),
        ("POST /v1/%2Fsmall%2Frun", long, 413),
        ("POST /v1/small%2Frun", short, 200),
        ("POST /v1/other%2Frun", long, 200),
        ("GET /v1/strip%2Frun", short, 400),
        ("GET /v1/other%2Frun", short, 200),
    ] {
        assert_eq!(status(&gateway, line, "reader", fields).await, expected, "{line} {fields}");
    }
    for path in ["/v1/strip%2Frun", "/v1/strip;a/run", "/v1/strip/run"] {
        let seen = upstream.requests().len();
        assert_eq!(status(&gateway, &format!("GET {path}"), "reader", "X_Foo: a\r\nX-Foo: a\r\n").await, 200);
        let request = upstream.requests().into_iter().nth(seen).unwrap();
        assert!(request.headers("x-foo").is_empty() && request.headers("x_foo").is_empty(), "{path}");
    }
    let trailers = "Transfer-Encoding: chunked\r\nTrailer: x-foo\r\n\r\n1\r\na\r\n0\r\nX-Foo: a\r\n";
    let seen = upstream.requests().len();
    assert_eq!(status(&gateway, "POST /v1/strip%2Frun", "reader", trailers).await, 200);
    assert_eq!(upstream.requests().into_iter().nth(seen).unwrap().trailers, "");
    // One request an hour, in whichever spelling.
    for (path, expected) in [
        ("/v1/gen%2Frun", 200),
        ("/v1/gen%2Frun", 429),
        ("/v1/gen;x/run", 429),
        ("/v1/gen/run", 429),
        ("/v1/other%2Frun", 200),
    ] {
        assert_eq!(status(&gateway, &format!("GET {path}"), "reader", "").await, expected, "{path}");
    }
}

#[tokio::test]
async fn paths_are_decided_as_the_upstream_reads_them() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    // More than are asked one by one.
    let others: String =
        (0..20).map(|n| format!("{{name: other-{n}, paths: [/others/{n}], permission: write}}, ")).collect();
    let routes = "routes: [OTHERS{name: admin, paths: ['/admin/*', '/gr%C3%BCn'], permission: admin}, {name: all, paths: [/**], permission: read}]".replace("OTHERS", &others);
    let routes = routes.as_str();
    let start = async |paths: &str| {
        let gateway = Gateway::guarding(&upstream).key("reader", "permissions: [read]").config(routes);
        if paths.is_empty() { gateway.start().await } else { gateway.upstream(paths).start().await }
    };
    let both = start("paths: {ignore_case: true, ignore_trailing_slash: true}").await;
    let neither = start("").await;
    for path in [
        "/Others/7",
        "/others/7/",
        "/ADMIN/x",
        "/admin/x/",
        "/Admin/X/",
        "/admin",
        "/GR%C3%9CN",
        "/gr%c3%bcn/",
    ] {
        assert_eq!(status(&both, &format!("GET {path}"), "reader", "").await, 403, "{path}");
        assert_eq!(status(&neither, &format!("GET {path}"), "reader", "").await, 200, "{path}");
    }
    upstream.forget();
    assert_eq!(status(&both, "GET /Other/X/", "reader", "").await, 200);
    assert_eq!(upstream.only_request().target(), "/Other/X/", "it is forwarded as it came");
}

#[test]
fn a_wider_route_that_asks_less_is_warned_of_until_the_configuration_says_how_paths_are_read() {
    let routes = "routes:\n  - {name: admin, paths: ['/admin/*'], permission: admin}\n  - {name: all, paths: ['/**'], permission: read}\n";
    let (code, reported) = checked(&format!("{LEAST}{routes}"), &[]);
    assert_eq!(code, Some(0), "a warning is no fault: {reported}");
    for how in ["in capital letters", "with a slash at the end"] {
        assert!(
            reported.lines().any(|line| line.contains("the route admin") && line.contains(how)),
            "{reported}"
        );
    }
    for said in
        ["ignore_case: true, ignore_trailing_slash: true", "ignore_case: false, ignore_trailing_slash: false"]
    {
        let config = LEAST.replace(":1]}", &format!(":1], paths: {{{said}}}}}"));
        let (code, reported) = checked(&format!("{config}{routes}"), &[]);
        assert_eq!(code, Some(0), "{reported}");
        assert!(!reported.contains("the route admin"), "{reported}");
    }
    // The presets need no such word.
    for preset in ["openai", "vllm", "llama-cpp", "ollama", "triton", "any"] {
        let (code, reported) = checked(&format!("{LEAST}routes: {preset}\n"), &[]);
        assert_eq!((code, reported.contains("warning")), (Some(0), false), "{preset}: {reported}");
    }
}

#[test]
fn a_file_that_is_missing_is_a_fault_of_the_place_that_names_it() {
    let upstream = "upstreams: [{name: m, endpoints: [https://127.0.0.1:1]";
    let cases = [
        ("listeners: [{address: 127.0.0.1:0, tls: {certificate: no.pem, private_key: no.key}}]", "no.pem", 2),
        (
            "listeners: [{address: 127.0.0.1:0, tls: {certificate: good.pem, private_key: no.key}}]",
            "no.key",
            2,
        ),
        (
            "listeners: [{address: 127.0.0.1:0, tls: {certificate: good.pem, private_key: good.key, client_ca: no.ca}}]",
            "no.ca",
            2,
        ),
        (&format!("{upstream}, tls: {{ca: no.ca}}}}]"), "no.ca", 3),
        (&format!("{upstream}, tls: {{client_certificate: no.pem, client_key: good.key}}}}]"), "no.pem", 3),
        (&format!("{upstream}, credential: {{file: no.secret}}}}]"), "no.secret", 3),
        ("keys: {path: no.yaml}", "no.yaml", 4),
        ("admin: {address: 127.0.0.1:0, token_file: no.token}", "no.token", 1),
    ];
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    for (line, missing, number) in cases {
        let place = format!("{number}:{}", line.find(missing).unwrap() + 1);
        let field = line.split(':').next().unwrap();
        let lines =
            LEAST.lines().map(|known| if known.starts_with(&format!("{field}:")) { line } else { known });
        let config: String = lines.map(|line| format!("{line}\n")).collect();
        let (code, reported) = checked(&config, &[("good.pem", &certificate), ("good.key", &key)]);
        assert_eq!(code, Some(78), "{line}: {reported}");
        assert!(
            reported.contains(&format!("bearward.yaml:{place}: ")) && reported.contains(missing),
            "{line}: {reported}"
        );
    }
}
