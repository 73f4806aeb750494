//! What a listener does beside serving requests: its settings for browsers and balancers.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::header::{HeaderMap, HeaderValue, STRICT_TRANSPORT_SECURITY};

/// Shortest time between two reports of one kind of fault.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// What a listener does beside serving requests.
#[derive(Debug, Default)]
pub(crate) struct Edge {
    /// The address of the listener, for logs.
    pub(crate) listener: String,
    /// The value of `Strict-Transport-Security` in each answer (RFC 6797, section 6.1).
    hsts: Option<HeaderValue>,
    /// The port to which requests are redirected whose Host has a port; `None` if they are served.
    pub(crate) redirects_to: Option<u16>,
    /// Reports of connections that began without a PROXY header.
    pub(crate) without_header: Reports,
    /// Reports of connections that began without TLS.
    pub(crate) without_tls: Reports,
}

/// When a kind of fault was last reported.
#[derive(Debug, Default)]
pub(crate) struct Reports(Mutex<Option<Instant>>);

impl Reports {
    /// Whether the fault may be reported now. Returns `true` at most once in [`REPORT_INTERVAL`].
    pub(crate) fn is_due(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| last.elapsed() >= REPORT_INTERVAL);
        if is_due {
            *last = Some(Instant::now());
        }
        is_due
    }
}

impl Edge {
    /// Makes what the listener at an address does. `redirects_to`: the port of https, if the listener redirects.
    pub(crate) fn new(listener: String, hsts: Option<Duration>, redirects_to: Option<u16>) -> Self {
        let hsts = hsts.and_then(|time| HeaderValue::try_from(format!("max-age={}", time.as_secs())).ok());
        Edge { listener, hsts, redirects_to, ..Edge::default() }
    }

    /// Writes what browsers are told of this listener into the headers of an answer.
    pub(crate) fn write_to(&self, headers: &mut HeaderMap) {
        if let Some(hsts) = &self.hsts {
            headers.insert(STRICT_TRANSPORT_SECURITY, hsts.clone());
        }
    }
}
