//! Traces: a request's trace context (W3C Trace Context), and its span for a collector
//! (OpenTelemetry).
//!
//! Without `traces` in the configuration, `traceparent` is forwarded unchanged: if bearward began a
//! trace, it would decide on sampling in place of the upstreams.

pub(crate) mod export;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::hex::{hex, span_hex, text};
use crate::token_report::Tokens;

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
/// The flag `sampled` of `traceparent`: the trace is recorded (W3C Trace Context, section
/// 3.2.2.5.1).
const SAMPLED: u8 = 1;

/// A request's position in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TraceContext {
    trace: u128,
    /// The id of the caller's span; `None` if the caller sent no valid context.
    parent: Option<u64>,
    /// The id of bearward's own span.
    span: u64,
    is_sampled: bool,
}

impl TraceContext {
    /// Begins a trace, which is recorded with the probability `sample`.
    pub(super) fn begin(sample: f64) -> Self {
        let is_sampled = sample >= 1.0 || fastrand::f64() < sample;
        TraceContext { trace: fastrand::u128(1..), parent: None, span: fastrand::u64(1..), is_sampled }
    }

    /// Continues the caller's trace, if `headers` contain a valid one, and adopts its flag
    /// `sampled`.
    pub(super) fn continue_from(&mut self, headers: &HeaderMap) {
        let mut given = headers.get_all(TRACEPARENT).iter();
        let caller = match (given.next(), given.next()) {
            (Some(value), None) => parse(value.as_bytes()),
            _ => None,
        };
        if let Some((trace, parent, flags)) = caller {
            let is_sampled = flags & SAMPLED != 0;
            *self = TraceContext { trace, parent: Some(parent), is_sampled, ..*self };
        }
    }

    /// Returns the `traceparent` to send to upstream, whose parent is bearward's own span.
    pub(crate) fn traceparent(&self) -> Option<HeaderValue> {
        let flags = if self.is_sampled { "01" } else { "00" };
        let value = format!("00-{}-{}-{flags}", text(&hex(self.trace)), span_hex(self.span));
        HeaderValue::try_from(value).ok()
    }

    /// Whether the trace continues the caller's. Otherwise the caller's `tracestate` is not part of it (W3C
    /// Trace Context, section 3.3).
    pub(crate) fn is_of_caller(&self) -> bool {
        self.parent.is_some()
    }

    pub(super) fn trace_id(&self) -> [u8; 32] {
        hex(self.trace)
    }
}

/// Parses `version-trace-parent-flags`, in lower-case hex (W3C Trace Context, section 3.2). Of a
/// later version, only the first four parts are parsed.
fn parse(value: &[u8]) -> Option<(u128, u64, u8)> {
    let value = std::str::from_utf8(value).ok()?;
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |part: &str, length: usize| {
        part.len() == length
            && part.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let is_well_formed = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
    let is_version = version != "ff" && (version != "00" || parts.next().is_none());
    if !is_well_formed || !is_version {
        return None;
    }
    let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
    let parent = u64::from_str_radix(parent, 16).ok().filter(|parent| *parent != 0)?;
    Some((trace, parent, u8::from_str_radix(flags, 16).ok()?))
}

/// The span of a request that has ended. Its fields become the attributes that OpenTelemetry names
/// for HTTP servers.
#[derive(Debug)]
pub(crate) struct Span {
    pub(super) context: TraceContext,
    pub(super) ended: SystemTime,
    pub(super) took: Duration,
    /// The method of the request, cut and without tokens. `path` is prepared in the same way.
    pub(super) method: String,
    pub(super) path: String,
    pub(super) protocol: &'static str,
    /// The status of the answer; zero without an answer.
    pub(super) status: u16,
    pub(super) client: Option<IpAddr>,
    pub(super) route: Option<Arc<str>>,
    pub(super) upstream: Option<Arc<str>>,
    pub(super) key_id: Option<String>,
    pub(super) request_id: String,
    pub(super) model: Option<String>,
    pub(super) tokens: Option<Tokens>,
    /// The code of a refusal, or the outcome of a request that did not complete.
    pub(super) error: Option<&'static str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(values: &[&'static str]) -> TraceContext {
        let mut headers = HeaderMap::new();
        values.iter().for_each(|value| {
            headers.append("traceparent", HeaderValue::from_static(value));
        });
        let mut context = TraceContext::begin(0.0);
        context.continue_from(&headers);
        context
    }

    const GIVEN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_callers_trace_goes_on_with_its_decision() {
        let going_on = context(&[GIVEN]);
        assert_eq!(
            (going_on.trace, going_on.parent),
            (0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c, Some(0xb7ad_6b71_6920_3331))
        );
        assert!(going_on.is_sampled);
        let value = going_on.traceparent().unwrap();
        let logged = value.to_str().unwrap();
        assert!(
            logged.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && logged.ends_with("-01"),
            "{logged}"
        );
        assert_ne!(logged, GIVEN, "upstream's parent is our span");
        let later = context(&["01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more"]);
        assert!(later.parent.is_some() && !later.is_sampled);
    }

    #[test]
    fn an_invalid_trace_context_begins_a_new_trace() {
        for bad in [
            &[][..],
            &[GIVEN, GIVEN],
            &["00-00000000000000000000000000000000-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"],
            &["00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01"],
            &["ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more"],
            &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"],
        ] {
            let begun = context(bad);
            assert!(begun.parent.is_none() && !begun.is_sampled, "{bad:?}");
        }
    }
}
