//! Upstreams of other kinds than one HTTP/1.1 server: HTTP/2, TLS, several endpoints.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::future::join_all;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::harness::{Gateway, Raw, Running, Upstream, answer_of, eventually, in_time, until};

/// An HTTP/2 server with prior knowledge, frame by frame: answers by path, and keeps what it got.
#[derive(Clone)]
struct Http2 {
    address: SocketAddr,
    heads: Arc<Mutex<Vec<http::request::Parts>>>,
    connections: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
    resets: Arc<AtomicUsize>,
    /// Bytes of `/v1/models/large`.
    sent: Arc<AtomicUsize>,
    /// Requests for `/v1/models/held` wait for these.
    release: Arc<Semaphore>,
}

impl Http2 {
    async fn start(max_streams: u32, ends_after_each: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Http2 {
            address: listener.local_addr().unwrap(),
            heads: Arc::default(),
            connections: Arc::default(),
            at_once: Arc::default(),
            resets: Arc::default(),
            sent: Arc::default(),
            release: Arc::new(Semaphore::new(0)),
        };
        let of_task = server.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = of_task.clone();
                server.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut builder = h2::server::Builder::new();
                    builder.max_concurrent_streams(max_streams);
                    let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        if ends_after_each {
                            connection.graceful_shutdown();
                        }
                        tokio::spawn(server.clone().answer(request, respond));
                    }
                });
            }
        });
        server
    }

    async fn answer(self, request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let (head, mut body) = request.into_parts();
        let path = head.uri.path().to_owned();
        self.heads.lock().unwrap().push(head);
        if path == "/v1/rerank" {
            // Answers before the body has come, and then sees what becomes of it.
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"early"), true).unwrap();
            while let Some(data) = body.data().await {
                if data.is_err() {
                    self.resets.fetch_add(1, Ordering::SeqCst);
                    return;
                }
            }
            return;
        }
        if path == "/v1/score" {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"early"), true).unwrap();
            // Neither read nor dropped.
            return std::mem::forget(body);
        }
        let mut length = 0;
        while let Some(Ok(data)) = body.data().await {
            length += data.len();
            let _closed = body.flow_control().release_capacity(data.len());
        }
        let trailers = body.trailers().await.ok().flatten();
        let response = http::Response::new(());
        match path.as_str() {
            "/v1/models/held" => {
                let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::select! {
                    permit = self.release.acquire() => permit.unwrap().forget(),
                    _reset = std::future::poll_fn(|cx| respond.poll_reset(cx)) => {
                        self.resets.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                }
                let mut stream = respond.send_response(response, false).unwrap();
                let _gone = stream.send_data(Bytes::from(now.to_string()), true);
            }
            "/v1/models/refused" => respond.send_reset(Reason::REFUSED_STREAM),
            "/v1/models/broken" | "/v1/models/short" => {
                let mut stream = respond.send_response(response, false).unwrap();
                let _gone = stream.send_data(Bytes::from_static(b"half"), false);
                // A reset takes with it what has not gone out.
                self.release.acquire().await.unwrap().forget();
                let reason = if path.ends_with("short") { Reason::NO_ERROR } else { Reason::INTERNAL_ERROR };
                stream.send_reset(reason);
            }
            "/v1/models/large" => {
                let mut stream = respond.send_response(response, false).unwrap();
                let mut left = 16 * 1024 * 1024usize;
                while left > 0 {
                    stream.reserve_capacity(left.min(64 * 1024));
                    let Some(Ok(granted)) = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await else {
                        return;
                    };
                    let piece = granted.min(left);
                    if stream.send_data(Bytes::from(vec![0; piece]), false).is_err() {
                        return;
                    }
                    self.sent.fetch_add(piece, Ordering::SeqCst);
                    left -= piece;
                }
                let _gone = stream.send_data(Bytes::new(), true);
            }
            _ => {
                let mut response = response;
                response.headers_mut().insert("trailer", http::HeaderValue::from_static("x-sum"));
                let mut stream = respond.send_response(response, false).unwrap();
                let check = trailers.as_ref().and_then(|trailers| trailers.get("x-check"));
                let text = format!("{length} {:?}", check.map(|value| value.to_str().unwrap()));
                let _gone = stream.send_data(Bytes::from(text), false);
                let mut trailers = http::HeaderMap::new();
                trailers.insert("x-sum", http::HeaderValue::from_static("7"));
                let _gone = stream.send_trailers(trailers);
            }
        }
    }

    async fn gateway(&self) -> Running {
        Gateway::at(&format!("h2c://{}", self.address)).key("ci", "permissions: [read]").start().await
    }
}

#[tokio::test]
async fn a_request_has_one_authority_on_http2_and_its_body_and_trailers_pass() {
    let upstream = Http2::start(100, false).await;
    let gateway = upstream.gateway().await;
    let bearer = gateway.bearer("ci");
    let request = format!(
        "POST /v1/embeddings?q=1 HTTP/1.1\r\nHost: a.example\r\n{bearer}Connection: x-hop\r\nx-hop: 1\r\nTE: trailers\r\nTrailer: x-check\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-check: 9\r\n\r\n"
    );
    let mut raw = gateway.raw().await;
    raw.send(request).await;
    assert_eq!(raw.head().await.status, 200);
    assert_eq!(raw.chunk().await.unwrap(), b"2 Some(\"9\")");
    assert_eq!(raw.line().await.unwrap(), "0");
    assert_eq!(raw.line().await.unwrap(), "x-sum: 7");
    let head = upstream.heads.lock().unwrap()[0].clone();
    assert_eq!(head.uri.to_string(), "http://a.example/v1/embeddings?q=1");
    for absent in ["host", "authorization", "connection", "x-hop", "transfer-encoding"] {
        assert!(!head.headers.contains_key(absent), "{head:?}");
    }
    assert_eq!(head.headers["te"], "trailers");
    assert_eq!(head.headers["x-bearward-key-name"], "ci");
    // From HTTP/2, too, with a length and without.
    let answer = gateway.client(true).post(gateway.url("/v1/embeddings")).bearer_auth(gateway.token("ci"));
    assert_eq!(answer.body("x".repeat(300_000)).send().await.unwrap().text().await.unwrap(), "300000 None");
    assert_eq!(gateway.get("/v1/models", "ci").await.body, b"0 None");
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let upstream = Http2::start(100, false).await;
    let gateway = upstream.gateway().await;
    let asked = tokio::spawn(async move {
        let statuses = join_all((0..60).map(|_| gateway.get("/v1/models/held", "ci"))).await;
        statuses.into_iter().map(|answer| answer.status).collect::<Vec<_>>()
    });
    eventually("all are at upstream", || upstream.at_once.load(Ordering::SeqCst) == 60).await;
    assert!(upstream.connections.load(Ordering::SeqCst) <= 2, "one for each worker");
    upstream.release.add_permits(60);
    assert_eq!(in_time("answers", asked).await.unwrap(), [200; 60]);
}

#[tokio::test]
async fn what_upstream_allows_at_once_is_respected() {
    let upstream = Http2::start(2, false).await;
    let gateway = upstream.gateway().await;
    // One request first, so that upstream's settings are known.
    gateway.get("/v1/models", "ci").await;
    gateway.get("/v1/models", "ci").await;
    let asked = tokio::spawn(async move {
        let answers = join_all((0..12).map(|_| gateway.get("/v1/models/held", "ci"))).await;
        answers.into_iter().map(|answer| answer.status).collect::<Vec<_>>()
    });
    eventually("all are at upstream", || upstream.at_once.load(Ordering::SeqCst) == 12).await;
    assert!(upstream.connections.load(Ordering::SeqCst) >= 6);
    upstream.release.add_permits(12);
    assert_eq!(in_time("answers", asked).await.unwrap(), [200; 12]);
}

/// Servers end a connection on which many streams were cancelled, with the streams of all others.
#[tokio::test]
async fn a_connection_on_which_many_requests_were_cancelled_gets_no_more() {
    let upstream = Http2::start(200, false).await;
    let gateway = upstream.gateway().await;
    let mut other = gateway.raw().await;
    let held = format!("GET /v1/models/held HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    other.send(&held).await;
    eventually("it is at upstream", || upstream.at_once.load(Ordering::SeqCst) == 1).await;
    for _ in 0..100 {
        assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
    }
    let connections = || upstream.connections.load(Ordering::SeqCst);
    let before = connections();
    assert!(before <= 2, "one for each worker, and answers that were taken are as many as one likes");
    for _ in 0..160 {
        let seen = upstream.heads.lock().unwrap().len();
        let mut leaves = gateway.raw().await;
        leaves.send(&held).await;
        eventually("it is at upstream", || upstream.heads.lock().unwrap().len() > seen).await;
    }
    until("another connection", async || {
        gateway.get("/v1/models", "ci").await;
        connections() > before
    })
    .await;
    upstream.release.add_permits(100);
    assert_eq!(other.answer().await.status, 200, "what was on the first goes on");
}

#[tokio::test]
async fn a_connection_that_gets_goaway_costs_no_request() {
    let upstream = Http2::start(100, true).await;
    let gateway = upstream.gateway().await;
    let mut raw = gateway.raw().await;
    for _ in 0..100 {
        raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
        assert_eq!(raw.answer().await.status, 200);
    }
    assert!(upstream.connections.load(Ordering::SeqCst) > 50);
}

#[tokio::test]
async fn broken_streams_have_the_right_outcome() {
    let upstream = Http2::start(100, false).await;
    let gateway = upstream.gateway().await;
    let refused = gateway.get("/v1/models/refused", "ci").await;
    refused.assert_denied(502, "UPSTREAM_UNREACHABLE");
    assert_eq!(refused.header("x-should-retry"), None, "upstream said that it did nothing");
    // An end without an error is no end, either.
    let cases = [("broken", false), ("broken", true), ("short", false), ("short", true)];
    for (name, http2) in cases {
        let request = gateway.client(http2).get(gateway.url(&format!("/v1/models/{name}")));
        let answer = in_time("head", request.bearer_auth(gateway.token("ci")).send()).await.unwrap();
        let mut body = answer.bytes_stream();
        assert_eq!(in_time("half", body.next()).await.unwrap().unwrap(), "half");
        upstream.release.add_permits(1);
        assert!(in_time("end", body.next()).await.unwrap().is_err(), "never a clean end");
    }
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200, "others go on");
}

#[tokio::test]
async fn a_client_that_leaves_resets_its_stream_alone() {
    let upstream = Http2::start(100, false).await;
    let gateway = upstream.gateway().await;
    let mut leaving = gateway.raw().await;
    leaving.send(format!("GET /v1/models/held HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    eventually("it is at upstream", || upstream.at_once.load(Ordering::SeqCst) == 1).await;
    drop(leaving);
    eventually("its stream is reset", || upstream.resets.load(Ordering::SeqCst) == 1).await;
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
}

#[tokio::test]
async fn a_client_that_stops_reading_does_not_hold_up_the_others_of_its_connection() {
    let upstream = Http2::start(100, false).await;
    let gateway = upstream.gateway().await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut raw = gateway.raw().await;
        raw.send(format!("GET /v1/models/large HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
        raw.head().await;
        stalled.push(raw);
    }
    // A stream's window is 256 KiB: all of them are full.
    eventually("all are stalled", || upstream.sent.load(Ordering::SeqCst) >= 40 * 256 * 1024).await;
    assert_eq!(in_time("an answer", gateway.get("/v1/models", "ci")).await.status, 200);
    let client = gateway.client(false).get(gateway.url("/v1/models/large")).bearer_auth(gateway.token("ci"));
    let mut body = client.send().await.unwrap().bytes_stream();
    let mut length = 0;
    while let Some(piece) = in_time("a piece", body.next()).await {
        length += piece.unwrap().len();
    }
    assert_eq!(length, 16 * 1024 * 1024);
}

/// An HTTPS server that answers any request with its name.
async fn https(name: &str) -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    (https_with(certificate, key, name, Arc::default()).await, made.cert.pem())
}

async fn https_with(
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    name: &str,
    connections: Arc<AtomicUsize>,
) -> SocketAddr {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
    let provider = Arc::new(default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let name = name.to_owned();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            connections.fetch_add(1, Ordering::SeqCst);
            let (acceptor, name) = (acceptor.clone(), name.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                while stream.read(&mut [0; 4096]).await.ok()? > 0 {
                    stream.write_all(answer_of(&name).as_bytes()).await.ok()?;
                }
                Some(())
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upstream_that_cant_prove_itself_gets_nothing() {
    let (address, ca) = https("model.internal").await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, &ca).unwrap();
    let gateway = |tls: String| {
        let gateway = Gateway::at(&format!("https://{address}")).key("ci", "permissions: [read]");
        gateway.upstream(&tls).start()
    };
    let trusted = gateway(format!("tls: {{ca: {}, server_name: model.internal}}", path.display())).await;
    for _ in 0..3 {
        assert_eq!(trusted.get("/v1/models", "ci").await.body, b"model.internal");
    }
    let other_name = gateway(format!("tls: {{ca: {}}}", path.display())).await;
    other_name.get("/v1/models", "ci").await.assert_denied(502, "UPSTREAM_UNREACHABLE");
    let unknown = gateway("tls: {server_name: model.internal}".to_owned()).await;
    unknown.get("/v1/models", "ci").await.assert_denied(502, "UPSTREAM_UNREACHABLE");
    // The authority is reloaded with its file; a bad one changes nothing.
    std::fs::write(&path, https("model.internal").await.1).unwrap();
    assert_eq!(trusted.reload().await.json()["data"]["config"], "applied");
    trusted.get("/v1/models", "ci").await.assert_denied(502, "UPSTREAM_UNREACHABLE");
    std::fs::write(&path, ca).unwrap();
    assert_eq!(trusted.reload().await.json()["data"]["config"], "applied");
    assert_eq!(trusted.get("/v1/models", "ci").await.status, 200);
    std::fs::write(&path, "nothing").unwrap();
    trusted.reload().await.assert_denied(422, "RELOAD_REFUSED");
    assert_eq!(trusted.get("/v1/models", "ci").await.status, 200);
}

/// An address that nobody listens at.
async fn nowhere() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

async fn in_front_of(endpoints: &[SocketAddr], fields: &str) -> Running {
    let endpoints: Vec<_> = endpoints.iter().map(|address| format!("http://{address}")).collect();
    let gateway = Gateway::at(&endpoints.join("\", \"")).key("ci", "permissions: [read]");
    if fields.is_empty() { gateway.start().await } else { gateway.upstream(fields).start().await }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_costs_no_request() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for balance in ["round_robin", "least_requests"] {
        let endpoints = [nowhere().await, nowhere().await, upstream.address];
        let gateway = in_front_of(&endpoints, &format!("balance: {balance}")).await;
        for _ in 0..50 {
            assert_eq!(gateway.post("/v1/embeddings", "ci", "{}").await.status, 200);
        }
    }
    let gateway = in_front_of(&[nowhere().await, nowhere().await], "").await;
    let answer = gateway.get("/v1/models", "ci").await;
    answer.assert_denied(502, "UPSTREAM_UNREACHABLE");
    assert_eq!(answer.header("x-should-retry"), None, "nothing was sent");
}

#[tokio::test]
async fn no_other_endpoint_is_tried_where_that_is_not_wanted() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = in_front_of(&[nowhere().await, upstream.address], "retries: 0, balance: round_robin").await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        statuses.push(gateway.get("/v1/models", "ci").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
}

#[tokio::test]
async fn requests_are_spread_over_all_endpoints() {
    let (one, two) = (Upstream::answering(answer_of("1")).await, Upstream::answering(answer_of("2")).await);
    for (balance, least) in [("round_robin", 30), ("least_requests", 10)] {
        one.forget();
        two.forget();
        let gateway = in_front_of(&[one.address, two.address], &format!("balance: {balance}")).await;
        for _ in 0..60 {
            gateway.get("/v1/models", "ci").await;
        }
        let (first, second) = (one.requests().len(), two.requests().len());
        assert!(first >= least && second >= least, "{balance}: {first} and {second}");
    }
}

#[tokio::test]
async fn what_an_endpoint_has_seen_is_not_sent_to_another() {
    let dying = Upstream::acting(|_, _| async { None }).await;
    let good = Upstream::answering(answer_of("hi")).await;
    let gateway = in_front_of(&[dying.address, good.address], "balance: round_robin").await;
    let mut statuses = Vec::new();
    for _ in 0..6 {
        let answer = gateway.post("/v1/embeddings", "ci", "{}").await;
        if answer.status == 502 {
            assert_eq!(answer.header("x-should-retry"), Some("false"));
        }
        statuses.push(answer.status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 3, "{statuses:?}");
    assert_eq!((dying.requests().len(), good.requests().len()), (3, 3));
}

#[tokio::test]
async fn a_route_has_its_own_timeouts() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        let _left = stream.read(&mut [0; 1]).await;
        None
    })
    .await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("routes: [{name: slow, paths: [/slow], permission: read, timeouts: {response_headers: 1h}}, {name: quick, paths: [/**], permission: read, timeouts: {response_headers: 50ms}}]")
        .start()
        .await;
    gateway.get("/quick", "ci").await.assert_denied(504, "UPSTREAM_TIMEOUT");
    let slow = tokio::time::timeout(Duration::from_millis(200), gateway.get("/slow", "ci")).await;
    assert!(slow.is_err(), "it waits");
}

#[tokio::test]
async fn an_endpoint_that_swallows_connections_costs_no_request_either() {
    // A queue of one, which is full: the kernel drops what else comes.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let hole = socket.local_addr().unwrap().as_socket().unwrap();
    let _filling = [std::net::TcpStream::connect(hole).unwrap()];
    let upstream = Upstream::answering(answer_of("hi")).await;
    let fields = "balance: round_robin, timeouts: {connect: 100ms}";
    let gateway = in_front_of(&[hole, upstream.address], fields).await;
    for _ in 0..20 {
        assert_eq!(gateway.post("/v1/embeddings", "ci", "{}").await.status, 200);
    }
    assert_eq!(upstream.requests().len(), 20, "each was sent once");
    let alone = in_front_of(&[hole], "timeouts: {connect: 100ms}").await;
    alone.get("/v1/models", "ci").await.assert_denied(504, "UPSTREAM_TIMEOUT");
}

#[tokio::test]
async fn an_http2_endpoint_with_another_protocol_is_a_protocol_error() {
    let upstream = Upstream::answering("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    let gateway =
        Gateway::at(&format!("h2c://{}", upstream.address)).key("ci", "permissions: [read]").start().await;
    gateway.get("/v1/models", "ci").await.assert_denied(502, "UPSTREAM_PROTOCOL_ERROR");
}

#[tokio::test]
async fn an_upload_ends_with_its_answer() {
    let upstream = Http2::start(100, false).await;
    let gateway = upstream.gateway().await;
    let bearer = gateway.bearer("ci");
    let mut raw = gateway.raw().await;
    raw.send(format!(
        "POST /v1/rerank HTTP/1.1\r\nHost: a\r\n{bearer}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"
    ))
    .await;
    assert_eq!(raw.answer().await.body, b"early");
    // The client keeps its connection, and sends no more.
    eventually("upstream is rid of it", || upstream.resets.load(Ordering::SeqCst) == 1).await;
}

/// A client whose upload is answered at once, and never read: its body is more than upstream has room for.
async fn unread_upload(gateway: &Running) -> Raw {
    let mut raw = gateway.raw().await;
    raw.send(format!(
        "POST /v1/score HTTP/1.1\r\nHost: a\r\n{}Content-Length: 300000\r\n\r\n{}",
        gateway.bearer("ci"),
        "x".repeat(200_000)
    ))
    .await;
    assert_eq!(raw.head().await.status, 200);
    raw
}

#[tokio::test]
async fn an_upload_that_upstream_leaves_lying_holds_up_nobody() {
    let upstream = Http2::start(1, false).await;
    let gateway = upstream.gateway().await;
    // So that it is known that upstream takes one at a time.
    gateway.get("/v1/models", "ci").await;
    gateway.get("/v1/models", "ci").await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(unread_upload(&gateway).await);
    }
    for _ in 0..4 {
        assert_eq!(in_time("an answer", gateway.get("/v1/models", "ci")).await.status, 200);
    }
}

#[tokio::test]
async fn an_upload_that_upstream_leaves_lying_holds_up_no_other_upload() {
    // One connection's window is 64 KiB here, which the upload that is left lying uses up.
    let upstream = Http2::start(100, false).await;
    let gateway = upstream.gateway().await;
    gateway.get("/v1/models", "ci").await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(unread_upload(&gateway).await);
        for _ in 0..4 {
            let body = "x".repeat(100_000);
            let answer = in_time("an answer", gateway.post("/v1/embeddings", "ci", &body)).await;
            assert_eq!(answer.status, 200);
            assert!(answer.body.starts_with(b"100000 "), "{:?}", answer.body);
        }
    }
    let connections = upstream.connections.load(Ordering::SeqCst);
    assert!(connections <= 2 * 5, "one more for each that is used up, by worker: {connections}");
    // Where there may be one connection alone, it is shared all the same.
    let bounded = Gateway::at(&format!("h2c://{}", upstream.address))
        .key("ci", "permissions: [read]")
        .upstream("pool: {max_idle: 1}")
        .start()
        .await;
    assert_eq!(bounded.post("/v1/embeddings", "ci", "hi").await.status, 200);
}

#[tokio::test]
async fn a_connection_past_its_age_takes_no_new_request_and_its_streams_finish() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = in_front_of(&[upstream.address], "pool: {max_age: 50ms, idle: 1h}").await;
    let mut raw = gateway.raw().await;
    let ask = format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    until("another connection is made", async || {
        raw.send(&ask).await;
        assert_eq!(raw.answer().await.status, 200);
        upstream.connections() > 2
    })
    .await;
    assert!(upstream.requests().len() > 3, "each serves what comes in its time");
    let http2 = Http2::start(100, false).await;
    let gateway = Gateway::at(&format!("h2c://{}", http2.address))
        .key("ci", "permissions: [read]")
        .upstream("pool: {max_age: 50ms, idle: 1h}")
        .start()
        .await;
    let mut held = gateway.raw().await;
    held.send(format!("GET /v1/models/held HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    eventually("it is at upstream", || http2.at_once.load(Ordering::SeqCst) == 1).await;
    until("other connections are made", async || {
        assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
        http2.connections.load(Ordering::SeqCst) > 3
    })
    .await;
    http2.release.add_permits(1);
    assert_eq!(held.answer().await.status, 200);
    assert_eq!(http2.resets.load(Ordering::SeqCst), 0);
}

/// What `openssl req -x509` makes: a certificate that signs itself and says that it is an authority.
#[tokio::test]
async fn a_server_may_present_the_very_certificate_that_is_trusted() {
    let mut params = rcgen::CertificateParams::new(vec!["model.internal".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let made = params.self_signed(&key).unwrap();
    let address = https_with(made.der().clone(), key.serialize_der(), "model.internal", Arc::default());
    let address = address.await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, made.pem()).unwrap();
    for (name, is_right) in [("model.internal", true), ("other.internal", false)] {
        let gateway = Gateway::at(&format!("https://{address}"))
            .key("ci", "permissions: [read]")
            .upstream(&format!("tls: {{ca: {}, server_name: {name}}}", path.display()))
            .start()
            .await;
        let answer = gateway.get("/v1/models", "ci").await;
        match is_right {
            true => assert_eq!(answer.body, b"model.internal"),
            false => answer.assert_denied(502, "UPSTREAM_UNREACHABLE"),
        }
    }
}

#[tokio::test]
async fn a_reload_that_is_refused_leaves_the_connections_as_they_were() {
    let made = rcgen::generate_simple_self_signed(vec!["model.internal".to_owned()]).unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let (certificate, key) = (made.cert.der().clone(), made.signing_key.serialize_der());
    let address = https_with(certificate, key, "model.internal", connections.clone()).await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, made.cert.pem()).unwrap();
    let fields = format!("pool: {{idle: 1h}}, tls: {{ca: {}, server_name: model.internal}}", path.display());
    let gateway = Gateway::at(&format!("https://{address}"))
        .key("ci", "permissions: [read]")
        .upstream(&fields)
        .start()
        .await;
    // On one connection of the client, and so by one worker.
    let mut raw = gateway.raw().await;
    let ask = format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    raw.send(&ask).await;
    assert_eq!(raw.answer().await.status, 200);
    let config = std::fs::read_to_string(gateway.path("bearward.yaml")).unwrap();
    // The first upstream is changed and good; the second is not.
    let other = directory.path().join("other.pem");
    std::fs::write(&other, format!("{}{}", made.cert.pem(), made.cert.pem())).unwrap();
    let refused = config.replace(&path.display().to_string(), &other.display().to_string()).replace(
        "keys: {path",
        "  - {name: second, endpoints: [\"https://127.0.0.1:1\"], tls: {ca: /nowhere.pem}}\nkeys: {path",
    );
    assert_ne!(refused, config);
    gateway.rename_in("bearward.yaml", &refused);
    gateway.reload().await.assert_denied(422, "RELOAD_REFUSED");
    gateway.rename_in("bearward.yaml", &config);
    assert_eq!(gateway.reload().await.status, 200);
    raw.send(&ask).await;
    assert_eq!(raw.answer().await.status, 200);
    assert_eq!(connections.load(Ordering::SeqCst), 1, "the kept connection serves still");
}

#[tokio::test]
async fn a_silent_grpc_stream_is_no_stalled_body() {
    let upstream = Http2::start(100, false).await;
    let gateway = Gateway::at(&format!("h2c://{}", upstream.address))
        .key("ci", "permissions: [read]")
        .config("limits: {body_idle_timeout: 50ms}")
        .start()
        .await;
    let ask = async |content_type: &str| {
        let stream = TcpStream::connect(gateway.address).await.unwrap();
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = http::Request::post("http://a.example/v1/embeddings")
            .header("authorization", format!("Bearer {}", gateway.token("ci")))
            .header("content-type", content_type);
        let mut client = client.ready().await.unwrap();
        let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data("hi".into(), false).unwrap();
        (answer, body)
    };
    let (answer, _body) = ask("application/json").await;
    assert_eq!(in_time("an answer", answer).await.unwrap().status(), 408);
    let (answer, _body) = ask("application/grpc").await;
    assert!(tokio::time::timeout(Duration::from_secs(1), answer).await.is_err(), "it waits");
}

/// An upstream whose answer to health checks can be changed; everything else is answered by its name.
async fn ailing(name: &'static str) -> (Upstream, Arc<AtomicBool>) {
    let is_healthy = Arc::new(AtomicBool::new(true));
    let watched = is_healthy.clone();
    let upstream = Upstream::acting(move |request, mut stream| {
        let is_healthy = watched.load(Ordering::SeqCst);
        async move {
            let answer = match (request.target() == "/healthy", is_healthy) {
                (true, false) => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".to_owned(),
                _ => answer_of(name),
            };
            stream.write_all(answer.as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await;
    (upstream, is_healthy)
}

#[tokio::test]
async fn an_endpoint_that_says_it_is_not_well_gets_no_requests_until_it_is() {
    let ((one, one_is_healthy), (two, two_is_healthy)) = (ailing("one").await, ailing("two").await);
    let fields = "health: {path: /healthy, interval: 100ms, timeout: 1s, failures: 2, successes: 2}";
    let gateway = in_front_of(&[one.address, two.address], fields).await;
    let who = async |gateway: &Running| {
        let mut seen = BTreeSet::new();
        for _ in 0..20 {
            let answer = gateway.get("/v1/models", "ci").await;
            seen.insert((answer.status, String::from_utf8_lossy(&answer.body).into_owned()));
        }
        seen
    };
    assert_eq!(who(&gateway).await.len(), 2);
    one_is_healthy.store(false, Ordering::SeqCst);
    until("the one that is not well is left out", async || {
        who(&gateway).await.into_iter().eq([(200, "two".to_owned())])
    })
    .await;
    two_is_healthy.store(false, Ordering::SeqCst);
    until("nobody is asked any more", async || gateway.get("/v1/models", "ci").await.status == 503).await;
    let refused = gateway.get("/v1/models", "ci").await;
    refused.assert_denied(503, "UPSTREAM_UNAVAILABLE");
    assert!(refused.header("retry-after").is_some());
    one_is_healthy.store(true, Ordering::SeqCst);
    until("the one that is well again is asked", async || {
        who(&gateway).await.into_iter().eq([(200, "one".to_owned())])
    })
    .await;
    let checks = one.requests().iter().filter(|request| request.target() == "/healthy").count();
    assert!(checks > 5, "{checks}");
    let with_key = one
        .requests()
        .iter()
        .any(|request| request.target() == "/healthy" && request.header("authorization").is_some());
    assert!(!with_key);
}

#[tokio::test]
async fn a_health_check_shows_what_requests_show_and_is_no_way_of_grpc() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        let is_known = request.header("authorization") == Some("Bearer upstreams-own");
        let answer = match is_known && request.header("host") == Some("model.internal") {
            true => answer_of("hi"),
            false => "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n".to_owned(),
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        Some(stream)
    })
    .await;
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "upstreams-own").unwrap();
    let fields = format!(
        "credential: {{header: authorization, file: {}}}, host: model.internal, health: {{path: /auth, interval: 100ms, failures: 1}}",
        secret.display()
    );
    let gateway = in_front_of(&[upstream.address], &fields).await;
    let checks = || upstream.requests().iter().filter(|request| request.target() == "/auth").count();
    until("it was checked some times", async || checks() > 3).await;
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
}

#[tokio::test]
async fn a_health_check_that_is_mended_counts_at_once() {
    let (upstream, is_healthy) = ailing("one").await;
    is_healthy.store(false, Ordering::SeqCst);
    let endpoint = format!("http://{}", upstream.address);
    let gateway = Gateway::at(&endpoint)
        .upstream("health: {path: /healthy, interval: 1h, failures: 1}")
        .key("ci", "permissions: [read]")
        .start()
        .await;
    until("it is found unfit", async || gateway.get("/v1/models", "ci").await.status == 503).await;
    let status = gateway.admin("GET /api/v1/status", "").await.json();
    assert_eq!(status["data"]["endpoints"][0]["fault"], "it answers 503 Service Unavailable");
    let config = std::fs::read_to_string(gateway.path("bearward.yaml")).unwrap();
    gateway.rename_in("bearward.yaml", &config.replace("path: /healthy", "path: /elsewhere"));
    assert_eq!(gateway.reload().await.status, 200);
    until("the other path is asked", async || gateway.get("/v1/models", "ci").await.status == 200).await;
    gateway.rename_in("bearward.yaml", &config);
    assert_eq!(gateway.reload().await.status, 200);
    until("it is unfit again", async || gateway.get("/v1/models", "ci").await.status == 503).await;
    let without = config.replace(", health: {path: /healthy, interval: 1h, failures: 1}", "");
    assert_ne!(without, config);
    gateway.rename_in("bearward.yaml", &without);
    assert_eq!(gateway.reload().await.status, 200);
    until("nobody checks it", async || gateway.get("/v1/models", "ci").await.status == 200).await;
}

/// TLS may decrypt more than is read: an answer that just fills a read, and bytes behind it that came with it.
#[tokio::test]
async fn bytes_behind_an_answer_in_tls_reach_no_other_request() {
    let made = rcgen::generate_simple_self_signed(vec!["model.internal".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // The lengths of answers around those of reads.
    let lengths = Arc::new(AtomicUsize::new(8192 - 32));
    let next = lengths.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, next) = (acceptor.clone(), next.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                while stream.read(&mut [0; 4096]).await.ok()? > 0 {
                    let length = next.fetch_add(1, Ordering::SeqCst);
                    let head = |body: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {body}\r\n\r\n");
                    let body = length - head(length - head(8000).len()).len();
                    // Two records in one segment.
                    let first = format!("{}{}", head(body), "a".repeat(body));
                    for answer in [first, answer_of("another's")] {
                        stream.get_mut().1.writer().write_all(answer.as_bytes()).ok()?;
                    }
                    stream.flush().await.ok()?;
                }
                Some(())
            });
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, made.cert.pem()).unwrap();
    let gateway = Gateway::at(&format!("https://{address}"))
        .key("ci", "permissions: [read]")
        .upstream(&format!("tls: {{ca: {}, server_name: model.internal}}", path.display()))
        .start()
        .await;
    // On one connection of the client, and so by one worker.
    let mut raw = gateway.raw().await;
    for _ in 0..64 {
        raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
        let answer = raw.answer().await;
        assert_eq!(answer.status, 200);
        assert!(answer.body.iter().all(|byte| *byte == b'a'), "{}", String::from_utf8_lossy(&answer.body));
    }
}
