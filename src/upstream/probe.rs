//! The smuggling probe finds servers that parse an unread request body as the next request.
//!
//! A client could hide an unauthorized request in a body that such a server leaves unread (request
//! smuggling). The probe sends a request whose body is a complete GET, and counts the answers. One
//! answer too many means that the server is vulnerable.
//!
//! Called only by `bearward check --probe`.
//! Invariant: every request of a probe is harmless. GETs request the health check's path or `/`;
//! methods with a body use a random path that does not exist.

use std::io;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::compiled::Upstream;
use super::connect::{Connected, connect};
use super::endpoints::Endpoint;
use super::socket::SocketIo;

use crate::config;

/// Longest wait for the answer to a request of the probe.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// Shortest wait for an answer to the nested request, which is the body of the outer request. The
/// wait grows with the server's latency.
const LEAST_WAIT: Duration = Duration::from_millis(500);
/// Longest wait for an answer to the nested request, which is the body of the outer request.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Longest time for all probes of one endpoint.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// Largest answer that the probe reads, in bytes.
const MAX_ANSWER: usize = 1024 * 1024;
/// Largest number of header fields in an answer to the probe.
const MAX_FIELDS: usize = 128;

/// Methods that the probe uses. A server may read the bodies of requests with some methods, and not
/// of those with others.
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];

/// Result of a probe: whether a server reads the body of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The server reads the body, or closes the connection after the answer.
    Read,
    /// The server parses an unread body as the next request.
    Unread,
    /// The server parses an unread body as the next request even if the request with that body has
    /// `Connection: close`.
    UnreadDespiteClose,
    /// The probe failed for this reason, so the result is unknown.
    Unknown(String),
}

/// Probes one endpoint with each method, and returns one verdict for each method.
pub(crate) async fn probe(endpoint: &Endpoint, upstream: &Upstream) -> Vec<(&'static str, Verdict)> {
    if matches!(endpoint.address, config::EndpointAddress::H2c(_)) {
        // HTTP/2 marks where a body ends, so a server can't parse the body as a request.
        return METHODS.map(|method| (method, Verdict::Read)).to_vec();
    }
    let until = Instant::now() + PROBE_LIMIT;
    let mut verdicts = Vec::new();
    for method in METHODS {
        let verdict = match timeout_at(until, verdict(endpoint, upstream, method)).await {
            Ok(verdict) => verdict,
            Err(_elapsed) => Verdict::Unknown(format!("not finished within {PROBE_LIMIT:?}")),
        };
        verdicts.push((method, verdict));
    }
    verdicts
}

async fn verdict(endpoint: &Endpoint, upstream: &Upstream, method: &'static str) -> Verdict {
    let probe = Probe::new(endpoint, upstream, method);
    let found = match probe.answers_nested_request(endpoint, false).await {
        Ok(true) => {
            probe.answers_nested_request(endpoint, true).await.map(|despite_close| match despite_close {
                true => Verdict::UnreadDespiteClose,
                false => Verdict::Unread,
            })
        }
        other => other.map(|_| Verdict::Read),
    };
    found.unwrap_or_else(|error| Verdict::Unknown(error.to_string()))
}

/// The requests of one probe.
struct Probe {
    /// Head of the outer request, without the empty line that ends it.
    outer_head: String,
    /// The nested request, which is the body of the outer request.
    nested: String,
    /// The last request on the connection, sent after the outer request.
    closer: String,
}

impl Probe {
    fn new(endpoint: &Endpoint, upstream: &Upstream, method: &str) -> Self {
        let host = upstream.requests.host.clone().unwrap_or_else(|| endpoint.authority());
        debug_assert!(host.to_str().is_ok(), "an authority is ASCII");
        let host = host.to_str().unwrap_or("localhost");
        let path = upstream.check.as_ref().map_or("/", |check| check.path.as_str());
        let id = fastrand::u64(..);
        let marked = format!("{path}{}bearward-probe={id:016x}", if path.contains('?') { '&' } else { '?' });
        let target = match method {
            // A GET is harmless on any path. The path of this GET most likely exists, and servers
            // keep the connection open after they answer a request for a path that exists.
            "GET" => path.to_owned(),
            _ => format!("/bearward-probe-{id:016x}"),
        };
        let credential = upstream.requests.credential.as_ref().and_then(|credential| {
            Some(format!("{}: {}\r\n", credential.header, credential.value.to_str().ok()?))
        });
        let fields =
            format!("host: {host}\r\nuser-agent: bearward-probe\r\n{}", credential.unwrap_or_default());
        // The nested request has no upstream credential, like a request that a client would hide in
        // a body.
        let nested = format!("GET {marked} HTTP/1.1\r\nhost: {host}\r\nuser-agent: bearward-probe\r\n\r\n");
        Probe {
            outer_head: format!(
                "{method} {target} HTTP/1.1\r\n{fields}{CONTENT_LENGTH}: {}\r\n",
                nested.len()
            ),
            nested,
            closer: format!("GET {path} HTTP/1.1\r\n{fields}connection: close\r\n\r\n"),
        }
    }

    /// Whether the server answers the nested request, which is the body of the outer request. With
    /// `with_close`, the outer request has `Connection: close`.
    async fn answers_nested_request(&self, endpoint: &Endpoint, with_close: bool) -> io::Result<bool> {
        let Connected { socket, .. } = within(ANSWER_LIMIT, connect(endpoint, true)).await?;
        let mut connection = Connection { stream: SocketIo(socket), buffer: Vec::new() };
        let close = if with_close { "connection: close\r\n" } else { "" };
        let began = Instant::now();
        connection.send(&format!("{}{close}\r\n{}", self.outer_head, self.nested)).await?;
        if !within(ANSWER_LIMIT, connection.answer()).await? {
            return Ok(false);
        }
        // The wait grows with the latency, because a slow server also answers the nested request
        // slowly.
        let latency = began.elapsed();
        let wait = (2 * latency + LEAST_WAIT).min(LONGEST_WAIT);
        match timeout(wait, connection.answer()).await {
            Ok(is_answer) => return is_answer,
            Err(_elapsed) if with_close => return Ok(false),
            Err(_elapsed) => {}
        }
        // The last request has one answer. Any further answer belongs to the nested request.
        if connection.send(&self.closer).await.is_err() {
            return Ok(false);
        }
        let until = Instant::now() + ANSWER_LIMIT + 2 * latency;
        let mut answers = 0;
        while let Ok(is_answer) = timeout_at(until, connection.answer()).await {
            if !is_answer? {
                return Ok(answers > 1);
            }
            answers += 1;
        }
        match answers {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, "the second request was not answered")),
            answers => Ok(answers > 1),
        }
    }
}

async fn within<T>(limit: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {limit:?}"));
    timeout(limit, future).await.unwrap_or_else(|_| Err(late()))
}

/// A connection to the probed server, from which answers are read one by one.
struct Connection {
    stream: SocketIo,
    /// Bytes of an answer that has not arrived completely.
    buffer: Vec<u8>,
}

/// Framing of an answer's body.
#[derive(Debug, PartialEq, Eq)]
enum Body {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Connection {
    async fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.write_all(text.as_bytes()).await?;
        self.stream.flush().await
    }

    /// Reads one complete answer. Returns false if the server closed the connection instead.
    ///
    /// Dropping the future loses no byte: all bytes that were read stay in the buffer.
    async fn answer(&mut self) -> io::Result<bool> {
        loop {
            if let Some(length) = answer_length(&self.buffer)? {
                self.buffer.drain(..length);
                return Ok(true);
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(io::Error::other("the answer is too long to be read"));
            }
            let mut bytes = [0; 16 * 1024];
            let read = match self.stream.read(&mut bytes).await {
                Ok(read) => read,
                // A reset is treated as the end of the connection, because a server that closes a
                // connection with unread bytes resets the connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(error),
            };
            if read == 0 {
                // The end of the connection may end a body, but not a head.
                let was_answer = head(&self.buffer)?.is_some();
                self.buffer.clear();
                return Ok(was_answer);
            }
            debug_assert!(read <= bytes.len(), "a read fits into its buffer");
            self.buffer.extend_from_slice(bytes.get(..read).unwrap_or_default());
        }
    }
}

/// Returns the length of the head at the start of `bytes`, including interim answers, and the
/// framing of the body; `None` if more bytes must arrive.
fn head(bytes: &[u8]) -> io::Result<Option<(usize, Body)>> {
    let mut begin = 0;
    loop {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        debug_assert!(begin <= bytes.len(), "a head is within its bytes");
        let rest = bytes.get(begin..).unwrap_or_default();
        let status =
            parsed.parse(rest).map_err(|error| io::Error::other(format!("no HTTP answer: {error}")))?;
        let httparse::Status::Complete(length) = status else { return Ok(None) };
        begin += length;
        debug_assert!(parsed.code.is_some(), "a whole head has a status");
        let code = parsed.code.unwrap_or_default();
        if (100..200).contains(&code) && code != 101 {
            continue;
        }
        let value = |name: &str| {
            parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
        };
        let length =
            value("content-length").and_then(|value| std::str::from_utf8(value).ok()?.trim().parse().ok());
        let body = match () {
            () if code == 204 || code == 304 => Body::Length(0),
            () if value("transfer-encoding").is_some() => Body::Chunked,
            () => length.map_or(Body::UntilClose, Body::Length),
        };
        return Ok(Some((begin, body)));
    }
}

/// Returns the length of the answer at the start of `bytes`; `None` if more bytes must arrive.
fn answer_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some((head, body)) = head(bytes)? else { return Ok(None) };
    debug_assert!(head <= bytes.len(), "a head is within its bytes");
    let rest = bytes.get(head..).unwrap_or_default();
    Ok(match body {
        Body::Length(length) => {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            (rest.len() >= length).then(|| head + length)
        }
        Body::Chunked => chunks_length(rest)?.map(|length| head + length),
        Body::UntilClose => None,
    })
}

/// Returns the length of a chunked body with its trailers; `None` if more bytes must arrive.
fn chunks_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let mut at = 0;
    loop {
        debug_assert!(at <= bytes.len(), "a chunk is within its bytes");
        let rest = bytes.get(at..).unwrap_or_default();
        let size = httparse::parse_chunk_size(rest).map_err(|_| io::Error::other("a bad chunk"))?;
        let httparse::Status::Complete((line, size)) = size else { return Ok(None) };
        at += line;
        if size == 0 {
            // The last chunk is followed by trailers and then by an empty line.
            let rest = bytes.get(at..).unwrap_or_default();
            let end = match rest.starts_with(b"\r\n") {
                true => Some(2),
                false => rest.windows(4).position(|window| window == b"\r\n\r\n").map(|end| end + 4),
            };
            return Ok(end.map(|end| at + end));
        }
        at = at.saturating_add(usize::try_from(size).unwrap_or(usize::MAX)).saturating_add(2);
        if at > bytes.len() {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_an_answer_follows_its_framing() {
        let whole = [
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-a: 1\r\n\r\n",
        ];
        for answer in whole {
            let two = format!("{answer}HTTP/1.1 200 OK");
            assert_eq!(answer_length(two.as_bytes()).unwrap(), Some(answer.len()), "{answer}");
            for cut in 0..answer.len() {
                assert_eq!(answer_length(&answer.as_bytes()[..cut]).unwrap(), None, "{answer} {cut}");
            }
        }
        let endless = b"HTTP/1.1 200 OK\r\n\r\nhi";
        assert_eq!(answer_length(endless).unwrap(), None);
        assert_eq!(head(endless).unwrap().unwrap().1, Body::UntilClose);
        assert!(answer_length(b"SSH-2.0-x\r\n").is_err());
    }
}
