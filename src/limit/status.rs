//! The state of a request's windows, and the headers that show it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

use super::gcra::Window;
use super::policy_header;
use super::window_uses::WindowUses;
use crate::config::{Quota, Unit};

/// The state of a request's windows, for the `RateLimit` headers.
#[derive(Debug, Default)]
pub(crate) struct LimitStatus(pub(super) SmallVec<[WindowStatus; 2]>);

#[derive(Debug)]
pub(super) struct WindowStatus {
    pub(super) window: Arc<Window>,
    /// Number of units that would be granted at once now.
    pub(super) remaining: u32,
    /// Time until `remaining` equals the burst again.
    pub(super) reset: Duration,
}

impl LimitStatus {
    pub(super) fn of<'w>(
        uses: &WindowUses,
        windows: impl Iterator<Item = &'w Arc<Window>>,
        now: u64,
    ) -> Self {
        let status = |window: &'w Arc<Window>| {
            let (remaining, reset) = window.status(uses.arrival(window, now), now);
            WindowStatus { window: window.clone(), remaining, reset }
        };
        LimitStatus(windows.map(status).collect())
    }

    /// Adds the state of further windows.
    pub(crate) fn and(mut self, others: LimitStatus) -> Self {
        self.0.extend(others.0);
        self
    }

    /// Returns the state of the windows that refuse requests. The others only count, so that an
    /// answer must not show them.
    fn enforced(&self) -> impl Iterator<Item = &WindowStatus> + Clone {
        self.0.iter().filter(|status| status.window.quota().is_enforced)
    }

    /// Returns for each window: the name of its policy, its quota, the number of units that would
    /// be granted now, and the time until the window is full.
    pub(crate) fn windows(&self) -> impl Iterator<Item = (&str, Quota, u32, Duration)> {
        self.0.iter().map(|status| {
            let (window, quota) = (&status.window, status.window.quota());
            (window.name(), quota, status.remaining, status.reset)
        })
    }

    /// Sets the rate-limit headers of an answer, and replaces the upstream's headers of the same
    /// names (draft-ietf-httpapi-ratelimit-headers-11, and the headers that the OpenAI clients
    /// read).
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        // The header values that differ between answers are slices of one allocation.
        let mut text = BytesMut::with_capacity(32 + 48 * self.0.len());
        let mut number = itoa::Buffer::new();
        for (index, WindowStatus { window, remaining, reset }) in self.enforced().enumerate() {
            text.extend_from_slice(if index > 0 { b", " } else { b"" });
            text.extend_from_slice(window.state.as_bytes());
            text.extend_from_slice(number.format(*remaining).as_bytes());
            text.extend_from_slice(b";t=");
            text.extend_from_slice(number.format(ceil_seconds(*reset)).as_bytes());
        }
        if text.is_empty() {
            return;
        }
        headers.reserve(5);
        insert(headers, RATELIMIT, text.split());
        if let Some(policies) = policy_header::value(self.enforced().map(|status| &status.window)) {
            headers.insert(RATELIMIT_POLICY, policies);
        }
        for names in [&OF_REQUESTS, &OF_TOKENS] {
            let of_unit = self.enforced().filter(|status| status.counts_requests() == names.of_requests);
            let Some(nearest) = of_unit.min_by_key(|status| status.remaining) else { continue };
            text.extend_from_slice(number.format(nearest.remaining).as_bytes());
            insert(headers, names.remaining.clone(), text.split());
            write_clock_duration(&mut text, ceil_seconds(nearest.reset));
            insert(headers, names.reset.clone(), text.split());
            headers.insert(names.limit.clone(), nearest.window.limit.clone());
        }
    }
}

impl WindowStatus {
    /// Returns the status of a window that is not used.
    pub(super) fn full(window: Arc<Window>) -> Self {
        let remaining = window.quota().burst;
        WindowStatus { window, remaining, reset: Duration::ZERO }
    }

    fn counts_requests(&self) -> bool {
        self.window.unit() == Unit::Requests
    }
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: BytesMut) {
    if let Ok(value) = HeaderValue::from_maybe_shared(value.freeze()) {
        headers.insert(name, value);
    }
}

const RATELIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const RATELIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// The names of the headers for the OpenAI clients, which show the window nearest its end.
struct ClientHeaders {
    /// Whether the headers show a window of requests. Otherwise they show one of tokens.
    of_requests: bool,
    limit: HeaderName,
    remaining: HeaderName,
    reset: HeaderName,
}

static OF_REQUESTS: ClientHeaders = ClientHeaders {
    of_requests: true,
    limit: HeaderName::from_static("x-ratelimit-limit-requests"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-requests"),
    reset: HeaderName::from_static("x-ratelimit-reset-requests"),
};

static OF_TOKENS: ClientHeaders = ClientHeaders {
    of_requests: false,
    limit: HeaderName::from_static("x-ratelimit-limit-tokens"),
    remaining: HeaderName::from_static("x-ratelimit-remaining-tokens"),
    reset: HeaderName::from_static("x-ratelimit-reset-tokens"),
};

fn ceil_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// Writes a duration such as `1s`, `6m0s` or `1h0m0s`, in the form of OpenAI's own
/// `x-ratelimit-reset-*`.
fn write_clock_duration(out: &mut BytesMut, seconds: u64) {
    let parts = [(seconds / 3600, b"h"), (seconds / 60 % 60, b"m"), (seconds % 60, b"s")];
    let first = parts.iter().position(|(count, _)| *count > 0).unwrap_or(2);
    for (count, unit) in parts.iter().skip(first) {
        out.extend_from_slice(itoa::Buffer::new().format(*count).as_bytes());
        out.extend_from_slice(*unit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_form_of_openai() {
        for (seconds, written) in [(0, "0s"), (59, "59s"), (360, "6m0s"), (3600, "1h0m0s"), (3700, "1h1m40s")]
        {
            let mut out = BytesMut::new();
            write_clock_duration(&mut out, seconds);
            assert_eq!(out, written);
        }
    }
}
