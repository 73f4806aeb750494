//! Connections to upstream that serve several requests: what must never pass from one request to the next, and which
//! request is sent again.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{Semaphore, mpsc};

use crate::harness::{Gateway, Running, Upstream, answer_of, in_time};

async fn gateway(upstream: &Upstream) -> Running {
    Gateway::guarding(upstream).key("ci", "permissions: [read, write]").config("routes: any").start().await
}

/// An upstream that closes each connection at its second request, having read it, and answers the others.
async fn closing_at_the_second(before_the_end: &'static str) -> (Upstream, Arc<AtomicUsize>) {
    let closed = Arc::new(AtomicUsize::new(0));
    let count = closed.clone();
    let upstream = Upstream::acting(move |request, mut stream| {
        let count = count.clone();
        async move {
            stream.write_all(answer_of("first").as_bytes()).await.ok()?;
            if request.target() == "/last" {
                return Some(stream);
            }
            // The next request on this connection.
            let mut bytes = [0; 16 * 1024];
            stream.read(&mut bytes).await.ok().filter(|read| *read > 0)?;
            count.fetch_add(1, Ordering::SeqCst);
            stream.write_all(before_the_end.as_bytes()).await.ok()?;
            None
        }
    })
    .await;
    (upstream, closed)
}

/// RFC 9110, section 9.2.2: upstream may have closed the connection before the request came.
#[tokio::test]
async fn an_idempotent_request_on_a_kept_connection_that_closes_unanswered_is_sent_once_more() {
    let requests = [
        ("GET /x HTTP/1.1\r\n", true),
        ("HEAD /x HTTP/1.1\r\n", true),
        ("OPTIONS /x HTTP/1.1\r\n", true),
        ("DELETE /x HTTP/1.1\r\n", false),
        ("POST /x HTTP/1.1\r\nContent-Length: 0\r\n", false),
        ("POST /x HTTP/1.1\r\nContent-Length: 2\r\n", false),
        ("PUT /x HTTP/1.1\r\nContent-Length: 2\r\n", false),
        ("OPTIONS /x HTTP/1.1\r\nContent-Length: 2\r\n", false),
    ];
    for (head, is_repeated) in requests {
        let (upstream, closed) = closing_at_the_second("").await;
        let gateway = Gateway::guarding(&upstream)
            .key("ci", "permissions: [read, write]")
            .config("routes: any")
            .start()
            .await;
        // On one connection of the client, and so by one worker with its one connection.
        let mut raw = gateway.raw().await;
        let bearer = gateway.bearer("ci");
        raw.send(format!("GET /first HTTP/1.1\r\nHost: a\r\n{bearer}\r\n")).await;
        assert_eq!(raw.answer().await.status, 200);
        let body = if head.contains("Length: 2") { "hi" } else { "" };
        raw.send(format!("{head}Host: a\r\n{bearer}x-one: 1\r\nx-one: 2\r\n\r\n{body}")).await;
        let answer = raw.head().await;
        assert_eq!(closed.load(Ordering::SeqCst), 1, "{head:?}");
        let requests = upstream.requests();
        match is_repeated {
            true => {
                assert_eq!((answer.status, requests.len()), (200, 2), "{head:?}");
                let method = head.split(' ').next().unwrap();
                assert!(requests[1].request_line().starts_with(&format!("{method} /x ")), "{requests:?}");
                assert_eq!(requests[1].headers("x-one"), ["1", "2"]);
                assert_eq!(requests[1].headers("x-bearward-key-name"), ["ci"]);
                assert!(requests[1].headers("authorization").is_empty());
            }
            false => {
                assert_eq!((answer.status, requests.len()), (502, 1), "{head:?}");
                assert_eq!(answer.header("x-should-retry"), Some("false"), "{head:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_request_is_sent_once_more_and_not_twice_more_and_never_where_a_byte_came() {
    // Every connection closes at each request but its first: the second attempt is on a new connection, and fails, too.
    let always = Arc::new(AtomicUsize::new(0));
    let count = always.clone();
    let upstream = Upstream::acting(move |request, mut stream| {
        let count = count.clone();
        async move {
            if request.target() == "/first" {
                stream.write_all(answer_of("first").as_bytes()).await.ok()?;
                return Some(stream);
            }
            count.fetch_add(1, Ordering::SeqCst);
            None
        }
    })
    .await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    let mut raw = gateway.raw().await;
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{bearer}\r\n");
    raw.send(ask("/first")).await;
    assert_eq!(raw.answer().await.status, 200);
    raw.send(ask("/x")).await;
    let refused = raw.answer().await;
    refused.assert_denied(502, "UPSTREAM_UNREACHABLE");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert_eq!(always.load(Ordering::SeqCst), 2);
    // On a new connection a request is sent once.
    raw.send(ask("/x")).await;
    assert_eq!(raw.answer().await.status, 502);
    assert_eq!(always.load(Ordering::SeqCst), 3);

    for begun in ["H", "HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
        let (upstream, closed) = closing_at_the_second(begun).await;
        let gateway = self::gateway(&upstream).await;
        let bearer = gateway.bearer("ci");
        let mut raw = gateway.raw().await;
        for (path, status) in [("/first", 200), ("/x", 502)] {
            raw.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{bearer}\r\n")).await;
            assert_eq!(raw.answer().await.status, status, "{begun:?}");
        }
        assert_eq!((closed.load(Ordering::SeqCst), upstream.requests().len()), (1, 1), "{begun:?}");
    }
}

/// On HTTP/2, a connection that ends unanswered, with a word (GOAWAY) or without.
#[tokio::test]
async fn an_idempotent_request_on_a_shared_connection_that_ends_unanswered_is_sent_once_more() {
    for (method, status) in [("GET", 200), ("DELETE", 502)] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let of_task = seen.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let seen = of_task.clone();
                tokio::spawn(async move {
                    let mut connection = h2::server::handshake(stream).await.ok()?;
                    let mut served = 0;
                    while let Some(Ok((request, mut respond))) = connection.accept().await {
                        seen.lock().unwrap().push(request.headers().clone());
                        served += 1;
                        if served == 2 {
                            // The socket goes with it.
                            return Some(());
                        }
                        respond.send_response(http::Response::new(()), true).ok()?;
                    }
                    Some(())
                });
            }
        });
        let gateway = Gateway::at(&format!("h2c://{address}")).key("ci", "permissions: [read, write]");
        let gateway = gateway.config("routes: any").start().await;
        let bearer = gateway.bearer("ci");
        let mut raw = gateway.raw().await;
        raw.send(format!("GET /first HTTP/1.1\r\nHost: a\r\n{bearer}\r\n")).await;
        assert_eq!(raw.answer().await.status, 200);
        raw.send(format!("{method} /x HTTP/1.1\r\nHost: a\r\n{bearer}x-one: 1\r\n\r\n")).await;
        assert_eq!(raw.answer().await.status, status, "{method}");
        let seen = seen.lock().unwrap().clone();
        assert_eq!(seen.len(), if status == 200 { 3 } else { 2 }, "{method}");
        assert!(seen.iter().skip(1).all(|headers| headers["x-one"] == "1"));
    }
}

/// A server that answers at once and takes a body that it did not read for the next request, as Python's `http.server`
/// does. Returns the request lines that it has acted on.
async fn leaving_bodies_unread() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, acted) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let of_task = acted.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let acted = of_task.clone();
            tokio::spawn(async move {
                let (mut buffer, mut bytes) = (Vec::new(), [0; 4096]);
                loop {
                    let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else {
                        let read = stream.read(&mut bytes).await.unwrap_or_default();
                        if read == 0 {
                            return;
                        }
                        buffer.extend_from_slice(&bytes[..read]);
                        continue;
                    };
                    let head = String::from_utf8_lossy(&buffer[..end]).to_lowercase();
                    buffer.drain(..end + 4);
                    let line = head.lines().next().unwrap_or_default().to_owned();
                    // Whoever reads slowly answers slowly: the rest of the body has come by then.
                    let answer = answer_of(&line);
                    acted.lock().unwrap().push(line);
                    if stream.write_all(answer.as_bytes()).await.is_err()
                        || head.contains("connection: close")
                    {
                        return;
                    }
                }
            });
        }
    });
    (address, acted)
}

#[tokio::test]
async fn a_body_that_upstream_leaves_unread_is_never_the_next_request() {
    let hidden = "POST /v1/admin/wipe HTTP/1.1\r\nHost: a\r\nx-bearward-key-id: key_admin\r\nContent-Length: 0\r\n\r\n";
    let length = hidden.len();
    let chunked = format!("{length:x}\r\n{hidden}\r\n0\r\n\r\n");
    // GET and HEAD take no body here; where a route lets them have one, the same holds.
    for (method, fields) in [
        ("DELETE", ""),
        ("OPTIONS", ""),
        ("PROPFIND", ""),
        ("POST", "reuse_after_body: false"),
        ("PUT", "reuse_after_body: false"),
        ("PATCH", "reuse_after_body: false"),
    ] {
        for is_chunked in [false, true] {
            let (address, acted) = leaving_bodies_unread().await;
            let gateway = Gateway::at(&format!("http://{address}")).key("ci", "permissions: [admin]");
            let gateway = if fields.is_empty() { gateway } else { gateway.upstream(fields) };
            let gateway = gateway.config("routes: any").start().await;
            let bearer = gateway.bearer("ci");
            let mut raw = gateway.raw().await;
            let (framing, body) = match is_chunked {
                true => ("Transfer-Encoding: chunked".to_owned(), chunked.as_str()),
                false => (format!("Content-Length: {length}"), hidden),
            };
            raw.send(format!("{method} /x HTTP/1.1\r\nHost: a\r\n{bearer}{framing}\r\n\r\n{body}")).await;
            assert_eq!(raw.answer().await.body, format!("{} /x http/1.1", method.to_lowercase()).as_bytes());
            for _ in 0..3 {
                let answer = gateway.get("/mine", "ci").await;
                assert_eq!(answer.body, b"get /mine http/1.1", "{method}: another request's answer");
            }
            let acted = acted.lock().unwrap().clone();
            assert!(!acted.iter().any(|line| line.contains("wipe")), "{method}: {acted:?}");
        }
    }
}

#[tokio::test]
async fn connections_are_kept_behind_bodies_that_have_a_meaning() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = gateway(&upstream).await;
    let bearer = gateway.bearer("ci");
    let mut raw = gateway.raw().await;
    for (method, is_closed) in
        [("POST", false), ("PUT", false), ("PATCH", false), ("DELETE", true), ("OPTIONS", true)]
    {
        upstream.forget();
        raw.send(format!("{method} /x HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 2\r\n\r\nhi")).await;
        assert_eq!(raw.answer().await.status, 200);
        let seen = upstream.only_request();
        let expected = if is_closed { vec!["close"] } else { vec![] };
        assert_eq!((seen.headers("connection"), &*seen.body), (expected, &b"hi"[..]), "{method}");
        // Without a body there is nothing to fear.
        raw.send(format!("{method} /x HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 0\r\n\r\n")).await;
        assert_eq!(raw.answer().await.status, 200);
        assert!(upstream.requests()[1].headers("connection").is_empty(), "{method}");
    }
    assert_eq!(upstream.connections(), 3, "a new one behind each that was closed");
}

/// An upload that upstream begins to read after more than the 45 s for which the kernel waits for a
/// server that is gone.
#[tokio::test]
async fn an_upload_that_upstream_reads_late_arrives() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                // This pause is what is tested. It needs no processor, and the runner begins with this test.
                tokio::time::sleep(Duration::from_secs(55)).await;
                let (mut seen, mut bytes) = (0, vec![0; 64 * 1024]);
                while seen < 20_000_000 {
                    seen += stream.read(&mut bytes).await.ok().filter(|read| *read > 0)?;
                }
                stream.write_all(answer_of("late").as_bytes()).await.ok()
            });
        }
    });
    let gateway = Gateway::at(&format!("http://{address}")).key("ci", "permissions: [write]");
    let gateway = gateway.config("routes: any").start().await;
    let mut client = TcpStream::connect(gateway.address).await.unwrap();
    let bearer = gateway.bearer("ci");
    let head = format!("POST /x HTTP/1.1\r\nHost: a\r\n{bearer}Content-Length: 20000000\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![b'x'; 20_000_000]).await.unwrap();
    let (mut answer, mut bytes) = (String::new(), [0; 4096]);
    while !answer.ends_with("late") {
        let read = client.read(&mut bytes).await.unwrap();
        assert!(read > 0, "{answer}");
        answer.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// An upstream may answer before it has read the head of a long request. The rest of that head is never
/// followed by another request.
#[tokio::test]
async fn a_head_that_was_cut_short_is_the_last_of_its_connection() {
    const LONG: usize = 48 * 1024;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("upstream.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // Nothing is read before all answers have come, and an answer ends after its client has its beginning.
    let [may_read, may_end] = [(), ()].map(|()| Arc::new(Semaphore::new(0)));
    let (report, mut reports) = mpsc::unbounded_channel();
    let gates = (may_read.clone(), may_end.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let ((may_read, may_end), report) = (gates.clone(), report.clone());
            tokio::spawn(async move {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh").await.unwrap();
                may_end.acquire().await.unwrap().forget();
                stream.write_all(b"i").await.unwrap();
                let _permit = may_read.acquire().await.unwrap();
                let mut read = Vec::new();
                let _ended = stream.read_to_end(&mut read).await;
                let _nobody_waits = report.send(String::from_utf8_lossy(&read).into_owned());
            });
        }
    });
    let gateway = Gateway::at(&format!("unix:{}", path.display()))
        .key("ci", "permissions: [read]")
        .config("limits: {header_bytes: 1MiB}")
        .start()
        .await;
    let mut raw = gateway.raw().await;
    let fields: String = (0..16).map(|number| format!("x-long-{number}: {}\r\n", "a".repeat(LONG))).collect();
    for fields in [fields.as_str(), ""] {
        let bearer = gateway.bearer("ci");
        raw.send(format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{bearer}{fields}\r\n")).await;
        assert_eq!(raw.head().await.status, 200);
        assert_eq!(in_time("a byte", raw.bytes(1)).await.unwrap(), b"h");
        may_end.add_permits(1);
        assert_eq!(in_time("a byte", raw.bytes(1)).await.unwrap(), b"i");
    }
    may_read.add_permits(16);
    drop(gateway);
    let cut = in_time("the first connection ends", reports.recv()).await.unwrap();
    assert!(cut.len() < 16 * LONG, "the socket has no room for the whole head");
    assert_eq!(cut.matches("GET /v1/models HTTP/1.1").count(), 1, "{}", &cut[cut.len() - 300..]);
}
