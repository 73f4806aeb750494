//! What is told of a request: its id, and one line in the access log.
//!
//! A [`RequestRecord`] is opened before anything is decided and emitted when the answer's body has ended or
//! is dropped. It holds key ids, never secrets, and the path without its query.

pub(crate) mod audit;
pub(crate) mod histogram;
pub(crate) mod history;
mod line;
pub(crate) mod line_quotas;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod naming;
pub(crate) mod observer;
mod outcome;
pub(crate) mod reloads;
mod shown;
pub(crate) mod tally;
pub(crate) mod trace;
pub(crate) mod usage;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::activity::ConnectionActivity;
use crate::activity::cut::{self, CutReason};
use crate::denial::{Code, Denial};
use crate::protocol::Protocol;
use audit::Suspicion;
use line::AccessLine;
use line_quotas::{Kind, LineSource};
use log::LogWriter;
pub(crate) use log::Logs;
use naming::Naming;
use observer::Observer;
pub(crate) use outcome::Outcome;
use tally::Finished;
use trace::TraceContext;
use usage::{KeyLabel, Usage};

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

/// One request, as logs and metrics tell it.
#[derive(Debug)]
pub(crate) struct RequestRecord(Box<OpenRecord>);

struct OpenRecord {
    observer: Arc<Observer>,
    started: Instant,
    line: AccessLine,
    /// How it has ended, once it has.
    outcome: Option<Outcome>,
    /// Those of its connection, which know why the server ends that.
    activity: Option<Arc<ConnectionActivity>>,
    /// A key was accepted: its lines are never left out.
    is_of_key: bool,
    /// Whether a request without one has lines, once that was decided.
    is_told: Option<bool>,
    /// Of the key that the request has a secret of, a good one or not.
    usage: Option<Arc<Usage>>,
    times: Times,
    context: Option<TraceContext>,
    /// How long it took until the answer's head was there.
    decided: Option<Duration>,
    first_byte: Option<Duration>,
}

/// When a request was where, on its way to upstream and back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// It was ready to be sent.
    pub(crate) ready: Option<Instant>,
    /// The head of the answer was there, or the reason that none comes.
    pub(crate) back: Option<Instant>,
    /// How long it waited for a new connection, where it needed one.
    pub(crate) connecting: Option<Duration>,
}

impl Times {
    /// How long upstream took to answer, once there was a connection.
    fn response(&self) -> Option<Duration> {
        let waited = self.back?.saturating_duration_since(self.ready?);
        Some(waited.saturating_sub(self.connecting.unwrap_or_default()))
    }

    /// What was spent elsewhere than here.
    fn away(&self) -> Duration {
        match (self.ready, self.back) {
            (Some(ready), Some(back)) => back.saturating_duration_since(ready),
            _ => Duration::ZERO,
        }
    }
}

impl RequestRecord {
    /// Opens the record of a request. `path` is the raw one until the canonical one is known.
    pub(crate) fn open(
        observer: &Arc<Observer>,
        id: &HeaderValue,
        client: Option<IpAddr>,
        method: &Method,
        path: &str,
        version: Version,
    ) -> Self {
        let line = AccessLine::new(id.clone(), client, method.clone(), path, Protocol::from(version).name());
        observer.began();
        RequestRecord(Box::new(OpenRecord {
            observer: observer.clone(),
            started: Instant::now(),
            line,
            outcome: None,
            activity: None,
            is_of_key: false,
            is_told: None,
            usage: None,
            times: Times::default(),
            context: None,
            decided: None,
            first_byte: None,
        }))
    }

    /// The connection that the request is on.
    pub(crate) fn within(&mut self, activity: &Arc<ConnectionActivity>) {
        self.0.activity = Some(activity.clone());
    }

    pub(crate) fn client(&mut self, client: Option<IpAddr>) {
        self.0.line.client = client;
    }

    pub(crate) fn named(&mut self, named: Naming) {
        self.0.line.named = named;
    }

    /// Begins a trace of the request's own, where traces are configured.
    pub(crate) fn trace(&mut self) -> Option<TraceContext> {
        let tracer = self.0.observer.logs.traces.as_ref()?;
        self.0.context = Some(tracer.begin());
        self.0.context
    }

    /// Goes on with the caller's trace instead, and with the caller's word on whether it is recorded. For callers that are
    /// trusted alone: any stranger can ask for a record of everything.
    pub(crate) fn continue_trace(&mut self, headers: &HeaderMap) -> Option<TraceContext> {
        if let Some(context) = &mut self.0.context {
            context.continue_from(headers);
        }
        self.0.context
    }

    /// The request has a secret of the key that this is remembered of.
    pub(crate) fn owned(&mut self, usage: &Arc<Usage>) {
        self.0.usage = Some(usage.clone());
    }

    /// The request's key was accepted.
    pub(crate) fn accepted(&mut self) {
        self.0.is_of_key = true;
    }

    pub(crate) fn path(&mut self, path: &str) {
        let path = shown::kept_path(path);
        if *self.0.line.path != *path {
            self.0.line.path = path.into();
        }
    }

    pub(crate) fn route(&mut self, route: &Arc<str>, upstream: &Arc<str>) {
        self.0.line.way = Some((route.clone(), upstream.clone()));
    }

    pub(crate) fn status(&mut self, status: StatusCode) {
        self.0.line.status = status.as_u16();
    }

    pub(crate) fn denied(&mut self, denial: &Denial) {
        self.0.ends(Outcome::of_denial(denial.code()));
        let OpenRecord { observer, line, usage, .. } = &mut *self.0;
        line.code = Some(denial.code().name());
        line.cause = denial.cause().map(|cause| shown::reason(&with_sources(cause)));
        line.status = denial.code().status().as_u16();
        let policy = denial.detail("policy").filter(|_| denial.code() == Code::RateLimitExceeded);
        observer.refused(line.refused(denial), policy);
        if let Some(usage) = usage {
            usage.refused(denial.code());
        }
        if audit::is_of_caller(denial)
            && self.0.observer.logs.audit.is_some()
            && self.0.tells(Kind::Audit)
            && let Some((writer, line)) = self.audited()
        {
            audit::refused(writer, line.subject(), denial);
        }
    }

    /// What the answer is, is known; it begins.
    pub(crate) fn decided(&mut self, times: Times) {
        let open = &mut *self.0;
        open.times = times;
        open.decided = Some(open.started.elapsed());
        open.observer.answering();
    }

    /// The request was let in, and is worth a look.
    pub(crate) fn suspected(&self, suspicion: Suspicion) {
        if let Some((writer, line)) = self.audited() {
            audit::suspected(writer, line.subject(), suspicion);
        }
    }

    /// An unknown credential, which this id names, stood beside the key's.
    pub(crate) fn came_with(&self, unknown: &str) {
        if let Some((writer, line)) = self.audited() {
            let subject = audit::Subject { credential_id: Some(unknown), ..line.subject() };
            audit::suspected(writer, subject, Suspicion::UnknownBeside);
        }
    }

    fn audited(&self) -> Option<(&LogWriter, &AccessLine)> {
        Some((self.0.observer.logs.audit.as_deref()?, &self.0.line))
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        let open = &mut *self.0;
        if open.first_byte.is_none() && bytes > 0 {
            open.first_byte = Some(open.started.elapsed());
        }
        open.line.bytes_sent += bytes as u64;
    }

    /// What passed through a tunnel: bytes to upstream, and to the client.
    pub(crate) fn tunnelled(&mut self, up: u64, down: u64) {
        self.0.line.bytes_sent += down;
        self.0.line.bytes_received = Some(up);
    }

    /// The answer went out whole.
    pub(crate) fn completed(&mut self) {
        self.0.ends(Outcome::Complete);
    }

    /// The answer is cut, and is not whole.
    pub(crate) fn cut(&mut self, why: CutReason) {
        self.0.ends(why.into());
    }

    /// The answer was cut short, by upstream or by what it depends on.
    pub(crate) fn failed(&mut self, outcome: Outcome, error: &(dyn std::error::Error + 'static)) {
        self.0.ends(outcome);
        self.0.line.cause = Some(shown::reason(&with_sources(error)));
    }
}

impl std::fmt::Debug for OpenRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A path may hold anything.
        f.write_str("OpenRecord(…)")
    }
}

impl OpenRecord {
    /// Notes how the request has ended. What is noted first is what it ended by.
    fn ends(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }

    /// How the request, which is dropped now, has ended.
    fn outcome(&self) -> Outcome {
        let of_connection = || self.activity.as_ref().and_then(|activity| activity.cut_for());
        self.outcome.unwrap_or_else(|| Outcome::of_dropped(cut::current().or_else(of_connection)))
    }

    /// Whether the request has a line in this log: always where a key was accepted, else as the strangers' lines allow.
    fn tells(&mut self, kind: Kind) -> bool {
        if self.is_of_key {
            return true;
        }
        // Its address's, or those of a key that was refused.
        let of_key = self.usage.as_ref().and(self.line.named.key_id());
        let source = match of_key {
            Some(id) => LineSource::Key(id.to_owned()),
            None => LineSource::address(self.line.client),
        };
        let (line_quotas, now) = (&self.observer.logs.line_quotas, Instant::now());
        let is_told = *self.is_told.get_or_insert_with(|| line_quotas.may_tell(&source, now));
        if !is_told {
            line_quotas.leave_out(kind, &source, now);
        }
        is_told
    }

    /// Whether the request has an access line. What was refused, or failed, is no matter of the sample.
    fn has_access_line(&mut self) -> bool {
        let Logs { access, access_sample, .. } = &self.observer.logs;
        let went_well = (100..400).contains(&self.line.status) && self.line.outcome == Outcome::Complete;
        let is_sampled = !went_well || *access_sample >= 1.0 || fastrand::f64() < *access_sample;
        access.is_some() && is_sampled && self.tells(Kind::Access)
    }
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        self.line.outcome = self.outcome();
        let (line, took) = (&self.line, self.started.elapsed());
        let (route, upstream) = line.way.as_ref().map(|(route, upstream)| (route, upstream)).unzip();
        let finished = Finished {
            route,
            upstream,
            key: self.usage.as_ref().map_or(KeyLabel::None, |usage| usage.label()),
            status: line.status,
            took,
            // An answer without a body has its head alone.
            first_byte: self.first_byte.or(self.decided),
            added: self.decided.map(|decided| decided.saturating_sub(self.times.away())),
            connect: self.times.connecting,
            response: self.times.response(),
        };
        self.observer.finished(&finished, self.decided.is_some());
        if let (Some(tracer), Some(context)) = (&self.observer.logs.traces, self.context) {
            tracer.tell(context, || self.line.span(context, took));
        }
        if !self.has_access_line() {
            return;
        }
        let (line, Some(writer)) = (&self.line, &self.observer.logs.access) else { return };
        writer.access(|out, is_json| match is_json {
            true => line.write_json(out, took, self.context.as_ref()),
            false => line.write_pretty(out, took),
        });
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
