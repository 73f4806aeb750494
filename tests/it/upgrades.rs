//! Upgrades, byte by byte: who may have one, and what reaches upstream before it is granted.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Gateway, Running, Upstream, answer_of, eventually, in_time, until};

const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: x\r\n\r\n";

/// An upstream that says this to a request for an upgrade, and sends back whatever follows.
async fn echoing(head: &'static str) -> Upstream {
    Upstream::acting(move |request, mut stream| async move {
        if request.header("upgrade").is_none() {
            stream.write_all(answer_of("plain").as_bytes()).await.ok()?;
            return Some(stream);
        }
        stream.write_all(head.as_bytes()).await.ok()?;
        if !head.starts_with("HTTP/1.1 101") {
            return Some(stream);
        }
        let mut bytes = [0; 1024];
        loop {
            let length = stream.read(&mut bytes).await.ok().filter(|length| *length > 0)?;
            stream.write_all(&bytes[..length]).await.ok()?;
        }
    })
    .await
}

async fn gateway(upstream: &Upstream) -> Running {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read, write], max_concurrent: 1")
        .config("routes: [{name: a, paths: [/**], permission: read, upgrades: [websocket, spdy]}]")
        .start()
        .await
}

fn ask(gateway: &Running, head: &str) -> String {
    format!("{head}\r\nHost: a\r\n{}", gateway.bearer("ci"))
}

const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\n";

#[tokio::test]
async fn bytes_pass_both_ways_behind_a_101_and_the_permit_is_held() {
    let upstream = echoing(SWITCH).await;
    let gateway = gateway(&upstream).await;
    let mut raw = gateway.raw().await;
    // What comes early waits for upstream's word.
    raw.send(ask(&gateway, "GET /socket HTTP/1.1") + WEBSOCKET + "\r\nearly\r\n").await;
    let head = raw.head().await;
    assert_eq!(
        (head.status, head.header("upgrade"), head.header("sec-websocket-accept")),
        (101, Some("websocket"), Some("x"))
    );
    assert!(head.header("x-request-id").is_some());
    assert_eq!(raw.line().await.unwrap(), "early");
    raw.send("late\r\n").await;
    assert_eq!(raw.line().await.unwrap(), "late");
    let seen = upstream.only_request();
    assert_eq!((seen.headers("upgrade"), seen.headers("connection")), (vec!["websocket"], vec!["upgrade"]));
    assert!(seen.headers("authorization").is_empty());
    gateway.get("/x", "ci").await.assert_denied(429, "CONCURRENCY_LIMIT_EXCEEDED");
    drop(raw);
    until("the permit is back", async || gateway.get("/x", "ci").await.status == 200).await;
}

#[tokio::test]
async fn what_is_no_upgrade_goes_on_as_a_plain_request() {
    let upstream = echoing(SWITCH).await;
    let gateway = gateway(&upstream).await;
    let cases = [
        ("GET", "Connection: Upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket, h2c\r\n"),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n"),
        ("GET", "Connection: Upgrade\r\nUpgrade: tcp\r\n"),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket/13\r\n"),
        ("GET", "Connection: Upgrade\r\nUpgrade: websocket/\r\n"),
        ("GET", "Upgrade: websocket\r\n"),
        ("POST", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 0\r\n"),
    ];
    for (method, fields) in cases {
        upstream.forget();
        let mut raw = gateway.raw().await;
        raw.send(ask(&gateway, &format!("{method} /x HTTP/1.1")) + fields + "\r\n").await;
        assert_eq!(raw.answer().await.body, b"plain", "{fields}");
        let seen = upstream.only_request();
        assert!(seen.headers("upgrade").is_empty() && seen.headers("http2-settings").is_empty(), "{seen:?}");
        // And the connection is HTTP's still.
        raw.send(ask(&gateway, "GET /y HTTP/1.1") + "\r\n").await;
        assert_eq!(raw.answer().await.body, b"plain", "{fields}");
    }
    // HTTP/1.0 has no upgrades.
    upstream.forget();
    gateway.sends(ask(&gateway, "GET /x HTTP/1.0") + WEBSOCKET + "\r\n").await;
    assert!(upstream.only_request().headers("upgrade").is_empty());
}

#[tokio::test]
async fn other_protocols_may_be_asked_for_with_other_methods() {
    let spdy = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: SPDY/3.1\r\nConnection: Upgrade\r\n\r\n";
    let upstream = echoing(spdy).await;
    let gateway = gateway(&upstream).await;
    let mut raw = gateway.raw().await;
    raw.send(ask(&gateway, "POST /exec HTTP/1.1") + "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 101);
    raw.send("stream\r\n").await;
    assert_eq!(raw.line().await.unwrap(), "stream");
}

#[tokio::test]
async fn a_body_behind_a_request_for_an_upgrade_is_ambiguous() {
    let upstream = echoing(SWITCH).await;
    let gateway = gateway(&upstream).await;
    for framing in ["Content-Length: 2\r\n\r\nhi", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"] {
        let request = ask(&gateway, "GET /socket HTTP/1.1") + WEBSOCKET + framing;
        gateway.sends(request).await.assert_denied(400, "BAD_REQUEST");
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_route_that_does_not_allow_it_and_the_presets_that_do() {
    let upstream = echoing(SWITCH).await;
    for preset in ["openai", "vllm"] {
        let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]");
        let gateway = gateway.config(&format!("routes: {preset}")).start().await;
        for (path, expected) in [
            ("/v1/models", 200),
            ("/v1/realtime?model=x", 101),
            ("/v1/responses", 101),
            ("/v1/responses/", 101),
        ] {
            let mut raw = gateway.raw().await;
            raw.send(ask(&gateway, &format!("GET {path} HTTP/1.1")) + WEBSOCKET + "\r\n").await;
            assert_eq!(raw.head().await.status, expected, "{preset}: {path}");
        }
    }
}

#[tokio::test]
async fn answers_other_than_the_right_101() {
    let cases = [
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\r\n", 502),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", 502),
        ("HTTP/1.1 426 Upgrade Required\r\nupgrade: websocket\r\ncontent-length: 0\r\n\r\n", 426),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 200),
    ];
    for (head, status) in cases {
        let upstream = echoing(head).await;
        let gateway = gateway(&upstream).await;
        // What is pipelined behind is the next request, and never reaches upstream raw.
        let next = ask(&gateway, "GET /next HTTP/1.1") + "\r\n";
        let mut raw = gateway.raw().await;
        raw.send(ask(&gateway, "GET /socket HTTP/1.1") + WEBSOCKET + "\r\n" + &next).await;
        assert_eq!(raw.answer().await.status, status, "{head}");
        let seen = upstream.requests();
        assert_eq!(seen[0].target(), "/socket");
        if let Some(answer) = raw.answer_or_end().await {
            assert_eq!(answer.body, b"plain", "{head}");
        }
        let permitted = gateway.get("/x", "ci").await.status;
        assert_eq!(permitted, 200, "the permit is back after {head}");
    }
}

#[tokio::test]
async fn a_silent_tunnel_ends() {
    let upstream = echoing(SWITCH).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("routes: [{name: a, paths: [/**], permission: read, upgrades: [websocket], timeouts: {idle: 100ms}}]")
        .start()
        .await;
    let mut raw = gateway.raw().await;
    raw.send(ask(&gateway, "GET /socket HTTP/1.1") + WEBSOCKET + "\r\n").await;
    assert_eq!(raw.head().await.status, 101);
    raw.assert_closed().await;
    eventually("upstream is left", || upstream.open() == 0).await;
}

#[tokio::test]
async fn a_tunnel_ends_with_its_key_where_that_is_wanted() {
    let upstream = echoing(SWITCH).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .key("other", "permissions: [read]")
        .keys("cut_open_streams: true")
        .config("routes: any")
        .start()
        .await;
    let mut raw = gateway.raw().await;
    raw.send(ask(&gateway, "GET /socket HTTP/1.1") + WEBSOCKET + "\r\n").await;
    assert_eq!(raw.head().await.status, 101);
    let text = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    gateway.rename_in("keys.yaml", &text.replace("name: ci,", "name: ci, disabled: true,"));
    raw.assert_closed().await;
    eventually("upstream is left", || upstream.open() == 0).await;
}

/// Bytes that wait for a slow upstream, and the end of one direction, are a tunnel's ordinary life.
#[tokio::test]
async fn a_tunnel_outlives_a_slow_upstream_and_the_end_of_one_direction() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        stream.write_all(SWITCH.as_bytes()).await.ok()?;
        // It talks, and listens only later.
        for _ in 0..25 {
            stream.write_all(b".").await.ok()?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.ok()?;
        stream.write_all(format!("{}", all.len()).as_bytes()).await.ok()?;
        None
    })
    .await;
    // All of it in the kernel's buffers at once, and far more than they hold.
    for length in [60_000, 5_000_000] {
        // Its own, because the key's only permit may come back after the end of the tunnel.
        let gateway = gateway(&upstream).await;
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let ask = ask(&gateway, "GET /socket HTTP/1.1") + WEBSOCKET + "\r\n";
        stream.write_all(ask.as_bytes()).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let sending = tokio::spawn(async move {
            writer.write_all(&vec![b'x'; length]).await.unwrap();
            writer.shutdown().await.unwrap();
            writer
        });
        let mut answered = String::new();
        in_time("all of it", reader.read_to_string(&mut answered)).await.unwrap();
        assert!(answered.ends_with(&format!("{}{length}", ".".repeat(25))), "{answered}");
        drop(sending.await.unwrap());
    }
}

#[tokio::test]
async fn a_tunnel_that_breaks_is_logged_with_what_passed() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        stream.write_all(SWITCH.as_bytes()).await.ok()?;
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.ok()?;
        stream.write_all(&[b'x'; 1000]).await.ok()?;
        // A reset, once the client has what was sent.
        stream.read_exact(&mut bytes).await.ok()?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).ok()?;
        None
    })
    .await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("routes: [{name: a, paths: [/**], permission: read, upgrades: [websocket]}]")
        .start_binary()
        .await;
    let mut raw = gateway.raw().await;
    let bearer = gateway.bearer("ci");
    raw.send(format!("GET /socket HTTP/1.1\r\nHost: a\r\n{bearer}{WEBSOCKET}\r\n")).await;
    assert_eq!(raw.head().await.status, 101);
    raw.send("hello").await;
    assert_eq!(raw.bytes(1000).await.unwrap().len(), 1000);
    raw.send("again").await;
    eventually("the tunnel is logged", || !gateway.access_lines().is_empty()).await;
    let line = gateway.access_lines().remove(0);
    assert_eq!((line["status"].as_u64(), line["bytes_sent"].as_u64()), (Some(101), Some(1000)), "{line}");
    assert_eq!(line["bytes_received"], 10, "{line}");
}
