//! What a request gets from an upstream, whichever codec speaks to it: an answer, or a failure.
//!
//! hyper's and h2's types and errors end here. Another codec stands beside them by making an
//! [`Answer`] and a [`Failure`] of its own.

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

/// The head of an upstream's answer, and the body that follows it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Parts,
    pub(crate) body: Body,
}

/// A request that has no answer.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) failure: Failure,
    /// The request, where no byte of it was written.
    pub(crate) unsent: Option<Request<Upload>>,
}

/// What becomes of a request that was sent.
pub(crate) type Sent = Result<Answer, Unanswered>;

/// The body of an upstream's answer.
#[derive(Debug)]
pub(crate) struct Body {
    incoming: Incoming,
    protocol: Protocol,
}

/// Why an exchange with an upstream broke.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: FailureKind,
    /// Of the codec.
    error: Box<dyn Error + Send + Sync>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FailureKind {
    /// What came is not HTTP, or more of it than is allowed.
    Protocol,
    /// The upstream did nothing for the request: it refused the stream, or went away before it
    /// (RFC 9113, sections 6.8 and 8.7).
    NotProcessed,
    /// The connection was closed or reset.
    Closed,
    /// The answer ended before it was whole.
    Truncated,
    /// Anything else: the upstream reset the stream, or the request's own body failed.
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

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            // hyper takes a stream that was reset without an error for one that has ended.
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

    /// Whether the upstream's bytes were not HTTP.
    pub(crate) fn is_protocol_error(&self) -> bool {
        self.kind == FailureKind::Protocol
    }

    /// Whether the answer ended before it was whole.
    pub(crate) fn is_truncation(&self) -> bool {
        self.kind == FailureKind::Truncated
    }

    /// Whether the upstream did nothing for the request, by its own statement.
    pub(crate) fn was_not_processed(&self) -> bool {
        self.kind == FailureKind::NotProcessed
    }

    /// Whether the connection ended without an answer: it was closed, or reset, or the stream was
    /// refused unread.
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

/// Whether interim answers came without end.
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
        let unsent = error.take_message();
        Unanswered { failure: error.into_error().into(), unsent }
    }
}
