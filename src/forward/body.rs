//! The body of an answer on its way to the caller.
//!
//! Frames pass as they come. Everything that must last exactly as long as the answer lives in here: the key's
//! place among the requests in flight, the connection to upstream, and the record for the access log.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::headers::is_harmless_trailer;
use crate::exchange::InService;
use crate::gate::Permit;
use crate::observe::RequestRecord;
use crate::upstream::pool::Lease;
use crate::upstream::stall::StallTimer;
use crate::upstream::upload::filtered;

/// An answer's body: bearward's own, or upstream's.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    /// Emitted when the body has ended or is dropped.
    record: Option<RequestRecord>,
    /// The exchange on the caller's connection, which ends with its answer.
    in_service: Option<InService>,
}

#[derive(Debug)]
enum Source {
    Own(Option<Bytes>),
    Upstream(Box<Download>),
}

/// Upstream's answer in transit.
#[derive(Debug)]
pub(crate) struct Download {
    incoming: Incoming,
    stall: StallTimer,
    lease: Option<Lease>,
    _permit: Permit,
}

/// Why an answer that had begun was cut. The caller sees a broken body, never a clean end.
#[derive(Debug)]
pub(crate) enum DownloadFailed {
    /// Upstream sent nothing for longer than its `timeouts.idle`.
    Stalled,
    /// Upstream broke off, or its framing did.
    Broken(hyper::Error),
}

impl std::fmt::Display for DownloadFailed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DownloadFailed::Stalled => f.write_str("upstream sent nothing for too long"),
            DownloadFailed::Broken(error) => write!(f, "upstream broke off: {error}"),
        }
    }
}

impl std::error::Error for DownloadFailed {}

impl Download {
    pub(super) fn new(incoming: Incoming, lease: Lease, permit: Permit) -> Self {
        let idle = permit.route().upstream.timeouts.idle;
        let mut download =
            Download { incoming, stall: StallTimer::new(idle), lease: Some(lease), _permit: permit };
        if download.incoming.is_end_stream() {
            download.release();
        }
        download
    }

    /// The answer is complete: the connection may serve the next request.
    fn release(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, DownloadFailed>>> {
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stall.progressed();
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(filtered(trailers, is_harmless_trailer)),
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
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Pending => match self.stall.poll_stalled(cx) {
                Poll::Ready(()) => Poll::Ready(Some(Err(DownloadFailed::Stalled))),
                Poll::Pending => Poll::Pending,
            },
        }
    }
}

impl ResponseBody {
    pub(crate) fn own(bytes: Bytes, record: RequestRecord) -> Self {
        let bytes = (!bytes.is_empty()).then_some(bytes);
        ResponseBody { source: Source::Own(bytes), record: Some(record), in_service: None }
    }

    pub(crate) fn upstream(download: Download, record: RequestRecord) -> Self {
        ResponseBody { source: Source::Upstream(Box::new(download)), record: Some(record), in_service: None }
    }

    /// Keeps the exchange open for as long as this body lives.
    pub(crate) fn in_service(mut self, in_service: InService) -> Self {
        self.in_service = Some(in_service);
        self
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
        let this = &mut *self;
        let polled = match &mut this.source {
            Source::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Upstream(download) => download.poll_frame(cx),
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(record), Some(data)) = (&mut this.record, frame.data_ref()) {
                    record.sent(data.len());
                }
            }
            Poll::Ready(Some(Err(error))) => {
                if let Some(mut record) = this.record.take() {
                    record.failed(error);
                }
            }
            Poll::Ready(None) => this.finish(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own(bytes) => bytes.is_none(),
            Source::Upstream(download) => download.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Upstream(download) => download.incoming.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // A body without a byte left is dropped without another poll: that is its end, not the caller's leaving.
        if self.is_end_stream() {
            self.finish();
        }
    }
}
