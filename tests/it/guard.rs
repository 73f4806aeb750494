//! Hostile heads, line by line, through the real binary, in front of an upstream that records what arrived.

use crate::harness::{Binary, Gateway, Upstream, answer_of};

pub(crate) async fn gateway(upstream: &Upstream) -> Binary {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read], environment: test")
        .key("admin", "permissions: [admin]")
        .config("routes: [{name: public, paths: [/open/**], public: true}, {name: all, paths: [/**], permission: read}]")
        .start_binary()
        .await
}

/// What must become of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// Refused with 400 in our shape, the connection closed, nothing upstream.
    R400,
    /// Refused with this status in our shape, nothing upstream.
    Refused(u16),
    /// Forwarded, with this target.
    Forwarded(&'static str),
}
use Outcome::{Forwarded, R400, Refused};

pub(crate) async fn check(gateway: &Binary, upstream: &Upstream, request: &str, outcome: Outcome) {
    upstream.forget();
    let request = request.replace("{key}", gateway.bearer("ci").trim_end());
    let mut raw = gateway.raw().await;
    raw.send(&request).await;
    let answer = raw.answer().await;
    let said = format!("{request:?} → {} {}", answer.status, String::from_utf8_lossy(&answer.body));
    match outcome {
        R400 => {
            assert_eq!(answer.status, 400, "{said}");
            answer.assert_denied(400, "BAD_REQUEST");
            raw.assert_closed().await;
        }
        Refused(status) => {
            assert_eq!(answer.status, status, "{said}");
            crate::harness::assert_shape(&answer.json());
        }
        Forwarded(target) => {
            assert_eq!(answer.status, 200, "{said}");
            assert_eq!(upstream.only_request().target(), target, "{said}");
            return;
        }
    }
    assert!(upstream.requests().is_empty(), "{said}: {:?}", upstream.requests());
}

#[tokio::test]
async fn targets_and_hosts() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let with_key = |line: &str| format!("{line}\r\nHost: a.example\r\n{{key}}\r\n\r\n");
    let cases = [
        // Host
        ("GET /x HTTP/1.1\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.0\r\n{key}\r\n\r\n".to_owned(), Forwarded("/x")),
        ("GET /x HTTP/1.0\r\nHost:\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost:\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: a\r\nHost: a\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: a b\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: a/b\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: u@a\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: a:b\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: a:80:80\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: a:65536\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: a, b\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: [::1\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: a\u{e9}\r\n{key}\r\n\r\n".to_owned(), R400),
        ("GET /x HTTP/1.1\r\nHost: [::1]:80\r\n{key}\r\n\r\n".to_owned(), Forwarded("/x")),
        // Forms of the target
        (with_key("GET http://b.example/x HTTP/1.1"), Forwarded("/x")),
        (with_key("GET http://b.example HTTP/1.1"), Forwarded("/")),
        (with_key("GET http://b.example?q HTTP/1.1"), Forwarded("/?q")),
        (with_key("GET http://b.example#f HTTP/1.1"), Forwarded("/")),
        (with_key("GET http://b.example/#f HTTP/1.1"), Forwarded("/")),
        (with_key("GET http://b.example?#f HTTP/1.1"), Forwarded("/?")),
        (with_key("GET ftp://b.example/x HTTP/1.1"), R400),
        (with_key("GET https://b.example/x HTTP/1.1"), R400),
        (with_key("GET HTTP://b.example/x HTTP/1.1"), Forwarded("/x")),
        (with_key(&format!("{} /x HTTP/1.1", "G".repeat(65))), R400),
        (with_key("GET file:///x HTTP/1.1"), R400),
        (with_key("GET http://user@b.example/x HTTP/1.1"), R400),
        (with_key("GET http://user:pw@b.example/x HTTP/1.1"), R400),
        (with_key("GET http:///x HTTP/1.1"), R400),
        (with_key("GET * HTTP/1.1"), R400),
        (with_key("OPTIONS * HTTP/1.1"), R400),
        (with_key("GET admin HTTP/1.1"), R400),
        (with_key("GET admin:80 HTTP/1.1"), R400),
        (with_key("GET  /x HTTP/1.1"), R400),
        (with_key("GET /x y HTTP/1.1"), R400),
        (with_key("GET /x"), R400),
        (with_key("CONNECT b.example:443 HTTP/1.1"), Refused(405)),
        (with_key("CONNECT /x HTTP/1.1"), Refused(405)),
        (with_key("TRACE /x HTTP/1.1"), Refused(405)),
        // A fragment never reaches upstream.
        (with_key("GET /x#y HTTP/1.1"), Forwarded("/x")),
        (with_key("GET /x?a#/../y HTTP/1.1"), Forwarded("/x?a")),
    ];
    for (request, outcome) in cases {
        check(&gateway, &upstream, &request, outcome).await;
    }
    // An absolute target's authority replaces Host.
    check(&gateway, &upstream, &with_key("GET http://b.example:81/x HTTP/1.1"), Forwarded("/x")).await;
    assert_eq!(upstream.only_request().headers("host"), ["b.example:81"]);
}

#[tokio::test]
async fn paths() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let cases = [
        ("/a%2fb", R400),
        ("/a%2Fb", R400),
        ("/a%5cb", R400),
        ("/a\\b", R400),
        ("/a%00b", R400),
        ("/a;b", R400),
        ("/a;/../b", R400),
        ("/a%", R400),
        ("/a%2", R400),
        ("/a%zz", R400),
        ("/a%0d%0aHost:x", R400),
        ("/a%1f", R400),
        ("/a%7f", R400),
        ("/open/..%2fsecret", R400),
        ("/a%6Db", Forwarded("/amb")),
        ("/%61%2d%5f%7e", Forwarded("/a-_~")),
        ("//a///b", Forwarded("/a/b")),
        ("/a/./b/../c", Forwarded("/a/c")),
        ("/a/%2e%2e/b", Forwarded("/b")),
        ("/a/.%2E/b", Forwarded("/b")),
        ("/../../a", Forwarded("/a")),
        ("/a/..", Forwarded("/")),
        ("/a%c3%a9%20", Forwarded("/a%C3%A9%20")),
        ("/a%252fb", Forwarded("/a%252fb")),
        ("/a?x=/../%2f;\\y&z", Forwarded("/a?x=/../%2f;\\y&z")),
        ("/a?", Forwarded("/a?")),
    ];
    for (path, outcome) in cases {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{{key}}\r\n\r\n");
        check(&gateway, &upstream, &request, outcome).await;
    }
    // What is matched is what is forwarded: a way out of a public prefix meets the door.
    for path in ["/open/../secret", "/open/%2e%2e/secret", "/open//../../secret", "//open/../secret"] {
        check(&gateway, &upstream, &format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"), Refused(401))
            .await;
    }
}

#[tokio::test]
async fn names_with_an_underscore_are_refused_where_that_is_wanted() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let start = async |config: &str| {
        let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").config("routes: any");
        gateway.config(config).start_binary().await
    };
    let ask = "GET /x HTTP/1.1\r\nHost: a.example\r\n{key}\r\nx_custom: 1\r\n\r\n";
    check(&start("").await, &upstream, ask, Forwarded("/x")).await;
    check(&start("limits: {underscores_in_headers: refuse}").await, &upstream, ask, R400).await;
}

#[tokio::test]
async fn nothing_but_method_path_and_host_decides() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    for header in [
        "X-Original-URL: /open/x",
        "X-Rewrite-URL: /open/x",
        "X-Forwarded-Uri: /open/x",
        "X-HTTP-Method-Override: GET",
        "X-Forwarded-Host: open",
        "User-Agent: kube-probe",
        "X-Forwarded-For: 127.0.0.1",
    ] {
        let request =
            format!("POST /secret HTTP/1.1\r\nHost: a.example\r\n{header}\r\nContent-Length: 0\r\n\r\n");
        check(&gateway, &upstream, &request, Refused(401)).await;
    }
}

#[tokio::test]
async fn credentials() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let token = gateway.token("ci").to_owned();
    let other = gateway.token("admin").to_owned();
    let get = |lines: &str| format!("GET /x HTTP/1.1\r\nHost: a.example\r\n{lines}\r\n\r\n");
    let cases = [
        (format!("Authorization: Bearer {token}"), Forwarded("/x")),
        (format!("authorization:bEARER \t {token} \t"), Forwarded("/x")),
        (format!("Authorization: Bearer\t{token}"), Refused(401)),
        (format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}"), R400),
        (format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {other}"), R400),
        (format!("Authorization: Bearer {token}\r\nauthorization: Basic eDp5"), R400),
        (format!("Authorization: Bearer {token}, Bearer {other}"), Refused(401)),
        (format!("Authorization: Bearer {token} {other}"), Refused(401)),
        (format!("Authorization: Bearer {token},"), Refused(401)),
        (format!("Authorization: Bearer \"{token}\""), Refused(401)),
        (format!("Authorization: Bearer {}", token.to_uppercase()), Refused(401)),
        (format!("Authorization: Bearer {}", &token[..52]), Refused(401)),
        (format!("Authorization: Bearer {token}x"), Refused(401)),
        (format!("Authorization: Basic {token}"), Refused(401)),
        (format!("Authorization: {token}"), Refused(401)),
        ("Authorization: Bearer".to_owned(), Refused(401)),
        ("Authorization:".to_owned(), Refused(401)),
        (format!("Proxy-Authorization: Bearer {token}"), Refused(401)),
        (format!("Cookie: Authorization=Bearer {token}"), Refused(401)),
        (format!("X-Api-Key: {token}"), Refused(401)),
        (format!("Api-Key: {token}"), Refused(401)),
        (format!("Authorization_: Bearer {token}"), Refused(401)),
        ("Accept: */*".to_owned(), Refused(401)),
    ];
    for (lines, outcome) in cases {
        check(&gateway, &upstream, &get(&lines), outcome).await;
    }
    // On a public route, too, though nobody asks for one there.
    let two = format!(
        "GET /open/x HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer {token}\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    check(&gateway, &upstream, &two, R400).await;
    let unknown = "GET /open/x HTTP/1.1\r\nHost: a.example\r\nAuthorization: Bearer nobody\r\n\r\n";
    check(&gateway, &upstream, unknown, Forwarded("/open/x")).await;
    let query = format!("GET /x?key={token}&access_token={token} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    check(&gateway, &upstream, &query, Refused(401)).await;
    let trailer = format!(
        "POST /x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n0\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    check(&gateway, &upstream, &trailer, Refused(401)).await;
}

#[tokio::test]
async fn a_credential_is_judged_for_each_request_of_a_connection() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let mut raw = gateway.raw().await;
    for (with_key, status) in [(true, 200), (false, 401), (true, 200), (false, 401)] {
        let bearer = if with_key { gateway.bearer("ci") } else { String::new() };
        raw.send(format!("GET /x HTTP/1.1\r\nHost: a.example\r\n{bearer}\r\n")).await;
        assert_eq!(raw.answer().await.status, status);
    }
    assert_eq!(upstream.requests().len(), 2);
}

#[tokio::test]
async fn identity_headers_of_upstream() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    let key_id = format!("key_{}", &gateway.token("ci")[4..14]);
    let spoofs = [
        "X-Bearward-Key-Id: admin",
        "x_bearward_key_id: admin",
        "X-Bearward_Key-Id: admin",
        "X-Bearward-Anything: admin",
        "X-Forwarded-For: 9.9.9.9",
        "X_Forwarded_For: 9.9.9.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Port: 1",
        "X-Forwarded-Prefix: /evil",
        "Forwarded: for=9.9.9.9",
        "X-Real-IP: 9.9.9.9",
        "X_Real_IP: 9.9.9.9",
        "X-Api-Key: other",
        "Proxy-Authorization: Basic x",
        "Proxy-Connection: keep-alive",
        "Keep-Alive: timeout=5",
        "TE: gzip",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: keep-alive, Upgrade, HTTP2-Settings, X-Hop, X-Bearward-Key-Id, X-Forwarded-For, Host, Content-Length",
        "X-Hop: 1",
        "X-End-To-End: 1",
        "Expect: 100-continue",
    ]
    .join("\r\n");
    let request =
        format!("POST /x HTTP/1.1\r\nHost: a.example:81\r\n{bearer}{spoofs}\r\nContent-Length: 2\r\n\r\nhi");
    let mut raw = gateway.raw().await;
    raw.send(request).await;
    assert_eq!(raw.head().await.status, 100);
    assert_eq!(raw.answer().await.status, 200);
    let seen = upstream.only_request();
    let expected = [
        ("host", vec!["a.example:81"]),
        ("x-bearward-key-id", vec![key_id.as_str()]),
        ("x-bearward-key-name", vec!["ci"]),
        ("x-bearward-environment", vec!["test"]),
        ("x-bearward-permissions", vec!["read"]),
        ("x-forwarded-for", vec!["127.0.0.1"]),
        ("x-forwarded-proto", vec!["http"]),
        ("x-forwarded-host", vec!["a.example:81"]),
        ("content-length", vec!["2"]),
        ("x-end-to-end", vec!["1"]),
    ];
    for (name, values) in expected {
        assert_eq!(seen.headers(name), values, "{}", seen.head);
    }
    for gone in [
        "authorization",
        "x_bearward_key_id",
        "x-bearward_key-id",
        "x-bearward-anything",
        "x_forwarded_for",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "forwarded",
        "x-real-ip",
        "x_real_ip",
        "x-api-key",
        "proxy-authorization",
        "proxy-connection",
        "keep-alive",
        "te",
        "upgrade",
        "http2-settings",
        "connection",
        "x-hop",
        "expect",
        "transfer-encoding",
    ] {
        assert!(seen.headers(gone).is_empty(), "{gone}: {}", seen.head);
    }
    assert!(!seen.head.contains("9.9.9.9") && !seen.head.contains(gateway.token("ci")));
    assert_eq!(seen.body, b"hi");
}

#[tokio::test]
async fn without_a_good_key_no_100_is_sent() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let request = "POST /x HTTP/1.1\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n";
    check(&gateway, &upstream, request, Refused(401)).await;
}

#[tokio::test]
async fn h2_streams_are_guarded_alike() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let client = gateway.client(true);
    let get = |path: &str| client.get(gateway.url(path)).bearer_auth(gateway.token("ci"));
    assert_eq!(get("/a%2fb").send().await.unwrap().status(), 400);
    assert!(upstream.requests().is_empty());
    // Cookie crumbs are joined.
    let answer = get("/x").header("cookie", "a=1").header("cookie", "b=2").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(upstream.only_request().headers("cookie"), ["a=1; b=2"]);
}

#[tokio::test]
async fn h2_pseudo_headers_decide_and_a_host_beside_them_does_not() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let ask = async |request: http::request::Builder| {
        let mut client = client.clone().ready().await.unwrap();
        let request = request.header("authorization", format!("Bearer {}", gateway.token("ci")));
        let (answer, _) = client.send_request(request.body(()).unwrap(), true).unwrap();
        crate::harness::in_time("answer", answer).await.map(|answer| answer.status().as_u16())
    };
    let get = |uri: &str| http::Request::get(uri).version(http::Version::HTTP_2);
    assert_eq!(ask(get("http://a.example/x").header("host", "evil.example")).await.unwrap(), 200);
    let seen = upstream.only_request();
    assert_eq!(
        (seen.headers("host"), seen.header("x-forwarded-host")),
        (vec!["a.example"], Some("a.example"))
    );
    upstream.forget();
    assert_eq!(ask(get("http://a.example/x").header("host", "evil one")).await.unwrap(), 400);
    assert_eq!(ask(get("http://u@a.example/x")).await.unwrap_or(400), 400);
    assert_eq!(ask(get("ftp://a.example/x")).await.unwrap_or(400), 400);
    assert!(upstream.requests().is_empty(), "{:?}", upstream.requests());
}
