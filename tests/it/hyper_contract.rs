//! Behaviour of hyper and h2 that is not documented, and that files in `src/` rely on.
//!
//! Each test uses hyper or h2 alone, and names the files that rely on it. Where one fails after an
//! update, these files have to change with it. Cargo.toml holds both to their minor versions for
//! that reason.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use crate::harness::{eventually, in_time};

/// What hyper did with its connection.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Did {
    Read(usize),
    /// It asked for more, and there was none.
    ReadNothing,
    Write(Vec<u8>),
    /// It wrote, and the connection took nothing.
    WriteNothing,
    Flush,
}

/// A connection that records what hyper does with it.
struct Recorder {
    io: DuplexStream,
    done: Arc<Mutex<Vec<Did>>>,
    /// Takes no byte while this is set.
    takes_nothing: Arc<AtomicBool>,
}

impl Recorder {
    fn new(io: DuplexStream) -> Self {
        Recorder { io, done: Arc::default(), takes_nothing: Arc::default() }
    }

    fn note(&self, did: Did) {
        self.done.lock().unwrap().push(did);
    }
}

impl AsyncRead for Recorder {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        self.note(match read.is_ready() {
            true => Did::Read(buf.filled().len() - before),
            false => Did::ReadNothing,
        });
        read
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.takes_nothing.load(Ordering::Relaxed) {
            self.note(Did::WriteNothing);
            return Poll::Pending;
        }
        self.note(Did::Write(buf.to_vec()));
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.note(Did::Flush);
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A step of a body.
#[derive(Clone, Copy)]
enum Step {
    Data(&'static str),
    /// Is pending, and wakes its task at once.
    Yield,
    /// Is pending, and wakes nobody.
    Wait,
    Fail,
}

/// A body by a script. It knows its end, unless `end_is_unknown`.
#[derive(Default)]
struct Scripted {
    steps: VecDeque<Step>,
    length: Option<u64>,
    end_is_unknown: bool,
    polls: Arc<AtomicUsize>,
}

impl Scripted {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Scripted { steps: steps.into_iter().collect(), ..Scripted::default() }
    }
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        match self.steps.pop_front() {
            Some(Step::Data(text)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from(text))))),
            Some(Step::Yield) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Step::Wait) => {
                self.steps.push_front(Step::Wait);
                Poll::Pending
            }
            Some(Step::Fail) => Poll::Ready(Some(Err(io::ErrorKind::Other.into()))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.steps.is_empty() && !self.end_is_unknown
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map(SizeHint::with_exact).unwrap_or_default()
    }
}

async fn empty(_: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    Ok(Response::new(Empty::new()))
}

/// All that an HTTP/1 server writes to a client that sends `bytes` and leaves when there are no
/// answers any more, and how its connection ends.
async fn served<F, B>(
    bytes: &[u8],
    answer: impl Fn(Request<Incoming>) -> F,
) -> (Vec<u8>, Result<(), hyper::Error>)
where
    F: Future<Output = Result<Response<B>, Infallible>>,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
{
    let (mut client, server) = duplex(4 * 1024 * 1024);
    client.write_all(bytes).await.unwrap();
    let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service_fn(answer));
    let leaving = async {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        client.shutdown().await.unwrap();
        let mut written = Vec::new();
        client.read_to_end(&mut written).await.unwrap();
        written
    };
    let both = futures_util::future::join(leaving, async {
        // In a box that goes with the connection, so that its client sees its end.
        Box::pin(connection).await
    });
    in_time("the connection's end", both).await
}

fn begins(bytes: &[u8], text: &str) {
    assert!(bytes.starts_with(text.as_bytes()), "{}", String::from_utf8_lossy(bytes));
}

fn answers(bytes: &[u8]) -> usize {
    String::from_utf8_lossy(bytes).matches("HTTP/1.1 200").count()
}

/// `net/wire.rs` writes an answer of its own instead: it takes the first write while no request is
/// in service for a refusal, and reads the status at the tenth byte. `net/conn.rs` finds the reason
/// by the status.
#[tokio::test]
async fn a_request_that_is_no_http_is_refused_with_an_empty_answer_in_one_write() {
    let long = "x".repeat(2_000_000);
    let many: String = (0..101).map(|number| format!("x{number}: y\r\n")).collect();
    for (request, status) in [
        ("garbage\r\n\r\n".to_owned(), "400"),
        (format!("GET / HTTP/1.1\r\nx: {long}\r\n\r\n"), "431"),
        (format!("GET /{long} HTTP/1.1\r\n\r\n"), "431"),
        (format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(70_000)), "414"),
        // The number of headers that hyper takes unless it is set.
        (format!("GET / HTTP/1.1\r\n{many}\r\n"), "431"),
        ("GET / HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(), "400"),
        // A length that is none, too, has this status.
        (format!("GET / HTTP/1.1\r\ncontent-length: {}\r\n\r\n", u64::MAX), "431"),
        ("GET / HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n".to_owned(), "400"),
    ] {
        let (mut client, server) = duplex(4 * 1024 * 1024);
        client.write_all(request.as_bytes()).await.unwrap();
        let recorder = Recorder::new(server);
        let done = recorder.done.clone();
        let connection = http1::Builder::new().serve_connection(TokioIo::new(recorder), service_fn(empty));
        in_time(&format!("a refusal of {request:.60}"), connection).await.unwrap_err();
        let done = done.lock().unwrap();
        let writes: Vec<_> = done.iter().filter(|did| matches!(did, Did::Write(_))).collect();
        let [Did::Write(answer)] = writes[..] else { panic!("{request:.60}: {writes:?}") };
        assert_eq!(std::str::from_utf8(&answer[9..12]).unwrap(), status, "{request:.60}");
        assert!(String::from_utf8_lossy(answer).contains("content-length: 0\r\n"), "{request:.60}");
    }
}

/// `guard.rs` refuses these itself.
#[tokio::test]
async fn framing_that_servers_read_in_two_ways_may_reach_the_service() {
    for request in [
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
        "POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let (answer, _) = served(request.as_bytes(), empty).await;
        begins(&answer, "HTTP/1.1 200");
    }
}

/// `activity.rs` (`may_end_in_two_ways`) has such a connection closed.
#[tokio::test]
async fn a_request_behind_trailers_that_end_with_lf_alone_is_swallowed() {
    let read = async |request: Request<Incoming>| {
        let _whole_or_not = request.into_body().collect().await;
        Ok(Response::new(Empty::<Bytes>::new()))
    };
    let two = |end: &str| {
        format!("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n{end}GET / HTTP/1.1\r\n\r\n")
    };
    let (whole, _) = served(two("x: y\r\n\r\n").as_bytes(), read).await;
    assert_eq!(answers(&whole), 2);
    let (swallowed, _) = served(two("x: y\n\n").as_bytes(), read).await;
    assert!(answers(&swallowed) < 2, "{}", String::from_utf8_lossy(&swallowed));
}

/// `net/wire.rs` ends the stream at a deadline, and leaves it to hyper how the connection ends.
#[tokio::test]
async fn the_end_of_the_stream_is_clean_between_requests_and_an_error_within_a_head() {
    let (answer, ended) = served(b"GET / HTTP/1.1\r\n\r\n", empty).await;
    assert!(answers(&answer) == 1 && ended.is_ok());
    let (answer, ended) = served(b"GET / HTTP/1.1\r\n\r\nGET / HT", empty).await;
    assert!(answers(&answer) == 1 && ended.is_err());
}

/// `net/wire/write.rs` takes a flush for the sign that hyper holds no byte of an answer any more
/// (`activity.rs`, `flushed`).
#[tokio::test]
async fn a_connection_is_flushed_only_when_all_was_written() {
    let (mut client, server) = duplex(1024 * 1024);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let recorder = Recorder::new(server);
    recorder.takes_nothing.store(true, Ordering::Relaxed);
    let (done, takes_nothing) = (recorder.done.clone(), recorder.takes_nothing.clone());
    let connection = http1::Builder::new().serve_connection(TokioIo::new(recorder), service_fn(empty));
    let mut connection = Box::pin(connection);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..3 {
        assert!(connection.as_mut().poll(&mut cx).is_pending());
    }
    let before = std::mem::take(&mut *done.lock().unwrap());
    assert!(before.contains(&Did::WriteNothing) && !before.contains(&Did::Flush), "{before:?}");
    takes_nothing.store(false, Ordering::Relaxed);
    assert!(connection.as_mut().poll(&mut cx).is_pending());
    let after = done.lock().unwrap();
    let written = after.iter().position(|did| matches!(did, Did::Write(_))).unwrap();
    assert!(after.iter().skip(written).any(|did| *did == Did::Flush), "{after:?}");
}

/// `net/wire/write.rs` starts the wait for the next head as it is flushed, and looks there whether
/// a client has left.
#[tokio::test]
async fn a_connection_is_flushed_in_each_turn_and_not_read_behind_an_answer_where_nothing_had_come() {
    let (mut client, server) = duplex(1024 * 1024);
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let recorder = Recorder::new(server);
    let done = recorder.done.clone();
    let is_answered = Arc::new(AtomicBool::new(false));
    let may_answer = is_answered.clone();
    let service = service_fn(move |_: Request<Incoming>| {
        let may_answer = may_answer.clone();
        async move {
            while !may_answer.load(Ordering::Relaxed) {
                tokio::task::yield_now().await;
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let mut connection = Box::pin(http1::Builder::new().serve_connection(TokioIo::new(recorder), service));
    let mut turn = || {
        let mut cx = Context::from_waker(Waker::noop());
        assert!(connection.as_mut().poll(&mut cx).is_pending());
        std::mem::take(&mut *done.lock().unwrap())
    };
    let first = turn();
    assert!(first.contains(&Did::ReadNothing), "{first:?}");
    assert!(turn().contains(&Did::Flush), "a request is in service, and nothing was written");
    is_answered.store(true, Ordering::Relaxed);
    let last = turn();
    let written = last.iter().position(|did| matches!(did, Did::Write(_))).unwrap();
    assert!(!last.iter().skip(written).any(|did| matches!(did, Did::Read(_))), "{last:?}");
}

/// `net/wire.rs` (`poll_presence`) looks itself whether a client has left whose body waits unread.
#[tokio::test]
async fn a_body_that_nobody_reads_is_not_read_from_the_connection() {
    let (mut client, server) = duplex(8 * 1024 * 1024);
    client.write_all(b"POST / HTTP/1.1\r\ncontent-length: 4000000\r\n\r\n").await.unwrap();
    client.write_all(&vec![b'x'; 4_000_000]).await.unwrap();
    let recorder = Recorder::new(server);
    let done = recorder.done.clone();
    let service = service_fn(|request: Request<Incoming>| async move {
        let _unread = request.into_body();
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
    });
    let mut connection = Box::pin(http1::Builder::new().serve_connection(TokioIo::new(recorder), service));
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..100 {
        assert!(connection.as_mut().poll(&mut cx).is_pending());
    }
    let read: usize =
        done.lock().unwrap().iter().map(|did| if let Did::Read(n) = did { *n } else { 0 }).sum();
    assert!(read < 1_000_000, "{read}");
}

/// `net/conn.rs` gives hyper's buffers back between two requests, and `Wire::rest` goes on with
/// what was unparsed.
#[tokio::test]
async fn a_connection_between_requests_gives_back_what_it_has_read_ahead() {
    for ahead in ["", "\r\n", "GET / HT"] {
        let (mut client, server) = duplex(1024);
        client.write_all(format!("GET / HTTP/1.1\r\n\r\n{ahead}").as_bytes()).await.unwrap();
        let connection = http1::Builder::new().serve_connection(TokioIo::new(server), service_fn(empty));
        let mut connection = Box::pin(connection.with_upgrades());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(connection.as_mut().poll(&mut cx).is_pending());
        }
        let parts = Pin::into_inner(connection).into_parts().unwrap();
        assert_eq!(parts.read_buf, ahead);
    }
}

/// `upstream/upgrade.rs` takes a request with this extension for one that asks for an upgrade.
#[tokio::test]
async fn a_request_for_an_upgrade_has_a_handle_on_http1_alone() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let note = |seen: &Arc<Mutex<Vec<bool>>>, request: &Request<Incoming>| {
        seen.lock().unwrap().push(request.extensions().get::<OnUpgrade>().is_some());
    };
    for head in ["upgrade: x\r\nconnection: upgrade\r\n", ""] {
        let request = format!("GET / HTTP/1.1\r\n{head}\r\n");
        let _answered = served(request.as_bytes(), async |request| {
            note(&seen, &request);
            Ok(Response::new(Empty::<Bytes>::new()))
        })
        .await;
    }
    let of_http2 = seen.clone();
    let mut client = over_http2(Settings::default(), move |request| {
        note(&of_http2, &request);
        std::future::ready(Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())))
    })
    .await;
    in_time("an answer", client.get()).await.unwrap();
    assert_eq!(*seen.lock().unwrap(), [true, false, false]);
}

/// `forward/body.rs` takes a body that is dropped without a byte left for one that went out whole.
#[tokio::test]
async fn a_body_that_knows_its_end_is_not_polled_behind_it() {
    for length in [Some(2), None] {
        let body = Scripted { length, ..Scripted::new([Step::Data("hi")]) };
        let (polls, body) = (body.polls.clone(), Mutex::new(Some(body)));
        let (answer, _) = served(b"GET / HTTP/1.1\r\n\r\n", async |_| {
            Ok(Response::new(body.lock().unwrap().take().unwrap()))
        })
        .await;
        begins(&answer, "HTTP/1.1 200");
        assert_eq!(polls.load(Ordering::Relaxed), 1, "{length:?}");
    }
}

/// `forward/body.rs` keeps the failure of a body back for one turn, so that the head goes out
/// before.
#[tokio::test]
async fn an_answer_whose_body_fails_at_once_is_thrown_away_with_its_head() {
    for (steps, is_sent) in [
        (&[Step::Fail][..], false),
        (&[Step::Yield, Step::Fail], true),
        (&[Step::Data("hi"), Step::Fail], false),
        (&[Step::Data("hi"), Step::Yield, Step::Fail], true),
    ] {
        let (answer, ended) = served(b"GET / HTTP/1.1\r\n\r\n", async |_| {
            Ok(Response::new(Scripted::new(steps.iter().copied())))
        })
        .await;
        assert!(ended.is_err());
        assert_eq!(!answer.is_empty(), is_sent, "{}", String::from_utf8_lossy(&answer));
    }
}

/// A client of hyper's on a connection of HTTP/1, and the server's end of it.
async fn client_of_http1<B>() -> (hyper::client::conn::http1::SendRequest<B>, DuplexStream)
where
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let (server, client) = duplex(1024 * 1024);
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    (sender, server)
}

/// What a server reads until an end of `text` comes.
async fn read_until(server: &mut DuplexStream, text: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(text.as_bytes()) {
        let mut room = [0; 4096];
        let count = in_time(text, server.read(&mut room)).await.unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&read));
        read.extend_from_slice(&room[..count]);
    }
    String::from_utf8(read).unwrap()
}

/// `upstream/pool/lease.rs` reads the head that was sent from the connection's bytes.
#[tokio::test]
async fn a_request_is_written_line_by_line_with_names_as_they_are_and_no_host_of_its_own() {
    let (mut sender, mut server) = client_of_http1().await;
    let request = Request::post("/path?query").header("x-name", "Value").body(Full::new(Bytes::from("hi")));
    let _sent = sender.send_request(request.unwrap());
    let read = read_until(&mut server, "hi").await;
    assert_eq!(read, "POST /path?query HTTP/1.1\r\nx-name: Value\r\ncontent-length: 2\r\n\r\nhi");
}

/// `upstream/upload.rs` takes a body that is dropped without a frame left for one that was sent.
#[tokio::test]
async fn a_request_body_that_knows_its_end_is_not_polled_behind_it() {
    for length in [Some(2), None] {
        let (mut sender, mut server) = client_of_http1().await;
        let mut body = Scripted::new([Step::Data("hi")]);
        body.length = length;
        let polls = body.polls.clone();
        let _sent = sender.send_request(Request::post("/").body(body).unwrap());
        read_until(&mut server, if length.is_some() { "hi" } else { "2\r\nhi\r\n0\r\n\r\n" }).await;
        eventually("the body's end", || Arc::strong_count(&polls) == 1).await;
        assert_eq!(polls.load(Ordering::Relaxed), 1, "{length:?}");
    }
}

/// `forward/sending.rs` sets Transfer-Encoding itself.
#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_has_it_only_with_transfer_encoding() {
    for (header, end) in [(None, "\r\n\r\n"), (Some("chunked"), "2\r\nhi\r\n0\r\n\r\n")] {
        let (mut sender, mut server) = client_of_http1().await;
        let mut request = Request::new(Scripted::new([Step::Data("hi")]));
        header.map(|value| request.headers_mut().insert("transfer-encoding", value.parse().unwrap()));
        let _sent = sender.send_request(request);
        let read = read_until(&mut server, end).await;
        assert_eq!(read.contains("hi"), header.is_some(), "{read}");
    }
}

/// `forward.rs` uses such a connection for no other request.
#[tokio::test]
async fn a_connection_whose_server_answers_with_http_1_0_speaks_it_from_then_on() {
    let (mut sender, mut server) = client_of_http1().await;
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        in_time("room for a request", sender.ready()).await.unwrap();
        let sent = sender.send_request(Request::get("/").body(Empty::<Bytes>::new()).unwrap());
        let answered = async {
            begins(read_until(&mut server, "\r\n\r\n").await.as_bytes(), &format!("GET / {version}\r\n"));
            let answer = b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n\r\n";
            server.write_all(answer).await.unwrap();
        };
        let (response, ()) = in_time("an answer", futures_util::future::join(sent, answered)).await;
        assert_eq!(response.unwrap().version(), Version::HTTP_10);
    }
}

/// `upstream/socket.rs` bounds what comes before the head of an answer.
#[tokio::test]
async fn interim_answers_are_dropped_uncounted() {
    let (mut sender, mut server) = client_of_http1().await;
    let sent = sender.send_request(Request::get("/").body(Empty::<Bytes>::new()).unwrap());
    read_until(&mut server, "\r\n\r\n").await;
    server.write_all("HTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n".repeat(10_000).as_bytes()).await.unwrap();
    server.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    assert_eq!(in_time("an answer", sent).await.unwrap().status(), StatusCode::NO_CONTENT);
}

/// `upstream/exchange.rs` finds the kind of a failure by these.
#[tokio::test]
async fn failures_of_a_request_have_kinds() {
    for (answer, is_parse) in [("garbage\r\n\r\n", true), ("", false), ("HTTP/1.1 200 OK\r\nconte", false)] {
        let (mut sender, mut server) = client_of_http1().await;
        let sent = sender.send_request(Request::get("/").body(Empty::<Bytes>::new()).unwrap());
        read_until(&mut server, "\r\n\r\n").await;
        server.write_all(answer.as_bytes()).await.unwrap();
        drop(server);
        let error = in_time("a failure", sent).await.unwrap_err();
        assert_eq!((error.is_parse(), error.is_user()), (is_parse, false), "{answer}");
    }
    let (mut sender, _server) = client_of_http1().await;
    let sent =
        sender.send_request(Request::post("/").body(Scripted::new([Step::Yield, Step::Fail])).unwrap());
    assert!(in_time("a failure", sent).await.unwrap_err().is_user(), "the body's own");
}

/// The settings of a connection of HTTP/2 that a test cares about.
#[derive(Default)]
struct Settings {
    /// The client's window of each stream, in bytes.
    window: Option<u32>,
    max_header_list_size: Option<u32>,
}

/// A client of h2's, whose server is hyper.
struct Http2Client(h2::client::SendRequest<Bytes>);

impl Http2Client {
    /// Sends a request whose body goes on, and yields the answer that is to come and the body.
    async fn post(&mut self) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let mut ready = self.0.clone().ready().await.unwrap();
        let request = Request::post("http://localhost/").body(()).unwrap();
        ready.send_request(request, false).unwrap()
    }

    async fn get(&mut self) -> Result<Response<h2::RecvStream>, h2::Error> {
        let mut ready = self.0.clone().ready().await.unwrap();
        let request = Request::get("http://localhost/").body(()).unwrap();
        ready.send_request(request, true).unwrap().0.await
    }
}

/// A connection to a server of hyper's that answers so.
async fn over_http2<F, B, E>(
    settings: Settings,
    answer: impl Fn(Request<Incoming>) -> F + Send + 'static,
) -> Http2Client
where
    F: Future<Output = Result<Response<B>, E>> + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let (client, server) = duplex(1024 * 1024);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    if let Some(size) = settings.max_header_list_size {
        builder.max_header_list_size(size);
    }
    tokio::spawn(builder.serve_connection(TokioIo::new(server), service_fn(answer)));
    let mut builder = h2::client::Builder::new();
    if let Some(window) = settings.window {
        builder.initial_window_size(window);
    }
    let (sender, connection) = builder.handshake(client).await.unwrap();
    tokio::spawn(connection);
    Http2Client(sender)
}

/// `activity/blocked.rs` takes a frame that was handed out for the sign that the client has to make
/// room.
#[tokio::test]
async fn a_frame_is_taken_from_a_body_before_the_client_has_room_and_the_next_only_then() {
    let body = Scripted::new([Step::Data("hi"), Step::Data("hi"), Step::Data("hi"), Step::Wait]);
    let (polls, body) = (body.polls.clone(), Mutex::new(Some(body)));
    let settings = Settings { window: Some(2), ..Settings::default() };
    let mut client = over_http2(settings, move |_| {
        let body = body.lock().unwrap().take().unwrap();
        std::future::ready(Ok::<_, Infallible>(Response::new(body)))
    })
    .await;
    let mut answer = in_time("a head", client.get()).await.unwrap().into_body();
    // The first frame fits; the second one is taken, and waits.
    eventually("two frames", || polls.load(Ordering::Relaxed) == 2).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(polls.load(Ordering::Relaxed), 2);
    assert_eq!(in_time("a frame", answer.data()).await.unwrap().unwrap(), "hi");
    answer.flow_control().release_capacity(2).unwrap();
    eventually("the third frame", || polls.load(Ordering::Relaxed) == 3).await;
}

/// `upstream/exchange.rs` and `upstream/request_body.rs` take a body that ends without END_STREAM
/// for one that was broken off.
#[tokio::test]
async fn a_stream_that_is_reset_without_an_error_looks_like_one_that_has_ended() {
    let (seen, mut bodies) = tokio::sync::mpsc::unbounded_channel();
    let mut client = over_http2(Settings::default(), move |request| {
        seen.send(request.into_body()).unwrap();
        std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>()
    })
    .await;
    for (reason, is_whole) in [(None, true), (Some(h2::Reason::NO_ERROR), false)] {
        let (_answer, mut body) = client.post().await;
        body.send_data(Bytes::from("hi"), reason.is_none()).unwrap();
        let mut received = in_time("a request", bodies.recv()).await.unwrap();
        assert!(in_time("a frame", received.frame()).await.unwrap().is_ok());
        reason.into_iter().for_each(|reason| body.send_reset(reason));
        let end = in_time("an end", received.frame()).await;
        assert!(end.is_none(), "{reason:?}: {end:?}");
        assert_eq!(received.is_end_stream(), is_whole, "{reason:?}");
    }
    let (_answer, mut body) = client.post().await;
    let mut received = in_time("a request", bodies.recv()).await.unwrap();
    body.send_reset(h2::Reason::CANCEL);
    assert!(in_time("an end", received.frame()).await.unwrap().is_err());
}

/// `net/service.rs` (`refused_stream`) refuses a request so that its client may ask again.
#[tokio::test]
async fn a_service_that_fails_with_an_error_of_h2_resets_the_stream_with_its_reason() {
    let refused = || Err::<Response<Empty<Bytes>>, _>(h2::Error::from(h2::Reason::REFUSED_STREAM));
    let mut client = over_http2(Settings::default(), move |_| std::future::ready(refused())).await;
    let error = in_time("a refusal", client.get()).await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM));
}

/// `forward/body.rs` on HTTP/2: see `a_body_that_knows_its_end_is_not_polled_behind_it`.
#[tokio::test]
async fn the_last_frame_of_a_body_that_knows_its_end_ends_the_stream() {
    for (end_is_unknown, polled) in [(false, 1), (true, 2)] {
        let body = Scripted { end_is_unknown, ..Scripted::new([Step::Data("hi")]) };
        let (polls, body) = (body.polls.clone(), Mutex::new(Some(body)));
        let mut client = over_http2(Settings::default(), move |_| {
            let body = body.lock().unwrap().take().unwrap();
            std::future::ready(Ok::<_, Infallible>(Response::new(body)))
        })
        .await;
        let mut answer = in_time("a head", client.get()).await.unwrap().into_body();
        assert_eq!(in_time("a frame", answer.data()).await.unwrap().unwrap(), "hi");
        assert_eq!(answer.is_end_stream(), !end_is_unknown);
        eventually("the body's end", || Arc::strong_count(&polls) == 1).await;
        assert_eq!(polls.load(Ordering::Relaxed), polled);
    }
}

/// `net/wire.rs` (`announce`) replaces the size of a header list in these settings.
#[tokio::test]
async fn the_first_write_of_a_server_is_its_settings_with_the_size_of_a_header_list() {
    let (_client, server) = duplex(1024 * 1024);
    let recorder = Recorder::new(server);
    let done = recorder.done.clone();
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.max_header_list_size(0x1234);
    let mut connection = Box::pin(builder.serve_connection(TokioIo::new(recorder), service_fn(empty)));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(connection.as_mut().poll(&mut cx).is_pending());
    let done = done.lock().unwrap();
    let first = done.iter().find_map(|did| if let Did::Write(bytes) = did { Some(bytes) } else { None });
    let first = first.unwrap();
    assert_eq!(first[3], 4, "SETTINGS");
    let settings = first[9..9 + usize::from(first[2])].chunks(6);
    assert!(settings.into_iter().any(|setting| setting == [0, 6, 0, 0, 0x12, 0x34]), "{first:?}");
}

/// `net/http2.rs` has h2 take four times what is announced, so that `guard.rs` answers with a body
/// in between.
#[tokio::test]
async fn a_header_list_past_the_limit_is_refused_without_a_body() {
    let settings = Settings { max_header_list_size: Some(1000), ..Settings::default() };
    let mut client = over_http2(settings, empty).await;
    let request = Request::get("http://localhost/").header("x", "y".repeat(2000)).body(()).unwrap();
    let mut ready = client.0.clone().ready().await.unwrap();
    let answer = in_time("an answer", ready.send_request(request, true).unwrap().0).await.unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(answer.body().is_end_stream());
    in_time("an answer", client.get()).await.unwrap();
}

/// `net/frames.rs` counts such frames itself.
#[tokio::test]
async fn pings_are_taken_at_any_rate() {
    let (mut client, server) = duplex(4 * 1024 * 1024);
    let connection =
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(server), service_fn(empty));
    let serving = tokio::spawn(connection);
    client.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let (mut reading, mut writing) = tokio::io::split(client);
    let sink = tokio::spawn(async move { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await });
    for _ in 0..20_000 {
        writing.write_all(b"\0\0\x08\x06\0\0\0\0\0pingping").await.unwrap();
    }
    assert!(!serving.is_finished());
    serving.abort();
    sink.abort();
}

#[test]
fn each_test_names_files_that_exist() {
    let source = include_str!("hyper_contract.rs");
    let named = source.lines().filter(|line| line.starts_with("/// ")).flat_map(|line| line.split('`'));
    let named: Vec<&str> = named.filter(|name| name.ends_with(".rs") && !name.contains(' ')).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(std::path::Path::new("src").join(name).exists(), "{name}");
    }
}

/// Runs streams, and keeps the handles that end them.
#[derive(Clone, Default)]
struct Streams(Arc<Mutex<Vec<tokio::task::AbortHandle>>>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Streams {
    fn execute(&self, stream: F) {
        self.0.lock().unwrap().push(tokio::spawn(stream).abort_handle());
    }
}

/// `net/streams.rs` ends a stream that its client stalls by dropping its task.
#[tokio::test]
async fn a_stream_whose_task_is_dropped_is_reset_and_the_others_go_on() {
    let (client, server) = duplex(1024 * 1024);
    let streams = Streams::default();
    let service = service_fn(|request: Request<Incoming>| async move {
        match *request.method() {
            Method::POST => std::future::pending().await,
            _ => Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new())),
        }
    });
    tokio::spawn(http2::Builder::new(streams.clone()).serve_connection(TokioIo::new(server), service));
    let (sender, connection) = h2::client::handshake(client).await.unwrap();
    tokio::spawn(connection);
    let mut client = Http2Client(sender);
    let (answer, _body) = client.post().await;
    eventually("a task of the stream", || !streams.0.lock().unwrap().is_empty()).await;
    streams.0.lock().unwrap().drain(..).for_each(|task| task.abort());
    let error = in_time("a reset", answer).await.unwrap_err();
    assert!(error.is_reset(), "{error}");
    in_time("an answer", client.get()).await.unwrap();
}

/// `upstream/pool/multiplexed.rs` polls for the number of streams that a server takes: nothing
/// wakes it up for that.
#[tokio::test]
async fn the_number_of_streams_is_the_clients_guess_until_the_servers_settings_have_come() {
    let (server, client) = duplex(1024 * 1024);
    let (_sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_max_send_streams(7)
        .handshake::<_, Empty<Bytes>>(TokioIo::new(client))
        .await
        .unwrap();
    assert_eq!(connection.current_max_send_streams(), 7);
    let mut connection = Box::pin(connection);
    let serving = tokio::spawn(async move {
        let mut server =
            h2::server::Builder::new().max_concurrent_streams(3).handshake::<_, Bytes>(server).await;
        let _none = server.as_mut().unwrap().accept().await;
    });
    in_time("settings", async {
        while connection.current_max_send_streams() != 3 {
            let polled =
                std::future::poll_fn(|cx| Poll::Ready(connection.as_mut().poll(cx).is_pending())).await;
            assert!(polled);
            tokio::task::yield_now().await;
        }
    })
    .await;
    serving.abort();
}
