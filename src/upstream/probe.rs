//! Finds servers that leave the body of a request unread and take it for the next request on the connection.
//!
//! Such a server acts on what a caller writes into a body, as if it had been decided on (request smuggling). The probe
//! sends a request whose body is a whole GET, and counts the answers: one too many says it all. Everything in it is
//! harmless: GETs of the health check's path, or of `/`, and methods with a body on a path that nobody has.
//! Called by `bearward check --probe` alone.

use std::io;
use std::time::Duration;

use http::header::CONTENT_LENGTH;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::compiled::Upstream;
use super::connect::{Connected, connect};
use super::endpoints::Endpoint;
use super::socket::Tap;

use crate::config;

/// The longest wait for the answer to one request.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// The shortest wait for an answer that nobody asked for. It is longer where the server is slow.
const LEAST_WAIT: Duration = Duration::from_millis(500);
/// The longest wait for an answer that nobody asked for.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// The longest that one endpoint is probed for.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// Past this, an answer is not read on.
const MAX_ANSWER: usize = 1024 * 1024;
/// Header fields that an answer may have.
const MAX_FIELDS: usize = 128;

/// The methods that are probed: for each, servers differ in whether they read a body.
const METHODS: [&str; 3] = ["GET", "POST", "DELETE"];

/// What a server does with the body of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It reads the body, or closes the connection behind the answer.
    Read,
    /// It takes an unread body for the next request.
    Unread,
    /// It does so even where the request says that it is the last one.
    UnreadDespiteClose,
    Unknown(String),
}

/// What became of the probes of one endpoint, method by method.
pub(crate) async fn probe(endpoint: &Endpoint, upstream: &Upstream) -> Vec<(&'static str, Verdict)> {
    if matches!(endpoint.address, config::EndpointAddress::H2c(_)) {
        // HTTP/2 frames bodies: none can be taken for a request.
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
    let found = match probe.leaves_unread(endpoint, false).await {
        Ok(true) => probe.leaves_unread(endpoint, true).await.map(|despite_close| match despite_close {
            true => Verdict::UnreadDespiteClose,
            false => Verdict::Unread,
        }),
        other => other.map(|_| Verdict::Read),
    };
    found.unwrap_or_else(|error| Verdict::Unknown(error.to_string()))
}

/// The requests of one probe.
struct Probe {
    /// With a body that is a request. The head's last line is left open.
    outer_head: String,
    nested: String,
    /// The last request on the connection.
    closer: String,
}

impl Probe {
    fn new(endpoint: &Endpoint, upstream: &Upstream, method: &str) -> Self {
        let host = upstream.host.clone().unwrap_or_else(|| endpoint.authority());
        let host = host.to_str().unwrap_or("localhost");
        let path = upstream.check.as_ref().map_or("/", |check| check.path.as_str());
        let id = fastrand::u64(..);
        let marked = format!("{path}{}bearward-probe={id:016x}", if path.contains('?') { '&' } else { '?' });
        let target = match method {
            // Safe on any path; on one that exists, servers keep the connection.
            "GET" => path.to_owned(),
            _ => format!("/bearward-probe-{id:016x}"),
        };
        let credential = upstream.credential.as_ref().and_then(|credential| {
            Some(format!("{}: {}\r\n", credential.header, credential.value.to_str().ok()?))
        });
        let fields =
            format!("host: {host}\r\nuser-agent: bearward-probe\r\n{}", credential.unwrap_or_default());
        // Without the credential: what a caller hides in a body has none, either.
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

    /// Whether the server answers the request in the body. `says_close`: the request around it is to be the last one.
    async fn leaves_unread(&self, endpoint: &Endpoint, says_close: bool) -> io::Result<bool> {
        let Connected { socket, .. } = within(ANSWER_LIMIT, connect(endpoint, true)).await?;
        let mut connection = Connection { stream: Tap(socket), buffer: Vec::new() };
        let close = if says_close { "connection: close\r\n" } else { "" };
        let began = Instant::now();
        connection.send(&format!("{}{close}\r\n{}", self.outer_head, self.nested)).await?;
        if !within(ANSWER_LIMIT, connection.answer()).await? {
            return Ok(false);
        }
        // A slow server is slow with an answer that nobody asked for, too.
        let latency = began.elapsed();
        let wait = (2 * latency + LEAST_WAIT).min(LONGEST_WAIT);
        match timeout(wait, connection.answer()).await {
            Ok(is_answer) => return is_answer,
            Err(_elapsed) if says_close => return Ok(false),
            Err(_elapsed) => {}
        }
        // A last request and its answer: what comes beside that was in the body.
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

/// A connection whose answers are counted.
struct Connection {
    stream: Tap,
    /// What came and is not part of an answer that was read.
    buffer: Vec<u8>,
}

/// How the body of an answer ends.
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

    /// Reads one answer whole. Returns whether there was one; the connection may be closed instead.
    ///
    /// What has been read stays when the future is dropped before its end.
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
                // A server that closes with bytes unread resets the connection.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
                Err(error) => return Err(error),
            };
            if read == 0 {
                // A body may end with the connection; a head may not.
                let was_answer = head(&self.buffer)?.is_some();
                self.buffer.clear();
                return Ok(was_answer);
            }
            self.buffer.extend_from_slice(bytes.get(..read).unwrap_or_default());
        }
    }
}

/// The length of the head that `bytes` begin with, interim answers included, and how its body ends; `None` where more
/// must come.
fn head(bytes: &[u8]) -> io::Result<Option<(usize, Body)>> {
    let mut begin = 0;
    loop {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut parsed = httparse::Response::new(&mut fields);
        let rest = bytes.get(begin..).unwrap_or_default();
        let status =
            parsed.parse(rest).map_err(|error| io::Error::other(format!("no HTTP answer: {error}")))?;
        let httparse::Status::Complete(length) = status else { return Ok(None) };
        begin += length;
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

/// The length of the whole answer that `bytes` begin with; `None` where more must come.
fn answer_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let Some((head, body)) = head(bytes)? else { return Ok(None) };
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

/// The length of a chunked body with its trailers; `None` where more must come.
fn chunks_length(bytes: &[u8]) -> io::Result<Option<usize>> {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let size = httparse::parse_chunk_size(rest).map_err(|_| io::Error::other("a bad chunk"))?;
        let httparse::Status::Complete((line, size)) = size else { return Ok(None) };
        at += line;
        if size == 0 {
            // Trailers, and an empty line.
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
    fn an_answer_is_as_long_as_its_framing_says() {
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
