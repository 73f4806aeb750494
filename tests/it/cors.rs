//! CORS over real sockets: what browsers are allowed to show to pages of other origins.

use reqwest::header::HeaderMap;
use reqwest::{Method, Response};

use crate::harness::{
    Answer, Door, Gateway, Raw, Running, Upstream, assert_shape, bearward as run, eventually,
};

const APP: &str = "https://app.example.com";
const OTHER: &str = "https://other.example.com";

/// Headers by which an upstream allows more than `cors` does.
const OF_UPSTREAM: &str = "access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n\
     access-control-expose-headers: x-secret\r\naccess-control-allow-private-network: true\r\nvary: accept-encoding\r\n";

/// An upstream that has CORS of its own.
async fn upstream() -> Upstream {
    let answer =
        format!("HTTP/1.1 200 OK\r\n{OF_UPSTREAM}x-ratelimit-limit-images: 5\r\ncontent-length: 2\r\n\r\nhi");
    Upstream::answering(answer).await
}

async fn gateway(upstream: &Upstream, config: &str) -> Running {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read, write]")
        .key("reader", "permissions: [read]")
        .key("limited", "permissions: [read], rate_limits: [{requests: 1, per: 1h}]")
        .config(config)
        .tls()
        .start()
        .await
}

/// A request of a page, and the answer to it.
struct Asked<'a> {
    gateway: &'a Door,
    http2: bool,
}

impl Asked<'_> {
    async fn send(
        &self,
        method: Method,
        path: &str,
        key: &str,
        origin: &str,
        more: &[(&str, &str)],
    ) -> Response {
        let mut request = self.gateway.client(self.http2).request(method, self.gateway.url(path));
        if !key.is_empty() {
            let token = if key == "sk-nobody" { key } else { self.gateway.token(key) };
            request = request.header("authorization", format!("Bearer {token}"));
        }
        if !origin.is_empty() {
            request = request.header("origin", origin);
        }
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap()
    }

    async fn preflight(&self, path: &str, origin: &str, method: &str) -> Response {
        let more = [
            ("access-control-request-method", method),
            ("access-control-request-headers", "authorization,content-type"),
        ];
        self.send(Method::OPTIONS, path, "", origin, &more).await
    }
}

fn all<'h>(headers: &'h HeaderMap, name: &str) -> Vec<&'h str> {
    headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
}

fn of_cors(headers: &HeaderMap) -> Vec<&str> {
    headers.keys().map(|name| name.as_str()).filter(|name| name.starts_with("access-control-")).collect()
}

#[track_caller]
fn assert_readable(headers: &HeaderMap, origin: &str, what: &str) {
    assert_eq!(all(headers, "access-control-allow-origin"), [origin], "{what}: {headers:?}");
    let exposed = all(headers, "access-control-expose-headers");
    let exposed: Vec<&str> = exposed.iter().flat_map(|value| value.split(", ")).collect();
    for name in [
        "x-request-id",
        "retry-after",
        "ratelimit",
        "x-ratelimit-remaining-requests",
        "www-authenticate",
        "x-own",
    ] {
        assert!(exposed.contains(&name), "{what}: {name} of {exposed:?}");
    }
    assert!(!exposed.contains(&"x-secret"), "{what}: {exposed:?}");
    assert!(all(headers, "vary").contains(&"Origin"), "{what}: {headers:?}");
}

#[tokio::test]
async fn every_answer_can_be_read_by_listed_origins_and_by_no_other() {
    let upstream = upstream().await;
    let dead = Upstream::answering("garbage\r\n\r\n").await;
    let config = format!(
        "  - {{name: dead, endpoints: [\"http://{}\"]}}\ncors: {{origins: [{APP}, \"http://localhost:3000\"], expose: [x-own]}}\n\
         limits: {{body_bytes: 1KiB, header_bytes: 4KiB}}\nfailed_attempts: {{per_address: 3, per: 1h}}\n\
         routes:\n  - {{name: a, paths: [/a], methods: [GET, POST], permission: read}}\n  \
         - {{name: w, paths: [/w], permission: write}}\n  - {{name: p, paths: [/p], public: true}}\n  \
         - {{name: d, paths: [/d], permission: read, upstream: dead}}\n",
        dead.address
    );
    // The harness writes the first upstream; the second one has to follow it.
    let (second, config) = config.split_once('\n').unwrap();
    for http2 in [false, true] {
        let gateway = Gateway::guarding(&upstream)
            .key("ci", "permissions: [read, write]")
            .key("reader", "permissions: [read]")
            .key("limited", "permissions: [read], rate_limits: [{requests: 1, per: 1h}]")
            .more_upstreams(second)
            .config(config)
            .tls()
            .start()
            .await;
        let asked = Asked { gateway: &gateway, http2 };
        let (long, large) = ("x".repeat(2000), "x".repeat(5000));
        let cases: Vec<(Method, &str, &str, &str, u16)> = vec![
            (Method::GET, "/a", "ci", "", 200),
            (Method::HEAD, "/a", "ci", "", 200),
            (Method::GET, "/p", "", "", 200),
            (Method::OPTIONS, "/w", "ci", "", 200),
            (Method::GET, "/a", "", "", 401),
            (Method::HEAD, "/a", "", "", 401),
            (Method::GET, "/nowhere", "", "", 401),
            (Method::GET, "/w", "reader", "", 403),
            (Method::GET, "/nowhere", "ci", "", 404),
            (Method::DELETE, "/a", "ci", "", 404),
            (Method::GET, "/a%2fb", "ci", "", 400),
            (Method::POST, "/a", "ci", &long, 413),
            (Method::GET, "/d", "ci", "", 502),
            (Method::GET, "/a", "sk-nobody", "", 401),
            (Method::GET, "/a", "sk-nobody", "", 401),
            (Method::GET, "/a", "sk-nobody", "", 401),
            (Method::GET, "/a", "sk-nobody", "", 429),
        ];
        for (method, path, key, body, status) in cases {
            // A refused body ends the connection: each request has a client of its own.
            for origin in [APP, "http://localhost:3000", OTHER, "null", "https://app.example.com/", ""] {
                // Bad keys are counted: only one origin may present them.
                let (key, expected) = match (key, origin) {
                    ("sk-nobody", APP) | ("ci" | "reader" | "", _) => (key, status),
                    _ => continue,
                };
                let what = format!("{method} {path} of {origin:?}, h2 {http2}");
                let mut request = gateway.client(http2).request(method.clone(), gateway.url(path));
                if !key.is_empty() {
                    let token = if key == "sk-nobody" { key } else { gateway.token(key) };
                    request = request.header("authorization", format!("Bearer {token}"));
                }
                if !origin.is_empty() {
                    request = request.header("origin", origin);
                }
                let answer = request.body(body.to_owned()).send().await.unwrap();
                assert_eq!(answer.status(), expected, "{what}");
                let headers = answer.headers().clone();
                match origin {
                    APP | "http://localhost:3000" => assert_readable(&headers, origin, &what),
                    _ => assert_eq!(of_cors(&headers), Vec::<&str>::new(), "{what}"),
                }
                assert!(!headers.contains_key("access-control-allow-credentials"), "{what}");
                let of_upstream =
                    if status == 200 { vec!["accept-encoding", "Origin"] } else { vec!["Origin"] };
                assert_eq!(all(&headers, "vary"), of_upstream, "{what}");
                if status != 200 && method != Method::HEAD {
                    assert_shape(&answer.json().await.unwrap());
                }
            }
        }
        // The second request of this key is past its limit.
        let spent = asked.send(Method::GET, "/a", "limited", APP, &[]).await;
        assert_readable(spent.headers(), APP, "within the limit");
        assert!(
            all(spent.headers(), "access-control-expose-headers")[0].contains("x-ratelimit-limit-images")
        );
        let over = asked.send(Method::GET, "/a", "limited", APP, &[]).await;
        assert_eq!(
            (over.status().as_u16(), all(over.headers(), "x-ratelimit-remaining-requests")),
            (429, vec!["0"])
        );
        assert_readable(over.headers(), APP, "past the limit");
        let headers = asked.send(Method::GET, "/a", "ci", APP, &[("x-large", &large)]).await;
        assert_eq!(headers.status(), 431);
        assert_readable(headers.headers(), APP, "headers that the guard refuses");
        assert_eq!(all(headers.headers(), "access-control-allow-origin"), [APP]);
    }
}

#[tokio::test]
async fn a_preflight_needs_no_key_and_shows_no_route() {
    let upstream = upstream().await;
    let config = format!(
        "cors: {{origins: [{APP}]}}\nroutes:\n  - {{name: a, paths: [/a], methods: [GET], permission: read}}\n  \
         - {{name: b, paths: [/b], methods: [POST, OPTIONS], permission: write}}\n  - {{name: p, paths: [/p], methods: [DELETE], public: true}}"
    );
    let gateway = gateway(&upstream, &config).await;
    for http2 in [false, true] {
        let asked = Asked { gateway: &gateway, http2 };
        let mut seen: Option<HeaderMap> = None;
        for (path, method) in [
            ("/a", "GET"),
            ("/a", "PUT"),
            ("/b", "POST"),
            ("/p", "DELETE"),
            ("/nowhere", "GET"),
            ("/b", "PROPFIND"),
        ] {
            let answer = asked.preflight(path, APP, method).await;
            assert_eq!(answer.status(), 204, "{method} {path}");
            let mut headers = answer.headers().clone();
            assert!(headers.remove("x-request-id").is_some() && headers.remove("date").is_some());
            assert_eq!(answer.bytes().await.unwrap(), "");
            // A client without a key learns nothing of the routes: each path has the same answer.
            assert_eq!(*seen.get_or_insert(headers.clone()), headers, "{method} {path}");
        }
        let headers = seen.unwrap();
        for (name, value) in [
            ("access-control-allow-origin", APP),
            ("access-control-allow-methods", "DELETE, GET, HEAD, OPTIONS, POST"),
            ("access-control-allow-headers", "authorization, content-type"),
            ("access-control-max-age", "600"),
            ("vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        ] {
            assert_eq!(all(&headers, name), [value]);
        }
        assert_eq!(headers.len(), 5, "{headers:?}");

        // All other requests with OPTIONS are decided like any request: without a key, they get 401.
        for (what, answer) in [
            ("another origin", asked.preflight("/a", OTHER, "GET").await),
            ("no origin", asked.preflight("/a", "", "GET").await),
            ("no method", asked.send(Method::OPTIONS, "/a", "", APP, &[]).await),
            ("no name of a method", asked.preflight("/a", APP, "a b").await),
        ] {
            assert_eq!(answer.status(), 401, "{what}");
            assert_eq!(all(answer.headers(), "access-control-allow-methods"), Vec::<&str>::new(), "{what}");
            assert_eq!(all(answer.headers(), "vary"), ["Origin"], "{what}");
        }
        assert_eq!(asked.preflight("/a%2fb", APP, "GET").await.status(), 400);
    }
    assert!(upstream.requests().is_empty(), "no preflight reached upstream: {:?}", upstream.requests());
    // With a body, it is no preflight of a browser.
    let body = format!(
        "OPTIONS /a HTTP/1.1\r\nHost: a\r\nOrigin: {APP}\r\nAccess-Control-Request-Method: GET\r\nContent-Length: 2\r\n\r\nhi"
    );
    gateway.sends(body).await.assert_denied(401, "MISSING_API_KEY");
}

#[tokio::test]
async fn a_routes_own_cors_replaces_the_one_at_the_top() {
    let upstream = upstream().await;
    let config = format!(
        "cors: {{origins: [{APP}]}}\nroutes:\n  \
         - {{name: own, paths: [/own], methods: [GET], permission: read, cors: {{origins: [{OTHER}], headers: [authorization], credentials: true, max_age: 1h}}}}\n  \
         - {{name: open, paths: [/open], public: true, cors: {{origins: ['*'], methods: [PUT]}}}}\n  \
         - {{preset: openai}}"
    );
    let gateway = gateway(&upstream, &config).await;
    for http2 in [false, true] {
        let asked = Asked { gateway: &gateway, http2 };
        let cases: [(&str, &str, &str, &str, u16, &str); 12] = [
            ("GET", "/own", "ci", OTHER, 200, OTHER),
            ("GET", "/own", "ci", APP, 200, ""),
            ("GET", "/own", "", OTHER, 401, OTHER),
            ("GET", "/own", "", APP, 401, ""),
            // A wrong method is answered with the CORS of its path.
            ("DELETE", "/own", "ci", OTHER, 404, OTHER),
            ("GET", "/open", "", APP, 200, "*"),
            ("GET", "/open", "", "null", 200, "*"),
            ("GET", "/open", "", "", 200, ""),
            ("GET", "/open", "", "nothing", 200, ""),
            // The routes of a preset, and paths without a route, have the one at the top.
            ("GET", "/v1/models", "ci", APP, 200, APP),
            ("GET", "/v1/models", "ci", OTHER, 200, ""),
            ("GET", "/nowhere", "ci", APP, 404, APP),
        ];
        for (method, path, key, origin, status, allowed) in cases {
            let answer = asked.send(method.parse().unwrap(), path, key, origin, &[]).await;
            let what = format!("{method} {path} of {origin}");
            assert_eq!(answer.status(), status, "{what}");
            let expected = if allowed.is_empty() { vec![] } else { vec![allowed] };
            assert_eq!(all(answer.headers(), "access-control-allow-origin"), expected, "{what}");
            let credentials = if allowed == OTHER { vec!["true"] } else { vec![] };
            assert_eq!(all(answer.headers(), "access-control-allow-credentials"), credentials, "{what}");
            assert!(all(answer.headers(), "vary").contains(&"Origin"), "{what}");
        }
        let preflights: [(&str, &str, &str, Option<(&str, &str, &str)>); 7] = [
            ("/own", OTHER, "GET", Some((OTHER, "GET, HEAD", "authorization"))),
            ("/own", OTHER, "DELETE", Some((OTHER, "GET, HEAD", "authorization"))),
            ("/own", APP, "GET", None),
            ("/open", "null", "PUT", Some(("*", "PUT", "authorization, content-type"))),
            ("/v1/models", OTHER, "GET", None),
            ("/nowhere", OTHER, "GET", None),
            ("/nowhere", APP, "GET", Some((APP, "GET", "authorization, content-type"))),
        ];
        for (path, origin, method, expected) in preflights {
            let answer = asked.preflight(path, origin, method).await;
            let what = format!("{method} {path} of {origin}");
            let Some((origin, methods, names)) = expected else {
                assert_eq!((answer.status().as_u16(), of_cors(answer.headers())), (401, vec![]), "{what}");
                continue;
            };
            assert_eq!(answer.status(), 204, "{what}");
            let headers = answer.headers();
            let of = |name: &str| all(headers, name).concat();
            let found = (
                of("access-control-allow-origin"),
                of("access-control-allow-methods"),
                of("access-control-allow-headers"),
            );
            assert_eq!(found, (origin.to_owned(), methods.to_owned(), names.to_owned()), "{what}");
        }
        let own = asked.preflight("/own", OTHER, "GET").await;
        let of = |name: &str| all(own.headers(), name).concat();
        assert_eq!(
            (of("access-control-max-age"), of("access-control-allow-credentials")),
            ("3600".to_owned(), "true".to_owned())
        );
    }
}

#[tokio::test]
async fn a_path_with_two_readings_is_shown_to_origins_of_both_routes() {
    let upstream = upstream().await;
    let config = format!(
        "routes:\n  - {{name: narrow, paths: [/a/b], public: true, cors: {{origins: [{APP}]}}}}\n  \
         - {{name: wide, paths: ['/**'], public: true, cors: {{origins: [{APP}, {OTHER}]}}}}"
    );
    let gateway = Gateway::guarding(&upstream)
        .upstream("accept_in_path: [encoded-slash]")
        .config(&config)
        .tls()
        .start()
        .await;
    let asked = Asked { gateway: &gateway, http2: false };
    for (path, origin, status, is_readable) in [
        ("/a/b", APP, 204, true),
        ("/a/b", OTHER, 200, false),
        ("/a%2Fb", APP, 204, true),
        // A server that decodes the slash would answer with the content of the narrow route.
        ("/a%2Fb", OTHER, 200, false),
        ("/a%2Fc", OTHER, 204, true),
    ] {
        let answer = asked.send(Method::GET, path, "", origin, &[]).await;
        let allowed = all(answer.headers(), "access-control-allow-origin");
        assert_eq!(allowed, if is_readable { vec![origin] } else { vec![] }, "{path} {origin}");
        assert_eq!(asked.preflight(path, origin, "GET").await.status(), status, "{path} {origin}");
    }
}

#[tokio::test]
async fn a_client_that_names_no_listed_origin_sees_no_route() {
    let upstream = upstream().await;
    let own = format!("{{name: own, paths: [/own], permission: read, cors: {{origins: [{APP}]}}}}");
    let other = "{name: other, paths: [/other], permission: read}";
    for top in ["", "cors: {origins: [http://localhost:3000]}\n"] {
        let config = format!("{top}routes: [{own}, {other}]");
        let gateway = gateway(&upstream, &config).await;
        let asked = Asked { gateway: &gateway, http2: false };
        for (method, origin) in [("GET", ""), ("GET", OTHER), ("DELETE", OTHER), ("OPTIONS", OTHER)] {
            let mut seen: Option<HeaderMap> = None;
            for path in ["/own", "/other", "/nowhere"] {
                let more = [("access-control-request-method", "GET")];
                let answer = asked.send(method.parse().unwrap(), path, "", origin, &more).await;
                assert_eq!(answer.status(), 401, "{method} {path}");
                let mut headers = answer.headers().clone();
                assert!(headers.remove("x-request-id").is_some() && headers.remove("date").is_some());
                assert_eq!(*seen.get_or_insert(headers.clone()), headers, "{top}{method} {path} of {origin}");
            }
        }
    }
}

#[tokio::test]
async fn without_cors_the_upstreams_own_headers_pass() {
    let upstream = upstream().await;
    let own = format!(
        "routes:\n  - {{name: a, paths: [/a], public: true, cors: {{origins: [{APP}]}}}}\n  - {{name: b, paths: [/b], public: true}}"
    );
    for (config, path) in [("routes: [{name: b, paths: [/b], public: true}]", "/b"), (own.as_str(), "/b")] {
        let gateway = gateway(&upstream, config).await;
        let asked = Asked { gateway: &gateway, http2: false };
        upstream.forget();
        let answer = asked.send(Method::GET, path, "", APP, &[]).await;
        assert_eq!(all(answer.headers(), "access-control-allow-origin"), ["*"]);
        assert_eq!(all(answer.headers(), "access-control-expose-headers"), ["x-secret"]);
        assert_eq!(all(answer.headers(), "vary"), ["accept-encoding"]);
        assert_eq!(asked.preflight(path, APP, "PUT").await.status(), 200);
        assert_eq!(upstream.requests()[1].request_line(), "OPTIONS /b HTTP/1.1");
        let refused = asked.send(Method::GET, "/nowhere", "", APP, &[]).await;
        // Where a route has a `cors`, every refusal before a route was found varies alike.
        let vary = if config == own { vec!["Origin"] } else { vec![] };
        assert_eq!((of_cors(refused.headers()), all(refused.headers(), "vary")), (vec![], vary));
    }
}

#[tokio::test]
async fn two_origins_are_none() {
    let upstream = upstream().await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config(&format!("cors: {{origins: [{APP}]}}\nroutes: any"))
        .start()
        .await;
    let bearer = gateway.bearer("ci");
    let none = |answer: &Answer| {
        let names = answer.headers.iter().map(|(name, _)| name.to_ascii_lowercase());
        names.filter(|name| name.starts_with("access-control-")).count() == 0
    };
    let twice = format!("GET /a HTTP/1.1\r\nHost: a\r\n{bearer}Origin: {APP}\r\nOrigin: {APP}\r\n\r\n");
    let answer = gateway.sends(twice).await;
    assert!(answer.status == 200 && none(&answer), "{answer:?}");
    let preflight = |more: &str| {
        format!(
            "OPTIONS /a HTTP/1.1\r\nHost: a\r\nOrigin: {APP}\r\nAccess-Control-Request-Method: PUT\r\n{more}\r\n"
        )
    };
    assert_eq!(gateway.sends(preflight("")).await.status, 204);
    let twice = gateway.sends(preflight(&format!("Origin: {APP}\r\n"))).await;
    twice.assert_denied(401, "MISSING_API_KEY");
    assert!(none(&twice), "{twice:?}");
    // What hyper refuses has no Origin that was read.
    let broken =
        gateway.sends(format!("GET /a HTTP/1.1\r\nHost: a\r\nOrigin: {APP}\r\nx y: z\r\n\r\n")).await;
    assert!(broken.status == 400 && none(&broken), "{broken:?}");
}

#[tokio::test]
async fn preflights_leave_the_limits_of_clients_without_a_key_as_they_are() {
    let upstream = upstream().await;
    let (gateway, _clock) = Gateway::guarding(&upstream)
        .key("limited", "permissions: [read, write], rate_limits: [{requests: 1, per: 1h}]")
        .config(&format!(
            "cors: {{origins: [{APP}]}}\nroutes: any\nfailed_attempts: {{per_address: 1, per: 1h}}"
        ))
        .clock("2026-01-01T00:00:00Z");
    let gateway = gateway.start().await;
    let preflight =
        format!("OPTIONS /a HTTP/1.1\r\nHost: a\r\nOrigin: {APP}\r\nAccess-Control-Request-Method: PUT\r\n");
    // A preflight is charged to no limit, not even if it has a key.
    for _ in 0..3 {
        let answer = gateway.sends(format!("{preflight}{}\r\n", gateway.bearer("limited"))).await;
        assert_eq!((answer.status, answer.header("ratelimit")), (204, None));
    }
    assert_eq!(gateway.get("/a", "limited").await.status, 200);
    assert_eq!(gateway.get("/a", "limited").await.status, 429);
    // Bad keys are counted, and a preflight between them changes nothing.
    let bad = "GET /a HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer sk-nobody\r\n\r\n";
    assert_eq!(gateway.sends(bad).await.status, 401);
    assert_eq!(gateway.sends(format!("{preflight}\r\n")).await.status, 204);
    assert_eq!(gateway.sends(bad).await.status, 429);
    assert_eq!(gateway.sends(format!("{preflight}\r\n")).await.status, 204);
    // One connection may be used for many of them.
    let mut raw = gateway.raw().await;
    for _ in 0..40 {
        raw.send(format!("{preflight}\r\n")).await;
        assert_eq!(raw.answer().await.status, 204);
    }
}

#[tokio::test]
async fn a_preflight_has_an_access_line_and_counts() {
    let upstream = upstream().await;
    let gateway = Gateway::guarding(&upstream)
        .config(&format!("cors: {{origins: [{APP}]}}\nlog: {{format: json}}"))
        .start_binary()
        .await;
    let preflight = format!(
        "OPTIONS //v1/./models?x HTTP/1.1\r\nHost: a\r\nOrigin: {APP}\r\nAccess-Control-Request-Method: PUT\r\n\r\n"
    );
    assert_eq!(gateway.sends(preflight).await.status, 204);
    eventually("the line is there", || !gateway.access_lines().is_empty()).await;
    let line = &gateway.access_lines()[0];
    assert_eq!((line["status"].as_u64(), line["method"].as_str()), (Some(204), Some("OPTIONS")), "{line}");
    assert_eq!(
        (line["path"].as_str(), line["outcome"].as_str()),
        (Some("/v1/models"), Some("complete")),
        "{line}"
    );
    assert!(line.get("route").is_none_or(|route| route.is_null()), "{line}");
    let mut raw = Raw::connect(gateway.admin.unwrap()).await;
    raw.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer the-admin-token\r\n\r\n")
        .await;
    let metrics = String::from_utf8(raw.answer().await.body).unwrap();
    let counted = metrics.contains(r#"bearward_requests_total{key_id="none",route="none",status="2xx"} 1"#);
    assert!(counted, "{metrics}");
}

#[tokio::test]
async fn an_upgrade_gets_no_cors_and_its_refusal_does() {
    let switch = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{OF_UPSTREAM}\r\n"
    );
    let upstream = Upstream::answering(switch).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config(&format!("cors: {{origins: [{APP}], expose: [x-own]}}\nroutes: [{{name: a, paths: [/**], permission: read, upgrades: [websocket]}}]"))
        .start()
        .await;
    let ask = |bearer: &str| {
        format!(
            "GET /a HTTP/1.1\r\nHost: a\r\nOrigin: {APP}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{bearer}\r\n"
        )
    };
    let mut raw = gateway.raw().await;
    raw.send(ask(&gateway.bearer("ci"))).await;
    let head = raw.head().await;
    assert_eq!((head.status, head.header("vary")), (101, Some("accept-encoding")));
    assert!(
        head.headers.iter().all(|(name, _)| !name.to_ascii_lowercase().starts_with("access-control-")),
        "{head:?}"
    );
    let refused = gateway.sends(ask("")).await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (401, Some(APP)));
}

#[tokio::test]
async fn a_grpc_refusal_can_be_read_too() {
    let upstream = upstream().await;
    let gateway =
        gateway(&upstream, &format!("cors: {{origins: [{APP}], expose: [x-own, grpc-status]}}\nroutes: any"))
            .await;
    let asked = Asked { gateway: &gateway, http2: true };
    let answer = asked.send(Method::POST, "/a", "", APP, &[("content-type", "application/grpc")]).await;
    assert_eq!((answer.status().as_u16(), all(answer.headers(), "grpc-status")), (200, vec!["16"]));
    assert_readable(answer.headers(), APP, "gRPC");
    assert!(all(answer.headers(), "access-control-expose-headers")[0].contains("grpc-status"));
}

#[tokio::test]
async fn a_reload_changes_who_may_read() {
    let upstream = upstream().await;
    let gateway = Gateway::guarding(&upstream)
        .config(&format!(
            "cors: {{origins: [{APP}]}}\nroutes: [{{name: p, paths: [/p], public: true, removes: [origin]}}]"
        ))
        .start()
        .await;
    let ask = format!("GET /p HTTP/1.1\r\nHost: a\r\nOrigin: {OTHER}\r\n\r\n");
    assert_eq!(gateway.sends(&ask).await.header("access-control-allow-origin"), None);
    assert_eq!(
        upstream.only_request().header("origin"),
        None,
        "the route removes it, and bearward has read it before"
    );
    let path = gateway.path("bearward.yaml");
    let config = std::fs::read_to_string(path).unwrap();
    gateway.rename_in("bearward.yaml", &config.replace(APP, OTHER));
    assert_eq!(gateway.reload().await.status, 200);
    assert_eq!(gateway.sends(&ask).await.header("access-control-allow-origin"), Some(OTHER));
}

#[test]
fn explain_says_what_cors_does() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("bearward.yaml");
    let keys = directory.path().join("keys.yaml");
    let hash = bearward::Token::generate().unwrap().hash().to_stored();
    std::fs::write(&keys, format!("keys: [{{id: key_a, hash: \"{hash}\", permissions: [read]}}]\n")).unwrap();
    let config = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:1]}}]\nkeys: {{path: {}}}\n\
         routes:\n  - {{name: a, paths: [/a], methods: [GET], permission: read, cors: {{origins: [{APP}]}}}}\n  - {{name: b, paths: [/b], public: true}}\n",
        keys.display()
    );
    std::fs::write(&path, config).unwrap();
    let explain = |method: &str, route: &str| {
        let output = run(&["explain", method, route, "--config", path.to_str().unwrap()], "");
        String::from_utf8(output.stdout).unwrap()
    };
    let readable = format!("cors       pages of {APP} may read the answer");
    let get = explain("GET", "/a");
    assert!(get.contains(&readable) && !get.contains("preflight"), "{get}");
    let options = explain("OPTIONS", "/a");
    let answered = "preflight  of such a page: answered with 204, without a key; allows GET, HEAD, with the headers that it asks for";
    assert!(options.contains(&readable) && options.contains(answered), "{options}");
    let other = explain("GET", "/b");
    assert!(other.contains("cors       none holds here: the upstream's own headers"), "{other}");
}
