//! Hostile HTTP/2: each case in frames of its own, in front of an upstream that records what arrived.

use std::time::{Duration, Instant};

use tokio::io::AsyncReadExt;

use crate::harness::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, End, Frames, GOAWAY, HEADERS, PING, PREFACE, PRIORITY,
    PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, block, frame, headers, request,
};
use crate::harness::{Gateway, Recorded, Running, Upstream, answer_of, in_time, until};

async fn gateway(upstream: &Upstream, config: &str) -> Running {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read, write]")
        .config("auth: {headers: [authorization, x-api-key]}\nroutes: any")
        .config(config)
        .start()
        .await
}

async fn connect(gateway: &Running) -> Frames {
    Frames::over(gateway.raw().await, &[]).await
}

/// Somebody else is served.
async fn others_are_served(gateway: &Running, upstream: &Upstream) {
    assert_eq!(gateway.get("/other", "ci").await.status, 200);
    let others = upstream.requests().iter().filter(|request| request.target() != "/other").count();
    assert_eq!(others, 0, "{:?}", upstream.requests());
    upstream.forget();
}

#[tokio::test]
async fn malformed_requests_are_reset_and_others_go_on() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let key = gateway.token("ci").to_owned();
    let good = request("/x", &key, &[]);
    let with = |more: &[(&'static str, &'static str)]| {
        let more: Vec<(String, String)> =
            more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut fields: Vec<(String, String)> =
            good.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        fields.extend(more);
        fields
    };
    let without = |name: &str| with(&[]).into_iter().filter(|(known, _)| known != name).collect::<Vec<_>>();
    let replaced = |name: &str, value: &str| {
        let mut fields = without(name);
        fields.insert(0, (name.to_owned(), value.to_owned()));
        fields
    };
    let cases: Vec<(&str, Vec<(String, String)>)> = vec![
        ("CR LF in a value", with(&[("x", "a\r\nx-injected: 1")])),
        ("LF in a value", with(&[("x", "a\nb")])),
        ("CR in a value", with(&[("x", "a\rb")])),
        ("NUL in a value", with(&[("x", "a\0b")])),
        ("space in a name", with(&[("x y", "a")])),
        ("colon in a name", with(&[("x:y", "a")])),
        ("CR LF in a name", with(&[("x\r\ny", "a")])),
        ("an upper-case name", with(&[("X-Upper", "a")])),
        ("an empty name", with(&[("", "a")])),
        ("a quote in a name", with(&[("x\"", "a")])),
        ("a late pseudo-header", with(&[("x", "a"), (":path", "/y")])),
        ("two paths", with(&[(":path", "/y")])),
        ("two methods", with(&[(":method", "GET")])),
        ("two authorities", with(&[(":authority", "b.example")])),
        ("two schemes", with(&[(":scheme", "http")])),
        ("an unknown pseudo-header", with(&[(":unknown", "a")])),
        ("a status in a request", with(&[(":status", "200")])),
        ("no method", without(":method")),
        ("no path", without(":path")),
        ("no scheme", without(":scheme")),
        ("an empty path", replaced(":path", "")),
        ("a path without a slash", replaced(":path", "x")),
        ("CR LF in the path", replaced(":path", "/x\r\ny")),
        ("a space in the path", replaced(":path", "/x y")),
        ("NUL in the path", replaced(":path", "/x\0")),
        ("CR LF in the method", replaced(":method", "GET\r\nx: y")),
        ("a space in the method", replaced(":method", "GET /y")),
        ("a space in the authority", replaced(":authority", "a b")),
        ("user info in the authority", replaced(":authority", "u@a.example")),
        ("connection", with(&[("connection", "close")])),
        ("connection that nominates", with(&[("connection", "x-api-key")])),
        ("keep-alive", with(&[("keep-alive", "1")])),
        ("proxy-connection", with(&[("proxy-connection", "close")])),
        ("transfer-encoding", with(&[("transfer-encoding", "chunked")])),
        ("upgrade", with(&[("upgrade", "websocket")])),
        ("te", with(&[("te", "gzip")])),
        ("te, two of it", with(&[("te", "trailers, gzip")])),
        ("a length without a body", with(&[("content-length", "5")])),
        ("a length that is none", with(&[("content-length", "+5")])),
        ("two lengths", with(&[("content-length", "0"), ("content-length", "1")])),
        ("another host", with(&[("host", "b.example/x")])),
        ("CONNECT", replaced(":method", "CONNECT")),
        ("extended CONNECT", {
            let mut fields = replaced(":method", "CONNECT");
            fields.insert(1, (":protocol".to_owned(), "websocket".to_owned()));
            fields
        }),
        ("TRACE", replaced(":method", "TRACE")),
        ("a slash in code", replaced(":path", "/a%2fb")),
        ("a backslash", replaced(":path", "/a\\b")),
        ("a semicolon", replaced(":path", "/a;b")),
        ("a star", replaced(":path", "*")),
        ("a query without a path", replaced(":path", "?x")),
    ];
    for (what, fields) in cases {
        let fields: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut frames = connect(&gateway).await;
        frames.send(headers(1, END_STREAM, &fields)).await;
        let end = frames.end_of(1).await;
        // Reset, refused with an answer, or the whole connection ended: never forwarded.
        assert!(upstream.requests().is_empty(), "{what}: {end:?} {:?}", upstream.requests());
        others_are_served(&gateway, &upstream).await;
    }
    // The control: what is well formed arrives.
    let mut frames = connect(&gateway).await;
    frames.send(headers(1, END_STREAM, &good)).await;
    assert_eq!(frames.end_of(1).await, Some(End::Clean));
    assert_eq!(upstream.only_request().target(), "/x");
}

#[tokio::test]
async fn bodies_that_do_not_keep_their_word_never_arrive_whole() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let key = gateway.token("ci");
    let post = |length: &'static str| {
        let mut fields = request("/x", key, &[("content-length", length)]);
        fields[0] = (":method", "POST");
        headers(1, 0, &fields)
    };
    let cases = [
        ("more than it said", post("2"), frame(DATA, END_STREAM, 1, b"abc")),
        ("less than it said", post("5"), frame(DATA, END_STREAM, 1, b"abc")),
        ("none of what it said", post("5"), frame(DATA, END_STREAM, 1, b"")),
        (
            "reset in its midst",
            post("5"),
            [frame(DATA, 0, 1, b"abc"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 0])].concat(),
        ),
        (
            "reset with an error",
            post("5"),
            [frame(DATA, 0, 1, b"abc"), frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])].concat(),
        ),
        (
            "trailers short of what it said",
            post("5"),
            [frame(DATA, 0, 1, b"abc"), headers(1, END_STREAM, &[("x", "y")])].concat(),
        ),
        ("padding longer than its frame", post("3"), frame(DATA, END_STREAM | 8, 1, &[9, b'a', b'b', b'c'])),
        ("the connection's end in its midst", post("5"), frame(DATA, 0, 1, b"abc")),
    ];
    for (what, head, rest) in cases {
        let mut frames = connect(&gateway).await;
        frames.send([head, rest].concat()).await;
        // A stream may be reset before its upstream was asked, or after.
        let ping = frame(PING, 0, 0, b"12345678");
        frames.send(ping).await;
        let _answered_or_ended = frames.until(PING, 0).await;
        drop(frames);
        until("upstream has no request open", async || upstream.open() == 0).await;
        let whole = upstream.requests().iter().filter(|request| request.is_complete).count();
        assert_eq!(whole, 0, "{what}: {:?}", upstream.requests());
        upstream.forget();
    }
}

#[tokio::test]
async fn frames_that_break_the_rules_end_the_connection_and_nothing_else() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let key = gateway.token("ci");
    let open = headers(1, 0, &request("/x", key, &[]));
    let half = frame(HEADERS, 0, 1, &block(&request("/x", key, &[])));
    let window = |stream: u32, size: u32| frame(WINDOW_UPDATE, 0, stream, &size.to_be_bytes());
    let setting =
        |id: u16, value: u32| frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat());
    let cases = [
        ("a frame that is too large", frame(DATA, 0, 1, &vec![0; 16_385])),
        ("SETTINGS of an odd length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("SETTINGS on a stream", frame(SETTINGS, 0, 1, &[])),
        ("an acknowledgement with a payload", frame(SETTINGS, 1, 0, &[0; 6])),
        ("PING of seven bytes", frame(PING, 0, 0, &[0; 7])),
        ("PING on a stream", frame(PING, 0, 1, &[0; 8])),
        ("WINDOW_UPDATE of three bytes", frame(WINDOW_UPDATE, 0, 0, &[0; 3])),
        ("WINDOW_UPDATE by nothing", window(0, 0)),
        ("a window past 2^31 - 1", [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat()),
        ("RST_STREAM of three bytes", [open.clone(), frame(RST_STREAM, 0, 1, &[0; 3])].concat()),
        ("RST_STREAM of an idle stream", frame(RST_STREAM, 0, 7, &[0; 4])),
        ("RST_STREAM of no stream", frame(RST_STREAM, 0, 0, &[0; 4])),
        ("DATA on no stream", frame(DATA, 0, 0, b"x")),
        ("DATA on an idle stream", frame(DATA, 0, 5, b"x")),
        ("HEADERS on no stream", frame(HEADERS, END_HEADERS, 0, &block(&request("/x", key, &[])))),
        ("HEADERS on an even stream", headers(2, END_STREAM, &request("/x", key, &[]))),
        ("PUSH_PROMISE of a client", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("CONTINUATION of nothing", frame(CONTINUATION, END_HEADERS, 1, &[])),
        ("another frame within a header block", [half.clone(), frame(PING, 0, 0, &[0; 8])].concat()),
        ("another stream within a header block", [half, frame(CONTINUATION, END_HEADERS, 3, &[])].concat()),
        ("an initial window past 2^31 - 1", setting(4, 0x8000_0000)),
        ("a frame size below the least", setting(5, 100)),
        ("ENABLE_PUSH of two", setting(2, 2)),
        ("HPACK that is none", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 20])),
        ("HPACK of an index that is not there", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xfe])),
        (
            "a table past what was agreed",
            frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0x3f, 0xff, 0xff, 0x7f]),
        ),
        ("PRIORITY of four bytes", frame(PRIORITY, 0, 1, &[0; 4])),
    ];
    for (what, bytes) in cases {
        let mut frames = connect(&gateway).await;
        frames.send(bytes).await;
        let end = async {
            while let Some(frame) = frames.next().await {
                if matches!((frame.kind, frame.stream), (RST_STREAM, 1) | (GOAWAY, 0)) {
                    return;
                }
            }
        };
        in_time(what, end).await;
        let requests = upstream.requests();
        let is_foreign = |request: &Recorded| request.is_complete && request.target() != "/x";
        assert!(!requests.iter().any(is_foreign), "{what}: {requests:?}");
        upstream.forget();
        others_are_served(&gateway, &upstream).await;
    }
}

#[tokio::test]
async fn a_connection_begins_with_settings() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let mut raw = gateway.raw().await;
    raw.send([PREFACE, &headers(1, END_STREAM, &request("/x", gateway.token("ci"), &[]))].concat()).await;
    raw.assert_ended().await;
}

#[tokio::test]
async fn announced_settings_hold_and_a_large_head_gets_a_reason() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let mut frames = connect(&gateway).await;
    let settings = frames.until(SETTINGS, 0).await.unwrap();
    let value = |id: u8| {
        let entry = settings.payload.chunks(6).find(|entry| entry[..2] == [0, id])?;
        Some(u32::from_be_bytes([entry[2], entry[3], entry[4], entry[5]]))
    };
    assert_eq!(value(3), Some(200), "streams");
    assert_eq!(value(6), Some(32 * 1024), "header list");
    assert_eq!(value(8).unwrap_or(0), 0, "no extended CONNECT");
    // Between what is announced and what h2 would refuse by itself, the answer is ours.
    let client = gateway.client(true);
    let large = "x".repeat(40 * 1024);
    let answer =
        client.get(gateway.url("/x")).bearer_auth(gateway.token("ci")).header("x-large", large).send();
    let answer = answer.await.unwrap();
    assert_eq!(answer.status(), 431);
    let body: serde_json::Value = answer.json().await.unwrap();
    crate::harness::assert_shape(&body);
    assert_eq!(body["error"]["code"], "HEADERS_TOO_LARGE");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn no_more_streams_are_served_at_once_than_were_announced() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        let _until_it_is_let_go = stream.read(&mut [0]).await;
        None
    })
    .await;
    let gateway = gateway(&upstream, "").await;
    let key = gateway.token("ci");
    let mut frames = connect(&gateway).await;
    let open = |number: u32| headers(2 * number + 1, END_STREAM, &request("/x", key, &[]));
    frames.send((0..200).flat_map(open).collect::<Vec<u8>>()).await;
    until("all are asked", async || upstream.open() == 200).await;
    frames.send(open(200)).await;
    let refused = frames.until(RST_STREAM, 401).await.unwrap();
    assert_eq!(refused.payload, [0, 0, 0, 7], "REFUSED_STREAM");
    assert_eq!(upstream.open(), 200);
    // The end of the connection is the end of all of them.
    drop(frames);
    until("upstream was let go", async || upstream.open() == 0).await;
}

#[tokio::test]
async fn http_1_on_a_connection_that_agreed_on_http_2_is_closed() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").tls().start().await;
    let mut raw = gateway.raw_h2().await;
    raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
    raw.assert_ended().await;
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn floods_end_their_own_connection() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "").await;
    let key = gateway.token("ci");
    let get = |stream: u32| headers(stream, END_STREAM, &request("/x", "bwk_wrong", &[]));
    let rapid_reset: Vec<u8> = (0..5000u32)
        .flat_map(|n| [get(2 * n + 1), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat())
        .collect();
    // Streams that the server is made to reset: each gets a window past its bound.
    let overflow = 0x7fff_ffffu32.to_be_bytes();
    let made_to_reset: Vec<u8> = (0..5000u32)
        .flat_map(|n| {
            let open = headers(2 * n + 1, 0, &request("/x", key, &[]));
            let window = frame(WINDOW_UPDATE, 0, 2 * n + 1, &overflow);
            [open, window.clone(), window].concat()
        })
        .collect();
    let begun = frame(HEADERS, 0, 1, &block(&request("/x", key, &[])));
    let continued = [begun, frame(CONTINUATION, 0, 1, &[]).repeat(5000)].concat();
    let open = headers(1, 0, &request("/x", "bwk_wrong", &[]));
    let cases = [
        ("PING", frame(PING, 0, 0, &[0; 8]).repeat(20_000)),
        ("PING acknowledgements", frame(PING, 1, 0, &[0; 8]).repeat(20_000)),
        ("SETTINGS", frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 100]).repeat(20_000)),
        ("SETTINGS of nothing", frame(SETTINGS, 0, 0, &[]).repeat(20_000)),
        ("PRIORITY", frame(PRIORITY, 0, 3, &[0, 0, 0, 0, 1]).repeat(20_000)),
        ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]).repeat(100_000)),
        ("frames nobody knows", frame(0x42, 0, 0, &[]).repeat(20_000)),
        ("CONTINUATION", continued),
        ("empty DATA", [open, frame(DATA, 0, 1, &[]).repeat(30_000)].concat()),
        ("rapid reset", rapid_reset),
        ("made to reset", made_to_reset),
    ];
    for (what, bytes) in cases {
        let mut frames = connect(&gateway).await;
        frames.send(bytes).await;
        in_time(what, async { while frames.next().await.is_some() {} }).await;
        assert_eq!(gateway.get("/other", "ci").await.status, 200, "others are served after {what}");
    }
}

/// What one body holds of a connection's window is missing to others: a proxy's has room for all of its streams.
#[tokio::test]
async fn no_upload_behind_a_trusted_proxy_can_use_up_the_window_of_the_others() {
    const STREAMS: u16 = 3;
    const WINDOW: u16 = 4;
    let upstream = Upstream::answering(answer_of("hi")).await;
    for (trusted, has_room_for_all) in [("[127.0.0.1]", true), ("[]", false)] {
        let gateway = gateway(&upstream, &format!("trusted_proxies: {trusted}")).await;
        let mut frames = connect(&gateway).await;
        let settings = frames.until(SETTINGS, 0).await.unwrap().payload;
        let setting = |id: u16| {
            let entry = settings.chunks(6).find(|entry| entry[..2] == id.to_be_bytes()).unwrap();
            u32::from_be_bytes(entry[2..6].try_into().unwrap())
        };
        let more = frames.until(WINDOW_UPDATE, 0).await.unwrap().payload;
        // RFC 9113, section 6.9.2.
        let connection = 65_535 + u32::from_be_bytes(more.try_into().unwrap());
        assert_eq!(connection >= setting(STREAMS) * setting(WINDOW), has_room_for_all, "{trusted}");
    }
}

/// Each of them is one client's. For the others the connection goes on, however many there have been.
#[tokio::test]
async fn nonsense_that_a_trusted_proxy_passes_on_ends_its_own_stream_alone() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "trusted_proxies: [127.0.0.1]").await;
    let key = gateway.token("ci");
    let mut frames = connect(&gateway).await;
    for stream in (1..600).step_by(2) {
        frames.send(headers(stream, END_STREAM, &request("/a<b", key, &[]))).await;
        assert!(frames.end_of(stream).await.is_some());
    }
    frames.send(headers(601, END_STREAM, &request("/x", key, &[]))).await;
    assert_eq!(frames.end_of(601).await, Some(End::Clean));
}

#[tokio::test]
async fn a_client_that_opens_no_window_holds_nothing_for_ever() {
    let large = "x".repeat(1024 * 1024);
    let upstream = Upstream::answering(answer_of(&large)).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read], max_concurrent: 1")
        .config(
            "auth: {headers: [authorization, x-api-key]}\nroutes: any\nlimits: {client_stall_timeout: 400ms}",
        )
        .start()
        .await;
    let key = gateway.token("ci");
    // SETTINGS_INITIAL_WINDOW_SIZE of nothing: no byte of a body may be sent.
    let mut frames = Frames::over(gateway.raw().await, &[(4, 0)]).await;
    frames.send(headers(1, END_STREAM, &request("/x", key, &[]))).await;
    frames.until(HEADERS, 1).await.unwrap();
    assert_eq!(gateway.get("/y", "ci").await.status, 429, "the key's one place is taken");
    assert_eq!(frames.end_of(1).await, Some(End::Reset), "this stream ends, and the connection goes on");
    until("the place is free", async || gateway.get("/y", "ci").await.status == 200).await;
    until("upstream was let go", async || upstream.open() <= 1).await;
    // The connection serves another stream, whose window is open.
    frames
        .send(
            [
                headers(3, END_STREAM, &request("/z", key, &[])),
                frame(WINDOW_UPDATE, 0, 3, &(2u32 << 20).to_be_bytes()),
            ]
            .concat(),
        )
        .await;
    frames.until(DATA, 3).await.unwrap();
}

#[tokio::test]
async fn a_stalled_body_is_refused_in_time() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream, "limits: {body_idle_timeout: 200ms}").await;
    let mut fields = request("/x", gateway.token("ci"), &[]);
    fields[0] = (":method", "POST");
    let mut frames = connect(&gateway).await;
    let started = Instant::now();
    frames.send([headers(1, 0, &fields), frame(DATA, 0, 1, b"half")].concat()).await;
    let reported = frames.until(DATA, 1).await.unwrap();
    assert!(String::from_utf8_lossy(&reported.payload).contains("REQUEST_TIMEOUT"), "{reported:?}");
    if reported.flags & END_STREAM == 0 {
        assert!(frames.end_of(1).await.is_some());
    }
    // Nobody waits for the rest of it.
    assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_answer_that_waits_for_upstream_is_not_taken_for_a_stalled_client() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        use tokio::io::AsyncWriteExt;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n").await.ok()?;
        tokio::time::sleep(Duration::from_millis(900)).await;
        stream.write_all(b"3\r\nall\r\n0\r\n\r\n").await.ok()?;
        Some(stream)
    })
    .await;
    let gateway = gateway(&upstream, "limits: {client_stall_timeout: 300ms}").await;
    let client = gateway.client(true);
    let answer = client.get(gateway.url("/x")).bearer_auth(gateway.token("ci")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "hiall");
}

/// Slow is not stalled: room for a little of the answer, again and again.
#[tokio::test]
async fn a_slow_reader_that_goes_on_reading_gets_all_of_it() {
    const LENGTH: usize = 700_000;
    const ROOM: u32 = 35_000;
    let upstream = Upstream::answering(answer_of(&"x".repeat(LENGTH))).await;
    let gateway = gateway(&upstream, "limits: {client_stall_timeout: 600ms}").await;
    let mut frames = Frames::over(gateway.raw().await, &[(4, ROOM)]).await;
    frames.send(frame(WINDOW_UPDATE, 0, 0, &(1u32 << 24).to_be_bytes())).await;
    frames.send(headers(1, END_STREAM, &request("/x", gateway.token("ci"), &[]))).await;
    let (mut got, mut since) = (0, 0);
    let started = Instant::now();
    while got < LENGTH {
        let frame_of = frames.next().await.expect("the connection goes on");
        assert_ne!(frame_of.kind, RST_STREAM, "after {got} bytes and {:?}", started.elapsed());
        if frame_of.kind == DATA {
            got += frame_of.payload.len();
            since += frame_of.payload.len();
        }
        if since >= usize::try_from(ROOM).unwrap() && got < LENGTH {
            since = 0;
            tokio::time::sleep(Duration::from_millis(100)).await;
            frames.send(frame(WINDOW_UPDATE, 0, 1, &ROOM.to_be_bytes())).await;
        }
    }
    assert!(started.elapsed() > Duration::from_millis(1800), "longer than any stall may last");
}

/// Simple clients reopen both windows for each frame that they read, and the frames are small where many streams share
/// a window.
#[tokio::test]
async fn reopening_windows_for_each_frame_is_no_flood() {
    const STREAMS: u32 = 50;
    let upstream = Upstream::answering(answer_of(&"x".repeat(300_000))).await;
    let gateway = gateway(&upstream, "").await;
    let key = gateway.token("ci");
    let mut frames = connect(&gateway).await;
    let open = |number: u32| headers(2 * number + 1, END_STREAM, &request("/x", key, &[]));
    frames.send((0..STREAMS).flat_map(open).collect::<Vec<u8>>()).await;
    let mut ended = 0;
    while ended < STREAMS {
        let next = frames.next().await.expect("the connection goes on");
        if next.kind != DATA {
            assert_ne!(next.kind, GOAWAY);
            continue;
        }
        ended += u32::from(next.flags & END_STREAM != 0);
        if let Some(length) = u32::try_from(next.payload.len()).ok().filter(|length| *length > 0) {
            let window = |stream: u32| frame(WINDOW_UPDATE, 0, stream, &length.to_be_bytes());
            frames.send([window(0), window(next.stream)].concat()).await;
        }
    }
}
