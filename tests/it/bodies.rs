//! Bodies under observation: taps see every frame and the end, and a prelude is replayed.

use std::sync::{Arc, Mutex};

use bearward::{BodyEnd, BodyEvent, Direction, Hooks};
use tokio::io::AsyncWriteExt;

use crate::harness::{Gateway, Running, Upstream, answer_of, eventually};

type Events = Arc<Mutex<Vec<(Direction, BodyEvent)>>>;

fn observed() -> (Events, Hooks) {
    let events = Events::default();
    let seen = events.clone();
    (events, Hooks::on_body(move |direction, event| seen.lock().unwrap().push((direction, event))))
}

/// The data of one direction in one piece, how many trailers it had, and its end.
fn summary(events: &Events, direction: Direction) -> (String, usize, Option<BodyEnd>) {
    let (mut data, mut trailers, mut end) = (Vec::new(), 0, None);
    for (_, event) in events.lock().unwrap().iter().filter(|(of, _)| *of == direction) {
        assert_eq!(end, None, "nothing comes behind the end");
        match event {
            BodyEvent::Data(bytes) => data.extend_from_slice(bytes),
            BodyEvent::Trailers => trailers += 1,
            BodyEvent::End(how) => end = Some(*how),
        }
    }
    (String::from_utf8(data).unwrap(), trailers, end)
}

async fn gateway(upstream: &Upstream, hooks: Hooks) -> Running {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read, write], rate_limits: [{requests: 1000, per: 1m, burst: 1000}]")
        .config("routes: [{name: a, paths: [/**], permission: read}]")
        .config("limits: {body_idle_timeout: 500ms, body_bytes: 1MiB}")
        .hooks(hooks)
        .start()
        .await
}

fn chunked(gateway: &Running, body: &str) -> String {
    let bearer = gateway.bearer("ci");
    format!(
        "POST /x HTTP/1.1\r\nHost: a\r\n{bearer}TE: trailers\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn a_tap_sees_each_frame_of_both_directions_and_their_ends() {
    let (events, hooks) = observed();
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nan\r\n4\r\nswer\r\n0\r\nx-sum: 1\r\n\r\n",
    )
    .await;
    let gateway = gateway(&upstream, hooks).await;
    let body = "3\r\nque\r\n5\r\nstion\r\n0\r\nx-sum: 2\r\n\r\n";
    assert_eq!(gateway.sends(chunked(&gateway, body)).await.status, 200);
    let complete = Some(BodyEnd::Complete);
    eventually("both have ended", || summary(&events, Direction::Response).2.is_some()).await;
    assert_eq!(summary(&events, Direction::Request), ("question".to_owned(), 1, complete));
    assert_eq!(summary(&events, Direction::Response), ("answer".to_owned(), 1, complete));

    events.lock().unwrap().clear();
    let asked = gateway.client(true).post(gateway.url("/x")).bearer_auth(gateway.token("ci")).body("over h2");
    assert_eq!(asked.send().await.unwrap().text().await.unwrap(), "answer");
    eventually("both have ended", || summary(&events, Direction::Response).2.is_some()).await;
    assert_eq!(summary(&events, Direction::Request), ("over h2".to_owned(), 0, complete));
    assert_eq!(summary(&events, Direction::Response), ("answer".to_owned(), 1, complete));
}

#[tokio::test]
async fn a_tap_learns_how_a_body_that_is_not_whole_ended() {
    let (events, hooks) = observed();
    let upstream = Upstream::acting(|request, mut stream| async move {
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
        stream.write_all(head.as_bytes()).await.ok()?;
        // One answer breaks, the other one never goes on.
        match request.target() {
            "/broken" => None,
            _ => std::future::pending().await,
        }
    })
    .await;
    let gateway = gateway(&upstream, hooks).await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    let mut raw = gateway.raw().await;
    raw.send(ask("/broken")).await;
    eventually("it broke", || summary(&events, Direction::Response).2.is_some()).await;
    assert_eq!(summary(&events, Direction::Response), ("abc".to_owned(), 0, Some(BodyEnd::Failed)));

    events.lock().unwrap().clear();
    let mut raw = gateway.raw().await;
    raw.send(ask("/endless")).await;
    eventually("a part has come", || summary(&events, Direction::Response).0 == "abc").await;
    drop(raw);
    eventually("its client is gone", || summary(&events, Direction::Response).2.is_some()).await;
    assert_eq!(summary(&events, Direction::Response), ("abc".to_owned(), 0, Some(BodyEnd::Dropped)));

    events.lock().unwrap().clear();
    let mut raw = gateway.raw().await;
    raw.send(chunked(&gateway, "3\r\nque\r\nno chunk\r\n")).await;
    eventually("the upload broke", || summary(&events, Direction::Request).2.is_some()).await;
    assert_eq!(summary(&events, Direction::Request), ("que".to_owned(), 0, Some(BodyEnd::Failed)));
}

type Preludes = Arc<Mutex<Vec<(String, bool)>>>;

fn looking_ahead(bytes: usize) -> (Preludes, Hooks) {
    let preludes = Preludes::default();
    let seen = preludes.clone();
    let note = move |data: &[u8], is_whole: bool| {
        seen.lock().unwrap().push((String::from_utf8(data.to_vec()).unwrap(), is_whole));
    };
    (preludes, Hooks::looking_ahead(bytes, note))
}

#[tokio::test]
async fn a_prelude_is_seen_before_upstream_is_asked_and_is_replayed() {
    let (preludes, hooks) = looking_ahead(4);
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, hooks).await;
    let mut raw = gateway.raw().await;
    raw.send(chunked(&gateway, "3\r\nque\r\n")).await;
    raw.send("5\r\nstion\r\n").await;
    eventually("the prelude is there", || preludes.lock().unwrap().len() == 1).await;
    let (data, is_whole) = preludes.lock().unwrap()[0].clone();
    assert!("question".starts_with(&data) && data.len() >= 4 && !is_whole, "{data:?} {is_whole}");
    raw.send("0\r\nx-sum: 2\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 200);
    let seen = upstream.only_request();
    assert_eq!((seen.body.as_slice(), &*seen.trailers), (&b"question"[..], "x-sum: 2\n"));

    upstream.forget();
    assert_eq!(gateway.post("/x", "ci", "abc").await.status, 200);
    assert_eq!(gateway.get("/x", "ci").await.status, 200);
    let long = "x".repeat(300_000);
    let asked =
        gateway.client(true).post(gateway.url("/x")).bearer_auth(gateway.token("ci")).body(long.clone());
    assert_eq!(asked.send().await.unwrap().status(), 200);
    let preludes = preludes.lock().unwrap();
    assert_eq!(preludes[1..3], [("abc".to_owned(), true), (String::new(), true)]);
    assert!(preludes[3].0.len() >= 4 && preludes[3].0.len() < long.len() && !preludes[3].1);
    let bodies: Vec<_> = upstream.requests().iter().map(|request| request.body.len()).collect();
    assert_eq!(bodies, [3, 0, long.len()]);
    assert_eq!(upstream.requests()[0].header("content-length"), Some("3"), "its length is as it was");
}

#[tokio::test]
async fn a_prelude_that_does_not_come_is_refused_in_time_and_reaches_nobody() {
    let (preludes, hooks) = looking_ahead(1000);
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, hooks).await;
    let stalled = gateway.sends(chunked(&gateway, "3\r\nque\r\n")).await;
    stalled.assert_denied(408, "REQUEST_TIMEOUT");
    let broken = gateway.sends(chunked(&gateway, "3\r\nque\r\nno chunk\r\n")).await;
    broken.assert_denied(400, "BAD_REQUEST");
    // A client that leaves while its prelude is read takes nothing.
    let mut raw = gateway.raw().await;
    raw.send(chunked(&gateway, "3\r\nque\r\n")).await;
    drop(raw);
    assert!(upstream.requests().is_empty() && preludes.lock().unwrap().is_empty());
    let status = gateway.post("/x", "ci", "abc").await;
    let remaining = status.header("x-ratelimit-remaining-requests");
    assert_eq!((status.status, remaining), (200, Some("999")), "none of these was charged");
}
