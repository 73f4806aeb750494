//! Where a message ends (RFC 9112, section 6), through the real binary, in front of an upstream that
//! records what arrived.

use crate::guard::Outcome::R400;
use crate::guard::{check, gateway};
use crate::harness::{Upstream, answer_of};

#[tokio::test]
async fn framing_that_has_no_one_meaning() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let post = |lines: &str, body: &str| {
        format!("POST /x HTTP/1.1\r\nHost: a.example\r\n{{key}}\r\n{lines}\r\n\r\n{body}")
    };
    let lengths = [
        "+5",
        "-5",
        "0x5",
        "5 5",
        "5_0",
        "5, 5",
        "5,6",
        "",
        "18446744073709551615",
        "18446744073709551616",
        "5\u{b}",
        "a",
    ];
    for length in lengths {
        check(&gateway, &upstream, &post(&format!("Content-Length: {length}"), "hello"), R400).await;
    }
    let codings = [
        "xchunked",
        "identity",
        "chunked, identity",
        "\"chunked\"",
        "chunked;q=1",
        "gzip, chunked",
        ",chunked",
        "chunked, chunked",
        "\u{b}chunked",
        "",
    ];
    for coding in codings {
        check(&gateway, &upstream, &post(&format!("Transfer-Encoding: {coding}"), "0\r\n\r\n"), R400).await;
    }
    let lines = [
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Content-Length : 5",
        "Transfer-Encoding : chunked",
        "X: a\r\n b",
        ": x",
        "X\r: a",
        "X: a\rb",
        "no colon",
    ];
    for line in lines {
        check(&gateway, &upstream, &post(line, "hello"), R400).await;
    }
    let old = "POST /x HTTP/1.0\r\nHost: a.example\r\n{key}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    check(&gateway, &upstream, old, R400).await;
    let with_nul = post("X: a\0b", "");
    check(&gateway, &upstream, &with_nul, R400).await;
}

#[tokio::test]
async fn a_caller_that_says_grpc_is_closed_behind_what_is_ambiguous_like_any_other() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    for lines in ["Transfer-Encoding: gzip, chunked", "Host: b", "Authorization: Bearer x"] {
        let mut raw = gateway.raw().await;
        let next = format!("GET /smuggled HTTP/1.1\r\nHost: a\r\n{bearer}\r\n");
        raw.send(format!(
            "POST /x HTTP/1.1\r\nHost: a\r\n{bearer}Content-Type: application/grpc\r\n{lines}\r\n\r\n{next}"
        ))
        .await;
        // It is not gRPC: that is HTTP/2.
        raw.answer().await.assert_denied(400, "BAD_REQUEST");
        raw.assert_closed().await;
    }
    assert!(upstream.requests().is_empty(), "{:?}", upstream.requests());
}

#[tokio::test]
async fn both_framings_are_one_clean_request_and_then_the_end() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    for lines in
        ["Content-Length: 3\r\nTransfer-Encoding: chunked", "Transfer-Encoding: chunked\r\nContent-Length: 3"]
    {
        upstream.forget();
        let mut raw = gateway.raw().await;
        let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: a.example\r\n{bearer}\r\n");
        raw.send(format!(
            "POST /x HTTP/1.1\r\nHost: a.example\r\n{bearer}{lines}\r\n\r\n5\r\nhello\r\n0\r\n\r\n{smuggled}"
        ))
        .await;
        assert_eq!(raw.answer().await.status, 200);
        raw.assert_closed().await;
        let seen = upstream.only_request();
        assert_eq!((seen.target(), seen.body.as_slice()), ("/x", &b"hello"[..]));
        assert!(seen.headers("content-length").is_empty() || seen.headers("transfer-encoding").is_empty());
    }
}

#[tokio::test]
async fn broken_chunks_are_never_completed_upstream() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    for chunks in [
        "5\r\nhelloX",
        "zz\r\n",
        "-1\r\n",
        "5\r\nhello\r\n5 5\r\n",
        "fffffffffffffffff\r\n",
        "5;a\rb\r\nhello\r\n",
        "5;a\nb\r\nhello\r\n",
        "5\r\nhello\n0\r\n\r\n",
    ] {
        upstream.forget();
        let mut raw = gateway.raw().await;
        raw.send(format!(
            "POST /x HTTP/1.1\r\nHost: a.example\r\n{bearer}Transfer-Encoding: chunked\r\n\r\n{chunks}"
        ))
        .await;
        let answer = raw.answer().await;
        answer.assert_denied(400, "BAD_REQUEST");
        raw.assert_closed().await;
        assert!(upstream.requests().iter().all(|request| !request.is_complete), "{chunks:?}");
    }
}

/// hyper swallows what stands behind trailers that end with LF alone; another server would take it for a request.
#[tokio::test]
async fn behind_a_body_whose_end_is_not_certain_comes_nothing() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    let chunked = |end: &str| {
        format!(
            "POST /x HTTP/1.1\r\nHost: a.example\r\n{bearer}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n{end}"
        )
    };
    let behind = format!("GET /behind HTTP/1.1\r\nHost: a.example\r\n{bearer}\r\n");
    for end in ["\n", "x: y\n\r\n", "x: y\n\n"] {
        upstream.forget();
        let mut raw = gateway.raw().await;
        raw.send(chunked(end) + &behind.repeat(2)).await;
        assert_eq!(raw.answer().await.header("connection"), Some("close"), "{end:?}");
        raw.assert_closed().await;
        assert_eq!(upstream.only_request().target(), "/x");
    }
    // And where it is certain, the next one is served.
    let mut raw = gateway.raw().await;
    raw.send(chunked("\r\n") + &behind).await;
    assert_eq!((raw.answer().await.status, raw.answer().await.status), (200, 200));
}

#[tokio::test]
async fn trailers_that_lie_are_dropped() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    let names = "X-Sum, Authorization, Content-Length, Host, X-Bearward-Key-Id, Transfer-Encoding";
    let trailers = "X-Sum: 1\r\nAuthorization: Bearer x\r\nContent-Length: 9\r\nHost: evil\r\nX-Bearward-Key-Id: admin\r\nTransfer-Encoding: chunked\r\n";
    let request = format!(
        "POST /x HTTP/1.1\r\nHost: a.example\r\n{bearer}Transfer-Encoding: chunked\r\nTrailer: {names}\r\n\r\n2\r\nhi\r\n0\r\n{trailers}\r\n"
    );
    assert_eq!(gateway.sends(request).await.status, 200);
    assert_eq!(upstream.only_request().trailers.to_lowercase().trim(), "x-sum: 1");
}

#[tokio::test]
async fn a_refused_requests_body_is_never_the_next_request() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let smuggled = format!("GET /smuggled HTTP/1.1\r\nHost: a.example\r\n{}\r\n", gateway.bearer("ci"));
    let length = smuggled.len();
    let mut raw = gateway.raw().await;
    raw.send(format!("POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: {length}\r\n\r\n{smuggled}"))
        .await;
    raw.answer().await.assert_denied(401, "MISSING_API_KEY");
    // Drained or closed, but not read as a request.
    raw.send("GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n").await;
    if let Some(next) = raw.answer_or_end().await {
        next.assert_denied(401, "MISSING_API_KEY");
    }
    assert!(upstream.requests().is_empty());
}
