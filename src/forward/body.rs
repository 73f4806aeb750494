//! The body of an answer on its way to the caller.
//!
//! Frames pass as they come. Everything that must last exactly as long as the answer lives in here: the key's
//! place among the requests in flight, the connection to upstream, and the record for the access log.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::cutter::Cutter;
use super::failure::DownloadFailure;
use super::headers::is_harmless_answer_trailer;
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

/// An answer's body: bearward's own, or upstream's. In a box, since answers are moved from hand to hand.
#[derive(Debug)]
pub(crate) struct ResponseBody(Box<Answer>);

#[derive(Debug)]
struct Answer {
    source: BodySource,
    /// Emitted when the body has ended or is dropped.
    record: Option<RequestRecord>,
    /// What of the request nobody has read, where the end of the answer waits for it.
    rest: Option<Drain>,
    /// On HTTP/2, what is left of a frame that is handed out in pieces.
    left: Bytes,
    /// An error that waits for one turn, in which what came before it can go out.
    held_back: Option<DownloadFailure>,
    /// Of the client's connection.
    protocol: Protocol,
    /// The exchange on the caller's connection, which ends with its answer, and the body of its request.
    exchange: Option<(RequestInService, RequestBody)>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is in a box already, and nearly all are upstream's")]
enum BodySource {
    Own(Option<Bytes>),
    Upstream(Download),
}

/// Upstream's answer in transit.
#[derive(Debug)]
pub(crate) struct Download {
    incoming: exchange::Body,
    tap: TapSlot,
    stall: StallTimer,
    /// The other direction: while it moves, silence of this one is no stall.
    upload: UploadProgress,
    /// Whose timer `stall` has.
    activity: Arc<ConnectionActivity>,
    /// Where open answers end with their key.
    revocation: Option<Revocation>,
    /// … even if nobody reads them.
    _cutter: Option<Cutter>,
    lease: Option<Lease>,
    /// It is for somebody without a key.
    is_public: bool,
    /// Held until upstream's answer is whole: a client that takes it slowly keeps no place from others.
    permit: Option<Permit>,
}

/// What is handed out at once on HTTP/2, where progress is judged by what a client makes room for: the largest frame that
/// every client takes.
const PIECE: usize = 16 * 1024;

impl Download {
    /// `revocations`: where open answers end with their key; the second is for a client that reads nothing.
    #[expect(clippy::too_many_arguments, reason = "all that lasts as long as the answer")]
    pub(super) fn new(
        incoming: exchange::Body,
        tap: TapSlot,
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
            stall,
            upload,
            activity,
            revocation,
            _cutter: cutter,
            lease: Some(lease),
            is_public: permit.principal().is_none(),
            permit: Some(permit),
        };
        if download.incoming.is_end_stream() {
            download.release();
        }
        download
    }

    /// The answer is complete: the connection may serve the next request, and another one may have the place.
    fn release(&mut self) {
        self.upload.over();
        self.tap.ended(BodyEnd::Complete);
        self.permit = None;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, DownloadFailure>>> {
        if let Some(revocation) = &mut self.revocation
            && let Poll::Ready(ended) = revocation.poll(cx)
        {
            self.revocation = None;
            return self.fail(ended.into());
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
                if frame.is_trailers() {
                    // Nothing comes behind them, and nobody asks for it.
                    self.tap.ended(BodyEnd::Complete);
                }
                if self.incoming.is_end_stream() {
                    self.release();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(failure))) => self.fail(DownloadFailure::of(failure)),
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.poll_stalled(cx));
                self.fail(DownloadFailure::Stalled)
            }
        }
    }

    /// The answer is not whole: nothing else may use its connection.
    fn fail(&mut self, failure: DownloadFailure) -> Poll<Option<Result<Frame<Bytes>, DownloadFailure>>> {
        self.lease = None;
        self.tap.ended(BodyEnd::Failed);
        Poll::Ready(Some(Err(failure)))
    }

    /// Ready when neither direction has moved for too long.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut seen = None;
        loop {
            ready!(self.stall.poll_stalled(cx));
            let Some(moved) = self.upload.last_moved() else { return Poll::Ready(()) };
            if seen.replace(moved) == Some(moved) {
                return Poll::Ready(());
            }
            // At most twice: what moved before this wait can't put it off.
            self.stall.waits_no_less_than_since(moved.into());
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.upload.over();
        self.activity.keep_alarm(self.stall.take_alarm());
    }
}

impl ResponseBody {
    pub(crate) fn own(bytes: Bytes) -> Self {
        ResponseBody::of(BodySource::Own((!bytes.is_empty()).then_some(bytes)))
    }

    /// None: what follows is no body.
    pub(crate) fn none() -> Self {
        ResponseBody::of(BodySource::Own(None))
    }

    pub(super) fn upstream(download: Download) -> Self {
        ResponseBody::of(BodySource::Upstream(download))
    }

    fn of(source: BodySource) -> Self {
        ResponseBody(Box::new(Answer {
            source,
            record: None,
            rest: None,
            left: Bytes::new(),
            held_back: None,
            protocol: Protocol::Http11,
            exchange: None,
        }))
    }

    /// Keeps the exchange open, and its record, for as long as this body lives. `rest`: whether the answer ends only when
    /// the request has, within bounds. Where the head is all of the answer, it ends at once: a gRPC status must.
    pub(crate) fn concluding(
        mut self,
        record: RequestRecord,
        in_service: RequestInService,
        request: RequestBody,
        protocol: Protocol,
        rest: UnreadBody,
    ) -> Self {
        let answer = &mut *self.0;
        answer.record = Some(record);
        answer.protocol = protocol;
        let drains = rest == UnreadBody::Discard && !request.is_empty() && !answer.source.has_ended();
        answer.rest = drains.then(|| Drain::new(request.clone()));
        answer.exchange = Some((in_service, request));
        self
    }
}

impl Answer {
    /// Ready when this answer may go out: one to somebody without a key waits for those before it on its connection.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let is_public = matches!(&self.source, BodySource::Upstream(download) if download.is_public);
        match self.exchange.as_mut().filter(|_| is_public && self.protocol.has_streams()) {
            Some((in_service, _)) => in_service.poll_room(cx),
            None => Poll::Ready(()),
        }
    }

    /// A frame on its way out, or the first piece of it.
    fn hand_out(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) if self.protocol.has_streams() && data.len() > PIECE => {
                self.left = data;
                self.piece()
            }
            Ok(data) => {
                self.handed_out(data.len());
                Frame::data(data)
            }
            Err(trailers) => {
                self.handed_out(0);
                trailers
            }
        }
    }

    /// The next piece of a large frame.
    fn piece(&mut self) -> Frame<Bytes> {
        let piece = self.left.split_to(self.left.len().min(PIECE));
        self.handed_out(piece.len());
        Frame::data(piece)
    }

    fn handed_out(&mut self, bytes: usize) {
        if let Some(record) = &mut self.record {
            record.sent(bytes);
        }
        // HTTP/1 has nobody who asks.
        if self.protocol.has_streams() {
            blocked::record(match &self.source {
                BodySource::Own(_) => BlockedOn::ClientOfOurs,
                BodySource::Upstream(download) if download.is_public => BlockedOn::ClientWithoutKey,
                BodySource::Upstream(_) => BlockedOn::Client,
            });
            if let Some((in_service, _)) = &self.exchange {
                in_service.answered(bytes);
            }
        }
    }

    /// Notes why the answer is not whole.
    fn broken_off(&mut self, error: DownloadFailure) -> DownloadFailure {
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

    /// On HTTP/1, hyper drops an answer as soon as its last byte is written: what is left of the request is read behind it, and
    /// the exchange lasts as long.
    fn read_rest(&mut self) {
        if let (Some(mut rest), Some((in_service, _))) = (self.rest.take(), self.exchange.take()) {
            tokio::spawn(async move {
                if poll_fn(|cx| rest.poll(cx)).await {
                    in_service.body_read();
                }
            });
        }
    }

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
        if !this.left.is_empty() {
            return Poll::Ready(Some(Ok(this.piece())));
        }
        if let Some(error) = this.held_back.take() {
            return Poll::Ready(Some(Err(this.broken_off(error))));
        }
        if this.poll_room(cx).is_pending() {
            blocked::record(BlockedOn::Upstream);
            return Poll::Pending;
        }
        let polled = match &mut this.source {
            BodySource::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            BodySource::Upstream(download) => download.poll_frame(cx),
        };
        if let (Poll::Ready(None), Some(rest), true) = (&polled, &mut this.rest, this.protocol.has_streams())
        {
            let _whole_or_not = ready!(rest.poll(cx));
            this.rest = None;
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(this.hand_out(frame)))),
            Poll::Ready(Some(Err(error))) => {
                // hyper throws away what it has not written yet when a body breaks, the head perhaps: it is given a turn
                // to write it.
                this.held_back = Some(error);
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
        (self.0.rest.is_none() || !self.0.protocol.has_streams())
            && self.0.left.is_empty()
            && self.0.source.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0.source {
            BodySource::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            BodySource::Upstream(download) => {
                let mut hint = download.incoming.size_hint();
                let left = self.0.left.len() as u64;
                // The upper bound first: the lower one may not pass it.
                if let Some(upper) = hint.upper() {
                    hint.set_upper(upper + left);
                }
                hint.set_lower(hint.lower() + left);
                hint
            }
        }
    }
}

impl BodySource {
    fn has_ended(&self) -> bool {
        match self {
            BodySource::Own(bytes) => bytes.is_none(),
            BodySource::Upstream(download) => download.incoming.is_end_stream(),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A body without a byte left is dropped without another poll: that is its end, not the caller's leaving.
        if self.left.is_empty() && self.source.has_ended() {
            self.finish();
            self.read_rest();
        }
    }
}
