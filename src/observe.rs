//! What is told of a request: its id, and one line in the access log.
//!
//! A [`RequestRecord`] is opened before anything is decided and emitted when the answer's body has ended or
//! is dropped. It holds key ids, never secrets, and the path without its query.

pub(crate) mod audit;
mod line;
pub(crate) mod log;
pub(crate) mod metrics;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::denial::Denial;
use audit::Suspicion;
use line::AccessLine;
use log::LogWriter;

/// Where a request's id stands, on its way to upstream and on its answer.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The id of a request: the caller's when it is sane, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(X_REQUEST_ID).iter();
    match (given.next(), given.next()) {
        (Some(id), None) if is_sane_id(id.as_bytes()) => {
            // A copy: it lives as long as the answer, and a slice would keep all of the request's head.
            HeaderValue::from_bytes(id.as_bytes()).unwrap_or_else(|_| new_request_id())
        }
        _ => new_request_id(),
    }
}

/// Short enough for a log, free of anything that a log or a shell might read as its own, and no token.
fn is_sane_id(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'+' | b'/' | b'=')
    };
    (1..=128).contains(&id.len()) && id.iter().all(is_plain) && !id.windows(4).any(|part| part == b"bwk_")
}

thread_local! {
    /// Where this thread's ids stand: begun at random, so that no two threads or processes share them.
    static SEQUENCE: Cell<u128> = Cell::new(random_start());
}

fn random_start() -> u128 {
    let mut bits = [0u8; 16];
    // An id is a label, not a secret: without randomness it begins at zero, and the request goes on.
    let _unlabelled = getrandom::fill(&mut bits);
    u128::from_ne_bytes(bits)
}

/// 128 bits in hex, none twice on a thread.
fn new_request_id() -> HeaderValue {
    // An odd step walks through all 2^128 values, and far enough that neighbours look nothing alike.
    const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let next = SEQUENCE.get().wrapping_add(STEP);
    SEQUENCE.set(next);
    HeaderValue::from_bytes(&line::hex(next)).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// The id of a refusal that hyper itself made, where no request was read.
pub(crate) fn refusal_id() -> HeaderValue {
    new_request_id()
}

/// Where lines of requests go, if anywhere.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logs {
    /// A line a request.
    pub(crate) access: Option<Arc<LogWriter>>,
    /// A line a refusal, and for what is worth a look.
    pub(crate) audit: Option<Arc<LogWriter>>,
}

/// One request, as the logs tell it; nothing where there is none.
#[derive(Debug)]
pub(crate) struct RequestRecord(Option<Box<OpenRecord>>);

struct OpenRecord {
    logs: Logs,
    started: Instant,
    line: AccessLine,
}

impl RequestRecord {
    /// Opens the record of a request. `path` is the raw one until the canonical one is known.
    pub(crate) fn open(
        logs: &Logs,
        id: &HeaderValue,
        client: Option<IpAddr>,
        method: &Method,
        path: &str,
        version: Version,
    ) -> Self {
        if logs.access.is_none() && logs.audit.is_none() {
            return RequestRecord(None);
        }
        let line = AccessLine::new(id.clone(), client, method.clone(), path, protocol(version));
        RequestRecord(Some(Box::new(OpenRecord { logs: logs.clone(), started: Instant::now(), line })))
    }

    fn note(&mut self, note: impl FnOnce(&mut AccessLine)) {
        if let Some(open) = &mut self.0 {
            note(&mut open.line);
        }
    }

    pub(crate) fn client(&mut self, client: Option<IpAddr>) {
        self.note(|line| line.client = client);
    }

    pub(crate) fn key_id(&mut self, key_id: Option<HeaderValue>) {
        self.note(|line| line.key_id = key_id);
    }

    pub(crate) fn path(&mut self, path: &str) {
        self.note(|line| {
            if *line.path != *path {
                line.path = path.into();
            }
        });
    }

    pub(crate) fn route(&mut self, route: &Arc<str>, upstream: &Arc<str>) {
        self.note(|line| line.way = Some((route.clone(), upstream.clone())));
    }

    pub(crate) fn status(&mut self, status: StatusCode) {
        self.note(|line| line.status = status.as_u16());
    }

    pub(crate) fn denied(&mut self, denial: &Denial) {
        self.note(|line| {
            line.code = Some(denial.code().name());
            line.cause = denial.cause().map(with_sources);
            line.status = denial.code().status().as_u16();
        });
        if let Some((writer, line)) = self.audited() {
            audit::refused(writer, line.subject(), denial);
        }
    }

    /// The request was let in, and is worth a look.
    pub(crate) fn suspected(&self, suspicion: Suspicion) {
        if let Some((writer, line)) = self.audited() {
            audit::suspected(writer, line.subject(), suspicion);
        }
    }

    fn audited(&self) -> Option<(&LogWriter, &AccessLine)> {
        let open = self.0.as_ref()?;
        Some((open.logs.audit.as_deref()?, &open.line))
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.note(|line| line.bytes_sent += bytes as u64);
    }

    /// The answer went out whole.
    pub(crate) fn completed(&mut self) {
        self.note(|line| line.outcome = "completed");
    }

    /// The answer was cut short by upstream.
    pub(crate) fn failed(&mut self, error: &(dyn std::error::Error + 'static)) {
        self.note(|line| {
            line.outcome = "upstream_failed";
            line.cause = Some(with_sources(error));
        });
    }
}

impl std::fmt::Debug for OpenRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A path may hold anything.
        f.write_str("OpenRecord(…)")
    }
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        let Some(writer) = &self.logs.access else { return };
        let (line, took) = (&self.line, self.started.elapsed());
        writer.access(
            |out, is_json| if is_json { line.write_json(out, took) } else { line.write_pretty(out, took) },
        );
    }
}

/// This moment as RFC 3339 has it, with microseconds, in UTC.
fn timestamp() -> String {
    format!("{:.6}", jiff::Timestamp::now())
}

/// A field of a line for people, where it has a value.
fn optional(name: &str, value: Option<&str>) -> String {
    value.map(|value| format!(" {name}={value}")).unwrap_or_default()
}

/// An error and what caused it, in one line.
pub(crate) fn with_sources<E: std::error::Error + ?Sized>(error: &E) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_id_is_kept_when_it_is_sane() {
        let id = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append("x-request-id", HeaderValue::from_static(value));
            }
            request_id(&headers).to_str().unwrap().to_owned()
        };
        assert_eq!(id(&["req_1"]), "req_1");
        for bad in [&[][..], &["bwk_4f9Zk2Qx7B_abc"], &[""], &["a b"], &["a", "b"], &["{x}"], &["a\"b"]] {
            assert_eq!(id(bad).len(), 32, "{bad:?}");
        }
        assert_ne!(id(&[]), id(&[]));
    }
}
