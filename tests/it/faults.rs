//! Upstreams that fail, clients that stall, and a panic: each costs what it must and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bearward::Hooks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Gateway, Upstream, answer_of, eventually, in_time, until};

#[tokio::test]
async fn answers_that_are_none() {
    let cases = [
        ("garbage\r\n\r\n", "UPSTREAM_PROTOCOL_ERROR"),
        ("HTTP/1.1 999999 OK\r\n\r\n", "UPSTREAM_PROTOCOL_ERROR"),
        ("HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "UPSTREAM_PROTOCOL_ERROR"),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "UPSTREAM_PROTOCOL_ERROR"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0x2\r\n\r\nhi", "UPSTREAM_PROTOCOL_ERROR"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi!", "UPSTREAM_PROTOCOL_ERROR"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "UPSTREAM_PROTOCOL_ERROR",
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "UPSTREAM_PROTOCOL_ERROR"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
            "UPSTREAM_PROTOCOL_ERROR",
        ),
        ("", "UPSTREAM_UNREACHABLE"),
    ];
    for (bytes, code) in cases {
        let upstream = Upstream::answering_once(bytes).await;
        let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
        let answer = gateway.get("/v1/models", "ci").await;
        answer.assert_denied(502, code);
        assert_eq!(answer.header("x-should-retry"), Some("false"), "{bytes:?}: the work may have been done");
        assert_eq!(answer.json()["error"]["details"]["upstream"], "model");
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(!text.contains(&upstream.address.port().to_string()), "{text}");
        assert_eq!(upstream.requests().len(), 1, "{bytes:?}: never sent twice");
    }
    let huge = format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(400_000));
    let upstream = Upstream::answering_once(huge).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    gateway.get("/v1/models", "ci").await.assert_denied(502, "UPSTREAM_PROTOCOL_ERROR");
}

#[tokio::test]
async fn an_upstream_that_is_not_there() {
    let address = {
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap()
    };
    let gateway = Gateway::at(&format!("http://{address}")).key("ci", "permissions: [read]").start().await;
    let answer = gateway.post("/v1/embeddings", "ci", "{}").await;
    answer.assert_denied(502, "UPSTREAM_UNREACHABLE");
    assert_eq!(answer.header("x-should-retry"), None, "nothing was sent: a retry does no harm");
}

#[tokio::test]
async fn an_upstream_that_is_too_slow() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        let mut end = [0u8; 1];
        let _left = stream.read(&mut end).await;
        None
    })
    .await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("timeouts: {response_headers: 100ms}")
        .key("ci", "permissions: [read]")
        .start()
        .await;
    let answer = gateway.get("/v1/models", "ci").await;
    answer.assert_denied(504, "UPSTREAM_TIMEOUT");
    assert_eq!(answer.header("x-should-retry"), Some("false"));
}

#[tokio::test]
async fn a_truncated_answer_is_never_a_clean_end() {
    let cases = [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ];
    for bytes in cases {
        let upstream = Upstream::answering_once(bytes).await;
        let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").tls().start().await;
        for http2 in [false, true] {
            let request =
                gateway.client(http2).get(gateway.url("/v1/models")).bearer_auth(gateway.token("ci"));
            match request.send().await {
                Ok(answer) => assert!(answer.bytes().await.is_err(), "{bytes:?}"),
                // Seen before its head was passed on.
                Err(error) => assert!(!error.is_timeout(), "{error}"),
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_stalls_is_cut() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await.ok()?;
        let mut end = [0u8; 1];
        let _left = stream.read(&mut end).await;
        None
    })
    .await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("timeouts: {idle: 100ms}")
        .key("ci", "permissions: [read]")
        .start()
        .await;
    let answer = gateway
        .client(false)
        .get(gateway.url("/v1/models"))
        .bearer_auth(gateway.token("ci"))
        .send()
        .await
        .unwrap();
    assert!(in_time("cut", answer.bytes()).await.is_err());
}

#[tokio::test]
async fn a_body_that_stalls_is_408() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {body_idle_timeout: 100ms}")
        .start()
        .await;
    let bearer = gateway.bearer("ci");
    let mut raw = gateway.raw().await;
    raw.send(format!("POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 10\r\n\r\nhalf"))
        .await;
    raw.answer().await.assert_denied(408, "REQUEST_TIMEOUT");
    raw.assert_closed().await;
    assert!(upstream.requests().iter().all(|request| !request.is_complete), "never completed upstream");
}

#[tokio::test]
async fn a_body_without_a_length_is_cut_at_the_limit() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {body_bytes: 1KiB}")
        .start()
        .await;
    let bearer = gateway.bearer("ci");
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1024));
    let head =
        format!("POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}Transfer-Encoding: chunked\r\n\r\n");
    let mut raw = gateway.raw().await;
    raw.send(format!("{head}{chunk}1\r\nx\r\n0\r\n\r\n")).await;
    let answer = raw.answer().await;
    answer.assert_denied(413, "PAYLOAD_TOO_LARGE");
    assert_eq!(answer.json()["error"]["details"]["limit_bytes"], 1024);
    assert!(upstream.requests().iter().all(|request| !request.is_complete));
    assert_eq!(
        gateway.sends(format!("{head}{chunk}0\r\n\r\n")).await.status,
        200,
        "exactly the limit passes"
    );
}

#[tokio::test]
async fn a_refused_upload_can_still_read_why() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    // More than fits into the kernel's buffers, from a client that reads only when it has sent all.
    let length = 24 * 1024 * 1024;
    let mut raw = gateway.raw().await;
    raw.send(format!("POST /v1/embeddings HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")).await;
    raw.send(vec![b'x'; length]).await;
    raw.answer().await.assert_denied(401, "MISSING_API_KEY");
}

#[tokio::test]
async fn a_head_that_never_comes_is_closed() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {header_timeout: 150ms, idle_timeout: 400ms}")
        .start()
        .await;
    for start in ["", "GET / HTTP/1.1\r\nHost: a\r\n", "PRI * HTTP/2.0\r\n"] {
        let mut raw = gateway.raw().await;
        raw.send(start).await;
        raw.assert_closed().await;
    }
    // Nor does a connection that agreed on HTTP/2 and says nothing.
    let tls = Gateway::guarding(&upstream).config("limits: {header_timeout: 150ms}").tls().start().await;
    let mut silent = tls.raw_h2().await;
    silent.assert_ended().await;
    // Dribbling does not help, and an answer before it starts the clock anew.
    let mut raw = gateway.raw().await;
    raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    assert_eq!(raw.answer().await.status, 200);
    let started = std::time::Instant::now();
    raw.send("GET / HTTP/1.1\r\n").await;
    let dribble = async {
        loop {
            raw.send("x: y\r\n").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            if started.elapsed() > Duration::from_millis(600) {
                return raw.assert_closed().await;
            }
        }
    };
    in_time("closed", dribble).await;
    // An idle connection is closed after the idle time.
    let mut raw = gateway.raw().await;
    raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    assert_eq!(raw.answer().await.status, 200);
    let idle = std::time::Instant::now();
    raw.assert_closed().await;
    assert!(idle.elapsed() >= Duration::from_millis(350), "{:?}", idle.elapsed());
}

#[tokio::test]
async fn a_panic_costs_its_own_request_alone() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let hooks = Hooks::on_request(|path| assert_ne!(path, "/v1/models/fatal", "provoked"));
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], max_concurrent: 1")
        .hooks(hooks)
        .tls()
        .start()
        .await;
    for http2 in [false, true] {
        let client = gateway.client(http2);
        for _ in 0..5 {
            let get = |path: &str| client.get(gateway.url(path)).bearer_auth(gateway.token("ci")).send();
            let fatal = get("/v1/models/fatal").await.unwrap();
            assert_eq!(fatal.status(), 500);
            let body: serde_json::Value = fatal.json().await.unwrap();
            crate::harness::assert_shape(&body);
            assert_eq!(body["error"]["code"], "INTERNAL_ERROR");
            assert_eq!(
                get("/v1/models").await.unwrap().status(),
                200,
                "the same connection, and its one permit, go on"
            );
        }
    }
}

#[tokio::test]
async fn the_server_drains_and_ends_when_a_vital_thread_or_listener_has_ended() {
    for (fatal, reason) in [
        ("worker-1", "the thread worker-1 has ended"),
        ("reload", "the thread reload has ended"),
        ("listener", "a listener has ended"),
    ] {
        let (finishes, finish) = tokio::sync::watch::channel(false);
        let upstream = Upstream::acting(move |_, mut stream| {
            let mut finish = finish.clone();
            async move {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhi").await.ok()?;
                finish.wait_for(|finish| *finish).await.ok()?;
                stream.write_all(b"hi").await.ok()?;
                Some(stream)
            }
        })
        .await;
        let is_due = Arc::new(AtomicBool::new(false));
        let due = is_due.clone();
        let hooks = Hooks::on_thread(move |name| {
            assert!(name != fatal || !due.load(Ordering::Relaxed), "a test asked for this panic");
        });
        let gateway =
            Gateway::guarding(&upstream).key("ci", "permissions: [read]").hooks(hooks).start().await;
        // The first connection is the first worker's, and the second one the second's.
        let mut streaming = gateway.raw().await;
        let request = format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
        streaming.send(request).await;
        streaming.head().await;
        is_due.store(true, Ordering::Relaxed);
        match fatal {
            // The thread may take up other work first, and has ended then.
            "reload" => assert!(matches!(gateway.reload().await.status, 200 | 503)),
            _ => drop(gateway.raw().await),
        }
        until("the end of new requests", async || gateway.admin("GET /readyz", "").await.status == 503).await;
        finishes.send_replace(true);
        assert_eq!(streaming.bytes(4).await.unwrap(), b"hihi", "{fatal}");
        assert_eq!(gateway.ended().await.unwrap_err().to_string(), reason);
    }
}

#[tokio::test]
async fn a_connection_limit_queues_callers_and_lets_them_in_later() {
    let (answers, is_awaited) = tokio::sync::watch::channel(false);
    let upstream = Upstream::acting(move |_, mut stream| {
        let mut is_awaited = is_awaited.clone();
        async move {
            is_awaited.wait_for(|answers| *answers).await.ok()?;
            stream.write_all(answer_of("hi").as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {connections: 2}")
        .start()
        .await;
    let request = format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    let mut first = gateway.raw().await;
    let mut second = gateway.raw().await;
    for raw in [&mut first, &mut second] {
        raw.send(&request).await;
    }
    eventually("both are in service", || upstream.requests().len() == 2).await;
    let mut third = gateway.raw().await;
    third.send(&request).await;
    let early = tokio::time::timeout(Duration::from_millis(100), third.answer_or_end()).await;
    assert!(early.is_err(), "the third waits in the kernel");
    drop(first);
    answers.send(true).unwrap();
    assert_eq!(third.answer().await.status, 200);
    assert_eq!(second.answer().await.status, 200);
}

/// A client that shares its connection would lose its next request.
#[tokio::test]
async fn an_answer_before_the_upload_was_read_says_that_its_connection_ends() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let _head = stream.read(&mut [0; 4096]).await;
        let refusal = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refusal).await.unwrap();
        stream
    });
    let gateway = Gateway::at(&endpoint).key("ci", "permissions: [read, write]").start().await;
    let mut raw = gateway.raw().await;
    let bearer = gateway.bearer("ci");
    raw.send(format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 1000000\r\n\r\nhalf"
    ))
    .await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    raw.assert_ended().await;
    drop(serving.await);
}

#[tokio::test]
async fn an_address_with_too_many_connections_is_told_so_and_the_rest_is_closed() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {connections_per_address: 2}")
        .start()
        .await;
    let get = format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    let ask = async || {
        let mut raw = gateway.raw().await;
        raw.send(&get).await;
        let answer = raw.answer_or_end().await;
        (raw, answer)
    };
    let (first, second) = (ask().await, ask().await);
    assert!([&first, &second].iter().all(|(_, answer)| answer.as_ref().unwrap().status == 200));
    let (mut third, refused) = ask().await;
    let refused = refused.unwrap();
    refused.assert_denied(503, "OVERLOADED");
    assert!(refused.header("retry-after").is_some());
    third.assert_closed().await;
    // Of those that do not even ask, no more are held than the limit once more.
    let silent = [gateway.raw().await, gateway.raw().await];
    let (_raw, answer) = ask().await;
    assert!(answer.is_none(), "{answer:?}");
    drop((first, silent));
    until("there is room again", async || ask().await.1.is_some_and(|answer| answer.status == 200)).await;
}

#[tokio::test]
async fn every_size_has_its_limit_and_its_answer() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {header_bytes: 2KiB, header_count: 12, uri_bytes: 100, body_bytes: 20}")
        .config("routes: [{name: small, paths: [/small], permission: read, max_body: 10}, {name: large, paths: [/large], permission: read, max_body: 1KiB}, {name: rest, paths: [/**], permission: read}]")
        .start()
        .await;
    let ask = async |line: &str, more: &str| {
        let bearer = gateway.bearer("ci");
        gateway.sends(format!("{line} HTTP/1.1\r\nHost: a\r\n{bearer}{more}\r\n")).await
    };
    let body = async |path: &str, length: usize| {
        let chunked =
            format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{}\r\n0\r\n", "x".repeat(length));
        let sized = format!("Content-Length: {length}\r\n\r\n{}", "x".repeat(length));
        let (sized, chunked) =
            (ask(&format!("POST {path}"), &sized).await, ask(&format!("POST {path}"), &chunked).await);
        assert_eq!(sized.status, chunked.status, "{path} {length}");
        sized
    };
    ask(&format!("GET /{}", "x".repeat(100)), "").await.assert_denied(414, "URI_TOO_LONG");
    ask("GET /x", &format!("X: {}\r\n", "y".repeat(2048))).await.assert_denied(431, "HEADERS_TOO_LARGE");
    ask("GET /x", &"X: y\r\n".repeat(11)).await.assert_denied(431, "HEADERS_TOO_LARGE");
    assert_eq!(ask(&format!("GET /{}", "x".repeat(99)), &"X: y\r\n".repeat(10)).await.status, 200);
    for (path, limit) in [("/small", 10), ("/rest", 20), ("/large", 1024)] {
        assert_eq!(body(path, limit).await.status, 200, "{path}");
        let refused = body(path, limit + 1).await;
        refused.assert_denied(413, "PAYLOAD_TOO_LARGE");
        assert_eq!(refused.json()["error"]["details"]["limit_bytes"], limit);
    }
}

#[tokio::test]
async fn an_h2_connection_past_the_limit_of_its_address_is_ended_too() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {connections_per_address: 1}")
        .start()
        .await;
    let first = gateway.raw().await;
    let second = gateway.client(true);
    let ask = async || {
        let request = second.get(gateway.url("/v1/models")).bearer_auth(gateway.token("ci"));
        request.send().await.map(|answer| answer.status().as_u16())
    };
    until("it is past the limit", async || ask().await.ok() == Some(503)).await;
    drop(first);
    // Its own connection is closed, so that the client makes a new one.
    until("it is let in", async || ask().await.ok() == Some(200)).await;
}
