//! A connection in use by one request.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::Either;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};

use super::idle::{Idle, IdleConnections};
use super::multiplexed::StreamPermit;

use crate::protocol::Protocol;
use crate::upstream::compiled::Upstream;
use crate::upstream::endpoints::Endpoint;
use crate::upstream::exchange::{Answer, Body, Sent};
use crate::upstream::health::AtEndpoint;
use crate::upstream::socket::Socket;
use crate::upstream::upload::Upload;

/// A connection in use by one request. Unless it is given back, dropping it closes it, or ends its stream.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(super) connection: Connection,
    /// Whether it served a request before, so that it may have died unseen.
    pub(crate) is_reused: bool,
    /// Whether another request may follow on the connection.
    pub(super) may_be_kept: bool,
    pub(super) at: AtEndpoint,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) upstream: Arc<Upstream>,
    pub(super) idle: Arc<IdleConnections>,
}

#[derive(Debug)]
pub(super) enum Connection {
    Http1 {
        sender: http1::SendRequest<Upload>,
        socket: Arc<Socket>,
        /// Bytes that had been written before this request.
        written_before: u64,
        made: Instant,
    },
    Http2 {
        permit: Arc<StreamPermit>,
        /// The headers of a request that may be sent again.
        copy: Option<HeaderMap>,
    },
}

impl From<Idle> for Connection {
    fn from(idle: Idle) -> Self {
        let Idle { sender, socket, made, .. } = idle;
        Connection::Http1 { written_before: socket.written(), sender, socket, made }
    }
}

impl Lease {
    /// The protocol of the connection.
    pub(crate) fn protocol(&self) -> Protocol {
        Protocol::of_connection(matches!(self.connection, Connection::Http2 { .. }))
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Sends the request at once; the head of its answer follows. `limit`: for how long upstream may leave a long body
    /// unread. `is_repeatable`: the request may be sent again where upstream closes without an answer.
    pub(crate) fn send(
        &mut self,
        mut request: Request<Upload>,
        limit: Duration,
        is_repeatable: bool,
    ) -> impl Future<Output = Sent> + use<'_> {
        // Only a connection that was used before may have been closed unseen.
        let is_kept = is_repeatable && self.is_reused;
        match &mut self.connection {
            Connection::Http1 { sender, socket, .. } => {
                socket.expects_head(is_kept);
                request.body_mut().may_wait(socket, limit);
                let answer = sender.try_send_request(request);
                Either::Left(answer.map(|sent| {
                    if sent.is_ok() {
                        socket.head_came();
                    }
                    outcome(sent, Protocol::Http11)
                }))
            }
            Connection::Http2 { permit, copy } => {
                *copy = is_kept.then(|| request.headers().clone());
                // An upload that upstream takes no more of still has its stream, whatever became of the answer.
                request.body_mut().hold(permit.clone());
                let answer = permit.on.sender.clone().try_send_request(request);
                Either::Right(answer.map(|sent| {
                    permit.on.socket.progressed();
                    outcome(sent, Protocol::Http2)
                }))
            }
        }
    }

    /// The headers of a repeatable request that was sent on this connection, for which nothing at all came back.
    pub(crate) fn take_unanswered(&mut self) -> Option<HeaderMap> {
        match &mut self.connection {
            Connection::Http1 { socket, .. } => headers_of(&socket.take_unanswered()?),
            Connection::Http2 { copy, .. } => copy.take(),
        }
    }

    /// A frame of the answer has come.
    pub(crate) fn progressed(&self) {
        if let Connection::Http2 { permit, .. } = &self.connection {
            permit.on.socket.progressed();
        }
    }

    /// Whether upstream may have acted on this request: whether any byte of it was written. On a connection that
    /// others write to as well, it is said to be so once it was begun.
    pub(crate) fn has_written(&self) -> bool {
        match &self.connection {
            Connection::Http1 { socket, written_before, .. } => socket.written() > *written_before,
            Connection::Http2 { .. } => true,
        }
    }

    /// No other request follows on the connection.
    pub(crate) fn is_last_use(&mut self) {
        self.may_be_kept = false;
    }

    /// The answer is whole: the connection may serve the next request, if it is still one.
    pub(crate) fn give_back(self) {
        let (sender, socket, made) = match self.connection {
            Connection::Http1 { sender, socket, made, .. } => (sender, socket, made),
            Connection::Http2 { permit, .. } => return permit.note_whole(),
        };
        let limits = self.upstream.pool;
        if !self.may_be_kept || sender.is_closed() {
            return;
        }
        let since = Instant::now();
        if since.saturating_duration_since(made) >= limits.max_age {
            return;
        }
        self.idle.keep(&self.endpoint, Idle { sender, socket, since, made, limits });
    }

    /// The connection is a tunnel from here on; what is left of the lease is the place at its endpoint.
    pub(crate) fn into_tunnel(self) -> AtEndpoint {
        self.at
    }
}

fn outcome(sent: Result<Response<Incoming>, TrySendError<Request<Upload>>>, protocol: Protocol) -> Sent {
    let (head, incoming) = sent?.into_parts();
    Ok(Answer { head, body: Body::new(incoming, protocol) })
}

/// The headers of a request as hyper wrote it: a line, a field a line, an empty line. A copy of the bytes costs less than
/// a copy of the parsed headers, which nearly no request needs.
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
    fn headers_are_read_from_what_was_written_whole_or_not_at_all() {
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
