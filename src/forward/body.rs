//! The body of an answer as it is sent to the client.
//!
//! hyper polls the body on the client's connection. Each frame is sent on as soon as it arrives.
//! Invariant: the body owns the download and the record for the access log, so each of these ends
//! with the answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::download::Download;
use super::failure::DownloadFailure;
use super::unread::{Drain, UnreadBody};
use crate::activity::RequestInService;
use crate::activity::blocked::{self, BlockedOn};
use crate::observe::RequestRecord;
use crate::protocol::Protocol;
use crate::upstream::request_body::RequestBody;

/// The body of an answer that bearward or an upstream made. The contents are boxed, because hyper
/// moves answers several times.
#[derive(Debug)]
pub(crate) struct ResponseBody(Box<Outgoing>);

/// The state of an answer's body.
#[derive(Debug)]
struct Outgoing {
    source: BodySource,
    /// The request's record for the access log. The record is logged when the body has ended or is
    /// dropped.
    record: Option<RequestRecord>,
    /// The unread rest of the request's body, if it is drained before the answer ends.
    unread_request: Option<Box<Drain>>,
    /// On HTTP/2, the unsent rest of a frame that is sent in pieces.
    remainder: Bytes,
    /// An error that the next poll returns, after hyper has written the earlier frames.
    deferred_error: Option<DownloadFailure>,
    /// Protocol of the client's connection.
    protocol: Protocol,
    /// The mark that the request is in service on the client's connection, and the request's body.
    exchange: Option<(RequestInService, RequestBody)>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is boxed already, and nearly all bodies are upstream's")]
enum BodySource {
    /// An answer of bearward's own: its data, and its trailers.
    Own(Option<Bytes>, Option<Box<HeaderMap>>),
    Upstream(Download),
}

/// Largest piece of a frame on HTTP/2, in bytes: the largest frame that every client accepts. A
/// slow client makes visible progress with each piece.
const MAX_PIECE: usize = 16 * 1024;

impl ResponseBody {
    /// Makes the body of an answer by bearward itself.
    pub(crate) fn own(bytes: Bytes) -> Self {
        ResponseBody::of(BodySource::Own((!bytes.is_empty()).then_some(bytes), None))
    }

    /// Makes the body of an answer by bearward itself that ends with trailers.
    pub(crate) fn with_trailers(bytes: Bytes, trailers: HeaderMap) -> Self {
        ResponseBody::of(BodySource::Own(Some(bytes), Some(Box::new(trailers))))
    }

    /// Makes an empty body, such as that of a 101 answer.
    pub(crate) fn none() -> Self {
        ResponseBody::of(BodySource::Own(None, None))
    }

    pub(super) fn upstream(download: Download) -> Self {
        ResponseBody::of(BodySource::Upstream(download))
    }

    fn of(source: BodySource) -> Self {
        ResponseBody(Box::new(Outgoing {
            source,
            record: None,
            unread_request: None,
            remainder: Bytes::new(),
            deferred_error: None,
            protocol: Protocol::Http11,
            exchange: None,
        }))
    }

    /// Makes the request in service, and its record for the access log, end with this body.
    ///
    /// With [`UnreadBody::Discard`], the rest of the request's body is read, within limits, before
    /// the answer ends. An answer without a body ends at once: it may be a gRPC status, whose
    /// header section must end the stream.
    pub(crate) fn concluding(
        mut self,
        record: RequestRecord,
        in_service: RequestInService,
        request: RequestBody,
        protocol: Protocol,
        unread: UnreadBody,
    ) -> Self {
        let answer = &mut *self.0;
        answer.record = Some(record);
        answer.protocol = protocol;
        let is_drained = unread == UnreadBody::Discard && !request.is_empty() && !answer.source.has_ended();
        answer.unread_request = is_drained.then(|| Box::new(Drain::new(request.clone())));
        answer.exchange = Some((in_service, request));
        self
    }
}

impl Outgoing {
    /// Returns ready when the answer may be sent. On HTTP/2, an answer to an unauthenticated client
    /// waits for earlier answers on its connection.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_unauthenticated =
            matches!(&self.source, BodySource::Upstream(download) if download.is_unauthenticated());
        match self.exchange.as_mut().filter(|_| is_unauthenticated && self.protocol.has_streams()) {
            Some((in_service, _)) => in_service.poll_room(cx),
            None => Poll::Ready(()),
        }
    }

    /// Returns the data to send now: the whole frame, or its first piece.
    fn send_frame(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) if self.protocol.has_streams() && data.len() > MAX_PIECE => {
                self.remainder = data;
                self.next_piece()
            }
            Ok(data) => {
                self.note_sent(data.len());
                Frame::data(data)
            }
            Err(trailers) => {
                self.note_sent(0);
                trailers
            }
        }
    }

    /// Returns the next piece of a large frame.
    fn next_piece(&mut self) -> Frame<Bytes> {
        let piece = self.remainder.split_to(self.remainder.len().min(MAX_PIECE));
        self.note_sent(piece.len());
        Frame::data(piece)
    }

    /// Adds to the number of sent bytes, and records that the stream now waits for its client.
    fn note_sent(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent(bytes);
        }
        // Only HTTP/2 has streams that can be blocked.
        if self.protocol.has_streams() {
            blocked::record(match &self.source {
                BodySource::Own(..) => BlockedOn::ClientOfOurs,
                BodySource::Upstream(download) if download.is_unauthenticated() => {
                    BlockedOn::ClientWithoutKey
                }
                BodySource::Upstream(_) => BlockedOn::Client,
            });
            if let Some((in_service, _)) = &self.exchange {
                in_service.answered(bytes);
            }
        }
    }

    /// Records the reason why an answer broke.
    fn note_failure(&mut self, error: DownloadFailure) -> DownloadFailure {
        if let Some(mut record) = self.record.take() {
            record.failed(error.outcome(), &error);
        }
        if let Some((in_service, _)) =
            self.exchange.as_ref().filter(|_| self.protocol.ends_bodies_with_connection())
        {
            in_service.break_off();
        }
        error
    }

    /// Drains the rest of the request's body in a separate task, during which the request stays in
    /// service. A separate task is needed because, on HTTP/1, hyper drops an answer as soon as its
    /// last byte is written.
    fn drain_request(&mut self) {
        if let (Some(mut drain), Some((in_service, _))) = (self.unread_request.take(), self.exchange.take()) {
            tokio::spawn(async move {
                if poll_fn(|cx| drain.poll(cx)).await {
                    in_service.body_read();
                }
            });
        }
    }

    /// Records that the answer was sent completely.
    fn finish(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.completed();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = DownloadFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadFailure>>> {
        let this = &mut *self.0;
        if !this.remainder.is_empty() {
            return Poll::Ready(Some(Ok(this.next_piece())));
        }
        if let Some(error) = this.deferred_error.take() {
            return Poll::Ready(Some(Err(this.note_failure(error))));
        }
        if this.poll_room(cx).is_pending() {
            blocked::record(BlockedOn::Upstream);
            return Poll::Pending;
        }
        let polled = match &mut this.source {
            BodySource::Own(bytes, trailers) => {
                let data = bytes.take().map(Frame::data);
                let frame = data.or_else(|| trailers.take().map(|trailers| Frame::trailers(*trailers)));
                Poll::Ready(frame.map(Ok))
            }
            BodySource::Upstream(download) => download.poll_frame(cx),
        };
        if let (Poll::Ready(None), Some(drain), true) =
            (&polled, &mut this.unread_request, this.protocol.has_streams())
        {
            let _is_whole = ready!(drain.poll(cx));
            this.unread_request = None;
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(this.send_frame(frame)))),
            Poll::Ready(Some(Err(error))) => {
                // When a body fails, hyper drops the bytes that it has buffered, perhaps including
                // the head. Delaying the error by one poll lets hyper write these bytes first.
                this.deferred_error = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                blocked::record(BlockedOn::Upstream);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        (self.0.unread_request.is_none() || !self.0.protocol.has_streams())
            && self.0.remainder.is_empty()
            && self.0.source.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0.source {
            // With a Content-Length, some clients take no notice of trailers.
            BodySource::Own(_, Some(_)) => SizeHint::default(),
            BodySource::Own(bytes, None) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            BodySource::Upstream(download) => {
                let mut hint = download.size_hint();
                let remainder = self.0.remainder.len() as u64;
                // The upper bound of the size hint is set first, because `set_lower` panics if the
                // lower bound exceeds the upper bound.
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper + remainder);
                }
                hint.set_lower(hint.lower() + remainder);
                hint
            }
        }
    }
}

impl BodySource {
    fn has_ended(&self) -> bool {
        match self {
            BodySource::Own(bytes, trailers) => bytes.is_none() && trailers.is_none(),
            BodySource::Upstream(download) => download.has_ended(),
        }
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        // After the last byte of a body, hyper drops the body without polling it again. Such a drop
        // is the normal end of the answer, not a sign that the client has left.
        if self.remainder.is_empty() && self.source.has_ended() {
            self.finish();
            self.drain_request();
        }
    }
}
