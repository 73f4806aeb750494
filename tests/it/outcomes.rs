//! How requests end, as their access lines say: each has one line, with one of a closed set of words.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::frames::{END_STREAM, Frames, HEADERS, WINDOW_UPDATE, frame, headers, request};
use crate::harness::{Binary, Gateway, Upstream, answer_of, eventually, until};

/// Begins an answer, and goes on by the path: `/v1/models/large` with more than any buffer holds, `/held` with nothing,
/// `/cut` with an end too early, `/slow` with no head.
async fn upstream() -> Upstream {
    Upstream::acting(|request, mut stream| async move {
        let target = request.target().to_owned();
        if request.header("upgrade").is_some() {
            let switch =
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
            stream.write_all(switch.as_bytes()).await.ok()?;
            stream.write_all(b"hello").await.ok()?;
            let _until_the_end = stream.read(&mut [0; 64]).await;
            return None;
        }
        match target.as_str() {
            "/v1/models/large" => {
                stream.write_all(answer_of(&"x".repeat(50_000_000)).as_bytes()).await.ok()?;
                return Some(stream);
            }
            held if held.starts_with("/v1/models/held") => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.ok()?;
                let _until_the_end = stream.read(&mut [0]).await;
            }
            "/v1/models/cut" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf").await.ok()?;
            }
            "/v1/models/slow" => {
                let _until_the_end = stream.read(&mut [0]).await;
            }
            _ => {
                stream.write_all(answer_of("hi").as_bytes()).await.ok()?;
                return Some(stream);
            }
        }
        None
    })
    .await
}

fn gateway(upstream: &Upstream) -> Gateway {
    Gateway::guarding(upstream).key("ci", "permissions: [read, write]").config(
        "routes: [{name: all, paths: [/**], permission: read, upgrades: [websocket]}]\n\
         auth: {headers: [authorization, x-api-key]}",
    )
}

fn get(gateway: &Binary, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))
}

/// The lines of requests for this path.
fn lines_of(gateway: &Binary, path: &str) -> Vec<Value> {
    let lines = gateway.access_lines().into_iter();
    lines.filter(|line| line["path"] == path).collect()
}

async fn assert_outcome(gateway: &Binary, path: &str, outcome: &str) -> Value {
    eventually("the line", || !lines_of(gateway, path).is_empty()).await;
    let lines = lines_of(gateway, path);
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0]["outcome"], outcome, "{path}: {}", lines[0]);
    lines[0].clone()
}

/// The time of a request without a key is over, and upstream is as well as before.
#[tokio::test]
async fn a_request_without_a_key_that_has_had_its_time_has_expired() {
    let upstream = upstream().await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("routes: [{name: all, paths: [/**], public: true, upgrades: [websocket]}]\nlimits: {public: {total: 400ms}}")
        .start_binary()
        .await;
    let held = "GET /v1/models/held HTTP/1.1\r\nHost: a\r\n\r\n";
    let tunnel = "GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for (path, request) in [("/v1/models/held", held), ("/tunnel", tunnel)] {
        let mut raw = gateway.raw().await;
        raw.send(request).await;
        assert!(matches!(raw.head().await.status, 101 | 200));
        raw.assert_ended().await;
        assert_outcome(&gateway, path, "expired").await;
    }
}

#[tokio::test]
async fn a_request_ends_by_one_of_a_closed_set_of_outcomes() {
    let upstream = upstream().await;
    let gateway = gateway(&upstream)
        .upstream("timeouts: {idle: 1s, response_headers: 1s}")
        .keys("cut_open_streams: true")
        .start_binary()
        .await;
    assert_eq!(gateway.get("/v1/models/whole", "ci").await.status, 200);
    assert_outcome(&gateway, "/v1/models/whole", "complete").await;
    gateway
        .sends("GET /v1/models/none HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .assert_denied(401, "MISSING_API_KEY");
    assert_outcome(&gateway, "/v1/models/none", "refused").await;
    gateway.get("/v1/models/slow", "ci").await.assert_denied(504, "UPSTREAM_TIMEOUT");
    assert_outcome(&gateway, "/v1/models/slow", "upstream_timeout").await;
    for (path, outcome) in [("/v1/models/cut", "upstream_failed"), ("/v1/models/held", "upstream_timeout")] {
        let mut raw = gateway.raw().await;
        raw.send(get(&gateway, path)).await;
        assert_eq!(raw.head().await.status, 200);
        raw.assert_ended().await;
        assert_outcome(&gateway, path, outcome).await;
    }
    let mut raw = gateway.raw().await;
    raw.send(get(&gateway, "/v1/models/large")).await;
    assert_eq!(raw.head().await.status, 200);
    drop(raw);
    assert_outcome(&gateway, "/v1/models/large", "client_left").await;
}

#[tokio::test]
async fn a_revoked_keys_answers_end_as_revoked_whether_their_client_reads_or_not() {
    let upstream = upstream().await;
    let gateway = gateway(&upstream).keys("cut_open_streams: true").start_binary().await;
    let mut reads = gateway.raw().await;
    reads.send(get(&gateway, "/v1/models/held")).await;
    assert_eq!(reads.head().await.status, 200);
    let mut stalls = gateway.raw().await;
    stalls.send(get(&gateway, "/v1/models/large")).await;
    until("both are at upstream", async || upstream.requests().len() == 2).await;
    let keys = gateway.directory.path().join("keys.yaml");
    let text =
        std::fs::read_to_string(&keys).unwrap().replace("permissions:", "disabled: true, permissions:");
    std::fs::write(keys.with_extension("new"), text).unwrap();
    std::fs::rename(keys.with_extension("new"), &keys).unwrap();
    assert_outcome(&gateway, "/v1/models/held", "revoked").await;
    assert_outcome(&gateway, "/v1/models/large", "revoked").await;
}

/// A client may pause for longer than a connection may idle.
#[tokio::test]
async fn a_client_that_reads_nothing_has_a_limit_of_its_own() {
    let upstream = upstream().await;
    for is_tls in [false, true] {
        let gateway =
            gateway(&upstream).config("limits: {idle_timeout: 300ms, client_stall_timeout: 1500ms}");
        let gateway = if is_tls { gateway.tls() } else { gateway }.start_binary().await;
        let mut raw = gateway.raw().await;
        raw.send(get(&gateway, "/v1/models/large")).await;
        let started = Instant::now();
        assert_outcome(&gateway, "/v1/models/large", "client_stalled").await;
        assert!(started.elapsed() > Duration::from_millis(1400), "{:?}", started.elapsed());
    }
    // On HTTP/2, with all the room that its windows can say, and none in the socket.
    let gateway = gateway(&upstream)
        .config("limits: {idle_timeout: 300ms, client_stall_timeout: 1500ms}")
        .start_binary()
        .await;
    let mut frames = Frames::over(gateway.raw().await, &[(4, (1 << 31) - 1)]).await;
    let room = frame(WINDOW_UPDATE, 0, 0, &((1u32 << 31) - 1 - 65_535).to_be_bytes());
    frames.send(room).await;
    frames.send(headers(1, END_STREAM, &request("/v1/models/large", gateway.token("ci"), &[]))).await;
    let started = Instant::now();
    assert_outcome(&gateway, "/v1/models/large", "client_stalled").await;
    assert!(started.elapsed() > Duration::from_millis(1400), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_client_that_pauses_for_less_than_that_gets_all_of_its_answer() {
    let upstream = upstream().await;
    let gateway =
        gateway(&upstream).config("limits: {idle_timeout: 200ms, client_stall_timeout: 20s}").start().await;
    let mut raw = gateway.raw().await;
    raw.send(format!("GET /v1/models/large HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    assert_eq!(raw.head().await.status, 200);
    // The pause itself is what is tested: it is several times as long as a connection may idle.
    tokio::time::sleep(Duration::from_millis(1000)).await;
    let body = tokio::time::timeout(Duration::from_secs(20), raw.bytes(50_000_000)).await.unwrap();
    assert_eq!(body.map(|body| body.len()), Some(50_000_000));
}

#[tokio::test]
async fn a_stalled_http2_stream_ends_alone_and_its_line_says_so() {
    let upstream = upstream().await;
    let gateway = gateway(&upstream).config("limits: {client_stall_timeout: 400ms}").start_binary().await;
    let key = gateway.token("ci");
    let mut frames = Frames::over(gateway.raw().await, &[(4, 0)]).await;
    frames.send(headers(1, END_STREAM, &request("/v1/models/large", key, &[]))).await;
    frames.until(HEADERS, 1).await.unwrap();
    assert_outcome(&gateway, "/v1/models/large", "client_stalled").await;
    frames.send(headers(3, END_STREAM, &request("/v1/models/next", key, &[]))).await;
    frames.send(frame(WINDOW_UPDATE, 0, 3, &1000u32.to_be_bytes())).await;
    assert_outcome(&gateway, "/v1/models/next", "complete").await;
}

#[tokio::test]
async fn what_the_drain_cuts_has_a_line_that_says_so() {
    let upstream = upstream().await;
    let mut gateway = gateway(&upstream).config("limits: {drain_timeout: 500ms}").start_binary().await;
    let key = gateway.token("ci").to_owned();
    let mut held = gateway.raw().await;
    held.send(get(&gateway, "/v1/models/held")).await;
    assert_eq!(held.head().await.status, 200);
    let mut waits = gateway.raw().await;
    waits.send(get(&gateway, "/v1/models/slow")).await;
    let mut frames = Frames::over(gateway.raw().await, &[]).await;
    frames.send(headers(1, END_STREAM, &request("/v1/models/held/http2", &key, &[]))).await;
    let mut stalls = gateway.raw().await;
    stalls.send(get(&gateway, "/v1/models/large")).await;
    let mut tunnel = gateway.raw().await;
    let bearer = gateway.bearer("ci");
    tunnel
        .send(format!(
            "GET /v1/realtime HTTP/1.1\r\nHost: a\r\n{bearer}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        ))
        .await;
    assert_eq!(tunnel.head().await.status, 101);
    assert_eq!(tunnel.bytes(5).await.unwrap(), b"hello");
    until("all are at upstream", async || upstream.requests().len() == 5).await;
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), Some(1));
    for path in ["/v1/models/held", "/v1/models/held/http2", "/v1/models/slow", "/v1/models/large"] {
        assert_outcome(&gateway, path, "drained").await;
    }
    let of_tunnel = assert_outcome(&gateway, "/v1/realtime", "drained").await;
    assert_eq!((of_tunnel["status"].as_u64(), of_tunnel["bytes_sent"].as_u64()), (Some(101), Some(5)));
}
