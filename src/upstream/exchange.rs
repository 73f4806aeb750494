//! The result of a request to an upstream: an answer or a failure, independent of the HTTP codec.
//!
//! `forward` reads these types. HTTP/1.1 (`http1`) and HTTP/2 (hyper) return the same types.
//! Invariant: hyper's and h2's types and errors do not leave the `upstream` module.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::response::Parts;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use super::failure::{Failure, Unanswered};
use super::http1::Http1Body;

/// An upstream's answer: its head, and its body, which may still be arriving.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: Parts,
    pub(crate) body: Body,
}

/// Result of sending a request to upstream.
pub(crate) type Sent = Result<Answer, Unanswered>;

/// The body of an upstream's answer.
#[derive(Debug)]
pub(crate) struct Body(Kind);

#[derive(Debug)]
enum Kind {
    Http1(Http1Body),
    Http2(Incoming),
}

impl Body {
    pub(super) fn of_http1(body: Http1Body) -> Self {
        Body(Kind::Http1(body))
    }

    pub(super) fn of_http2(incoming: Incoming) -> Self {
        Body(Kind::Http2(incoming))
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
        let incoming = match &mut self.0 {
            Kind::Http1(body) => return Pin::new(body).poll_frame(cx),
            Kind::Http2(incoming) => incoming,
        };
        match Pin::new(&mut *incoming).poll_frame(cx) {
            // hyper reports a stream that the peer reset with NO_ERROR like a stream that ended
            // normally, so this code checks whether the stream has really ended.
            Poll::Ready(None) if !incoming.is_end_stream() => Poll::Ready(Some(Err(Failure::truncated()))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Http2(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(incoming) => incoming.size_hint(),
        }
    }
}
