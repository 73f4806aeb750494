//! What is bounded: guesses, requests in flight, interim answers, and whoever has left.

use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::harness::{Gateway, Upstream, answer_of, in_time, until};

const GET: &str = "GET /v1/models HTTP/1.1\r\nHost: a\r\n";

#[tokio::test]
async fn an_address_that_keeps_guessing_has_to_wait_and_its_valid_keys_are_accepted() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let (gateway, hands) = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .key("old", "permissions: [read], expires_at: 2026-01-01T00:00:00Z")
        .key("off", "permissions: [read], disabled: true")
        .config("trusted_proxies: [127.0.0.0/8]")
        .clock("2026-11-24T00:00:00Z");
    let gateway = gateway.start().await;
    let from = async |address: &str, credential: &str| {
        gateway.sends(format!("{GET}X-Forwarded-For: {address}\r\n{credential}\r\n")).await
    };
    let guess = "Authorization: Bearer sk-guess\r\n";
    for _ in 0..20 {
        from("192.0.2.1", guess).await.assert_denied(401, "INVALID_API_KEY");
    }
    let refused = from("192.0.2.1", guess).await;
    refused.assert_denied(429, "TOO_MANY_FAILED_ATTEMPTS");
    assert_eq!(refused.header("retry-after"), Some("60"));
    assert_eq!(refused.json()["error"]["details"]["retry_after_seconds"], 60);
    // A good key from there is let in; what is no guess is answered as ever; another address has its own count.
    assert_eq!(from("192.0.2.1", &gateway.bearer("ci")).await.status, 200);
    from("192.0.2.1", &gateway.bearer("old")).await.assert_denied(401, "EXPIRED_API_KEY");
    from("192.0.2.1", &gateway.bearer("off")).await.assert_denied(401, "INVALID_API_KEY");
    from("192.0.2.1", "Authorization: Bearer two words\r\n").await.assert_denied(401, "INVALID_API_KEY");
    from("192.0.2.1", "").await.assert_denied(401, "MISSING_API_KEY");
    from("192.0.2.2", guess).await.assert_denied(401, "INVALID_API_KEY");
    // A host of IPv6 has more addresses than one, and one count.
    for host in 0..20 {
        from(&format!("2001:db8::{host:x}"), guess).await.assert_denied(401, "INVALID_API_KEY");
    }
    from("2001:db8::ffff", guess).await.assert_denied(429, "TOO_MANY_FAILED_ATTEMPTS");
    hands.advance(Duration::from_secs(60));
    from("192.0.2.1", guess).await.assert_denied(401, "INVALID_API_KEY");
}

#[tokio::test]
async fn a_request_past_the_bound_in_flight_is_refused_at_once_and_costs_nothing() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        let is_held = request.target() == "/v1/models/held";
        let answer = if is_held {
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned()
        } else {
            answer_of("hi")
        };
        stream.write_all(answer.as_bytes()).await.ok()?;
        if is_held {
            let _until_it_is_let_go = stream.read(&mut [0]).await;
        }
        Some(stream)
    })
    .await;
    let gateway = Gateway::guarding(&upstream)
        .key(
            "ci",
            "permissions: [read], rate_limits: [{requests: 10, per: 1h, burst: 10}], max_concurrent: 5",
        )
        .config("limits: {in_flight: 2}")
        .start()
        .await;
    let hold = async || {
        let mut raw = gateway.raw().await;
        raw.send(format!("GET /v1/models/held HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
        assert_eq!(raw.head().await.status, 200);
        raw
    };
    let (first, _second) = (hold().await, hold().await);
    for _ in 0..3 {
        let started = Instant::now();
        let refused = gateway.get("/v1/models", "ci").await;
        refused.assert_denied(503, "OVERLOADED");
        assert_eq!(refused.json()["error"]["details"]["in_flight"], 2);
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(refused.header("ratelimit").unwrap().contains("r=8;"), "{:?}", refused.header("ratelimit"));
        assert!(started.elapsed() < Duration::from_secs(1));
    }
    drop(first);
    until("there is room again", async || gateway.get("/v1/models", "ci").await.status == 200).await;
}

#[tokio::test]
async fn interim_answers_without_end_are_ended() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        let few = request.target() == "/v1/models/few";
        let interim = b"HTTP/1.1 103 Early Hints\r\nlink: </x>; rel=preload\r\n\r\n".repeat(if few {
            50
        } else {
            1000
        });
        if few {
            stream.write_all(&interim).await.ok()?;
            stream.write_all(answer_of("hi").as_bytes()).await.ok()?;
            return Some(stream);
        }
        while stream.write_all(&interim).await.is_ok() {}
        None
    })
    .await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    let refused = in_time("an end", gateway.get("/v1/models", "ci")).await;
    refused.assert_denied(502, "UPSTREAM_PROTOCOL_ERROR");
    until("upstream was let go", async || upstream.open() == 0).await;
    let answer = gateway.get("/v1/models/few", "ci").await;
    assert_eq!((answer.status, answer.body.as_slice()), (200, &b"hi"[..]));
}

/// hyper reads no more once it holds bytes of a next request, and would learn of no end.
#[tokio::test]
async fn a_client_that_leaves_behind_bytes_of_a_next_request_takes_its_upstream_along() {
    let upstream = Upstream::acting(|_, mut stream| async move {
        let _until_the_end = stream.read(&mut [0]).await;
        None
    })
    .await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        // More behind a request than the kernel takes is suffered for so long.
        .config("limits: {idle_timeout: 1s}")
        .start()
        .await;
    let much = "x".repeat(400 * 1024);
    for behind in ["", "\r\n", "G", "GET /v1/models HTTP/1.1\r\nHost: a\r\n\r\n", &much] {
        let mut raw = gateway.raw().await;
        raw.send(format!("{GET}{}\r\n", gateway.bearer("ci"))).await;
        until("upstream is asked", async || upstream.open() == 1).await;
        // More than is taken may not be sent to its end.
        let _stuck = tokio::time::timeout(Duration::from_millis(200), raw.send(behind)).await;
        drop(raw);
        until("upstream was let go", async || upstream.open() == 0).await;
    }
}

#[tokio::test]
async fn trailers_in_the_names_of_credentials_are_dropped() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .upstream("credential: {header: x-upstream-key, env: PATH}")
        .config("auth: {headers: [authorization, x-own-key]}")
        .start()
        .await;
    let bearer = gateway.bearer("ci");
    let answer = gateway
        .sends(format!(
            "POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}Trailer: x-own-key, x-upstream-key, authorization, x-checksum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\
             x-own-key: a\r\nx-upstream-key: b\r\nauthorization: c\r\nx-checksum: d\r\n\r\n"
        ))
        .await;
    assert_eq!(answer.status, 200);
    let trailers = upstream.only_request().trailers.to_lowercase();
    assert!(trailers.contains("x-checksum: d"), "{trailers}");
    for name in ["x-own-key", "x-upstream-key", "authorization"] {
        assert!(!trailers.contains(name), "{trailers}");
    }
}

#[tokio::test]
async fn the_admin_listener_answers_what_is_no_http_too() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    let cases = [
        ("nonsense\r\n\r\n".to_owned(), 400, "BAD_REQUEST"),
        ("GET /livez HTTP/1.1\r\nHost: a\r\nx y: z\r\n\r\n".to_owned(), 400, "BAD_REQUEST"),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(100_000)), 414, "URI_TOO_LONG"),
        (
            format!("GET /livez HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(300_000)),
            431,
            "HEADERS_TOO_LARGE",
        ),
    ];
    for (request, status, code) in cases {
        let mut raw = crate::harness::Raw::connect(gateway.admin).await;
        raw.send(&request).await;
        raw.answer().await.assert_denied(status, code);
        raw.assert_closed().await;
    }
    assert_eq!(gateway.admin("GET /livez", "").await.status, 200);
}

#[tokio::test]
async fn requests_that_wait_behind_a_slow_one_are_all_answered() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        if request.target() == "/v1/models/slow" {
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        stream.write_all(answer_of("hi").as_bytes()).await.ok()?;
        Some(stream)
    })
    .await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    let bearer = gateway.bearer("ci");
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{bearer}\r\n");
    // More than the kernel takes at once: what is left is sent as the answers come.
    let all = get("/v1/models/slow") + &get("/v1/models").repeat(3000);
    let stream = TcpStream::connect(gateway.address).await.unwrap();
    let (reader, mut writer) = stream.into_split();
    let sending = tokio::spawn(async move {
        writer.write_all(all.as_bytes()).await.unwrap();
        writer
    });
    let mut answers = BufReader::new(reader).split(b'\n');
    let mut good = 0;
    while good <= 3000 {
        let line = in_time("answers", answers.next_segment()).await.unwrap().expect("it goes on");
        // The body of the answer before has no line's end.
        good += usize::from(line.ends_with(b"HTTP/1.1 200 OK\r"));
    }
    drop(sending.await.unwrap());
}

/// Old clients send one behind a body. It begins no request.
#[tokio::test]
async fn an_empty_line_behind_a_request_is_no_head() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {header_timeout: 200ms, idle_timeout: 20s}")
        .start()
        .await;
    let bearer = gateway.bearer("ci");
    let mut raw = gateway.raw().await;
    for _ in 0..2 {
        raw.send(format!("POST /v1/embeddings HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 2\r\n\r\nhi"))
            .await;
        assert_eq!(raw.answer().await.status, 200);
        raw.send("\r\n").await;
        let ended = tokio::time::timeout(Duration::from_millis(600), raw.answer_or_end()).await;
        assert!(ended.is_err(), "it idles: {ended:?}");
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    let upstream = Upstream::answering(answer_of(&"x".repeat(50_000_000))).await;
    for is_tls in [false, true] {
        let gateway = Gateway::guarding(&upstream)
            .key("ci", "permissions: [read], max_concurrent: 1")
            .config("limits: {client_stall_timeout: 300ms}");
        let gateway = if is_tls { gateway.tls() } else { gateway }.start().await;
        let mut raw = gateway.raw().await;
        raw.send(format!("{GET}{}\r\n", gateway.bearer("ci"))).await;
        until("it is answered", async || upstream.requests().len() == 1).await;
        let started = Instant::now();
        until("the key's place is free", async || {
            let mut other = gateway.raw().await;
            other.send(format!("{GET}{}\r\n", gateway.bearer("ci"))).await;
            other.head().await.status == 200
        })
        .await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        drop(raw);
        upstream.forget();
    }
}

/// An idle connection's buffers are given back after a second; nobody who uses it again may notice.
#[tokio::test]
async fn a_connection_that_has_come_to_rest_goes_on_where_it_was() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for is_tls in [false, true] {
        let gateway = Gateway::guarding(&upstream)
            .key("ci", "permissions: [read]")
            .config("limits: {idle_timeout: 2500ms}");
        let gateway = if is_tls { gateway.tls() } else { gateway }.start().await;
        let request = format!("{GET}{}\r\n", gateway.bearer("ci"));
        let (start, end) = request.split_at(30);
        let mut raw = gateway.raw().await;
        raw.send(&request).await;
        assert_eq!(raw.answer().await.status, 200);
        // In one piece, in two, behind an empty line, and two at once.
        for pieces in [vec![&*request], vec![start, end], vec!["\r\n", &request], vec![&request, &request]] {
            let idles = tokio::time::timeout(Duration::from_millis(1300), raw.bytes(1)).await;
            assert!(idles.is_err(), "{idles:?}");
            let before = upstream.requests().len();
            for piece in &pieces {
                raw.send(piece).await;
                tokio::task::yield_now().await;
            }
            assert_eq!(raw.answer().await.status, 200, "{pieces:?}");
            if pieces == [&request, &request] {
                assert_eq!(raw.answer().await.status, 200);
            }
            assert!(upstream.requests().len() > before);
        }
        let started = Instant::now();
        raw.assert_ended().await;
        assert!(started.elapsed() > Duration::from_secs(2), "it has its idle time all the same");
        raw = gateway.raw().await;
        raw.send(&request).await;
        assert_eq!(raw.answer().await.status, 200);
        let idles = tokio::time::timeout(Duration::from_millis(1300), raw.bytes(1)).await;
        assert!(idles.is_err(), "{idles:?}");
        raw.send("nonsense\r\n\r\n").await;
        raw.answer().await.assert_denied(400, "BAD_REQUEST");
    }
}

/// A connection that ends is not at rest: it would begin anew behind what was refused.
#[tokio::test]
async fn nothing_behind_a_refused_head_is_served_however_late() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    for is_tls in [false, true] {
        let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]");
        let gateway = if is_tls { gateway.tls() } else { gateway }.start().await;
        let good = format!("{GET}{}\r\n", gateway.bearer("ci"));
        for refused in ["Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "Bad Name: x\r\n\r\n"] {
            upstream.forget();
            let mut raw = gateway.raw().await;
            raw.send(format!("{good}POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n{refused}{good}")).await;
            assert_eq!(raw.answer().await.status, 200);
            assert_eq!(raw.answer().await.status, 400);
            // As long as an idle connection takes to come to rest: nothing can be seen of that from outside.
            tokio::time::sleep(Duration::from_millis(1200)).await;
            raw.send("\r\n").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            assert_eq!(upstream.requests().len(), 1, "{refused:?}");
        }
    }
}

/// Or whoever reaches the listener could have the process restarted.
#[tokio::test]
async fn a_probe_is_answered_however_many_hold_connections_to_the_admin_listener() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").start().await;
    let mut held = Vec::new();
    for number in 0..200 {
        let mut raw = crate::harness::Raw::connect(gateway.admin).await;
        if number % 2 == 0 {
            raw.send("GET /livez HT").await;
        }
        held.push(raw);
    }
    let started = Instant::now();
    assert_eq!(gateway.admin("GET /livez", "").await.status, 200);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}
