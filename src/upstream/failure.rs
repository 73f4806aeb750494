//! Failures of a request to an upstream, independent of the HTTP codec.

use std::error::Error;
use std::fmt;
use std::io;

use http::Request;
use hyper::client::conn::TrySendError;

use super::request::UpstreamRequest;
use super::socket::Flooded;
use super::upload::Upload;

/// The failure of a request that got no answer, and the request itself if it is unsent.
#[derive(Debug)]
pub(crate) struct Unanswered {
    pub(crate) failure: Failure,
    /// The request, if no byte of it was written; `None` otherwise.
    pub(crate) unsent: Option<Box<UpstreamRequest>>,
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

impl Failure {
    /// Upstream sent something that is not HTTP, or is ambiguous.
    pub(super) fn protocol(what: &'static str) -> Self {
        Failure { kind: FailureKind::Protocol, error: what.into() }
    }

    /// The request's own body failed.
    pub(super) fn of_request(error: Box<dyn Error + Send + Sync>) -> Self {
        Failure { kind: FailureKind::Other, error }
    }

    /// The connection has ended.
    pub(super) fn ended(what: &'static str) -> Self {
        io::Error::new(io::ErrorKind::UnexpectedEof, what).into()
    }

    pub(super) fn truncated() -> Self {
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
            None if error.is_parse() => FailureKind::Protocol,
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

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // Upstream may have sent too many interim answers.
        let is_flood = error.get_ref().is_some_and(|cause| cause.is::<Flooded>());
        let kind = if is_flood { FailureKind::Protocol } else { FailureKind::Closed };
        Failure { kind, error: error.into() }
    }
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
        let unsent = error.take_message().map(UpstreamRequest::from_http2).map(Box::new);
        Unanswered { failure: error.into_error().into(), unsent }
    }
}
