//! Every answer of bearward's own has the one shape: on HTTP/1.1 and HTTP/2, plain and TLS, hyper's refusals
//! included; and the seed's three bodies are what they say.

use http::Version;
use serde_json::{Value, json};

use crate::harness::{Gateway, Running, Upstream, answer_of, assert_shape, in_time};

async fn gateway(upstream: &Upstream, tls: bool) -> Running {
    let gateway = Gateway::guarding(upstream)
        .key("ci", "permissions: [read]")
        .key("limited", "permissions: [read], rate_limits: [{requests: 1, per: 1h}]")
        .key("expired", "permissions: [read], expires_at: 2024-01-01T00:00:00Z")
        .key("narrow", "permissions: [read], routes: [models]")
        .config("limits: {body_bytes: 1KiB}");
    if tls { gateway.tls().start().await } else { gateway.start().await }
}

/// The four ways a client may come.
const WAYS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[tokio::test]
async fn the_three_bodies_of_the_documentation() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for (tls, http2) in WAYS {
        let gateway = gateway(&upstream, tls).await;
        let client = gateway.client(http2);
        let ask = async |authorization: Option<&str>| {
            let mut request = client.post(gateway.url("/v1/generate"));
            if let Some(value) = authorization {
                request = request.header("authorization", value);
            }
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), 401);
            assert_eq!(answer.version() == Version::HTTP_2, http2);
            let challenge = answer.headers()["www-authenticate"].to_str().unwrap().to_owned();
            (challenge, answer.json::<Value>().await.unwrap())
        };

        let (challenge, missing) = ask(None).await;
        assert_eq!(challenge, r#"Bearer realm="bearward""#);
        let expected = json!({"success": false, "error": {"code": "MISSING_API_KEY",
            "message": "API key is required", "details": {"header": "Authorization"}}});
        assert_eq!(missing, expected);

        // A token of the right form and checksum, which nobody has.
        let unknown = bearward::Token::generate().unwrap();
        let (challenge, invalid) = ask(Some(&format!("Bearer {}", unknown.reveal()))).await;
        assert_eq!(challenge, r#"Bearer realm="bearward", error="invalid_token""#);
        let expected = json!({"success": false, "error": {"code": "INVALID_API_KEY",
            "message": "The provided API key is invalid", "details": {"key_id": unknown.key_id()}}});
        assert_eq!(invalid, expected);

        let (challenge, expired) = ask(Some(&format!("bearer {}", gateway.token("expired")))).await;
        assert_eq!(challenge, r#"Bearer realm="bearward", error="invalid_token""#);
        let expected = json!({"success": false, "error": {"code": "EXPIRED_API_KEY",
            "message": "The API key has expired", "details": {"expired_at": "2024-01-01T00:00:00Z"}}});
        assert_eq!(expired, expected);
    }
    assert!(upstream.requests().is_empty(), "nothing of it reached upstream");
}

#[tokio::test]
async fn every_answer_of_our_own_has_the_one_shape() {
    let upstream = Upstream::answering("garbage\r\n\r\n").await;
    let dead = Upstream::answering("").await.address;
    for (tls, http2) in WAYS {
        let gateway = gateway(&upstream, tls).await;
        let client = gateway.client(http2);
        let cases: [(&str, &str, &str, usize, u16, &str); 11] = [
            ("GET", "/v1/models", "", 0, 401, "MISSING_API_KEY"),
            ("GET", "/nowhere", "", 0, 401, "MISSING_API_KEY"),
            ("GET", "/nowhere", "ci", 0, 404, "ROUTE_NOT_FOUND"),
            ("POST", "/v1/files", "ci", 0, 403, "INSUFFICIENT_PERMISSIONS"),
            ("POST", "/v1/embeddings", "narrow", 0, 403, "ROUTE_NOT_ALLOWED"),
            ("GET", "/v1/models/a%2fb", "ci", 0, 400, "BAD_REQUEST"),
            ("TRACE", "/v1/models", "ci", 0, 405, "METHOD_NOT_ALLOWED"),
            ("POST", "/v1/embeddings", "ci", 2048, 413, "PAYLOAD_TOO_LARGE"),
            ("GET", "/v1/models", "ci", 0, 502, "UPSTREAM_PROTOCOL_ERROR"),
            ("GET", "/v1/models", "limited", 0, 502, "UPSTREAM_PROTOCOL_ERROR"),
            ("GET", "/v1/models", "limited", 0, 429, "RATE_LIMIT_EXCEEDED"),
        ];
        for (method, path, key, body, status, code) in cases {
            let mut request = client.request(method.parse().unwrap(), gateway.url(path));
            if !key.is_empty() {
                request = request.bearer_auth(gateway.token(key));
            }
            if body > 0 {
                request = request.body(vec![b'x'; body]);
            }
            assert_own(request, status, code, http2).await;
        }
        // Past our limits, and past what the library takes.
        for length in [9_000, 20_000] {
            assert_own(
                client.get(gateway.url(&format!("/{}", "x".repeat(length)))),
                414,
                "URI_TOO_LONG",
                http2,
            )
            .await;
        }
        for length in [33_000, 60_000, 100_000] {
            let request = client.get(gateway.url("/")).header("x-large", "x".repeat(length));
            assert_own(request, 431, "HEADERS_TOO_LARGE", http2).await;
        }
        let mut many = client.get(gateway.url("/"));
        for number in 0..150 {
            many = many.header(format!("x-{number}"), "1");
        }
        assert_own(many, 431, "HEADERS_TOO_LARGE", http2).await;
    }
    let gateway = Gateway::at(&format!("http://{dead}")).key("ci", "permissions: [read]").start().await;
    let request = gateway.client(false).get(gateway.url("/v1/models")).bearer_auth(gateway.token("ci"));
    assert_own(request, 502, "UPSTREAM_UNREACHABLE", false).await;
}

async fn assert_own(request: reqwest::RequestBuilder, status: u16, code: &str, http2: bool) {
    let answer = request.send().await.unwrap();
    let headers = answer.headers().clone();
    assert_eq!((answer.status().as_u16(), answer.version() == Version::HTTP_2), (status, http2), "{code}");
    assert_eq!(headers["content-type"], "application/json");
    assert!(!headers["x-request-id"].is_empty());
    if matches!(status, 429 | 503) {
        headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap();
    }
    let body: Value = answer.json().await.unwrap();
    assert_shape(&body);
    assert_eq!(body["error"]["code"], code, "{body}");
}

#[tokio::test]
async fn hypers_own_refusals_never_reach_a_client() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for tls in [false, true] {
        let gateway = gateway(&upstream, tls).await;
        let long_line = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000));
        let long_header = format!("GET / HTTP/1.1\r\nHost: a\r\nx: {}\r\n\r\n", "x".repeat(300_000));
        let refusals = [
            ("no such thing\r\n\r\n", 400, "BAD_REQUEST"),
            ("GET / HTTP/9.9\r\n\r\n", 400, "BAD_REQUEST"),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "BAD_REQUEST"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400, "BAD_REQUEST"),
            (long_line.as_str(), 414, "URI_TOO_LONG"),
            (long_header.as_str(), 431, "HEADERS_TOO_LARGE"),
        ];
        for (bytes, status, code) in refusals {
            let mut raw = gateway.raw().await;
            raw.send(bytes).await;
            let answer = raw.answer().await;
            answer.assert_denied(status, code);
            assert_eq!(answer.header("connection"), Some("close"));
            raw.assert_closed().await;
        }
    }
}

#[tokio::test]
async fn a_refusal_that_follows_an_answer_has_the_shape_too() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, false).await;
    let good = format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    // In turn, and in one write.
    let mut raw = gateway.raw().await;
    raw.send(&good).await;
    assert_eq!(raw.answer().await.status, 200);
    raw.send("rubbish\r\n\r\n").await;
    raw.answer().await.assert_denied(400, "BAD_REQUEST");
    raw.assert_closed().await;

    let mut raw = gateway.raw().await;
    raw.send(format!("{good}rubbish\r\n\r\n")).await;
    assert_eq!(raw.answer().await.body, b"hi");
    raw.answer().await.assert_denied(400, "BAD_REQUEST");
    raw.assert_closed().await;
}

#[tokio::test]
async fn grpc_callers_get_a_grpc_status() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, true).await;
    let client = gateway.client(true);
    for (key, path, status) in
        [("", "/v1/embeddings", "16"), ("ci", "/v1/files", "7"), ("ci", "/x.Y/Z", "12")]
    {
        let mut request = client.post(gateway.url(path)).header("content-type", "application/grpc+proto");
        if !key.is_empty() {
            request = request.bearer_auth(gateway.token(key));
        }
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["grpc-status"], status);
        assert_eq!(answer.headers()["content-type"], "application/grpc");
        assert!(!answer.headers()["grpc-message"].is_empty());
        assert!(answer.bytes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_callers_request_id_is_kept_and_upstream_gets_the_same() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, false).await;
    let bearer = gateway.bearer("ci");
    let ask = async |id: &str| {
        let request = format!(
            "GET /v1/models HTTP/1.1\r\nHost: a\r\n{bearer}x-request-id: {id}\r\ntraceparent: 00-1-2-01\r\n\r\n"
        );
        gateway.sends(request).await.header("x-request-id").unwrap().to_owned()
    };
    assert_eq!(ask("req-7").await, "req-7");
    assert_eq!(upstream.only_request().header("x-request-id"), Some("req-7"));
    assert_eq!(upstream.only_request().header("traceparent"), Some("00-1-2-01"));
    upstream.forget();
    let made = ask("a b\"c").await;
    assert_eq!(made.len(), 32);
    assert_eq!(upstream.only_request().header("x-request-id"), Some(made.as_str()));
}

#[tokio::test]
async fn an_h2_stream_whose_body_is_still_coming_gets_its_answer_whole() {
    let upstream = Upstream::answering_once("garbage\r\n\r\n").await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {body_bytes: 1KiB}")
        .start()
        .await;
    let nowhere = Gateway::at("http://127.0.0.1:1").key("ci", "permissions: [read]").start().await;
    let cases: [(&Running, &str, &str, u16); 5] = [
        (&gateway, "/v1/embeddings", "", 401),
        (&gateway, "/v1/files", "ci", 403),
        (&gateway, "/v1/embeddings", "ci", 413),
        (&nowhere, "/v1/embeddings", "ci", 502),
        (&gateway, "/nowhere", "ci", 404),
    ];
    let asked = cases.map(|(gateway, path, key, status)| async move {
        let stream = tokio::net::TcpStream::connect(gateway.address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let mut client = in_time("ready", client.ready()).await.unwrap();
        let mut request = http::Request::post(gateway.url(path));
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {}", gateway.token(key)));
        }
        let (answer, mut sender) = client.send_request(request.body(()).unwrap(), false).unwrap();
        sender.send_data(bytes::Bytes::from(vec![b'x'; 2048]), false).unwrap();
        let answer = in_time("answer", answer).await.unwrap();
        assert_eq!(answer.status(), status);
        let mut body = answer.into_body();
        let mut whole = in_time("data", body.data()).await.unwrap().unwrap().to_vec();
        assert_shape(&serde_json::from_slice(&whole).unwrap());
        // All of the answer is there, and its end waits for the end of the request: a reset would lose it to
        // clients that are still sending.
        assert!(!body.is_end_stream());
        if path.ends_with("embeddings") {
            sender.send_data(bytes::Bytes::from_static(b"end"), true).unwrap();
            while let Some(rest) = in_time("end", body.data()).await {
                whole.extend_from_slice(&rest.unwrap());
            }
            return;
        }
        // But not for ever; and then it is asked to stop, which does not mean that its request
        // failed (RFC 9113, section 8.1).
        let reset = in_time("reset", std::future::poll_fn(|cx| sender.poll_reset(cx))).await.unwrap();
        assert_eq!(reset, h2::Reason::NO_ERROR, "{path}");
    });
    futures_util::future::join_all(asked).await;
}

#[tokio::test]
async fn a_refused_head_request_has_a_head_alone() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, false).await;
    let mut raw = gateway.raw().await;
    for _ in 0..2 {
        raw.send("HEAD /v1/models HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let answer = raw.answer_to_head().await;
        assert_eq!(answer.status, 401);
        assert!(answer.header("content-length").unwrap().parse::<usize>().unwrap() > 100);
    }
    let answer = gateway.client(true).head(gateway.url("/v1/models")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (401, 0));
}
