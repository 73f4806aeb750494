//! Limits: what is granted, what the headers promise, and permits that always come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;

use crate::harness::{Answer, Gateway, Upstream, answer_of, eventually};

const NOW: &str = "2026-11-23T00:00:00Z";

/// `r` of a policy in the RateLimit header.
fn remaining(answer: &Answer, policy: &str) -> u64 {
    parameter(answer.header("ratelimit").unwrap(), policy, "r")
}

fn parameter(list: &str, policy: &str, name: &str) -> u64 {
    let item = list.split(", ").find(|item| item.starts_with(&format!("\"{policy}\""))).unwrap();
    let value = item.split(';').find_map(|part| part.strip_prefix(&format!("{name}="))).unwrap();
    value.parse().unwrap()
}

#[tokio::test]
async fn a_hammered_key_gets_its_burst_and_its_rate_and_no_more() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let (gateway, hands) = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], rate_limits: [{requests: 60, per: 1m, burst: 10}]")
        .clock(NOW);
    let gateway = Arc::new(gateway.start().await);
    let granted = Arc::new(AtomicUsize::new(0));
    // 16 connections for 20 s, a quarter of a second at a time.
    for _ in 0..80 {
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let (gateway, granted) = (gateway.clone(), granted.clone());
            callers.spawn(async move {
                if gateway.get("/v1/models", "ci").await.status == 200 {
                    granted.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        callers.join_all().await;
        hands.advance(Duration::from_millis(250));
    }
    let granted = granted.load(Ordering::Relaxed);
    assert!((29..=31).contains(&granted), "10 at once and one a second for 20 s: {granted}");
    assert_eq!(upstream.requests().len(), granted, "what was refused reached nobody");
}

#[tokio::test]
async fn believing_the_headers_a_lone_client_is_never_refused() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let limits = "rate_limits: [{requests: 50, per: 10s, burst: 5}, {requests: 100, per: 1m, burst: 20}]";
    let (gateway, hands) =
        Gateway::guarding(&upstream).key("ci", &format!("permissions: [read], {limits}")).clock(NOW);
    let gateway = gateway.start().await;
    let mut answer = gateway.get("/v1/models", "ci").await;
    for round in 0..60 {
        assert_eq!(answer.status, 200);
        let policies = ["requests-10s", "requests-1m"];
        let left = policies.map(|policy| remaining(&answer, policy)).into_iter().min().unwrap();
        let openai: u64 = answer.header("x-ratelimit-remaining-requests").unwrap().parse().unwrap();
        assert_eq!(openai, left);
        if left == 0 || round % 7 == 6 {
            // Waiting until `t` fills every window again.
            let wait = policies.map(|policy| parameter(answer.header("ratelimit").unwrap(), policy, "t"));
            hands.advance(Duration::from_secs(wait.into_iter().max().unwrap()));
        }
        answer = gateway.get("/v1/models", "ci").await;
    }
    // And a refusal's Retry-After is a promise.
    while answer.status == 200 {
        answer = gateway.get("/v1/models", "ci").await;
    }
    answer.assert_denied(429, "RATE_LIMIT_EXCEEDED");
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert_eq!(answer.json()["error"]["details"]["retry_after_seconds"], wait);
    hands.advance(Duration::from_secs(wait));
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
}

#[tokio::test]
async fn a_refusal_takes_nothing_from_anything() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let (gateway, hands) = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], max_concurrent: 4, rate_limits: [{requests: 1, per: 10s}, {requests: 100, per: 1h, burst: 50}]")
        .clock(NOW);
    let gateway = gateway.config("limits: {body_bytes: 16B}").start().await;
    let first = gateway.get("/v1/models", "ci").await;
    assert_eq!((first.status, remaining(&first, "requests-1h")), (200, 49));
    // By the other window, by the permission, by the route, by the body, by the path: none of it is charged.
    for _ in 0..20 {
        let refused = gateway.get("/v1/models", "ci").await;
        refused.assert_denied(429, "RATE_LIMIT_EXCEEDED");
        assert_eq!(refused.json()["error"]["details"]["policy"], "requests-10s");
        assert_eq!(remaining(&refused, "requests-1h"), 49);
        let forbidden = gateway.post("/v1/files", "ci", "{}").await;
        forbidden.assert_denied(403, "INSUFFICIENT_PERMISSIONS");
        assert_eq!(remaining(&forbidden, "requests-1h"), 49, "shown, and not charged");
        gateway.get("/nowhere", "ci").await.assert_denied(404, "ROUTE_NOT_FOUND");
        gateway
            .post("/v1/embeddings", "ci", "more than sixteen bytes")
            .await
            .assert_denied(413, "PAYLOAD_TOO_LARGE");
        gateway.get("/a%2fb", "ci").await.assert_denied(400, "BAD_REQUEST");
    }
    hands.advance(Duration::from_secs(10));
    let second = gateway.get("/v1/models", "ci").await;
    assert_eq!((second.status, remaining(&second, "requests-1h")), (200, 48));
}

#[tokio::test]
async fn defaults_are_for_keys_that_name_none_and_route_limits_for_all() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let (gateway, _hands) = Gateway::guarding(&upstream)
        .key("plain", "permissions: [read]")
        .key("own", "permissions: [read], rate_limits: [{requests: 1000, per: 1m, burst: 100}]")
        .config("rate_limits: [{requests: 2, per: 1m, burst: 2}]")
        .config("routes: [{name: slow, paths: [/slow], permission: read, rate_limits: [{requests: 1, per: 1m}]}, {name: all, paths: [/**], permission: read}]")
        .clock(NOW);
    let gateway = gateway.start().await;
    let statuses = async |path: &str, key: &str, times: usize| {
        let mut statuses = Vec::new();
        for _ in 0..times {
            statuses.push(gateway.get(path, key).await.status);
        }
        statuses
    };
    assert_eq!(statuses("/x", "plain", 3).await, [200, 200, 429]);
    assert_eq!(statuses("/x", "own", 3).await, [200, 200, 200]);
    assert_eq!(statuses("/slow", "own", 2).await, [200, 429]);
    let refused = gateway.get("/slow", "own").await;
    assert_eq!(refused.json()["error"]["details"]["policy"], "slow-requests-1m");
    assert_eq!(
        refused.header("ratelimit-policy"),
        Some("\"requests-1m\";q=1000;w=60, \"slow-requests-1m\";q=1;w=60")
    );
}

#[tokio::test]
async fn upstreams_own_limit_headers_pass_where_the_key_has_none() {
    let upstream = Upstream::answering("HTTP/1.1 200 OK\r\nRateLimit: \"up\";r=1\r\nx-ratelimit-limit-requests: 7\r\ncontent-length: 0\r\n\r\n").await;
    let gateway = Gateway::guarding(&upstream)
        .key("free", "permissions: [read]")
        .key("ci", "permissions: [read], rate_limits: [{requests: 600, per: 1m}]")
        .start()
        .await;
    assert_eq!(gateway.get("/v1/models", "free").await.header("ratelimit"), Some("\"up\";r=1"));
    let limited = gateway.get("/v1/models", "ci").await;
    assert_eq!(limited.header("ratelimit"), Some("\"requests-1m\";r=59;t=1"));
    assert_eq!(limited.header("x-ratelimit-limit-requests"), Some("600"));
}

/// Sends a head and a first chunk, and then nothing more until the caller leaves.
async fn endless() -> Upstream {
    Upstream::acting(|_, mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await
            .ok()?;
        let mut end = [0u8; 1];
        let _left = tokio::io::AsyncReadExt::read(&mut stream, &mut end).await;
        None
    })
    .await
}

#[tokio::test]
async fn permits_come_back_from_clients_that_leave_in_mid_stream() {
    let upstream = endless().await;
    let gateway =
        Gateway::guarding(&upstream).key("ci", "permissions: [read], max_concurrent: 4").start().await;
    let request = format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    for round in 0..250 {
        let mut streams = Vec::new();
        for _ in 0..4 {
            let mut raw = gateway.raw().await;
            raw.send(&request).await;
            assert_eq!(raw.head().await.status, 200, "round {round}");
            assert_eq!(raw.chunk().await.unwrap(), b"hello");
            streams.push(raw);
        }
        let refused = gateway.get("/v1/models", "ci").await;
        refused.assert_denied(429, "CONCURRENCY_LIMIT_EXCEEDED");
        assert_eq!(refused.json()["error"]["details"]["limit"], 4);
        assert_eq!(refused.header("retry-after"), Some("1"));
        drop(streams);
        // The place is free once upstream has seen the caller leave.
        eventually("upstream is left", || upstream.open() == 0).await;
    }
}

#[tokio::test]
async fn a_permit_is_back_after_every_kind_of_end() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        match request.target() {
            "/v1/models/reset" => return None,
            "/v1/models/garbage" => stream.write_all(b"garbage\r\n\r\n").await.ok()?,
            "/v1/models/cut" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut").await.ok()?;
                return None;
            }
            "/v1/models/slow" => {
                let mut end = [0u8; 1];
                let _left = tokio::io::AsyncReadExt::read(&mut stream, &mut end).await;
                return None;
            }
            _ => stream.write_all(answer_of("hi").as_bytes()).await.ok()?,
        }
        Some(stream)
    })
    .await;
    let gateway = Gateway::guarding(&upstream)
        .upstream("timeouts: {response_headers: 50ms}")
        .key("ci", "permissions: [read], max_concurrent: 1")
        .start()
        .await;
    for _ in 0..20 {
        for (path, status) in [("reset", 502), ("garbage", 502), ("slow", 504), ("fine", 200)] {
            assert_eq!(gateway.get(&format!("/v1/models/{path}"), "ci").await.status, status, "{path}");
        }
        let request = format!("GET /v1/models/cut HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
        let mut raw = gateway.raw().await;
        raw.send(request).await;
        assert!(raw.answer_or_end().await.is_none(), "a cut answer has no clean end");
    }
}
