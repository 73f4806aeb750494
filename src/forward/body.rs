//! The body of an answer as it is sent to the client.
//!
//! hyper polls the body on the client's connection. Each frame is sent on as soon as it arrives.
//! Invariant: the body owns the permit, the lease of the connection to upstream and the record for
//! the access log, so each of these ends with the answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::cutter::Cutter;
use super::failure::DownloadFailure;
use super::headers::is_harmless_answer_trailer;
use super::tokens::AnswerTokens;
use super::unread::{Drain, UnreadBody};
use crate::activity::blocked::{self, BlockedOn};
use crate::activity::{ConnectionActivity, RequestInService};
use crate::alarm::Alarm;
use crate::gate::{Permit, Revocation};
use crate::observe::RequestRecord;
use crate::protocol::Protocol;
use crate::tap::{BodyEnd, TapSlot};
use crate::upstream::exchange;
use crate::upstream::pool::Lease;
use crate::upstream::request_body::RequestBody;
use crate::upstream::stall::StallTimer;
use crate::upstream::upload::{UploadProgress, filtered};

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
    unread_request: Option<Drain>,
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
    Own(Option<Bytes>),
    Upstream(Download),
}

/// The body of upstream's answer while it is forwarded.
#[derive(Debug)]
pub(crate) struct Download {
    incoming: exchange::Body,
    tap: TapSlot,
    /// Observes the tokens of the answer; `None` if the request uses none.
    tokens: AnswerTokens,
    /// Whether upstream's body has ended. It is not polled again.
    is_over: bool,
    stall: StallTimer,
    /// Progress of the upload of the request's body. While the upload progresses, an answer without
    /// new bytes does not count as stalled.
    upload: UploadProgress,
    /// Activity of the client's connection. When the answer ends, the connection gets the timer of
    /// `stall` back for reuse.
    activity: Arc<ConnectionActivity>,
    /// Waiter that is ready when the key ends, or when the time of a request without a key is over.
    /// `None` if the configuration lets answers outlast their key.
    revocation: Option<Revocation>,
    /// Cuts the answer at the end of the key, or of the time of a request without a key, if the
    /// client reads nothing, because hyper does not poll the body then.
    _cutter: Option<Cutter>,
    lease: Option<Lease>,
    /// Whether the client has no valid key.
    is_unauthenticated: bool,
    /// Permit of the request. It is dropped when upstream's answer is complete, so a slow client
    /// that is still reading uses up no limit.
    permit: Option<Permit>,
}

/// Largest piece of a frame on HTTP/2, in bytes: the largest frame that every client accepts. A
/// slow client makes visible progress with each piece.
const MAX_PIECE: usize = 16 * 1024;

impl Download {
    /// Makes a response body that passes on the upstream's answer.
    #[expect(clippy::too_many_arguments, reason = "all values that last as long as the answer")]
    pub(super) fn new(
        incoming: exchange::Body,
        (tap, tokens): (TapSlot, AnswerTokens),
        lease: Lease,
        permit: Permit,
        upload: UploadProgress,
        activity: Arc<ConnectionActivity>,
        alarm: Alarm,
        revocations: Option<(Revocation, Revocation)>,
    ) -> Self {
        let stall = StallTimer::on(alarm, permit.route().timeouts.idle);
        let (revocation, second_waiter) = revocations.unzip();
        let cutter = second_waiter.map(|revocation| Cutter::new(revocation, activity.clone()));
        let mut download = Download {
            incoming,
            tap,
            tokens,
            is_over: false,
            stall,
            upload,
            activity,
            revocation,
            _cutter: cutter,
            lease: Some(lease),
            is_unauthenticated: permit.principal().is_none(),
            permit: Some(permit),
        };
        if download.incoming.is_end_stream() {
            download.release();
        }
        download
    }

    /// Ends a complete answer: returns the connection to upstream to the pool, and drops the
    /// request's permit.
    fn release(&mut self) {
        self.upload.answer_ended();
        // The bytes that were held back have been forwarded before.
        let _held = self.tokens.ended(BodyEnd::Complete);
        self.tap.ended(BodyEnd::Complete);
        self.permit = None;
        if let Some(lease) = self.lease.take() {
            lease.return_to_pool();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, DownloadFailure>>> {
        if let Some(revocation) = &mut self.revocation
            && let Poll::Ready(ended) = revocation.poll(cx)
        {
            self.revocation = None;
            return self.fail(ended.into());
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stall.progressed();
                if let Some(lease) = &self.lease {
                    lease.progressed();
                }
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(filtered(trailers, is_harmless_answer_trailer)),
                    Err(data) => data,
                };
                self.tap.frame(&frame);
                let frame = self.tokens.observe(frame, self.incoming.is_end_stream());
                let is_removed = frame.data_ref().is_some_and(Bytes::is_empty) && self.tokens.changes_body();
                if is_removed && !self.incoming.is_end_stream() {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if frame.is_trailers() {
                    // No frame follows trailers, and hyper does not poll for another one.
                    self.tap.ended(BodyEnd::Complete);
                }
                if self.incoming.is_end_stream() {
                    self.release();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(failure))) => self.fail(DownloadFailure::of(failure)),
            Poll::Ready(None) => {
                self.is_over = true;
                let rest = self.tokens.ended(BodyEnd::Complete);
                self.release();
                Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))))
            }
            Poll::Pending => {
                ready!(self.poll_stalled(cx));
                self.fail(DownloadFailure::Stalled)
            }
        }
    }

    /// Ends a broken answer, and closes its connection to upstream.
    fn fail(&mut self, failure: DownloadFailure) -> Poll<Option<Result<Frame<Bytes>, DownloadFailure>>> {
        self.lease = None;
        self.tokens.ended(BodyEnd::Failed);
        self.tap.ended(BodyEnd::Failed);
        Poll::Ready(Some(Err(failure)))
    }

    /// Returns ready when neither the upload nor the answer has moved for the idle timeout.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut last_seen = None;
        loop {
            ready!(self.stall.poll_stalled(cx));
            let Some(moved) = self.upload.last_moved() else { return Poll::Ready(()) };
            if last_seen.replace(moved) == Some(moved) {
                return Poll::Ready(());
            }
            // The next run of the loop returns, unless the upload has progressed again by then.
            self.stall.start_no_earlier_than(moved.into());
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.tokens.ended(BodyEnd::Dropped);
        self.upload.answer_ended();
        self.activity.keep_alarm(self.stall.take_alarm());
    }
}

impl ResponseBody {
    /// Makes the body of an answer by bearward itself.
    pub(crate) fn own(bytes: Bytes) -> Self {
        ResponseBody::of(BodySource::Own((!bytes.is_empty()).then_some(bytes)))
    }

    /// Makes an empty body, such as that of a 101 answer.
    pub(crate) fn none() -> Self {
        ResponseBody::of(BodySource::Own(None))
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
        answer.unread_request = is_drained.then(|| Drain::new(request.clone()));
        answer.exchange = Some((in_service, request));
        self
    }
}

impl Outgoing {
    /// Returns ready when the answer may be sent. On HTTP/2, an answer to an unauthenticated client
    /// waits for earlier answers on its connection.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_unauthenticated =
            matches!(&self.source, BodySource::Upstream(download) if download.is_unauthenticated);
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
                BodySource::Own(_) => BlockedOn::ClientOfOurs,
                BodySource::Upstream(download) if download.is_unauthenticated => BlockedOn::ClientWithoutKey,
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
            BodySource::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
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
            BodySource::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            BodySource::Upstream(download) => {
                if download.tokens.changes_body() {
                    return SizeHint::default();
                }
                let mut hint = download.incoming.size_hint();
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
            BodySource::Own(bytes) => bytes.is_none(),
            BodySource::Upstream(download) => {
                (download.is_over || download.incoming.is_end_stream()) && !download.tokens.holds_bytes()
            }
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
