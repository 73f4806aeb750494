//! What is told of a request: its id, and one line in the access log.
//!
//! A [`RequestRecord`] is opened before anything is decided and emitted when the answer's body has ended or
//! is dropped. It holds key ids, never secrets, and the path without its query.

pub(crate) mod audit;
pub(crate) mod log;
pub(crate) mod metrics;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};
use jiff::Timestamp;
use serde::Serialize;

use crate::denial::Denial;
use crate::mask::masked;
use audit::Suspicion;
use log::LogWriter;

/// The id of a request: the caller's when it is sane, else a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut given = headers.get_all("x-request-id").iter();
    match (given.next(), given.next()) {
        (Some(id), None) if is_sane_id(id.as_bytes()) => id.clone(),
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
    let text = format!("{next:032x}");
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("0"))
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

#[derive(Debug)]
struct OpenRecord {
    logs: Logs,
    started: Instant,
    line: AccessLine,
}

#[derive(Debug, Serialize)]
struct AccessLine {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    request_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    method: String,
    path: String,
    protocol: &'static str,
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream: Option<String>,
    bytes_sent: u64,
    duration_ms: f64,
    outcome: &'static str,
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
        let line = AccessLine {
            timestamp: String::new(),
            level: "INFO",
            message: "request",
            request_id: id.to_str().unwrap_or_default().to_owned(),
            client,
            method: masked(method.as_str()).into_owned(),
            path: masked(path).into_owned(),
            protocol: protocol(version),
            status: 0,
            code: None,
            cause: None,
            key_id: None,
            route: None,
            upstream: None,
            bytes_sent: 0,
            duration_ms: 0.0,
            // What stays if nothing else is said: the request was dropped before it was answered in full.
            outcome: "client_left",
        };
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

    pub(crate) fn key_id(&mut self, key_id: Option<&str>) {
        self.note(|line| line.key_id = key_id.map(str::to_owned));
    }

    pub(crate) fn target(&mut self, path: &str) {
        self.note(|line| line.path = masked(path).into_owned());
    }

    pub(crate) fn route(&mut self, route: &str, upstream: &str) {
        self.note(|line| {
            line.route = Some(route.to_owned());
            line.upstream = Some(upstream.to_owned());
        });
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
        if let Some((writer, subject)) = self.audited() {
            audit::refused(writer, subject, denial);
        }
    }

    /// The request was let in, and is worth a look.
    pub(crate) fn suspected(&self, suspicion: Suspicion) {
        if let Some((writer, subject)) = self.audited() {
            audit::suspected(writer, subject, suspicion);
        }
    }

    fn audited(&self) -> Option<(&LogWriter, audit::Subject<'_>)> {
        let open = self.0.as_ref()?;
        let AccessLine { request_id, client, method, path, key_id, route, .. } = &open.line;
        let subject = audit::Subject {
            request_id,
            client: *client,
            method,
            path,
            key_id: key_id.as_deref(),
            route: route.as_deref(),
        };
        Some((open.logs.audit.as_deref()?, subject))
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

impl Drop for OpenRecord {
    fn drop(&mut self) {
        let Some(writer) = &self.logs.access else { return };
        self.line.timestamp = timestamp();
        self.line.duration_ms = (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3;
        writer.access(&self.line, pretty);
    }
}

/// RFC 3339 with microseconds, in UTC.
fn timestamp() -> String {
    format!("{:.6}", Timestamp::now())
}

fn pretty(line: &AccessLine) -> String {
    let client = line.client.map(|client| client.to_string());
    format!(
        "{} {:>5} {} {} {} {:.1}ms {}B {}{}{}{}{}{} id={}",
        line.timestamp,
        line.level,
        line.status,
        line.method,
        // Escaped, so that a path can't forge a line.
        line.path.escape_debug(),
        line.duration_ms,
        line.bytes_sent,
        line.outcome,
        optional("code", line.code),
        optional("cause", line.cause.as_deref()),
        optional("key", line.key_id.as_deref()),
        optional("route", line.route.as_deref()),
        optional("client", client.as_deref()),
        line.request_id,
    )
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
