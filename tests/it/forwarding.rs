//! What passes is passed as it came: streamed both ways, unbuffered, once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::harness::{Gateway, Running, Upstream, answer_of, eventually, in_time};

async fn gateway(upstream: &Upstream) -> Running {
    Gateway::guarding(upstream).key("ci", "permissions: [read, write]").start().await
}

fn get(gateway: &Running, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))
}

#[tokio::test]
async fn events_pass_one_by_one_as_they_come() {
    for (tls, http2) in [(false, false), (false, true), (true, false), (true, true)] {
        let (say, said) = mpsc::unbounded_channel::<&'static str>();
        let said = Arc::new(tokio::sync::Mutex::new(said));
        let upstream = Upstream::acting(move |_, mut stream| {
            let said = said.clone();
            async move {
                let head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                stream.write_all(head).await.ok()?;
                while let Some(event) = said.lock().await.recv().await {
                    stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await.ok()?;
                }
                stream.write_all(b"0\r\n\r\n").await.ok()?;
                Some(stream)
            }
        })
        .await;
        let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]");
        let gateway = if tls { gateway.tls().start().await } else { gateway.start().await };
        let request = gateway.client(http2).get(gateway.url("/v1/models")).bearer_auth(gateway.token("ci"));
        // The head is seen before any event, and each event before the next one is said.
        let answer = in_time("head", request.send()).await.unwrap();
        assert_eq!(answer.headers()["content-type"], "text/event-stream");
        let mut body = answer.bytes_stream();
        for event in ["data: one\n\n", "data: two\n\n", "data: three\n\n"] {
            say.send(event).unwrap();
            assert_eq!(in_time("event", body.next()).await.unwrap().unwrap(), event.as_bytes());
        }
        drop(say);
        // HTTP/2 may end a stream with an empty frame of data.
        while let Some(rest) = in_time("end", body.next()).await {
            assert_eq!(rest.unwrap().len(), 0, "tls {tls}, h2 {http2}");
        }
    }
}

#[tokio::test]
async fn a_request_body_passes_before_it_is_complete() {
    let (seen, mut sees) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut bytes = [0u8; 4096];
        while let Ok(length) = stream.read(&mut bytes).await {
            if length == 0 {
                break;
            }
            seen.send(String::from_utf8_lossy(&bytes[..length]).into_owned()).unwrap();
        }
    });
    let gateway = Gateway::at(&format!("http://{address}")).key("ci", "permissions: [read]").start().await;
    let bearer = gateway.bearer("ci");
    let mut raw = gateway.raw().await;
    raw.send(format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}Transfer-Encoding: chunked\r\n\r\n"
    ))
    .await;
    for piece in ["first", "second", "third"] {
        raw.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        let mut got = String::new();
        while !got.contains(piece) {
            got.push_str(&in_time("piece", sees.recv()).await.unwrap());
        }
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_seen_by_upstream_at_once() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        if request.target() != "/v1/models/silent" {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
                .await
                .ok()?;
        }
        let mut end = [0u8; 1];
        let _left = stream.read(&mut end).await;
        None
    })
    .await;
    for tls in [false, true] {
        let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]");
        let gateway = if tls { gateway.tls().start().await } else { gateway.start().await };
        // In mid-stream, and before the head of the answer.
        let mut streaming = gateway.raw().await;
        streaming.send(get(&gateway, "/v1/models")).await;
        streaming.head().await;
        streaming.chunk().await.unwrap();
        let mut waiting = gateway.raw().await;
        waiting.send(get(&gateway, "/v1/models/silent")).await;
        // And with a body behind the request, as a chat has.
        let mut chatting = gateway.raw().await;
        let bearer = gateway.bearer("ci");
        let chat =
            format!("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 2\r\n\r\n{{}}");
        chatting.send(chat).await;
        chatting.head().await;
        chatting.chunk().await.unwrap();
        eventually("all are at upstream", || upstream.open() == 3).await;
        let left = Instant::now();
        drop((streaming, waiting, chatting));
        eventually("upstream is left", || upstream.open() == 0).await;
        assert!(left.elapsed() < Duration::from_millis(100), "{:?}", left.elapsed());

        // An h2 stream that is reset.
        let client = gateway.client(true);
        let answer =
            client.get(gateway.url("/v1/models")).bearer_auth(gateway.token("ci")).send().await.unwrap();
        let mut body = answer.bytes_stream();
        body.next().await.unwrap().unwrap();
        let left = Instant::now();
        drop(body);
        eventually("upstream is left", || upstream.open() == 0).await;
        assert!(left.elapsed() < Duration::from_millis(100), "{:?}", left.elapsed());
    }
}

#[tokio::test]
async fn answers_without_a_body() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        let answer = match (request.request_line().split(' ').next().unwrap(), request.target()) {
            ("HEAD", _) => "HTTP/1.1 200 OK\r\ncontent-length: 1234\r\netag: \"x\"\r\n\r\n",
            (_, "/v1/models/204") => "HTTP/1.1 204 No Content\r\n\r\n",
            (_, "/v1/models/304") => "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\ncontent-length: 9\r\n\r\n",
            (_, "/v1/models/close") => {
                stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nuntil the end").await.ok()?;
                return None;
            }
            _ => "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await;
    let gateway = gateway(&upstream).await;
    let mut raw = gateway.raw().await;
    raw.send(get(&gateway, "/v1/models").replace("GET", "HEAD")).await;
    let head = raw.answer_to_head().await;
    assert_eq!(
        (head.status, head.header("content-length"), head.header("etag")),
        (200, Some("1234"), Some("\"x\""))
    );
    for (path, status) in [("204", 204), ("304", 304), ("empty", 200)] {
        raw.send(get(&gateway, &format!("/v1/models/{path}"))).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.body.len()), (status, 0));
        assert!(answer.header("transfer-encoding").is_none(), "{answer:?}");
        if status == 204 {
            assert!(answer.header("content-length").is_none(), "{answer:?}");
        }
    }
    raw.send(get(&gateway, "/v1/models/close")).await;
    assert_eq!(raw.answer().await.body, b"until the end");
    assert_eq!(
        upstream.connections(),
        3,
        "one behind the answer to HEAD, and one behind a 304 with a length"
    );
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let answer = "HTTP/1.1 200 OK\r\ntrailer: x-sum, authorization\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 7\r\nauthorization: x\r\n\r\n";
    let upstream = Upstream::answering(answer).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    let mut raw = gateway.raw().await;
    raw.send(format!("POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}TE: trailers\r\nTrailer: x-check\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-check: 9\r\nx-undeclared: 8\r\n\r\n")).await;
    assert_eq!(raw.head().await.status, 200);
    assert_eq!(raw.line().await.unwrap(), "2");
    assert_eq!(raw.line().await.unwrap(), "hi");
    assert_eq!(raw.line().await.unwrap(), "0");
    assert_eq!(raw.line().await.unwrap(), "x-sum: 7");
    assert_eq!(raw.line().await.unwrap(), "");
    assert_eq!(upstream.only_request().trailers, "x-check: 9\n");
}

#[tokio::test]
async fn every_framing_of_a_body_arrives_whole() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    let large = "x".repeat(300_000);
    let taking = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("routes: [{name: all, paths: [/**], permission: read, body_on_get: true}]")
        .start()
        .await;
    for body in ["", "a", &large] {
        let plain = format!(
            "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let chunk = if body.is_empty() { String::new() } else { format!("{:x}\r\n{body}\r\n", body.len()) };
        let chunked = format!(
            "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n"
        );
        let of_get = chunked.replace("POST /v1/embeddings", "GET /v1/models");
        let of_get = of_get.replace(gateway.token("ci"), taking.token("ci"));
        for (gateway, request) in [(&gateway, plain), (&gateway, chunked), (&taking, of_get)] {
            upstream.forget();
            assert_eq!(gateway.sends(request).await.status, 200);
            assert_eq!(upstream.only_request().body, body.as_bytes());
        }
        upstream.forget();
        let h2 = gateway.client(true).post(gateway.url("/v1/embeddings")).bearer_auth(gateway.token("ci"));
        assert_eq!(h2.body(body.to_owned()).send().await.unwrap().status(), 200);
        assert_eq!(upstream.only_request().body, body.as_bytes());
    }
    // A POST without a body says so.
    upstream.forget();
    gateway.sends(format!("POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}\r\n")).await;
    assert_eq!(upstream.only_request().headers("content-length"), ["0"]);
}

#[tokio::test]
async fn connections_to_upstream_are_kept_and_reused() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").config("").start().await;
    let mut raw = gateway.raw().await;
    for _ in 0..50 {
        raw.send(get(&gateway, "/v1/models")).await;
        assert_eq!(raw.answer().await.body, b"hi");
    }
    assert_eq!(upstream.connections(), 1);
}

#[tokio::test]
async fn a_connection_that_upstream_closed_costs_no_request() {
    // Answers, and closes without a word of warning.
    let upstream = Upstream::answering_once(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let mut raw = gateway.raw().await;
    for _ in 0..200 {
        raw.send(get(&gateway, "/v1/models")).await;
        assert_eq!(raw.answer().await.status, 200);
    }
    assert_eq!(upstream.requests().len(), 200, "each was sent once");
}

#[tokio::test]
async fn a_connection_is_not_kept_longer_than_the_pool_says() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("pool: {idle: 20ms}")
        .key("ci", "permissions: [read]")
        .start()
        .await;
    gateway.get("/v1/models", "ci").await;
    assert_eq!(upstream.connections(), 1);
    eventually("the idle connection is closed", || upstream.open() == 0).await;
}

#[tokio::test]
async fn bytes_behind_an_answer_never_reach_the_next_caller() {
    let smuggled = answer_of("hi") + "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled";
    let upstream = Upstream::answering(smuggled).await;
    let gateway = gateway(&upstream).await;
    for _ in 0..50 {
        assert_eq!(gateway.get("/v1/models", "ci").await.body, b"hi");
    }
}

/// A server that sends the body that the head of an answer without one declares, when that answer is over for us.
#[tokio::test]
async fn nor_does_the_late_body_of_an_answer_that_has_none() {
    for (request, head) in [
        ("HEAD", "200 OK\r\ncontent-length: 50"),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked"),
        ("GET", "304 Not Modified\r\ncontent-length: 50"),
        ("GET", "304 Not Modified\r\ntransfer-encoding: chunked"),
        ("GET", "204 No Content\r\ncontent-length: 50"),
        ("GET", "204 No Content\r\ntransfer-encoding: chunked"),
    ] {
        let what = format!("{request}: {head}");
        let head = format!("HTTP/1.1 {head}\r\n\r\n");
        let upstream = Upstream::acting(move |request, mut stream| {
            let head = head.clone();
            async move {
                if request.target() != "/v1/models/bare" {
                    stream.write_all(answer_of("mine").as_bytes()).await.ok()?;
                    return Some(stream);
                }
                stream.write_all(head.as_bytes()).await.ok()?;
                // Whoever has the connection by now would take it for the answer.
                let _next = in_time("the next request or the end", stream.peek(&mut [0; 1])).await;
                let _closed = stream.write_all(answer_of("somebody else's").as_bytes()).await;
                Some(stream)
            }
        })
        .await;
        let guard = Gateway::guarding(&upstream).key("ci", "permissions: [read]");
        let gateway = guard.start().await;
        let mut raw = gateway.raw().await;
        let bearer = gateway.bearer("ci");
        raw.send(format!(
            "{request} /v1/models/bare HTTP/1.1\r\nHost: a\r\n{bearer}Connection: close\r\n\r\n"
        ))
        .await;
        assert!(matches!(raw.head().await.status, 200 | 204 | 304), "{what}");
        raw.assert_ended().await;
        assert_eq!(gateway.get("/v1/models", "ci").await.body, b"mine", "{what}");
        assert_eq!(upstream.connections(), 2, "{what}");
    }
}

#[tokio::test]
async fn upstream_gets_its_own_credential_in_the_place_of_the_callers() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "upstreams-own\n").unwrap();
    let gateway = Gateway::guarding(&upstream)
        .upstream(&format!("credential: {{file: {}}}", secret.path().display()))
        .key("ci", "permissions: [read]")
        .start()
        .await;
    gateway.get("/v1/models", "ci").await;
    assert_eq!(upstream.only_request().headers("authorization"), ["Bearer upstreams-own"]);
    // Under a name of its own, a caller's spellings of that name are removed.
    upstream.forget();
    let gateway = Gateway::guarding(&upstream)
        .upstream(&format!("credential: {{header: x-internal, file: {}}}", secret.path().display()))
        .key("ci", "permissions: [read]")
        .start()
        .await;
    let spoofed =
        get(&gateway, "/v1/models").replace("Host: a", "Host: a\r\nx_internal: evil\r\nx-internal: evil");
    gateway.sends(spoofed).await;
    assert_eq!(upstream.only_request().headers("x-internal"), ["upstreams-own"]);
    assert!(upstream.only_request().headers("x_internal").is_empty());
}

#[tokio::test]
async fn a_public_route_needs_no_key_and_passes_none_on() {
    let upstream = Upstream::answering(answer_of("ok")).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    assert_eq!(gateway.sends("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    assert_eq!(
        gateway
            .sends(format!("GET /health HTTP/1.1\r\nHost: a\r\n{bearer}X-Bearward-Key-Id: me\r\n\r\n"))
            .await
            .status,
        200
    );
    for request in upstream.requests() {
        assert!(
            request.headers("authorization").is_empty() && request.headers("x-bearward-key-id").is_empty()
        );
    }
}

#[tokio::test]
async fn a_prefix_is_stripped_and_hosts_choose_the_route() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("routes: [{name: a, paths: [/m/**], hosts: [a], permission: read, strip_prefix: /m}]")
        .start()
        .await;
    gateway.sends(get(&gateway, "/m/x?q=/m")).await;
    assert_eq!(upstream.only_request().target(), "/x?q=/m");
    let elsewhere = get(&gateway, "/m/x").replace("Host: a", "Host: b");
    gateway.sends(elsewhere).await.assert_denied(421, "MISDIRECTED_REQUEST");
}

#[tokio::test]
async fn an_upstream_that_takes_encoded_slashes_gets_them() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("accept_in_path: [encoded-slash]")
        .key("ci", "permissions: [read]")
        .start()
        .await;
    assert_eq!(gateway.get("/v1/models/meta%2fllama", "ci").await.status, 200);
    assert_eq!(upstream.only_request().target(), "/v1/models/meta%2Fllama");
    gateway.get("/v1/models/a;b", "ci").await.assert_denied(400, "BAD_REQUEST");
}

/// An upstream that takes them may decode them, and would go where nobody has decided that it may.
#[tokio::test]
async fn no_dot_segment_hides_behind_what_an_upstream_takes() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("accept_in_path: [encoded-slash, encoded-backslash, semicolon]")
        .key("ci", "permissions: [read]")
        .config("routes: any")
        .start()
        .await;
    let cases = [
        "/t/..%2fadm",
        "/t/%2e%2e%2fadm",
        "/t/x%2f..%2f../adm",
        "/t/..%5cadm",
        "/t/%2f../adm",
        "/t/.%2fx",
        "/t/..;/adm",
        "/t/%2e%2e;x=y/adm",
        "/t%2f..",
    ];
    for path in cases {
        gateway.get(path, "ci").await.assert_denied(400, "BAD_REQUEST");
    }
    assert!(upstream.requests().is_empty(), "{:?}", upstream.requests());
    for path in ["/t/a%2Fb", "/t/a..%2Fb", "/t/a;b=..", "/t/...%2F..."] {
        assert_eq!(gateway.get(path, "ci").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn a_unix_socket_serves_on_both_sides() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("model.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut bytes = [0u8; 4096];
                while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {
                    stream.write_all(answer_of("by unix").as_bytes()).await.unwrap();
                }
            });
        }
    });
    let gateway =
        Gateway::at(&format!("unix:{}", socket.display())).key("ci", "permissions: [read]").start().await;
    assert_eq!(gateway.get("/v1/models", "ci").await.body, b"by unix");

    let upstream = Upstream::answering(answer_of("hi")).await;
    let front = directory.path().join("front.sock");
    let config = format!(
        "listeners: [{{address: \"unix:{}\"}}]\nupstreams: [{{name: m, endpoints: [\"http://{}\"]}}]\nkeys: {{path: {}}}\nadmin: off\n",
        front.display(),
        upstream.address,
        gateway.path("keys.yaml").display()
    );
    let config = bearward::Config::parse(std::path::Path::new("c.yaml"), &config, &|_| None).unwrap();
    let app = bearward::App::bind(&config, bearward::Clock::system(), bearward::Hooks::default()).unwrap();
    let (stop, stopping) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(app.run(async { drop(stopping.await) }));
    let mut stream = tokio::net::UnixStream::connect(&front).await.unwrap();
    stream
        .write_all(
            get(&gateway, "/v1/models").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("hi"), "{answer}");
    assert!(upstream.only_request().headers("x-forwarded-for").is_empty(), "a unix peer has no address");
    drop(stop);
    in_time("stop", running).await.unwrap().unwrap();
    assert!(!front.exists(), "the socket's file is gone");
}

#[tokio::test]
async fn a_large_body_passes_in_both_directions_without_being_held() {
    const SIZE: usize = 64 * 1024 * 1024;
    let upstream = Upstream::acting(|request, mut stream| async move {
        let length = request.body.len();
        stream
            .write_all(
                format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\nx-got: {length}\r\n\r\n").as_bytes(),
            )
            .await
            .ok()?;
        let block = vec![7u8; 1 << 20];
        for _ in 0..SIZE / block.len() {
            stream.write_all(&block).await.ok()?;
        }
        Some(stream)
    })
    .await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {body_bytes: 1GiB}")
        .start_binary()
        .await;
    gateway.get("/v1/models", "ci").await;
    let before = gateway.resident_kib();
    let client = gateway.client(false);
    let body = vec![9u8; SIZE];
    let answer = client
        .post(gateway.url("/v1/embeddings"))
        .bearer_auth(gateway.token("ci"))
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.headers()["x-got"], SIZE.to_string());
    let received = answer.bytes().await.unwrap();
    assert!(received.len() == SIZE && received.iter().all(|byte| *byte == 7));
    let grown = gateway.resident_kib().saturating_sub(before);
    assert!(grown < 30 * 1024, "{grown} KiB more");
}

#[tokio::test]
async fn a_client_that_stops_reading_stops_upstream() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counter = sent.clone();
    let upstream = Upstream::acting(move |_, mut stream| {
        let counter = counter.clone();
        async move {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await.ok()?;
            let block = vec![7u8; 64 * 1024];
            loop {
                stream.write_all(&block).await.ok()?;
                counter.fetch_add(block.len(), Ordering::Relaxed);
            }
        }
    })
    .await;
    let gateway = gateway(&upstream).await;
    let mut raw = gateway.raw().await;
    raw.send(get(&gateway, "/v1/models")).await;
    raw.head().await;
    // Until nothing has moved for a while.
    let (mut last, mut since) = (0, Instant::now());
    eventually("upstream is stopped", || {
        let now = sent.load(Ordering::Relaxed);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        since.elapsed() >= Duration::from_millis(300)
    })
    .await;
    // The kernel's buffers of four sockets, and hyper's of two connections.
    assert!(last < 32 * 1024 * 1024, "{last} bytes were taken from upstream");
}

/// Ollama on loopback, for one, answers to local names alone.
#[tokio::test]
async fn an_upstream_that_answers_to_one_name_is_asked_by_it() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("host: \"localhost:11434\"")
        .key("ci", "permissions: [read]")
        .start()
        .await;
    let asked = get(&gateway, "/v1/models").replace("Host: a", "Host: api.example.com");
    assert_eq!(gateway.sends(asked).await.status, 200);
    let seen = upstream.only_request();
    assert_eq!(seen.headers("host"), ["localhost:11434"]);
    assert_eq!(seen.header("x-forwarded-host"), Some("api.example.com"));
}

/// A client may read nothing of an answer that has begun until all of its request is taken: the
/// request must get on all the same.
#[tokio::test]
async fn an_upload_goes_on_while_nobody_reads_the_answer() {
    const ANSWER: usize = 32 * 1024 * 1024;
    const REQUEST: usize = 16 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let upstream = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let (mut reading, mut writing) = stream.into_split();
        let mut first = [0; 16];
        reading.read_exact(&mut first).await.unwrap();
        let answering = tokio::spawn(async move {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {ANSWER}\r\n\r\n");
            writing.write_all(head.as_bytes()).await.unwrap();
            writing.write_all(&vec![b'a'; ANSWER]).await.unwrap();
        });
        let (mut read, mut buffer) = (0, vec![0; 65536]);
        while read < REQUEST {
            read += reading.read(&mut buffer).await.unwrap();
        }
        answering.await.unwrap();
    });
    let gateway = Gateway::at(&format!("http://{address}")).key("ci", "permissions: [read]").start().await;
    let mut raw = gateway.raw().await;
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{}Content-Length: {REQUEST}\r\n\r\n",
        gateway.bearer("ci")
    );
    raw.send(head).await;
    raw.send(vec![b'q'; REQUEST]).await;
    let answer = raw.answer().await;
    assert_eq!((answer.status, answer.body.len()), (200, ANSWER));
    in_time("upstream has had all", upstream).await.unwrap();
}

/// An upstream may begin its answer while it still reads the request. If both then end, their connection
/// serves the next request.
#[tokio::test]
async fn a_connection_that_answered_early_serves_the_next_request() {
    const REQUEST: usize = 4 * 1024 * 1024;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = connections.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(answer_early(stream, REQUEST));
        }
    });
    let gateway = Gateway::at(&format!("http://{address}")).key("ci", "permissions: [read]").start().await;
    for _ in 0..8 {
        let mut raw = gateway.raw().await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{}Content-Length: {REQUEST}\r\n\r\n",
            gateway.bearer("ci")
        );
        raw.send(head).await;
        raw.send(vec![b'q'; REQUEST]).await;
        let answer = raw.answer().await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"ab"[..]));
    }
    // Each of the two workers has a connection of its own.
    assert!(connections.load(Ordering::Relaxed) <= 2, "{connections:?}");
}

/// Answers requests with bodies of `length`: begins with the head of each, and ends with the end of each.
async fn answer_early(mut stream: TcpStream, length: usize) {
    let mut buffer = vec![0; 65536];
    loop {
        let mut read = Vec::new();
        let body_at = loop {
            let bytes = stream.read(&mut buffer).await.unwrap();
            if bytes == 0 {
                return;
            }
            read.extend_from_slice(&buffer[..bytes]);
            if let Some(at) = read.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
        };
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await.unwrap();
        let mut left = length - (read.len() - body_at);
        while left > 0 {
            left -= stream.read(&mut buffer).await.unwrap();
        }
        stream.write_all(b"1\r\nb\r\n0\r\n\r\n").await.unwrap();
    }
}
