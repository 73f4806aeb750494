//! The result of a request to an upstream: an answer or a failure, independent of the HTTP codec.
//!
//! `forward` reads these types. If another HTTP codec replaced hyper, it would return the same
//! types.
//! Invariant: hyper's and h2's types and errors do not leave the `upstream` module.

use std::error::Error;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http::response::Parts;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::socket::Flooded;
use super::upload::Upload;
use crate::protocol::Protocol;

/// An upstream's answer: its head, and its body, which may still be arriving.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Parts,
    pub(crate) body: Body,
}

/// The failure of a request that got no answer, and the request itself if it is unsent.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) failure: Failure,
    /// The request, if no byte of it was written; `None` otherwise.
    pub(crate) unsent: Option<Box<Request<Upload>>>,
}

/// Result of sending a request to upstream.
pub(crate) type Sent = Result<Answer, Unanswered>;

/// The body of an upstream's answer.
#[derive(Debug)]
pub(crate) struct Body {
    incoming: Incoming,
    protocol: Protocol,
}

/// Reason why upstream's answer to a request failed or did not arrive.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: FailureKind,
    /// The HTTP codec's error.
    error: Box<dyn Error + Send + Sync>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    /// Upstream sent bytes that are not HTTP, or that exceed a limit.
    Protocol,
    /// Upstream did not process the request: it refused the HTTP/2 stream, or its GOAWAY excluded
    /// the stream (RFC 9113, sections 6.8 and 8.7).
    NotProcessed,
    /// The connection to upstream was closed or reset.
    Closed,
    /// The answer ended before it was complete.
    Truncated,
    /// Any other failure: the upstream reset the stream, or the request's own body failed.
    Other,
}

impl Body {
    pub(super) fn new(incoming: Incoming, protocol: Protocol) -> Self {
        Body { incoming, protocol }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Failure;

    #[inline(always)]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            // hyper reports a stream that the peer reset with NO_ERROR like a stream that ended
            // normally, so this code checks whether the stream has really ended.
            Poll::Ready(None) if self.protocol.has_streams() && !self.incoming.is_end_stream() => {
                Poll::Ready(Some(Err(Failure::truncated())))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Failure {
    fn truncated() -> Self {
        let error = io::Error::new(io::ErrorKind::UnexpectedEof, "upstream ended the stream early");
        Failure { kind: FailureKind::Truncated, error: error.into() }
    }

    /// Whether upstream's answer was not valid HTTP, or exceeded a size limit.
    pub(crate) fn is_protocol_error(&self) -> bool {
        self.kind == FailureKind::Protocol
    }

    /// Whether the answer ended before it was complete.
    pub(crate) fn is_truncation(&self) -> bool {
        self.kind == FailureKind::Truncated
    }

    /// Whether the upstream stated that it did not process the request.
    pub(crate) fn was_not_processed(&self) -> bool {
        self.kind == FailureKind::NotProcessed
    }

    /// Whether the connection was closed or reset, or the HTTP/2 stream was refused before upstream
    /// processed the request.
    pub(crate) fn was_closed(&self) -> bool {
        matches!(self.kind, FailureKind::Closed | FailureKind::NotProcessed)
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        let kind = match error.source().and_then(|source| source.downcast_ref::<h2::Error>()) {
            Some(error) => kind_on_http2(error),
            None if error.is_parse() || is_flood(&error) => FailureKind::Protocol,
            None if error.is_user() => FailureKind::Other,
            None => FailureKind::Closed,
        };
        Failure { kind, error: error.into() }
    }
}

fn kind_on_http2(error: &h2::Error) -> FailureKind {
    let is_refusal = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    match () {
        () if error.is_library() => FailureKind::Protocol,
        () if error.is_remote() && (error.is_go_away() || is_refusal) => FailureKind::NotProcessed,
        () if error.is_io() => FailureKind::Closed,
        () => FailureKind::Other,
    }
}

/// Whether hyper failed because upstream sent too many interim answers (1xx).
fn is_flood(error: &hyper::Error) -> bool {
    let of_socket = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    of_socket.and_then(io::Error::get_ref).is_some_and(|cause| cause.is::<Flooded>())
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl Error for Failure {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl From<TrySendError<Request<Upload>>> for Unanswered {
    fn from(mut error: TrySendError<Request<Upload>>) -> Self {
        let unsent = error.take_message().map(Box::new);
        Unanswered { failure: error.into_error().into(), unsent }
    }
}
