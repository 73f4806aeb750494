//! Observation of a request: its id, its record, and one line in the access log.
//!
//! A [`RequestRecord`] is opened before anything about its request is decided, and written when the
//! answer's body has ended or is dropped. It contains key ids and the path without its query, never
//! secrets.

pub(crate) mod audit;
pub(crate) mod day_rows;
mod hex;
pub(crate) mod histogram;
pub(crate) mod history;
pub(crate) mod key_history;
pub(crate) mod ledger;
mod line;
pub(crate) mod line_quotas;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod model_labels;
pub(crate) mod naming;
pub(crate) mod observer;
mod outcome;
pub(crate) mod refused;
pub(crate) mod reloads;
pub(crate) mod repeats;
pub(crate) mod shown;
pub(crate) mod tally;
pub(crate) mod token_minute;
pub(crate) mod trace;
pub(crate) mod untold;
pub(crate) mod usage;

use std::cell::Cell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use jiff::Timestamp;

use crate::activity::ConnectionActivity;
use crate::activity::cut::{self, CutReason};
use crate::config::{Asker, Priority};
use crate::denial::{Code, Denial};
use crate::protocol::Protocol;
use crate::token_report::TokenReport;
use audit::Suspicion;
use line::AccessLine;
use line_quotas::{Kind, LineSource};
use log::LogWriter;
pub(crate) use log::Logs;
use naming::Naming;
use observer::Observer;
pub(crate) use outcome::Outcome;
use shown::with_sources;
use tally::Finished;
use trace::TraceContext;
use usage::{KeyLabel, Usage};

/// Header with the id of a request, on the request to upstream and on the answer.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Returns the caller's `x-request-id` if the request has exactly one and [`is_sane_id`] accepts
/// it, else a new id.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(X_REQUEST_ID).iter();
    match (given.next(), given.next()) {
        (Some(id), None) if is_sane_id(id.as_bytes()) => {
            // The id is copied: it lives as long as the answer, and a slice would keep the
            // request's whole head in memory.
            HeaderValue::from_bytes(id.as_bytes()).unwrap_or_else(|_| new_request_id())
        }
        _ => new_request_id(),
    }
}

/// Whether a caller's request id has 1 to 128 characters, none of them special in logs or shells,
/// and contains no token.
fn is_sane_id(id: &[u8]) -> bool {
    let is_plain = |byte: &u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'+' | b'/' | b'=')
    };
    (1..=128).contains(&id.len()) && id.iter().all(is_plain) && !id.windows(4).any(|part| part == b"bwk_")
}

thread_local! {
    /// The last request id of this thread, as a number. The first id is random, so that threads and
    /// processes do not share ids.
    static SEQUENCE: Cell<u128> = Cell::new(random_start());
}

fn random_start() -> u128 {
    let mut bits = [0u8; 16];
    // A request id is a label, not a secret: if the system returns no random bytes, the ids of this
    // thread begin at zero.
    let _unlabelled = getrandom::fill(&mut bits);
    u128::from_ne_bytes(bits)
}

/// Returns a new request id: 128 bits in hex, unique on this thread.
fn new_request_id() -> HeaderValue {
    // An odd step reaches all 2^128 values before it repeats a value; a large step makes successive
    // ids look different.
    const STEP: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let next = SEQUENCE.get().wrapping_add(STEP);
    SEQUENCE.set(next);
    HeaderValue::from_bytes(&hex::hex(next)).unwrap_or_else(|_| HeaderValue::from_static("0"))
}

/// Returns a request id for hyper's own answer to a request that hyper can't parse.
pub(crate) fn refusal_id() -> HeaderValue {
    new_request_id()
}

/// The record of one request, for logs and metrics.
#[derive(Debug)]
pub(crate) struct RequestRecord(Box<OpenRecord>);

struct OpenRecord {
    observer: Arc<Observer>,
    line: AccessLine,
    /// How the request ended; `None` while it goes on.
    outcome: Option<Outcome>,
    /// The activity of the request's connection, which knows why the server cuts the connection.
    activity: Option<Arc<ConnectionActivity>>,
    /// Whether the request's key was accepted. Log lines of such a request are never left out.
    is_of_key: bool,
    /// Whether a request without an accepted key has log lines; `None` until the line quotas have
    /// decided this.
    has_lines: Option<bool>,
    /// The usage of the key whose secret the request presented, valid or not.
    usage: Option<Arc<Usage>>,
    /// When the request was forwarded, and the group of its key; `None` if it was not.
    admitted: Option<(Timestamp, Option<Arc<str>>)>,
    timing: Timing,
    context: Option<TraceContext>,
    /// Where the tokens of the request are reported; `None` if it uses none.
    tokens: Option<Arc<TokenReport>>,
}

/// When a request started, and how long its stages took.
struct Timing {
    started: Instant,
    upstream: Times,
    /// Time from the start until the head of the answer was ready.
    decided: Option<Duration>,
    /// Time from the start until the first byte of the answer's body was sent.
    first_byte: Option<Duration>,
}

/// Times of a request on its way to upstream and back.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Times {
    /// When the request was ready to be sent to upstream.
    pub(crate) ready: Option<Instant>,
    /// When the head of upstream's answer arrived, or when it was clear that no head would arrive.
    pub(crate) back: Option<Instant>,
    /// How long the request waited for a new connection to upstream, if it needed one.
    pub(crate) connecting: Option<Duration>,
    /// The class of the request, and how long it waited for its turn; `None` if its upstream has no queue.
    pub(crate) queued: Option<(Priority, Duration)>,
}

impl Times {
    /// Returns the time from the moment when the request had a connection until the head of
    /// upstream's answer arrived.
    fn response(&self) -> Option<Duration> {
        let waited = self.back?.saturating_duration_since(self.ready?);
        Some(waited.saturating_sub(self.connecting.unwrap_or_default()))
    }

    /// Returns the time that was not spent in this process: the wait for the request's turn, and the time
    /// from `ready` to `back`.
    fn away(&self) -> Duration {
        let queued = self.queued.map_or(Duration::ZERO, |(_, waited)| waited);
        match (self.ready, self.back) {
            (Some(ready), Some(back)) => back.saturating_duration_since(ready) + queued,
            _ => queued,
        }
    }
}

impl RequestRecord {
    /// Opens the record of a request. `path` is the raw path; the canonical path is set later, when
    /// it is known.
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
            line,
            outcome: None,
            activity: None,
            is_of_key: false,
            has_lines: None,
            usage: None,
            admitted: None,
            timing: Timing {
                started: Instant::now(),
                upstream: Times::default(),
                decided: None,
                first_byte: None,
            },
            context: None,
            tokens: None,
        }))
    }

    /// Sets the activity of the connection on which the request came.
    pub(crate) fn within(&mut self, activity: &Arc<ConnectionActivity>) {
        self.0.activity = Some(activity.clone());
    }

    /// Notes that another proxy asks, and which.
    pub(crate) fn asked_by(&mut self, asker: Asker) {
        self.0.line.door = Some(asker);
    }

    /// Sets the request about which another proxy asks. `path`: as it was told; `protocol`: of the client's
    /// connection.
    pub(crate) fn about(&mut self, id: &HeaderValue, method: Method, path: &str, protocol: &'static str) {
        let line = &mut self.0.line;
        (line.request_id, line.method, line.protocol) = (id.clone(), method, protocol);
        self.path(path);
    }

    pub(crate) fn client(&mut self, client: Option<IpAddr>) {
        self.0.line.client = client;
    }

    pub(crate) fn named(&mut self, named: Naming) {
        self.0.line.named = named;
    }

    /// Begins a new trace for the request, if traces are configured.
    pub(crate) fn trace(&mut self) -> Option<TraceContext> {
        let tracer = self.0.observer.logs.traces.as_ref()?;
        self.0.context = Some(tracer.begin());
        self.0.context
    }

    /// Replaces the request's new trace with the caller's trace and the caller's decision whether
    /// that trace is recorded. Call this for trusted callers only: any other client could have all
    /// its requests recorded.
    pub(crate) fn continue_trace(&mut self, headers: &HeaderMap) -> Option<TraceContext> {
        if let Some(context) = &mut self.0.context {
            context.continue_from(headers);
        }
        self.0.context
    }

    /// Sets the model that the request names. It is cut, and a token that was sent as a model is
    /// masked: logs, metrics and the disk get the name as it is here.
    pub(crate) fn model(&mut self, name: &str) {
        self.0.line.model = Some(shown::path(name).into());
    }

    /// Sets the place where the tokens of the request will be reported.
    pub(crate) fn tokens(&mut self, report: Arc<TokenReport>) {
        self.0.tokens = Some(report);
    }

    /// Notes that a limit that only counts would have refused the request with this code.
    pub(crate) fn would_refuse(&mut self, code: Code) {
        self.0.line.would_refuse = Some(code.name());
    }

    /// Notes that the request is forwarded. `at`: when; `group`: the group of its key.
    pub(crate) fn admitted(&mut self, at: Timestamp, group: Option<&Arc<str>>) {
        self.0.admitted = Some((at, group.cloned()));
    }

    /// Sets the usage of the key whose secret the request presented.
    pub(crate) fn owned(&mut self, usage: &Arc<Usage>) {
        self.0.observer.key_histories.note(usage);
        self.0.usage = Some(usage.clone());
    }

    /// Notes that the request's key was accepted.
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
        self.0.line.route_and_upstream = Some((route.clone(), upstream.clone()));
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
            && self.0.has_line(Kind::Audit)
            && let Some((writer, line)) = self.audited()
        {
            audit::refused(writer, line.subject(), denial);
        }
    }

    /// Notes that the head of the answer is ready, and that the answer begins.
    pub(crate) fn decided(&mut self, times: Times) {
        let open = &mut *self.0;
        open.timing.upstream = times;
        open.line.queued = times.queued.map(|(_, waited)| waited).filter(|waited| !waited.is_zero());
        open.timing.decided = Some(open.timing.started.elapsed());
        open.observer.answering();
    }

    /// Writes an audit line for a request that is permitted but suspicious.
    pub(crate) fn suspected(&self, suspicion: Suspicion) {
        if let Some((writer, line)) = self.audited() {
            audit::suspected(writer, line.subject(), suspicion);
        }
    }

    /// Writes an audit line for a request that presented an unknown credential, with the id
    /// `unknown`, beside the credential of its key.
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
        if open.timing.first_byte.is_none() && bytes > 0 {
            open.timing.first_byte = Some(open.timing.started.elapsed());
        }
        open.line.bytes_sent += bytes as u64;
    }

    /// Notes the bytes that a tunnel carried: `up` to upstream, and `down` to the client.
    pub(crate) fn tunnelled(&mut self, up: u64, down: u64) {
        self.0.line.bytes_sent += down;
        self.0.line.bytes_received = Some(up);
    }

    /// Notes that the whole answer was sent.
    pub(crate) fn completed(&mut self) {
        self.0.ends(Outcome::Complete);
    }

    /// Notes that the server cut the answer.
    pub(crate) fn cut(&mut self, why: CutReason) {
        self.0.ends(why.into());
    }

    /// Notes that the answer or the tunnel ended early because of `error`.
    pub(crate) fn failed(&mut self, outcome: Outcome, error: &(dyn std::error::Error + 'static)) {
        self.0.ends(outcome);
        self.0.line.cause = Some(shown::reason(&with_sources(error)));
    }
}

impl std::fmt::Debug for OpenRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The record's fields are not shown: a path may contain anything, including a secret.
        f.write_str("OpenRecord(…)")
    }
}

impl OpenRecord {
    /// Sets the outcome of the request, unless an earlier call has set one.
    fn ends(&mut self, outcome: Outcome) {
        self.outcome.get_or_insert(outcome);
    }

    /// Returns the outcome of a request whose record is being dropped.
    fn outcome(&self) -> Outcome {
        let of_connection = || self.activity.as_ref().and_then(|activity| activity.cut_for());
        self.outcome.unwrap_or_else(|| Outcome::of_dropped(cut::current().or_else(of_connection)))
    }

    /// Whether the request has a line in the log `kind`. A request with an accepted key always has
    /// a line. Any other request has a line only within the quotas of log lines.
    fn has_line(&mut self, kind: Kind) -> bool {
        if self.is_of_key {
            return true;
        }
        // A request with a secret of an existing key counts towards the quota of that key, any
        // other request towards the quota of its client's address.
        let of_key = self.usage.as_ref().and(self.line.named.key_id());
        let source = match of_key {
            Some(id) => LineSource::Key(id.to_owned()),
            None => LineSource::address(self.line.client),
        };
        let (line_quotas, now) = (&self.observer.logs.line_quotas, Instant::now());
        let has_lines = *self.has_lines.get_or_insert_with(|| line_quotas.may_log(&source, now));
        if !has_lines {
            line_quotas.leave_out(kind, &source, now);
        }
        has_lines
    }

    /// Whether the request has an access line. Sampling leaves out lines of successful requests
    /// only.
    fn has_access_line(&mut self) -> bool {
        let Logs { access, access_sample, .. } = &self.observer.logs;
        let went_well = (100..400).contains(&self.line.status) && self.line.outcome == Outcome::Complete;
        let is_sampled = !went_well || *access_sample >= 1.0 || fastrand::f64() < *access_sample;
        access.is_some() && is_sampled && self.has_line(Kind::Access)
    }
}

impl Drop for OpenRecord {
    fn drop(&mut self) {
        self.line.outcome = self.outcome();
        self.line.tokens = self.tokens.as_ref().and_then(|report| report.tokens());
        let (line, took) = (&self.line, self.timing.started.elapsed());
        if let (Some(usage), Some((at, group))) = (&self.usage, &self.admitted)
            && (line.code.is_none() || line.tokens.is_some())
        {
            usage.ended((*at, group.as_ref(), line.model.as_deref()), line.tokens);
        }
        let (route, upstream) =
            line.route_and_upstream.as_ref().map(|(route, upstream)| (route, upstream)).unzip();
        let finished = Finished {
            route,
            upstream,
            key: self.usage.as_ref().map_or(KeyLabel::None, |usage| usage.label()),
            status: line.status,
            took,
            // For an answer without a body, the time of its head is used as the time of the first
            // byte.
            first_byte: self.timing.first_byte.or(self.timing.decided),
            added: self.timing.decided.map(|decided| decided.saturating_sub(self.timing.upstream.away())),
            connect: self.timing.upstream.connecting,
            response: self.timing.upstream.response(),
            tokens: line.tokens.map(|tokens| (self.observer.models.of(line.model.as_deref()), tokens)),
            would_refuse: line.would_refuse,
            door: line.door,
            queued: self.timing.upstream.queued,
            is_queue_timeout: line.code == Some(Code::QueueTimeout.name()),
        };
        self.observer.finished(&finished, self.timing.decided.is_some());
        if let (Some(tracer), Some(context)) = (&self.observer.logs.traces, self.context) {
            tracer.queue(context, || self.line.span(context, took));
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
