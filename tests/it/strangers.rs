//! What somebody without a good key can hold, and for how long: places, streams, connections, bodies.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use crate::harness::frames::{
    ACK, DATA, END_STREAM, End, Frames, GOAWAY, HEADERS, PING, RST_STREAM, WINDOW_UPDATE, block, frame,
    headers, request,
};
use crate::harness::{Gateway, Raw, Running, Upstream, answer_of, eventually, in_time, until};

const ROUTES: &str = "auth: {headers: [authorization, x-api-key]}
routes: [{name: health, paths: [/health], public: true}, {name: open, paths: [/open], methods: [POST], public: true}, {name: all, paths: ['/**'], permission: read}]";

/// SETTINGS_INITIAL_WINDOW_SIZE of nothing: no byte of a body may be sent.
const NO_WINDOW: &[(u16, u32)] = &[(4, 0)];

async fn gateway(upstream: &Upstream, config: &str) -> Running {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read, write]")
        .config(ROUTES)
        .config(config)
        .start()
        .await
}

/// An upstream that answers `/x` and never answers anything else.
async fn that_hangs() -> Upstream {
    Upstream::acting(|request, mut stream| async move {
        if request.target() != "/x" {
            // Until the gateway closes.
            let _nothing = stream.read(&mut [0; 1]).await;
            return None;
        }
        stream.write_all(answer_of("hi").as_bytes()).await.ok()?;
        Some(stream)
    })
    .await
}

#[tokio::test]
async fn answers_that_nobody_reads_keep_no_place() {
    let upstream = Upstream::answering(answer_of("well")).await;
    let gateway = gateway(&upstream, "limits: {in_flight: 64}").await;
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut frames = Frames::over(gateway.raw().await, NO_WINDOW).await;
        for stream in 0..16 {
            frames.send(headers(2 * stream + 1, END_STREAM, &request("/health", "", &[]))).await;
            frames.until(HEADERS, 2 * stream + 1).await.unwrap();
        }
        readers.push(frames);
    }
    assert_eq!(gateway.get("/x", "ci").await.status, 200, "64 answers are whole, and hold nothing");
}

#[tokio::test]
async fn requests_without_a_key_leave_places_to_key_holders() {
    let upstream = that_hangs().await;
    let gateway = gateway(&upstream, "limits: {in_flight: 32}").await;
    let mut hanging = Vec::new();
    for _ in 0..40 {
        let mut raw = gateway.raw().await;
        raw.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
        hanging.push(raw);
        eventually("it hangs", || upstream.requests().len() == hanging.len().min(2)).await;
    }
    // One address has a sixteenth of the places; one beyond is refused at once.
    let mut refused = 0;
    for raw in hanging.iter_mut().skip(2) {
        raw.answer().await.assert_denied(503, "OVERLOADED");
        refused += 1;
    }
    assert_eq!(refused, 38);
    assert_eq!(gateway.get("/x", "ci").await.status, 200);
}

#[tokio::test]
async fn a_request_without_a_key_has_its_time_in_all_whatever_it_waits_for() {
    let upstream = that_hangs().await;
    let gateway = gateway(&upstream, "limits: {public: {total: 500ms}}").await;
    let started = Instant::now();
    let answer = gateway.sends("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    answer.assert_denied(504, "UPSTREAM_TIMEOUT");
    // A body that goes on and never ends: it never stalls either.
    let mut raw = gateway.raw().await;
    raw.send("POST /open HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let (answer, ()) = tokio::join!(raw.answer_or_end(), async {});
    if let Some(answer) = answer {
        answer.assert_denied(408, "REQUEST_TIMEOUT");
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    until("upstream was let go", async || upstream.open() == 0).await;
}

#[tokio::test]
async fn an_answer_to_somebody_without_a_key_is_cut_when_its_time_is_over() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        if request.target() == "/x" {
            stream.write_all(answer_of("hi").as_bytes()).await.ok()?;
            return Some(stream);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.ok()?;
        loop {
            stream.write_all(b"5\r\nevent\r\n").await.ok()?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let gateway = gateway(&upstream, "limits: {public: {total: 500ms}}").await;
    let started = Instant::now();
    let mut raw = gateway.raw().await;
    raw.send("GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(raw.head().await.status, 200);
    in_time("the end", raw.assert_ended()).await;
    // One that reads nothing, of either protocol.
    let mut frames = Frames::over(gateway.raw().await, NO_WINDOW).await;
    frames.send(headers(1, END_STREAM, &request("/health", "", &[]))).await;
    assert_eq!(frames.end_of(1).await, Some(End::Reset));
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    until("upstream was let go", async || upstream.open() == 0).await;
    // The connection serves a key holder.
    frames
        .send(
            [
                headers(3, END_STREAM, &request("/x", gateway.token("ci"), &[])),
                frame(WINDOW_UPDATE, 0, 3, &1000u32.to_be_bytes()),
            ]
            .concat(),
        )
        .await;
    assert_eq!(frames.end_of(3).await, Some(End::Clean));
}

#[tokio::test]
async fn a_body_without_a_key_is_small_unless_its_route_says_more() {
    let upstream = Upstream::answering(answer_of("ok")).await;
    let gateway = gateway(&upstream, "limits: {public: {body_bytes: 10}}").await;
    let post = async |path: &str, length: usize| {
        let body = "x".repeat(length);
        gateway
            .sends(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"))
            .await
    };
    post("/open", 11).await.assert_denied(413, "PAYLOAD_TOO_LARGE");
    assert_eq!(post("/open", 10).await.status, 200);
    assert_eq!(gateway.post("/x", "ci", &"x".repeat(1000)).await.status, 200);
}

#[tokio::test]
async fn a_head_without_a_key_is_small() {
    let upstream = Upstream::answering(answer_of("ok")).await;
    let gateway = gateway(&upstream, "").await;
    let large = "x".repeat(17_000);
    let ask =
        |path: &str, key: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Large: {large}\r\n{key}\r\n");
    gateway.sends(ask("/health", "")).await.assert_denied(431, "HEADERS_TOO_LARGE");
    assert_eq!(gateway.sends(ask("/x", &gateway.bearer("ci"))).await.status, 200);
}

#[tokio::test]
async fn answers_of_our_own_that_nobody_reads_are_reset_and_many_of_them_end_the_connection() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let started = Instant::now();
    let mut frames = Frames::over(gateway.raw().await, NO_WINDOW).await;
    for stream in 0..20 {
        frames.send(headers(2 * stream + 1, END_STREAM, &request("/v1/secret", "", &[]))).await;
    }
    for _ in 0..20 {
        while frames.next().await.unwrap().kind != RST_STREAM {}
    }
    for stream in 20..64 {
        frames.send(headers(2 * stream + 1, END_STREAM, &request("/v1/secret", "", &[]))).await;
    }
    frames.until(GOAWAY, 0).await.unwrap();
    in_time("the end", async { while frames.next().await.is_some() {} }).await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_stranger_has_few_streams_and_a_key_holder_all_of_them() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let refused = async |frames: &mut Frames, token: &str, path: &str, count: u32| {
        let each = (0..count).map(|stream| headers(2 * stream + 1, END_STREAM, &request(path, token, &[])));
        frames.send(each.collect::<Vec<_>>().concat()).await;
        let (mut refused, mut seen) = (0, 0);
        while seen < count {
            let Some(frame) = frames.next().await else { break };
            match frame.kind {
                RST_STREAM => {
                    assert_eq!(frame.payload, 7u32.to_be_bytes(), "REFUSED_STREAM");
                    refused += 1;
                    seen += 1;
                }
                HEADERS => seen += 1,
                _ => {}
            }
        }
        refused
    };
    for (path, token) in [("/v1/secret", ""), ("/v1/secret", "wrong")] {
        let mut stranger = Frames::over(gateway.raw().await, NO_WINDOW).await;
        let refused = refused(&mut stranger, token, path, 60).await;
        assert_eq!(refused, 44, "{path}");
    }
    let mut holder = Frames::over(gateway.raw().await, NO_WINDOW).await;
    assert_eq!(refused(&mut holder, gateway.token("ci"), "/x", 150).await, 0);
}

#[tokio::test]
async fn a_client_without_a_key_that_reads_has_as_many_requests_at_once_as_announced() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stream.write_all(answer_of("well").as_bytes()).await.ok()?;
        Some(stream)
    })
    .await;
    let gateway = gateway(&upstream, "limits: {in_flight: 4000}").await;
    let mut frames = Frames::over(gateway.raw().await, &[]).await;
    let each = (0..100).map(|stream| headers(2 * stream + 1, END_STREAM, &request("/health", "", &[])));
    frames.send(each.collect::<Vec<_>>().concat()).await;
    let mut ended = 0;
    while ended < 100 {
        let frame = frames.next().await.unwrap();
        assert!(![RST_STREAM, GOAWAY].contains(&frame.kind), "{frame:?}");
        ended += usize::from(frame.flags & END_STREAM != 0 && frame.stream > 0);
    }
}

/// All answers share the window of the connection, which is of 65,535 bytes as long as nobody says more.
#[tokio::test]
async fn public_answers_that_wait_for_one_another_all_arrive() {
    let large = "x".repeat(20_000);
    let upstream = Upstream::answering(answer_of(&large)).await;
    let gateway = gateway(&upstream, "limits: {in_flight: 4000}").await;
    let mut frames = Frames::over(gateway.raw().await, &[]).await;
    let each = (0..100).map(|stream| headers(2 * stream + 1, END_STREAM, &request("/health", "", &[])));
    frames.send(each.collect::<Vec<_>>().concat()).await;
    let (mut ended, mut received) = (0, 0);
    while ended < 100 {
        let next = frames.next().await.unwrap();
        assert!(![RST_STREAM, GOAWAY].contains(&next.kind), "{next:?}");
        if next.kind == DATA && !next.payload.is_empty() {
            received += next.payload.len();
            let taken = u32::try_from(next.payload.len()).unwrap().to_be_bytes();
            frames.send(frame(WINDOW_UPDATE, 0, 0, &taken)).await;
        }
        ended += usize::from(next.flags & END_STREAM != 0 && next.stream > 0);
    }
    assert_eq!(received, 100 * 20_000);
    assert_eq!(upstream.requests().len(), 100, "each was forwarded once");
}

/// A window of one byte lets h2 take an answer from us, and keep the rest of it.
#[tokio::test]
async fn the_rest_of_an_answer_that_a_stranger_does_not_take_ends_its_connection() {
    let upstream = Upstream::answering(answer_of("well")).await;
    let gateway = gateway(&upstream, "").await;
    let started = Instant::now();
    for path in ["/v1/secret", "/health"] {
        let mut frames = Frames::over(gateway.raw().await, &[(4, 1)]).await;
        frames.send(headers(1, END_STREAM, &request(path, "", &[]))).await;
        frames.until(DATA, 1).await.unwrap();
        in_time("the end", async { while frames.next().await.is_some() {} }).await;
    }
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
}

#[tokio::test]
async fn idle_strangers_make_room_and_an_address_pushes_out_its_own_first() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "limits: {connections: 4}").await;
    let ask = format!("GET /x HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    let mut holder = gateway.raw().await;
    holder.send(&ask).await;
    assert_eq!(holder.answer().await.status, 200);
    let mut other = Raw::over(from("127.0.0.9", &gateway).await);
    let mut strangers = Vec::new();
    for _ in 0..10 {
        let stream = from("127.0.0.8", &gateway).await;
        // Each is there before the next comes, which pushes out the oldest of them.
        strangers.push(Raw::over(stream));
    }
    for pushed_out in strangers.iter_mut().take(8) {
        pushed_out.assert_ended().await;
    }
    for served in [&mut holder, &mut other] {
        served.send(&ask).await;
        assert_eq!(
            served.answer().await.status,
            200,
            "neither a key holder's nor another address's goes first"
        );
    }
    // All places are taken by key holders and two strangers: a newcomer has one of theirs.
    let mut newcomer = Raw::over(from("127.0.0.7", &gateway).await);
    newcomer.send(&ask).await;
    assert_eq!(newcomer.answer().await.status, 200);
    holder.send(&ask).await;
    assert_eq!(holder.answer().await.status, 200);
}

#[tokio::test]
async fn connections_of_a_key_holder_make_room_between_requests_and_not_in_them() {
    let (answers, is_awaited) = tokio::sync::watch::channel(false);
    let upstream = Upstream::acting(move |request, mut stream| {
        let mut is_awaited = is_awaited.clone();
        async move {
            if request.target() == "/slow" {
                is_awaited.wait_for(|answers| *answers).await.ok()?;
            }
            stream.write_all(answer_of("hi").as_bytes()).await.ok()?;
            Some(stream)
        }
    })
    .await;
    let guard = Gateway::guarding(&upstream).config(ROUTES).config("limits: {connections: 4}");
    let guard = guard.key("ci", "permissions: [read]").key("other", "permissions: [read]");
    let gateway = guard.start().await;
    let ask =
        |path: &str, key: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer(key));
    let mut slow = Raw::over(from("127.0.0.8", &gateway).await);
    let mut idle = Vec::new();
    for _ in 0..2 {
        let mut raw = Raw::over(from("127.0.0.8", &gateway).await);
        raw.send(ask("/x", "ci")).await;
        assert_eq!(raw.answer().await.status, 200);
        idle.push(raw);
    }
    let mut frames = Frames::over(Raw::over(from("127.0.0.8", &gateway).await), &[]).await;
    frames.send(headers(1, END_STREAM, &request("/x", gateway.token("ci"), &[]))).await;
    assert_eq!(frames.end_of(1).await, Some(End::Clean));
    slow.send(ask("/slow", "ci")).await;
    eventually("it is in service", || upstream.requests().len() == 4).await;
    // One key has all places, and three newcomers come in, one for each of its connections that does nothing.
    let mut newcomers = Vec::new();
    for number in 5..8 {
        let mut newcomer = Raw::over(from(&format!("127.0.0.{number}"), &gateway).await);
        newcomer.send(ask("/x", "other")).await;
        assert_eq!(newcomer.answer().await.status, 200);
        newcomers.push(newcomer);
    }
    for gone in &mut idle {
        gone.assert_ended().await;
    }
    in_time("the end of HTTP/2", async { while frames.next().await.is_some() {} }).await;
    answers.send(true).unwrap();
    assert_eq!(slow.answer().await.status, 200, "what is in service stays");
}

async fn from(address: &str, gateway: &Running) -> tokio::net::TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    in_time("connect", socket.connect(gateway.address)).await.unwrap()
}

#[tokio::test]
async fn half_a_head_on_http2_has_the_header_timeout() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "limits: {header_timeout: 400ms}").await;
    let fields = block(&request("/x", gateway.token("ci"), &[]));
    let whole = headers(1, END_STREAM, &request("/x", gateway.token("ci"), &[]));
    let cases = [
        ("a head without its end", frame(HEADERS, END_STREAM, 1, &fields)),
        ("a part of a frame", whole[..20].to_vec()),
        ("a part of a frame's header", whole[..5].to_vec()),
    ];
    for (what, bytes) in cases {
        let started = Instant::now();
        let mut frames = Frames::over(gateway.raw().await, &[]).await;
        frames.send(&bytes).await;
        in_time(what, async { while frames.next().await.is_some() {} }).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{what}: {:?}", started.elapsed());
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn half_a_head_behind_a_request_has_the_header_timeout() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "limits: {header_timeout: 1500ms}").await;
    let started = Instant::now();
    let mut raw = gateway.raw().await;
    let ask = format!("GET /x HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    raw.send(format!("{ask}GET /y HT")).await;
    assert_eq!(raw.answer().await.status, 200);
    raw.assert_ended().await;
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    // One that comes in time is served, however it was cut.
    let mut raw = gateway.raw().await;
    raw.send(format!("{ask}GET /y HT")).await;
    assert_eq!(raw.answer().await.status, 200);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    raw.send(format!("TP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    assert_eq!(raw.answer().await.status, 200);
}

#[tokio::test]
async fn a_refused_request_whose_short_body_comes_later_keeps_its_connection() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let ask = format!("GET /x HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
    let mut raw = gateway.raw().await;
    raw.send("POST /v1/secret HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await;
    let refused = raw.answer().await;
    refused.assert_denied(401, "MISSING_API_KEY");
    assert_eq!(refused.header("connection"), None);
    raw.send(format!("hello{ask}")).await;
    assert_eq!(raw.answer().await.status, 200, "the next request on the same connection");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_refused_request_whose_body_is_not_read_says_that_its_connection_closes() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    for framing in [
        "Content-Length: 100000000",
        "Transfer-Encoding: chunked",
        "Content-Length: 5\r\nExpect: 100-continue",
    ] {
        let mut raw = gateway.raw().await;
        raw.send(format!("POST /v1/secret HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n")).await;
        let refused = raw.answer().await;
        assert_eq!(refused.status, 401, "{framing}");
        assert_eq!(refused.header("connection"), Some("close"), "{framing}");
        raw.assert_ended().await;
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn a_short_body_that_never_comes_is_not_waited_for() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let started = Instant::now();
    let mut raw = gateway.raw().await;
    raw.send("POST /v1/secret HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!(raw.answer().await.status, 401);
    raw.assert_ended().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

/// Upstream is done, and what is left of its answer goes out as slowly as its client reads.
#[tokio::test]
async fn a_drain_waits_for_the_rest_of_an_http2_answer_as_long_as_it_moves() {
    const ALL: usize = 100_000;
    let upstream = Upstream::answering(answer_of(&"x".repeat(ALL))).await;
    let guard = Gateway::guarding(&upstream).key("ci", "permissions: [read]").config(ROUTES);
    let gateway = guard.start_binary().await;
    let mut frames = Frames::over(gateway.raw().await, &[]).await;
    frames.send(headers(1, END_STREAM, &request("/x", gateway.token("ci"), &[]))).await;
    let mut read = 0;
    while read < 65_535 {
        read += frames.until(DATA, 1).await.unwrap().payload.len();
    }
    gateway.signal("TERM");
    let mut ended = false;
    while !ended {
        // The client's own pace.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let more = |stream| frame(WINDOW_UPDATE, 0, stream, &3000u32.to_be_bytes());
        frames.send([more(0), more(1)].concat()).await;
        let data = frames.until(DATA, 1).await.unwrap_or_else(|| panic!("{read} bytes of {ALL}"));
        read += data.payload.len();
        ended = data.flags & END_STREAM != 0;
    }
    assert_eq!(read, ALL);
}

/// What was written last is still on its way when the connection ends, and its client acknowledges
/// what it has read so far. A socket that is closed at once is reset by that, and what is on its way
/// is thrown away.
#[tokio::test]
async fn the_end_of_an_http2_answer_arrives_however_the_connection_is_ended() {
    const LAST: usize = 60_000;
    for tls in [false, true] {
        let (last, ends) = tokio::sync::watch::channel(false);
        let written = Arc::new(Notify::new());
        let has_written = written.clone();
        let upstream = Upstream::acting(move |_, mut stream| {
            let (mut ends, has_written) = (ends.clone(), has_written.clone());
            async move {
                let first = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
                stream.write_all(first).await.ok()?;
                ends.wait_for(|ends| *ends).await.ok()?;
                let rest = format!("{LAST:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(LAST));
                stream.write_all(rest.as_bytes()).await.ok()?;
                has_written.notify_one();
                Some(stream)
            }
        })
        .await;
        let guard = Gateway::guarding(&upstream).key("ci", "permissions: [read]").config(ROUTES);
        let gateway = if tls { guard.tls().start_binary().await } else { guard.start_binary().await };
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = in_time("connect", socket.connect(gateway.address)).await.unwrap();
        let mut frames = Frames::over(gateway.h2_over(stream).await, &[]).await;
        frames.send(headers(1, END_STREAM, &request("/x", gateway.token("ci"), &[]))).await;
        frames.until(DATA, 1).await.unwrap();
        gateway.signal("TERM");
        frames.until(GOAWAY, 0).await.unwrap();
        let ping = frames.until(PING, 0).await.unwrap();
        frames.send(frame(PING, ACK, 0, &ping.payload)).await;
        frames.until(GOAWAY, 0).await.unwrap();
        last.send(true).unwrap();
        in_time("upstream has written all", written.notified()).await;
        // All is handed to the kernel by then, and most of it is still on its way.
        eventually("the answer is logged", || gateway.access_lines().len() == 1).await;
        frames.send(frame(WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes()).repeat(40)).await;
        let mut read = 0;
        loop {
            let frame = frames.next().await.unwrap_or_else(|| panic!("{read} bytes of {LAST}; TLS: {tls}"));
            read += if frame.kind == DATA { frame.payload.len() } else { 0 };
            if frame.kind == DATA && frame.flags & END_STREAM != 0 {
                break;
            }
        }
        assert_eq!(read, LAST, "TLS: {tls}");
    }
}

#[tokio::test]
async fn a_burst_of_a_key_holders_streams_is_served_before_the_first_key_was_looked_at() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let mut frames = Frames::over(gateway.raw().await, &[]).await;
    let each =
        (0..100).map(|stream| headers(2 * stream + 1, END_STREAM, &request("/x", gateway.token("ci"), &[])));
    frames.send(each.collect::<Vec<_>>().concat()).await;
    let mut ended = 0;
    while ended < 100 {
        let frame = frames.next().await.unwrap();
        assert_ne!(frame.kind, RST_STREAM);
        ended += usize::from(frame.flags & END_STREAM != 0 && frame.stream > 0);
    }
    eventually("all were forwarded", || upstream.requests().len() == 100).await;
}

/// Behind a proxy that speaks HTTP/2, one connection has the streams of many keys.
#[tokio::test]
async fn a_revoked_keys_stalled_stream_ends_alone() {
    // Large enough not to be whole before its client makes room.
    let upstream = Upstream::answering(answer_of(&"x".repeat(1024 * 1024))).await;
    let gateway = Gateway::guarding(&upstream)
        .key("gone", "permissions: [read]")
        .key("stays", "permissions: [read]")
        .keys("cut_open_streams: true")
        .config(ROUTES)
        .start()
        .await;
    let mut frames = Frames::over(gateway.raw().await, NO_WINDOW).await;
    for (stream, key) in [(1, "gone"), (3, "stays")] {
        frames.send(headers(stream, END_STREAM, &request("/x", gateway.token(key), &[]))).await;
        frames.until(HEADERS, stream).await.unwrap();
    }
    let keys = std::fs::read_to_string(gateway.path("keys.yaml")).unwrap();
    let kept: Vec<&str> = keys.lines().filter(|line| !line.contains("name: gone")).collect();
    gateway.rename_in("keys.yaml", &(kept.join("\n") + "\n"));
    assert_eq!(gateway.reload().await.status, 200);
    // The other stream gets its window, and its answer, on the same connection.
    frames
        .send(
            [
                frame(WINDOW_UPDATE, 0, 3, &(2u32 << 20).to_be_bytes()),
                frame(WINDOW_UPDATE, 0, 0, &(2u32 << 20).to_be_bytes()),
            ]
            .concat(),
        )
        .await;
    let (mut reset, mut ended) = (false, false);
    while !(reset && ended) {
        let next = frames.next().await.unwrap();
        reset |= (next.kind, next.stream) == (RST_STREAM, 1);
        ended |= next.stream == 3 && next.flags & END_STREAM != 0;
        assert_ne!((next.kind, next.stream), (RST_STREAM, 3));
    }
}
