//! A lease is a connection in use by one request.
//!
//! The pool makes each lease, and `forward` sends one request on it.
//! Invariant: a connection returns to the pool only by [`Lease::return_to_pool`], after its answer
//! was read to the end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::Either;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::idle::{Idle, IdleConnections};
use super::multiplexed::StreamPermit;

use crate::protocol::Protocol;
use crate::upstream::compiled::Upstream;
use crate::upstream::endpoints::Endpoint;
use crate::upstream::exchange::{Answer, Body, Sent};
use crate::upstream::health::InFlightGuard;
use crate::upstream::http1::Http1;
use crate::upstream::request::UpstreamRequest;
use crate::upstream::turn::Turn;
use crate::upstream::upload::Upload;

/// A connection in use by one request. Dropping the lease closes the connection, or resets the
/// request's HTTP/2 stream.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) connection: Connection,
    /// Whether the connection has already served a request. Upstream may have closed such a
    /// connection in the meantime.
    pub(crate) is_reused: bool,
    /// Whether another request may use the connection after this request.
    pub(super) is_reusable: bool,
    pub(super) in_flight: InFlightGuard,
    /// The request's turn at the upstream; `None` if that has no queue.
    pub(crate) turn: Option<Box<Turn>>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) idle: Arc<IdleConnections>,
}

#[derive(Debug)]
pub(super) enum Connection {
    Http1 {
        http1: Arc<Http1>,
        /// Number of bytes that were written on the connection before this request.
        written_before: u64,
        made: Instant,
    },
    Http2 {
        permit: Arc<StreamPermit>,
        /// Copy of the request's headers, if the request may be sent again.
        copy: Option<HeaderMap>,
    },
}

impl From<Idle> for Connection {
    fn from(idle: Idle) -> Self {
        let Idle { http1, made, .. } = idle;
        Connection::Http1 { written_before: http1.socket.written(), http1, made }
    }
}

impl Lease {
    /// Returns the connection's protocol.
    pub(crate) fn protocol(&self) -> Protocol {
        Protocol::of_connection(matches!(self.connection, Connection::Http2 { .. }))
    }

    /// Returns the endpoint of the connection.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Starts to send the request. The returned future resolves to the head of the answer.
    ///
    /// `limit`: the longest time for which upstream may leave a long body unread.
    /// `is_repeatable`: whether the request may be sent again if upstream closes the connection
    /// without an answer.
    pub(crate) fn send(
        &mut self,
        mut request: Box<UpstreamRequest>,
        limit: Duration,
        is_repeatable: bool,
    ) -> impl Future<Output = Sent> + use<'_> {
        // Upstream may close a reused connection because of an idle timeout. If a new connection
        // closes without an answer, there is another reason, so its request is not sent again.
        let is_kept = is_repeatable && self.is_reused;
        match &mut self.connection {
            Connection::Http1 { http1, .. } => {
                request.upload.allow_slow_reader(&http1.socket, limit);
                let answer = http1.send(request, is_kept);
                Either::Left(answer.map(|sent| {
                    let (head, body) = sent?;
                    Ok(Answer { head, body: Body::of_http1(body) })
                }))
            }
            Connection::Http2 { permit, copy } => {
                let mut request = request.into_http2();
                *copy = is_kept.then(|| request.headers().clone());
                // The upload holds the permit, because the HTTP/2 stream stays open until the
                // upload has ended, even after the end of the answer.
                request.body_mut().hold(permit.clone());
                let answer = permit.connection.sender.clone().try_send_request(request);
                Either::Right(answer.map(|sent| {
                    permit.connection.socket.reset_read_budget();
                    outcome(sent)
                }))
            }
        }
    }

    /// Removes and returns the headers of a repeatable request that was sent on this lease, so that
    /// the request can be sent again. On HTTP/1.1, returns `None` if any byte of an answer has
    /// arrived.
    pub(crate) fn take_unanswered_headers(&mut self) -> Option<HeaderMap> {
        match &mut self.connection {
            Connection::Http1 { http1, .. } => headers_of(&http1.take_unanswered()?),
            Connection::Http2 { copy, .. } => copy.take(),
        }
    }

    /// Records that a frame of the answer was read.
    pub(crate) fn progressed(&self) {
        if let Connection::Http2 { permit, .. } = &self.connection {
            permit.connection.socket.reset_read_budget();
        }
    }

    /// Whether a byte of this request was written, so that upstream may have acted on the request.
    /// On HTTP/2 the result is always true, because other requests write to the connection too.
    pub(crate) fn has_written(&self) -> bool {
        match &self.connection {
            Connection::Http1 { http1, written_before, .. } => http1.socket.written() > *written_before,
            Connection::Http2 { .. } => true,
        }
    }

    /// Makes this request the last one on the connection.
    pub(crate) fn forbid_reuse(&mut self) {
        self.is_reusable = false;
    }

    /// Returns the connection to the pool after the answer was read to the end, if the connection
    /// may serve another request.
    pub(crate) fn return_to_pool(self) {
        let (http1, made) = match self.connection {
            Connection::Http1 { http1, made, .. } => (http1, made),
            Connection::Http2 { permit, .. } => return permit.complete(),
        };
        let limits = self.upstream.connections.pool;
        if !self.is_reusable || !http1.is_ready() {
            return;
        }
        let since = Instant::now();
        if since.saturating_duration_since(made) >= limits.max_age {
            return;
        }
        self.idle.keep(&self.endpoint, Idle { http1, since, made, limits });
    }

    /// Turns the lease of a connection that has become a tunnel into a guard. The request is in
    /// flight until the guard is dropped.
    pub(crate) fn into_tunnel(self) -> (InFlightGuard, Option<Box<Turn>>) {
        (self.in_flight, self.turn)
    }
}

fn outcome(sent: Result<Response<Incoming>, TrySendError<Request<Upload>>>) -> Sent {
    let (head, incoming) = sent?.into_parts();
    Ok(Answer { head, body: Body::of_http2(incoming) })
}

/// Parses the headers of a request from the bytes that were written; `None` if the headers are
/// incomplete.
///
/// Keeping these bytes costs less than cloning the headers of every request, and few requests need
/// their headers again.
fn headers_of(written: &[u8]) -> Option<HeaderMap> {
    let mut lines = written.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r"));
    let _request_line = lines.next()??;
    let mut headers = HeaderMap::new();
    loop {
        let line = lines.next()??;
        if line.is_empty() {
            return Some(headers);
        }
        let colon = line.iter().position(|byte| *byte == b':')?;
        let (name, value) = (line.get(..colon)?, line.get(colon + 1..)?);
        let name = HeaderName::from_bytes(name).ok()?;
        headers.append(name, HeaderValue::from_bytes(value.trim_ascii()).ok()?);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_parsed_from_a_whole_head_alone() {
        let written = b"GET /a HTTP/1.1\r\nhost: a\r\nx-b: 1\r\nx-b: \xc3\xa4: 2\r\nempty:\r\n\r\n";
        let headers = headers_of(written).unwrap();
        assert_eq!(headers.get_all("x-b").iter().count(), 2);
        assert_eq!(headers["host"], "a");
        assert_eq!(headers.get_all("x-b").iter().nth(1).unwrap().as_bytes(), b"\xc3\xa4: 2");
        assert_eq!(headers["empty"], "");
        for cut in 0..written.len() - 1 {
            assert!(headers_of(&written[..cut]).is_none(), "{cut}");
        }
    }
}
