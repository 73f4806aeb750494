//! Queues of upstreams: who waits, in which order, and what becomes of those who wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::harness::{Answer, Gateway, Running, Upstream, answer_of, bearward, eventually, until};

const CHAT: &str = "/v1/chat/completions";

/// A server that answers each request when the test lets it.
struct Held {
    upstream: Upstream,
    release: Arc<Semaphore>,
    /// Whether it answers health checks.
    is_healthy: Arc<AtomicBool>,
}

impl Held {
    async fn start() -> Self {
        let release = Arc::new(Semaphore::new(0));
        let is_healthy = Arc::new(AtomicBool::new(true));
        let of_server = (release.clone(), is_healthy.clone());
        let upstream = Upstream::acting(move |request, mut stream| {
            let (release, is_healthy) = of_server.clone();
            async move {
                if request.target() != "/health" || !is_healthy.load(Ordering::SeqCst) {
                    release.acquire().await.ok()?.forget();
                }
                stream.write_all(answer_of("done").as_bytes()).await.ok()?;
                Some(stream)
            }
        })
        .await;
        Held { upstream, release, is_healthy }
    }

    fn let_go(&self, count: usize) {
        self.release.add_permits(count);
    }

    /// The requests that have arrived, each by the name of its key.
    fn served(&self) -> Vec<String> {
        let requests = self.upstream.requests();
        let names = requests.iter().filter_map(|request| request.header("x-bearward-key-name"));
        names.map(str::to_owned).collect()
    }
}

fn keyed(gateway: Gateway) -> Gateway {
    gateway
        .key("human", "permissions: [read, write], priority: interactive")
        .key("ci", "permissions: [read, write]")
        .key("other", "permissions: [read, write]")
        .key("nightly", "permissions: [read, write], priority: batch, group: robots")
        .key("robot", "permissions: [read, write], priority: interactive, group: robots")
}

/// A gateway with a queue. `queue`: its fields.
async fn queued(held: &Held, queue: &str, more: &str) -> Arc<Running> {
    let gateway = keyed(Gateway::guarding(&held.upstream))
        .upstream(&format!("queue: {queue}"))
        .config(&format!("groups: [{{name: robots, priority: batch}}]\n{more}"));
    Arc::new(gateway.start().await)
}

fn send(gateway: &Arc<Running>, key: &'static str, more: &'static str) -> JoinHandle<Answer> {
    let gateway = gateway.clone();
    tokio::spawn(async move {
        let bearer = gateway.bearer(key);
        let request =
            format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n{bearer}{more}content-length: 2\r\n\r\n{{}}");
        gateway.sends(request).await
    })
}

/// Sends a request, and waits until it has the slot.
async fn send_first(gateway: &Arc<Running>, key: &'static str, held: &Held) -> JoinHandle<Answer> {
    let first = send(gateway, key, "");
    eventually("the first arrives", || held.served().len() == 1).await;
    first
}

/// An address that refuses connections, until its socket listens.
fn dead_endpoint() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

async fn waiting(gateway: &Running) -> [u64; 3] {
    let status = gateway.admin("GET /api/v1/status", "the-admin-token").await.json();
    let waiting = &status["data"]["queues"][0]["waiting"];
    ["interactive", "standard", "batch"].map(|class| waiting[class].as_u64().unwrap())
}

async fn wait_until_waiting(gateway: &Running, expected: [u64; 3]) {
    until("the requests wait", async || waiting(gateway).await == expected).await;
}

#[tokio::test]
async fn requests_beyond_the_slots_wait_and_each_is_answered_in_its_turn() {
    let held = Held::start().await;
    let gateway = queued(&held, "{slots: 1}", "").await;
    let mut sent = vec![send_first(&gateway, "ci", &held).await];
    // A batch that comes first waits for all others, and a key that is in front of a screen for nobody. A key
    // can't raise itself above its group.
    for (key, expected) in [
        ("nightly", [0, 0, 1]),
        ("robot", [0, 0, 2]),
        ("ci", [0, 1, 2]),
        ("other", [0, 2, 2]),
        ("human", [1, 2, 2]),
    ] {
        sent.push(send(&gateway, key, ""));
        wait_until_waiting(&gateway, expected).await;
    }
    let page = String::from_utf8(gateway.admin("GET /", "the-admin-token").await.body).unwrap();
    assert!(
        page.contains("<td>model</td><td>1 of 1</td><td>1 interactive, 2 standard, 2 batch</td>"),
        "{page}"
    );
    for count in 2..=6 {
        held.let_go(1);
        eventually("the next arrives", || held.served().len() == count).await;
    }
    held.let_go(1);
    // The key of the first request was served already, so the other one is next in its class.
    assert_eq!(held.served(), ["ci", "human", "other", "ci", "nightly", "robot"]);
    for (index, answer) in sent.into_iter().enumerate() {
        let answer = answer.await.unwrap();
        assert_eq!((answer.status, answer.header("x-bearward-queued-ms").is_some()), (200, index > 0));
    }
    assert_eq!(waiting(&gateway).await, [0, 0, 0]);
    let metrics = gateway.admin("GET /metrics", "the-admin-token").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    for line in [
        "bearward_queue_slots{upstream=\"model\"} 1.0",
        "bearward_queue_slots_taken{upstream=\"model\"} 0.0",
        "bearward_queue_waiting{upstream=\"model\",class=\"batch\"} 0.0",
        "bearward_queue_wait_seconds_count{upstream=\"model\",class=\"interactive\"} 1",
        "bearward_queue_wait_seconds_count{upstream=\"model\",class=\"standard\"} 3",
        "bearward_queue_wait_seconds_count{upstream=\"model\",class=\"batch\"} 2",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test]
async fn a_client_lowers_its_class_and_never_raises_it() {
    let held = Held::start().await;
    let gateway = queued(&held, "{slots: 1}", "").await;
    let first = send_first(&gateway, "ci", &held).await;
    let lowered = send(&gateway, "human", "x-bearward-priority: batch\r\n");
    wait_until_waiting(&gateway, [0, 0, 1]).await;
    let raised = send(&gateway, "nightly", "x-bearward-priority: interactive\r\n");
    wait_until_waiting(&gateway, [0, 0, 2]).await;
    for unknown in ["x-bearward-priority: urgent\r\n", "x-bearward-priority:\r\n"] {
        let refused = send(&gateway, "human", unknown).await.unwrap();
        refused.assert_denied(400, "BAD_REQUEST");
        assert_eq!(refused.json()["error"]["details"], json!({"header": "x-bearward-priority"}));
    }
    held.let_go(3);
    for answer in [first, lowered, raised] {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert!(held.upstream.requests().iter().all(|request| request.header("x-bearward-priority").is_none()));
}

#[tokio::test]
async fn a_full_queue_refuses_the_last_of_the_flood_and_never_the_human() {
    let held = Held::start().await;
    let gateway = queued(&held, "{slots: 1, max_waiting: 2}", "").await;
    let first = send_first(&gateway, "nightly", &held).await;
    let second = send(&gateway, "nightly", "");
    wait_until_waiting(&gateway, [0, 0, 1]).await;
    let third = send(&gateway, "nightly", "");
    wait_until_waiting(&gateway, [0, 0, 2]).await;
    let refused = send(&gateway, "nightly", "").await.unwrap();
    refused.assert_denied(503, "QUEUE_FULL");
    assert_eq!(refused.json()["error"]["details"], json!({"upstream": "model"}));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    let human = send(&gateway, "human", "");
    third.await.unwrap().assert_denied(503, "QUEUE_FULL");
    assert_eq!(waiting(&gateway).await, [1, 0, 1]);
    held.let_go(3);
    for answer in [first, second, human] {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!(held.served(), ["nightly", "human", "nightly"]);
}

#[tokio::test]
async fn a_wait_that_fails_gives_back_what_it_had_taken() {
    let held = Held::start().await;
    let state = tempfile::tempdir().unwrap();
    let limits = "rate_limits: [{requests: 10, per: 1d, burst: 10}, {tokens: 1000, per: 1d, burst: 1000}], \
                  budgets: [{requests: 10, every: month}, {tokens: 1000, every: month}], max_concurrent: 2";
    let gateway = Gateway::guarding(&held.upstream)
        .key("limited", &format!("permissions: [read, write], {limits}"))
        .key("ci", "permissions: [read, write]")
        .upstream("queue: {slots: 1, max_wait: 100ms}")
        .config(&format!("state: {{path: {}}}\nself_service: true", state.path().join("state").display()));
    let (gateway, _hands) = gateway.clock("2026-11-30T12:00:00Z");
    let gateway = Arc::new(gateway.start().await);
    let first = send_first(&gateway, "ci", &held).await;
    let me = async || {
        let me = gateway.get("/.bearward/me", "limited").await;
        let remaining: Vec<_> = me.header("ratelimit").unwrap().split(", ").map(str::to_owned).collect();
        (remaining, me.json()["budgets"].clone())
    };
    let before = me().await;
    let body =
        r#"{"model": "m", "max_tokens": 100, "messages": [{"role": "user", "content": "hello there"}]}"#;
    for (path, body) in [(CHAT, body), ("/v1/files", "{}")] {
        let refused = gateway.post(path, "limited", body).await;
        refused.assert_denied(503, "QUEUE_TIMEOUT");
        assert_eq!(refused.json()["error"]["details"], json!({"upstream": "model"}));
        assert!(refused.header("retry-after").is_some());
        assert!(refused.header("x-bearward-queued-ms").unwrap().parse::<u64>().unwrap() >= 100);
        assert_eq!(me().await, before, "{path}");
    }
    // A client that leaves while it waits gives its place up, and what it had taken.
    let mut raw = gateway.raw().await;
    let head = format!("GET /v1/models HTTP/1.1\r\nhost: a\r\n{}\r\n", gateway.bearer("limited"));
    raw.send(head).await;
    wait_until_waiting(&gateway, [0, 1, 0]).await;
    drop(raw);
    wait_until_waiting(&gateway, [0, 0, 0]).await;
    assert_eq!(me().await, before);
    held.let_go(2);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(gateway.get("/v1/models", "limited").await.status, 200);
    let (after, _) = me().await;
    assert_ne!(after, before.0, "what was sent is charged");
    let metrics = gateway.admin("GET /metrics", "the-admin-token").await;
    let metrics = String::from_utf8(metrics.body).unwrap();
    let timeouts = metrics.lines().find(|line| line.starts_with("bearward_queue_timeouts_total")).unwrap();
    assert!(timeouts.contains("upstream=\"model\",key_id=\"key_") && timeouts.ends_with("} 2"), "{timeouts}");
}

#[tokio::test]
async fn who_waits_has_no_connection_to_upstream_and_is_not_told_to_send_its_body() {
    let held = Held::start().await;
    let gateway = queued(&held, "{slots: 1}", "").await;
    let first = send_first(&gateway, "ci", &held).await;
    let mut raw = gateway.raw().await;
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: a\r\n{}expect: 100-continue\r\ncontent-length: 5\r\n\r\n",
        gateway.bearer("ci")
    );
    raw.send(head).await;
    wait_until_waiting(&gateway, [0, 1, 0]).await;
    assert_eq!(held.upstream.connections(), 1);
    assert!(
        tokio::time::timeout(Duration::from_millis(100), raw.head()).await.is_err(),
        "not before its turn"
    );
    held.let_go(1);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(raw.head().await.status, 100);
    raw.send("hello").await;
    held.let_go(1);
    assert_eq!(raw.answer().await.status, 200);
}

#[tokio::test]
async fn a_reload_with_more_slots_serves_those_who_wait_and_one_without_a_queue_all() {
    let held = Held::start().await;
    let gateway = queued(&held, "{slots: 1}", "").await;
    let sent: Vec<_> = (0..6).map(|_| send(&gateway, "ci", "")).collect();
    wait_until_waiting(&gateway, [0, 5, 0]).await;
    let reload = async |from: &str, to: &str| {
        let config = std::fs::read_to_string(gateway.path("bearward.yaml")).unwrap();
        assert!(config.contains(from));
        gateway.rename_in("bearward.yaml", &config.replace(from, to));
        assert_eq!(gateway.reload().await.status, 200);
    };
    reload("slots: 1", "slots: 3").await;
    eventually("three are served", || held.served().len() == 3).await;
    wait_until_waiting(&gateway, [0, 3, 0]).await;
    reload("slots: 3", "slots: 2").await;
    held.let_go(2);
    eventually("two of three slots are left", || held.served().len() == 4).await;
    wait_until_waiting(&gateway, [0, 2, 0]).await;
    reload("queue: {slots: 2}", "retries: 2").await;
    eventually("nobody waits without a queue", || held.served().len() == 6).await;
    held.let_go(4);
    for answer in sent {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn a_key_that_is_revoked_while_its_request_waits_is_refused_at_its_turn() {
    let held = Held::start().await;
    for (cuts, is_at_once) in [("false", false), ("true", true)] {
        held.upstream.forget();
        let gateway = keyed(Gateway::guarding(&held.upstream))
            .upstream("queue: {slots: 1}")
            .keys(&format!("cut_open_streams: {cuts}"))
            .config("groups: [{name: robots}]");
        let gateway = Arc::new(gateway.start().await);
        let first = send_first(&gateway, "ci", &held).await;
        let revoked = send(&gateway, "other", "");
        wait_until_waiting(&gateway, [0, 1, 0]).await;
        let keys = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
        let without: Vec<&str> = keys.lines().filter(|line| !line.contains("name: other")).collect();
        gateway.rename_in("keys.yaml", &without.join("\n"));
        assert_eq!(gateway.reload().await.status, 200);
        if is_at_once {
            wait_until_waiting(&gateway, [0, 0, 0]).await;
        }
        held.let_go(1);
        assert_eq!(first.await.unwrap().status, 200);
        revoked.await.unwrap().assert_denied(401, "INVALID_API_KEY");
        assert_eq!(held.served(), ["ci"]);
    }
}

#[tokio::test]
async fn those_who_wait_for_an_upstream_that_is_renamed_wait_for_its_slots() {
    let held = Held::start().await;
    let gateway = queued(&held, "{slots: 1}", "").await;
    let sent: Vec<_> = (0..4).map(|_| send(&gateway, "ci", "")).collect();
    wait_until_waiting(&gateway, [0, 3, 0]).await;
    let config = std::fs::read_to_string(gateway.path("bearward.yaml")).unwrap();
    gateway.rename_in("bearward.yaml", &config.replace("name: model", "name: other"));
    assert_eq!(gateway.reload().await.status, 200);
    for count in 1..=4 {
        eventually("the next arrives", || held.served().len() == count).await;
        held.let_go(1);
    }
    for answer in sent {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn each_endpoint_has_its_own_slots_and_a_dead_one_none() {
    let (one, two) = (Held::start().await, Held::start().await);
    let (_dead, dead_address) = dead_endpoint();
    let endpoints = format!(
        "{{url: \"http://{dead_address}\", slots: 3}}, {{url: \"http://{}\", slots: 1}}, {{url: \"http://{}\", slots: 2}}",
        one.upstream.address, two.upstream.address
    );
    let gateway = Arc::new(keyed(Gateway::at(&endpoints)).config("groups: [{name: robots}]").start().await);
    let sent: Vec<_> = (0..7).map(|_| send(&gateway, "ci", "")).collect();
    until("all slots are taken", async || {
        one.served().len() == 1 && two.served().len() == 2 && waiting(&gateway).await == [0, 4, 0]
    })
    .await;
    for _ in 0..4 {
        two.let_go(1);
    }
    eventually("the slots of each go on", || one.served().len() == 1 && two.served().len() == 6).await;
    one.let_go(1);
    two.let_go(2);
    for answer in sent {
        assert_eq!(answer.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_endpoint_that_comes_back_serves_those_who_wait() {
    let held = Held::start().await;
    let (dead, dead_address) = dead_endpoint();
    let endpoints = format!(
        "{{url: \"http://{dead_address}\", slots: 9}}, {{url: \"http://{}\", slots: 1}}",
        held.upstream.address
    );
    let gateway = Arc::new(keyed(Gateway::at(&endpoints)).config("groups: [{name: robots}]").start().await);
    let first = send_first(&gateway, "ci", &held).await;
    // The dead endpoint is ejected for longer after each of them that tries it, so the last ones don't.
    let mut sent = Vec::new();
    for count in 1..=8 {
        sent.push(send(&gateway, "ci", ""));
        wait_until_waiting(&gateway, [0, count, 0]).await;
    }
    let back = Upstream::acting_on(dead.listen(64).unwrap(), async |_, mut stream| {
        stream.write_all(answer_of("done").as_bytes()).await.ok()?;
        Some(stream)
    });
    // Also those are served there that tried it in vain before.
    for answer in sent {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert_eq!((held.served().len(), back.requests().len()), (1, 8));
    held.let_go(1);
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test]
async fn those_who_wait_are_told_when_no_endpoint_is_left() {
    let held = Held::start().await;
    let health = "{slots: 1}, health: {path: /health, interval: 1s, timeout: 100ms, failures: 1}";
    let gateway = queued(&held, health, "").await;
    let first = send_first(&gateway, "ci", &held).await;
    let answers = [send(&gateway, "ci", ""), send(&gateway, "human", "")];
    wait_until_waiting(&gateway, [1, 1, 0]).await;
    // Health checks take no slot.
    held.is_healthy.store(false, Ordering::SeqCst);
    for answer in answers {
        answer.await.unwrap().assert_denied(503, "UPSTREAM_UNAVAILABLE");
    }
    assert_eq!(waiting(&gateway).await, [0, 0, 0]);
    held.let_go(10);
    assert_eq!(first.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_stop_answers_all_who_wait_and_finishes_what_is_in_flight() {
    let held = Held::start().await;
    let gateway = keyed(Gateway::guarding(&held.upstream))
        .upstream("queue: {slots: 1, max_waiting: 600}")
        .config("groups: [{name: robots}]\nlimits: {drain_timeout: 20s}");
    let mut gateway = gateway.start_binary().await;
    let request = |key: &str| format!("GET /v1/models HTTP/1.1\r\nhost: a\r\n{}\r\n", gateway.bearer(key));
    let mut first = gateway.raw().await;
    first.send(request("ci")).await;
    eventually("the first arrives", || held.served().len() == 1).await;
    let mut all = Vec::new();
    for _ in 0..500 {
        let mut raw = gateway.raw().await;
        raw.send(request("other")).await;
        all.push(raw);
    }
    let metrics = async || {
        let address = gateway.admin.unwrap();
        let mut raw = crate::harness::Raw::connect(address).await;
        raw.send("GET /metrics HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer the-admin-token\r\n\r\n")
            .await;
        String::from_utf8(raw.answer().await.body).unwrap()
    };
    let line = "bearward_queue_waiting{upstream=\"model\",class=\"standard\"} 500.0";
    until("500 wait", async || metrics().await.contains(line)).await;
    gateway.signal("TERM");
    for mut raw in all {
        let answer = raw.answer().await;
        answer.assert_denied(503, "SHUTTING_DOWN");
        assert_eq!(answer.header("retry-after"), Some("1"));
    }
    held.let_go(1);
    assert_eq!(first.answer().await.status, 200);
    eventually("the process ends", || gateway.exit_code() == Some(0)).await;
}

#[tokio::test]
async fn vllm_is_told_the_class_and_a_callers_own_priority_is_taken_out() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let gateway = keyed(Gateway::guarding(&upstream))
        .upstream("priority: vllm, pool: {max_idle: 0}")
        .key("capped", "permissions: [read, write], request: {max_output_tokens: 7, on_excess: lower}")
        .config("groups: [{name: robots, priority: batch}]\nroutes: vllm")
        .start()
        .await;
    for (key, body, expected) in [
        ("human", r#"{"model": "m"}"#, r#"{"priority":0,"model": "m"}"#),
        ("ci", r#"{"model": "m", "priority": -5}"#, r#"{"model": "m", "priority": 1}"#),
        (
            "nightly",
            r#"{"priority":null,"model":"m","pr\u0069ority":"1"}"#,
            r#"{"priority":2,"model":"m","pr\u0069ority":2}"#,
        ),
        ("robot", r#"{"x": {"priority": 9}}"#, r#"{"priority":2,"x": {"priority": 9}}"#),
        ("ci", "{}", r#"{"priority":1}"#),
        ("capped", "{}", r#"{"priority":1,"max_tokens":7}"#),
        ("ci", r#"{"Priority": 3}"#, r#"{"priority":1,"Priority": 3}"#),
    ] {
        upstream.forget();
        assert_eq!(gateway.post(CHAT, key, body).await.status, 200, "{body}");
        let request = upstream.only_request();
        let sent: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        let expected: serde_json::Value = serde_json::from_str(expected).unwrap();
        assert_eq!(sent, expected, "{}", String::from_utf8_lossy(&request.body));
    }
    upstream.forget();
    let filler = "a".repeat(400_000);
    let late = format!(r#"{{"model": "m", "messages": "{filler}", "priority": -1}}"#);
    // Python reads the NaN, and with it the last priority.
    let odd = format!(r#"{{"model": "m", "messages": "{filler}", "x": NaN, "priority": -1}}"#);
    let list = r#"{"model": "m", "priority": [-9]}"#;
    for body in [late.as_str(), odd.as_str(), list, r#"{"model": "m""#, r#"{"model": "m"} {}"#] {
        let refused = gateway.post(CHAT, "ci", body).await;
        refused.assert_denied(400, "BAD_REQUEST");
    }
    // A number whose end is not known yet ends the part of the body that is looked at.
    let beginning = format!(r#"{{"model": "m", "messages": "{}", "priority":-99"#, &filler[..65_536 - 45]);
    assert_eq!(beginning.len(), 65_536);
    let (mut raw, connections) = (gateway.raw().await, upstream.connections());
    let head = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\n{}", gateway.bearer("ci"));
    raw.send(format!("{head}content-length: {}\r\n\r\n{beginning}", beginning.len() + 1)).await;
    eventually("the beginning is forwarded", || upstream.connections() > connections).await;
    raw.send("}").await;
    raw.answer().await.assert_denied(400, "BAD_REQUEST");
    assert!(upstream.requests().iter().all(|request| !request.is_complete));
    let early = format!(r#"{{"priority": 5, "model": "m", "messages": "{filler}"}}"#);
    assert_eq!(gateway.post(CHAT, "ci", &early).await.status, 200);
}

#[tokio::test]
async fn where_the_class_can_not_be_told_nothing_is_forwarded() {
    let upstream = Upstream::answering(answer_of("{}")).await;
    let routes = "routes: [{name: free, paths: [/free], permission: write, models_free: true}, \
                  {name: all, paths: ['/**'], permission: write, upgrades: [websocket]}]";
    let gateway = keyed(Gateway::guarding(&upstream)).upstream("priority: vllm");
    let gateway = gateway.config(&format!("groups: [{{name: robots}}]\n{routes}")).start().await;
    let refused = gateway.post("/generate", "ci", r#"{"priority": -5}"#).await;
    refused.assert_denied(400, "BAD_REQUEST");
    assert_eq!(refused.json()["error"]["details"], json!({"field": "priority"}));
    let upgrade = format!(
        "GET /ws HTTP/1.1\r\nhost: a\r\n{}connection: upgrade\r\nupgrade: websocket\r\n\r\n",
        gateway.bearer("ci")
    );
    gateway.sends(upgrade).await.assert_denied(400, "BAD_REQUEST");
    assert!(upstream.requests().is_empty());
    assert_eq!(gateway.post("/free", "ci", "{}").await.status, 200);
}

#[test]
fn explain_says_how_a_request_would_wait() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let (keys, config) = (path("keys.yaml"), path("bearward.yaml"));
    let create = ["keys", "create", "--keys", &keys, "--name", "report", "--permissions", "read"];
    let created = bearward(&[&create[..], &["--priority", "batch", "--weight", "3"]].concat(), "");
    assert!(created.status.success(), "{created:?}");
    let text = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nupstreams: [{{name: m, endpoints: [{{url: 'http://127.0.0.1:1', \
         slots: 4}}, {{url: 'http://127.0.0.1:2', slots: 8}}]}}]\nkeys: {{path: {keys}}}\n"
    );
    std::fs::write(&config, text).unwrap();
    let explained = bearward(&["explain", "POST", CHAT, "--key", "report", "--config", &config], "");
    let explained = String::from_utf8(explained.stdout).unwrap();
    let expected = "queue      as batch, with weight 3; 12 slots, and 256 may wait, each for 30s";
    assert!(explained.contains(expected), "{explained}");
    let wrong = bearward(&[&create[..], &["--priority", "urgent"]].concat(), "");
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
}
