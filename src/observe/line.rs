//! The line of a request in the access log. It is built without `format!` for speed, because a line
//! is written for every request.

use std::cell::Cell;
use std::io::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, Method};
use jiff::Timestamp;

use super::audit::Subject;
use super::hex::text;
use super::naming::Naming;
use super::outcome::Outcome;
use super::refused::Refused;
use super::shown::{self, optional};
use super::trace::{Span, TraceContext};
use crate::address;
use crate::config::Asker;
use crate::denial::Denial;
use crate::token_report::Tokens;

/// The fields of an access line.
pub(super) struct AccessLine {
    pub(super) request_id: HeaderValue,
    pub(super) client: Option<IpAddr>,
    pub(super) method: Method,
    /// The path, cut if it is long, without the query, which is never logged. Until the canonical
    /// path is known, the raw path is stored. The path is copied, because a slice would keep the
    /// request's whole head in memory while the answer streams.
    pub(super) path: Box<str>,
    pub(super) protocol: &'static str,
    pub(super) status: u16,
    pub(super) code: Option<&'static str>,
    pub(super) cause: Option<String>,
    pub(super) named: Naming,
    /// The names of the route and of its upstream.
    pub(super) route_and_upstream: Option<(Arc<str>, Arc<str>)>,
    pub(super) bytes_sent: u64,
    /// Number of bytes received from the client; `None` if the request did not become a tunnel.
    pub(super) bytes_received: Option<u64>,
    pub(super) outcome: Outcome,
    /// The model that the request names, cut if its name is long.
    pub(super) model: Option<Box<str>>,
    pub(super) tokens: Option<Tokens>,
    /// The code with which a limit that only counts would have refused the request.
    pub(super) would_refuse: Option<&'static str>,
    /// How long the request waited in the queue of its upstream; `None` if it did not wait.
    pub(super) queued: Option<Duration>,
    /// The proxy that asks about the request; `None` if its client sent it to bearward.
    pub(super) door: Option<Asker>,
}

impl AccessLine {
    pub(super) fn new(
        request_id: HeaderValue,
        client: Option<IpAddr>,
        method: Method,
        path: &str,
        protocol: &'static str,
    ) -> Self {
        AccessLine {
            request_id,
            client,
            method,
            path: shown::kept_path(path).into(),
            protocol,
            status: 0,
            code: None,
            cause: None,
            named: Naming::Nothing,
            route_and_upstream: None,
            bytes_sent: 0,
            bytes_received: None,
            // This outcome is only a placeholder. The request's record replaces it before the line
            // is written.
            outcome: Outcome::ClientLeft,
            model: None,
            tokens: None,
            would_refuse: None,
            queued: None,
            door: None,
        }
    }

    fn route(&self) -> Option<&str> {
        self.route_and_upstream.as_ref().map(|(route, _)| &**route)
    }

    /// Returns the request's entry for the list of the last refusals.
    pub(super) fn refused(&self, denial: &Denial) -> Refused {
        Refused {
            sequence: 0,
            at: Timestamp::now(),
            code: denial.code().name(),
            reason: shown::visible(self.cause.as_deref().unwrap_or(denial.message())).into_owned(),
            request_id: of(&self.request_id).to_owned(),
            client: self.client,
            method: shown::method(&self.method).into_owned(),
            path: shown::visible(&shown::path(&self.path)).into_owned(),
            is_of_key: self.named.is_known(),
            key_id: self.named.key_id().map(str::to_owned),
            claimed_key_id: self.named.claimed_key_id().map(str::to_owned),
            route: self.route().map(str::to_owned),
            model: self.model.as_deref().map(|model| shown::visible(model).into_owned()),
        }
    }

    /// Returns the request's span, for a collector of traces.
    pub(super) fn span(&self, context: TraceContext, took: Duration) -> Span {
        let went_wrong = (self.outcome != Outcome::Complete).then(|| self.outcome.word());
        let (route, upstream) = self.route_and_upstream.clone().unzip();
        Span {
            context,
            ended: SystemTime::now(),
            took,
            method: shown::method(&self.method).into_owned(),
            path: shown::path(&self.path).into_owned(),
            protocol: self.protocol,
            status: self.status,
            client: self.client,
            route,
            upstream,
            key_id: self.named.key_id().map(str::to_owned),
            request_id: of(&self.request_id).to_owned(),
            model: self.model.as_deref().map(str::to_owned),
            tokens: self.tokens,
            error: self.code.or(went_wrong),
        }
    }

    /// Returns the facts about the request that an audit line contains.
    pub(super) fn subject(&self) -> Subject<'_> {
        Subject {
            request_id: of(&self.request_id),
            client: self.client,
            method: &self.method,
            path: &self.path,
            key_id: self.named.key_id(),
            key_name: self.named.key_name(),
            claimed_key_id: self.named.claimed_key_id(),
            credential_id: self.named.credential_id(),
            route: self.route(),
            model: self.model.as_deref(),
            door: self.door.map(Asker::name),
        }
    }

    /// Writes the access line as a JSON object, without a line end. `took`: the time from the
    /// request's beginning to the end of its answer.
    pub(super) fn write_json(&self, out: &mut Vec<u8>, took: Duration, context: Option<&TraceContext>) {
        out.extend_from_slice(b"{\"timestamp\":\"");
        write_now(out);
        out.extend_from_slice(b"\",\"level\":\"INFO\",\"message\":\"request\"");
        write_word(out, b",\"request_id\":", of(&self.request_id));
        if let Some(context) = context {
            write_word(out, b",\"trace_id\":", text(&context.trace_id()));
        }
        if let Some(client) = self.client {
            out.extend_from_slice(b",\"client\":\"");
            address::write_to(out, client);
            out.push(b'"');
        }
        write_word(out, b",\"method\":", &shown::method(&self.method));
        write_field(out, b",\"path\":", Some(&shown::path(&self.path)));
        write_word(out, b",\"protocol\":", self.protocol);
        write_number(out, b",\"status\":", self.status.into());
        write_field(out, b",\"code\":", self.code);
        write_field(out, b",\"cause\":", self.cause.as_deref());
        if let Some(key_id) = self.named.key_id() {
            write_word(out, b",\"key_id\":", key_id);
        }
        write_field(out, b",\"key_name\":", self.named.key_name());
        write_field(out, b",\"claimed_key_id\":", self.named.claimed_key_id());
        write_field(out, b",\"route\":", self.route());
        write_field(
            out,
            b",\"upstream\":",
            self.route_and_upstream.as_ref().map(|(_, upstream)| &**upstream),
        );
        write_number(out, b",\"bytes_sent\":", self.bytes_sent);
        if let Some(bytes) = self.bytes_received {
            write_number(out, b",\"bytes_received\":", bytes);
        }
        let (whole, thousandths) = millis(took);
        write_number(out, b",\"duration_ms\":", whole);
        out.push(b'.');
        write_digits::<3>(out, thousandths);
        if let Some(queued) = self.queued {
            let (whole, thousandths) = millis(queued);
            write_number(out, b",\"queued_ms\":", whole);
            out.push(b'.');
            write_digits::<3>(out, thousandths);
        }
        write_word(out, b",\"outcome\":", self.outcome.word());
        write_field(out, b",\"model\":", self.model.as_deref());
        if let Some(Tokens { input, cached, output, by }) = self.tokens {
            write_number(out, b",\"input_tokens\":", input);
            if let Some(cached) = cached {
                write_number(out, b",\"cached_tokens\":", cached);
            }
            write_number(out, b",\"output_tokens\":", output);
            write_word(out, b",\"tokens_by\":", by.name());
        }
        write_field(out, b",\"would_refuse\":", self.would_refuse);
        write_field(out, b",\"door\":", self.door.map(Asker::name));
        out.push(b'}');
    }

    /// Writes the access line in the form for people, without a line end.
    pub(super) fn write_pretty(&self, out: &mut Vec<u8>, took: Duration) {
        write_now(out);
        let client = self.client.map(|client| client.to_string());
        let tokens =
            self.tokens.map(|tokens| format!("{}+{},{}", tokens.input, tokens.output, tokens.by.name()));
        let queued = self.queued.map(|queued| format!("{:.1}ms", queued.as_secs_f64() * 1e3));
        // Writing to a Vec does not fail.
        let _written = write!(
            out,
            "  INFO {} {} {} {:.1}ms {}B {}{}{}{}{}{}{}{}{}{}{}{}{} id={}",
            self.status,
            shown::method(&self.method),
            // The path is escaped, so that it can't forge a log line.
            shown::path(&self.path).escape_debug(),
            took.as_secs_f64() * 1e3,
            self.bytes_sent,
            self.outcome.word(),
            optional("queued", queued.as_deref()),
            optional("code", self.code),
            optional("cause", self.cause.as_deref().map(shown::visible).as_deref()),
            optional("key", self.named.key_id()),
            optional("key_name", self.named.key_name().map(shown::visible).as_deref()),
            optional("claimed_key", self.named.claimed_key_id()),
            optional("route", self.route()),
            optional("client", client.as_deref()),
            optional("model", self.model.as_deref().map(shown::visible).as_deref()),
            optional("tokens", tokens.as_deref()),
            optional("would_refuse", self.would_refuse),
            optional("door", self.door.map(Asker::name)),
            of(&self.request_id),
        );
    }
}

/// Returns a request id as text. Request ids are visible ASCII.
fn of(value: &HeaderValue) -> &str {
    debug_assert!(value.to_str().is_ok(), "{value:?}");
    value.to_str().unwrap_or_default()
}

/// Writes `name`, which includes its comma, quotes and colon, and then `value` as JSON. Writes
/// nothing if there is no value.
fn write_field(out: &mut Vec<u8>, name: &[u8], value: Option<&str>) {
    let Some(value) = value else { return };
    // The loop checks all bytes and never stops early, so that the compiler can vectorize the loop.
    let needs_escape = |byte: &u8| *byte < 0x20 || *byte == b'"' || *byte == b'\\';
    if value.as_bytes().iter().fold(false, |any, byte| any | needs_escape(byte)) {
        out.extend_from_slice(name);
        // Writing to a Vec does not fail, and every text can be written as JSON.
        let _written = serde_json::to_writer(out, value);
        return;
    }
    write_word(out, name, value);
}

/// Writes a field as [`write_field`] does, for a value without characters to escape: an id (see
/// `is_sane_id`, `is_key_id`), a method (a token, RFC 9110, section 5.6.2) or a constant of
/// bearward.
fn write_word(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    out.push(b'"');
    out.extend_from_slice(value.as_bytes());
    out.push(b'"');
}

fn write_number(out: &mut Vec<u8>, name: &[u8], value: u64) {
    out.extend_from_slice(name);
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Writes the last `N` decimal digits of `value`, with leading zeros.
fn write_digits<const N: usize>(out: &mut Vec<u8>, mut value: u32) {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits);
}

/// Returns a duration as whole milliseconds and thousandths of a millisecond, rounded.
fn millis(took: Duration) -> (u64, u32) {
    let micros = u64::try_from((took.as_nanos() + 500) / 1000).unwrap_or(u64::MAX);
    (micros / 1000, (micros % 1000) as u32)
}

thread_local! {
    /// Time of this thread's last line: the whole seconds since 1970, and the same time as text
    /// without `Z`.
    static SECOND: Cell<(i64, [u8; 19])> = const { Cell::new((i64::MIN, [b'0'; 19])) };
}

/// Writes the current time in UTC as RFC 3339 text, with microseconds.
fn write_now(out: &mut Vec<u8>) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let second = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
    let (known, mut text) = SECOND.get();
    if known != second {
        let written = Timestamp::from_second(second).unwrap_or_default().to_string();
        // The text has the form `2026-11-24T22:05:17Z`. Only the part before `Z` is stored.
        debug_assert_eq!(written.len(), 20, "{written}");
        if let Some(written) = written.as_bytes().first_chunk::<19>() {
            text = *written;
            SECOND.set((second, text));
        }
    }
    out.extend_from_slice(&text);
    out.push(b'.');
    write_digits::<6>(out, since.subsec_micros());
    out.push(b'Z');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> AccessLine {
        let id = HeaderValue::from_static("req_1");
        AccessLine::new(id, Some("192.0.2.17".parse().unwrap()), Method::GET, "/v1/x", "HTTP/1.1")
    }

    fn json(line: &AccessLine) -> serde_json::Value {
        let mut out = Vec::new();
        line.write_json(&mut out, Duration::from_nanos(12_345_678), None);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_line_is_json_with_the_documented_fields() {
        let mut line = line();
        line.route_and_upstream = Some(("chat".into(), "model".into()));
        line.named = Naming::Key(HeaderValue::from_static("key_a"));
        let mut line_json = json(&line);
        let timestamp: Timestamp = line_json["timestamp"].as_str().unwrap().parse().unwrap();
        assert!((Timestamp::now().as_second() - timestamp.as_second()).abs() < 5);
        line_json["timestamp"] = "now".into();
        let expected = serde_json::json!({
            "timestamp": "now", "level": "INFO", "message": "request", "request_id": "req_1", "client": "192.0.2.17",
            "method": "GET", "path": "/v1/x", "protocol": "HTTP/1.1", "status": 0, "key_id": "key_a", "route": "chat",
            "upstream": "model", "bytes_sent": 0, "duration_ms": 12.346, "outcome": "client_left",
        });
        assert_eq!(line_json, expected);
    }

    #[test]
    fn the_holder_of_a_token_is_named() {
        let mut line = line();
        let id = HeaderValue::from_static("jwt_a");
        line.named = Naming::Holder(Box::new((id, Some("a \"b\"\u{202e}".to_owned()))));
        let line_json = json(&line);
        assert_eq!(
            (&line_json["key_id"], &line_json["key_name"]),
            (&"jwt_a".into(), &"a \"b\"\u{202e}".into())
        );
    }

    #[test]
    fn text_that_is_no_json_by_itself_is_escaped() {
        let mut line = line();
        for cause in ["a \"word\"", "a\\b", "two\nlines", "\u{1}", "ünïcödé", "\u{7f}"] {
            line.cause = Some(cause.to_owned());
            assert_eq!(json(&line)["cause"], cause);
        }
        line.client = Some("2001:db8::1".parse().unwrap());
        assert_eq!(json(&line)["client"], "2001:db8::1");
    }

    #[test]
    fn digits_and_milliseconds() {
        let mut out = Vec::new();
        write_digits::<6>(&mut out, 42);
        assert_eq!(out, b"000042");
        assert_eq!(millis(Duration::from_nanos(1_999_500)), (2, 0));
    }
}
