//! Upstreams whose answers are odd, or break at the worst moment: what the client sees, and what the next one does.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::frames::{END_HEADERS, HEADERS, SETTINGS, block, frame};
use crate::harness::{Gateway, Running, Upstream, in_time};

async fn gateway(upstream: &Upstream) -> Running {
    Gateway::guarding(upstream).key("ci", "permissions: [read, write]").config("routes: any").start().await
}

/// hyper would speak HTTP/1.0 to it from then on, and a body of unknown length would be lost.
#[tokio::test]
async fn a_connection_that_answered_in_http_1_0_is_not_used_again() {
    let old = "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok";
    let upstream = Upstream::answering(old).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    assert_eq!(gateway.get("/x", "ci").await.body, b"ok");
    let chunked = format!(
        "POST /x HTTP/1.1\r\nHost: a\r\n{bearer}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    );
    assert_eq!(gateway.sends(chunked).await.status, 200);
    let requests = upstream.requests();
    assert_eq!(requests[1].body, b"hello");
    assert!(requests[1].request_line().ends_with("HTTP/1.1"), "{requests:?}");
    assert_eq!(upstream.connections(), 2);
}

#[tokio::test]
async fn a_body_that_breaks_right_behind_its_head_leaves_the_head_whole() {
    for broken in ["zz\r\nhello", "-1\r\n", "10000000000000001\r\n", "5;a\nb\r\nhello"] {
        let answer = format!("HTTP/1.1 200 OK\r\nx-seen: yes\r\ntransfer-encoding: chunked\r\n\r\n{broken}");
        let upstream = Upstream::answering(answer).await;
        let gateway = gateway(&upstream).await;
        for _ in 0..10 {
            let mut raw = gateway.raw().await;
            raw.send(format!("GET /x HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"))).await;
            let head = raw.head().await;
            assert_eq!((head.status, head.header("x-seen")), (200, Some("yes")), "{broken:?}");
            raw.assert_closed().await;
        }
    }
}

/// The end of the connection is the end of the body there, so a broken one must not end cleanly.
#[tokio::test]
async fn a_client_of_http_1_0_can_tell_a_truncated_answer_from_a_whole_one() {
    let upstream = Upstream::acting(|request, mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await
            .ok()?;
        if request.target() == "/whole" {
            stream.write_all(b"0\r\n\r\n").await.ok()?;
            return Some(stream);
        }
        // Time for the first part to pass.
        let _never = tokio::time::timeout(std::time::Duration::from_millis(100), stream.read(&mut [0])).await;
        None
    })
    .await;
    let gateway = gateway(&upstream).await;
    for (path, is_whole) in [("/whole", true), ("/broken", false)] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: a\r\n{}\r\n", gateway.bearer("ci"));
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let end = in_time("the end", stream.read_to_end(&mut answer)).await;
        assert!(String::from_utf8_lossy(&answer).ends_with("hello"), "{answer:?}");
        match is_whole {
            true => assert!(end.is_ok()),
            false => assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset),
        }
    }
}

#[tokio::test]
async fn invalid_statuses_and_lengths_are_protocol_errors() {
    let cases = [
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 99 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 2000 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 -200 No\r\ncontent-length: 0\r\n\r\n",
        "HTTP/3.0 200 OK\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nx y: z\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nx: a\0b\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
        "\0\0\0\0\r\n\r\n",
    ];
    for answer in cases {
        let upstream = Upstream::answering_once(answer).await;
        let gateway = gateway(&upstream).await;
        let refused = gateway.get("/x", "ci").await;
        assert_eq!(refused.status, 502, "{answer:?}");
        let code = refused.json()["error"]["code"].as_str().unwrap().to_owned();
        refused.assert_denied(502, &code);
        assert!(code.starts_with("UPSTREAM_"), "{code}");
        assert_eq!(refused.json()["error"]["details"]["upstream"], "model");
        let text = String::from_utf8_lossy(&refused.body).into_owned();
        assert!(!text.contains(&upstream.address.port().to_string()), "{text}");
        assert_eq!(refused.header("x-should-retry"), Some("false"), "{answer:?}");
    }
}

/// One stream's interim answers are nobody's progress.
#[tokio::test]
async fn interim_answers_without_end_are_ended_on_http2_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // `:status: 103`, as a literal of the static table's name.
                let link = block(&[("link", &"x".repeat(400))]);
                let interim = frame(HEADERS, END_HEADERS, 1, &[b"\x08\x03103", &*link].concat()).repeat(500);
                let _gone = stream.write_all(&frame(SETTINGS, 0, 0, &[])).await;
                let mut request = [0; 4096];
                let _gone = stream.read(&mut request).await;
                while stream.write_all(&interim).await.is_ok() {}
            });
        }
    });
    let gateway = Gateway::at(&format!("h2c://{address}")).key("ci", "permissions: [read]").start().await;
    let refused = in_time("an end", gateway.get("/v1/models", "ci")).await;
    assert_eq!(refused.status, 502, "{refused:?}");
}
