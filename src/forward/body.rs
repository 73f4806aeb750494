//! The body of an answer on its way to the caller.
//!
//! Frames pass as they come. Everything that must last exactly as long as the answer lives in here: the key's
//! place among the requests in flight, the connection to upstream, and the record for the access log.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::Version;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::AbortHandle;
use tokio::time::{Sleep, sleep};

use super::headers::is_harmless_answer_trailer;
use crate::alarm::Alarm;
use crate::exchange::turn::{self, Turn};
use crate::exchange::{Exchanges, InService};
use crate::gate::{Ended, Permit, Revocation};
use crate::observe::RequestRecord;
use crate::upstream::pool::Lease;
use crate::upstream::stall::StallTimer;
use crate::upstream::upload::{RequestBody, UploadProgress, filtered};

/// An answer's body: bearward's own, or upstream's. In a box, since answers are moved from hand to hand.
#[derive(Debug)]
pub(crate) struct ResponseBody(Box<Answer>);

#[derive(Debug)]
struct Answer {
    source: Source,
    /// Emitted when the body has ended or is dropped.
    record: Option<RequestRecord>,
    /// What of the request nobody has read, where the end of the answer waits for it.
    rest: Option<Drain>,
    /// On HTTP/2, what is left of a frame that is handed out in pieces.
    left: Bytes,
    /// An error that waits for one turn, in which what came before it can go out.
    held_back: Option<DownloadFailed>,
    is_http2: bool,
    /// The client knows no end of a body but the connection's (HTTP/1.0).
    ends_with_connection: bool,
    /// The exchange on the caller's connection, which ends with its answer, and the body of its request.
    exchange: Option<(InService, RequestBody)>,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "it is in a box already, and nearly all are upstream's")]
enum Source {
    Own(Option<Bytes>),
    Upstream(Download),
}

/// Upstream's answer in transit.
#[derive(Debug)]
pub(crate) struct Download {
    incoming: Incoming,
    stall: StallTimer,
    /// The other direction: while it moves, silence of this one is no stall.
    upload: UploadProgress,
    /// Whose timer `stall` has.
    exchanges: Arc<Exchanges>,
    /// Where open answers end with their key.
    revocation: Option<Revocation>,
    /// … even if nobody reads them.
    _cutter: Option<Cutter>,
    lease: Option<Lease>,
    _permit: Permit,
}

/// Ends the client's connection when a key has gone and its answer is still open a moment later: a client that reads
/// nothing has its answer's body polled by nobody.
#[derive(Debug)]
struct Cutter(AbortHandle);

/// An answer whose client reads has been cut by then.
const CUT_GRACE: Duration = Duration::from_millis(500);

impl Cutter {
    fn new(mut revocation: Revocation, exchanges: Arc<Exchanges>) -> Self {
        let watching = tokio::spawn(async move {
            std::future::poll_fn(|cx| revocation.poll(cx)).await;
            sleep(CUT_GRACE).await;
            exchanges.cut();
        });
        Cutter(watching.abort_handle())
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What is handed out at once on HTTP/2, where progress is judged by what a client makes room for: the largest frame that
/// every client takes.
const PIECE: usize = 16 * 1024;

/// Why an answer that had begun was cut. The caller sees a broken body, never a clean end.
#[derive(Debug)]
pub(crate) enum DownloadFailed {
    /// Nothing moved for longer than upstream's `timeouts.idle`.
    Stalled,
    /// The key was revoked, or narrowed so that it may not have this answer, and open answers end with their key.
    KeyRevoked,
    /// The key has expired, or its secret's grace or age has ended, and open answers end with their key.
    KeyExpired,
    /// Upstream ended the stream before the answer was whole.
    Truncated,
    /// Upstream broke off, or its framing did.
    Broken(hyper::Error),
}

impl std::fmt::Display for DownloadFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DownloadFailed::Stalled => f.write_str("nothing moved for too long"),
            DownloadFailed::Truncated => f.write_str("upstream ended the stream early"),
            DownloadFailed::KeyRevoked => f.write_str("the key was revoked"),
            DownloadFailed::KeyExpired => f.write_str("the key has expired"),
            DownloadFailed::Broken(error) => write!(f, "upstream broke off: {error}"),
        }
    }
}

impl std::error::Error for DownloadFailed {}

impl From<Ended> for DownloadFailed {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Revoked => DownloadFailed::KeyRevoked,
            Ended::Expired(_) => DownloadFailed::KeyExpired,
        }
    }
}

impl Download {
    /// `revocations`: where open answers end with their key; the second is for a client that reads nothing.
    pub(super) fn new(
        incoming: Incoming,
        lease: Lease,
        permit: Permit,
        upload: UploadProgress,
        exchanges: Arc<Exchanges>,
        alarm: Alarm,
        revocations: Option<(Revocation, Revocation)>,
    ) -> Self {
        let stall = StallTimer::on(alarm, permit.route().timeouts.idle);
        let (revocation, last_resort) = revocations.unzip();
        let cutter = last_resort.map(|revocation| Cutter::new(revocation, exchanges.clone()));
        let mut download = Download {
            incoming,
            stall,
            upload,
            exchanges,
            revocation,
            _cutter: cutter,
            lease: Some(lease),
            _permit: permit,
        };
        if download.incoming.is_end_stream() {
            download.release();
        }
        download
    }

    /// While the answer is under way.
    fn is_http2(&self) -> bool {
        self.lease.as_ref().is_some_and(Lease::is_http2)
    }

    /// The answer is complete: the connection may serve the next request.
    fn release(&mut self) {
        self.upload.over();
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, DownloadFailed>>> {
        if let Some(revocation) = &mut self.revocation
            && let Poll::Ready(ended) = revocation.poll(cx)
        {
            self.revocation = None;
            self.lease = None;
            return Poll::Ready(Some(Err(ended.into())));
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
                if self.incoming.is_end_stream() {
                    self.release();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.lease = None;
                Poll::Ready(Some(Err(DownloadFailed::Broken(error))))
            }
            // hyper takes a stream that was reset without an error for one that has ended.
            Poll::Ready(None) if self.is_http2() && !self.incoming.is_end_stream() => {
                self.lease = None;
                Poll::Ready(Some(Err(DownloadFailed::Truncated)))
            }
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Pending => self.poll_stalled(cx).map(|()| Some(Err(DownloadFailed::Stalled))),
        }
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
        self.exchanges.keep_alarm(self.stall.take_alarm());
    }
}

impl ResponseBody {
    pub(crate) fn own(bytes: Bytes) -> Self {
        ResponseBody::of(Source::Own((!bytes.is_empty()).then_some(bytes)))
    }

    /// None: what follows is no body.
    pub(crate) fn none() -> Self {
        ResponseBody::of(Source::Own(None))
    }

    pub(super) fn upstream(download: Download) -> Self {
        ResponseBody::of(Source::Upstream(download))
    }

    fn of(source: Source) -> Self {
        ResponseBody(Box::new(Answer {
            source,
            record: None,
            rest: None,
            left: Bytes::new(),
            held_back: None,
            is_http2: false,
            ends_with_connection: false,
            exchange: None,
        }))
    }

    /// Keeps the exchange open, and its record, for as long as this body lives. On HTTP/2, the answer ends only when the
    /// request has, within bounds; HTTP/1 has its own way with what is left of one. Where the head is all of the answer,
    /// it ends at once: a gRPC status must.
    pub(crate) fn concluding(
        mut self,
        record: RequestRecord,
        in_service: InService,
        request: RequestBody,
        version: Version,
    ) -> Self {
        let answer = &mut *self.0;
        answer.record = Some(record);
        answer.is_http2 = version == Version::HTTP_2;
        answer.ends_with_connection = version == Version::HTTP_10;
        let drains = answer.is_http2 && !request.is_empty() && !answer.source.has_ended();
        answer.rest = drains.then(|| Drain::new(request.clone()));
        answer.exchange = Some((in_service, request));
        self
    }

    /// Waits for nothing of the request.
    pub(crate) fn at_once(mut self) -> Self {
        self.0.rest = None;
        self
    }
}

impl Answer {
    /// A frame on its way out, or the first piece of it.
    fn hand_out(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        match frame.into_data() {
            Ok(data) if self.is_http2 && data.len() > PIECE => {
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
        if self.is_http2 {
            turn::leave(Turn::Client);
            if let Some((in_service, _)) = &self.exchange {
                in_service.answered(bytes);
            }
        }
    }

    /// Notes why the answer is not whole.
    fn broken_off(&mut self, error: DownloadFailed) -> DownloadFailed {
        if let Some(mut record) = self.record.take() {
            record.failed(&error);
        }
        if let Some((in_service, _)) = self.exchange.as_ref().filter(|_| self.ends_with_connection) {
            in_service.break_off();
        }
        error
    }

    fn finish(&mut self) {
        if let Some(mut record) = self.record.take() {
            record.completed();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = DownloadFailed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadFailed>>> {
        let this = &mut *self.0;
        if !this.left.is_empty() {
            return Poll::Ready(Some(Ok(this.piece())));
        }
        if let Some(error) = this.held_back.take() {
            return Poll::Ready(Some(Err(this.broken_off(error))));
        }
        let polled = match &mut this.source {
            Source::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Upstream(download) => download.poll_frame(cx),
        };
        if let (Poll::Ready(None), Some(rest)) = (&polled, &mut this.rest) {
            ready!(rest.poll(cx));
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
                turn::leave(Turn::Upstream);
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.rest.is_none() && self.0.left.is_empty() && self.0.source.has_ended()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Upstream(download) => {
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

impl Source {
    fn has_ended(&self) -> bool {
        match self {
            Source::Own(bytes) => bytes.is_none(),
            Source::Upstream(download) => download.incoming.is_end_stream(),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        // A body without a byte left is dropped without another poll: that is its end, not the caller's leaving.
        if self.left.is_empty() && self.source.has_ended() {
            self.finish();
        }
    }
}

/// Reads and forgets what is left of a request.
///
/// An HTTP/2 stream that ends while its request is still coming must be reset, and common clients (curl before
/// 8, for one) take the answer for lost then, though RFC 9113, section 8.1 says that it is not. Most such
/// requests have a small body right behind their head: taking it in costs nothing. Larger ones are reset.
#[derive(Debug)]
struct Drain {
    request: RequestBody,
    incoming: Option<Incoming>,
    budget: usize,
    until: Option<Pin<Box<Sleep>>>,
}

const DRAIN_BYTES: usize = 32 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(2);

impl Drain {
    fn new(request: RequestBody) -> Self {
        Drain { request, incoming: None, budget: DRAIN_BYTES, until: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.incoming.is_none() {
            self.incoming = self.request.take();
        }
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(()) };
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(DRAIN_TIME)));
        while until.as_mut().poll(cx).is_pending() {
            match Pin::new(&mut *incoming).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    let Some(budget) = self.budget.checked_sub(length) else { break };
                    self.budget = budget;
                }
                Poll::Ready(_) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        // Back to the exchange: the body must not go before the end of the answer has gone out.
        if let Some(incoming) = self.incoming.take() {
            self.request.put_back(incoming);
        }
    }
}
