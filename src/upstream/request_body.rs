//! The body of a client's request: waiting, looked at, on its way to upstream, or left unread.
//!
//! Invariant: nothing of it is lost between these: what was looked at is replayed, and what was not
//! read is there for whoever comes next.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::stall::StallTimer;
use crate::protocol::Protocol;

/// The body of a request for as long as its answer lasts.
///
/// It must outlive the answer even where nothing reads it: an HTTP/2 stream whose body is dropped
/// before its answer has gone out is reset, and the answer is lost with it.
#[derive(Clone, Debug)]
pub(crate) struct RequestBody(Option<Arc<Mutex<Option<ReceivedBody>>>>);

/// What a client sends as its body, with what was looked at beforehand in front.
#[derive(Debug)]
pub(crate) struct ReceivedBody {
    incoming: Incoming,
    protocol: Protocol,
    /// Frames that were read for a prelude, in order.
    replay: VecDeque<Frame<Bytes>>,
}

/// Why a request's body ended before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadFailure {
    /// Longer than allowed.
    TooLarge,
    /// The client sent nothing for too long.
    Stalled,
    /// The client left, or its framing was broken.
    Broken,
}

/// The client left, or its framing was broken.
#[derive(Debug)]
pub(crate) struct BodyBroken;

/// The beginning of a body.
#[derive(Debug)]
pub(crate) struct Prelude {
    /// The data of the frames that were read.
    pub(crate) data: Vec<Bytes>,
    /// Whether that is all of the body.
    pub(crate) is_whole: bool,
}

impl RequestBody {
    /// The body that hyper reads for a request on a connection of this protocol.
    pub(crate) fn new(incoming: Incoming, protocol: Protocol) -> Self {
        if incoming.is_end_stream() {
            return RequestBody(None);
        }
        let received = ReceivedBody { incoming, protocol, replay: VecDeque::new() };
        RequestBody(Some(Arc::new(Mutex::new(Some(received)))))
    }

    /// Whether the request ends with its head.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether bytes may come in it: it neither ends with the head nor declares a length of zero.
    pub(crate) fn may_hold_bytes(&self) -> bool {
        !self.is_empty() && self.size_hint().is_none_or(|hint| hint.exact() != Some(0))
    }

    /// The least length that it declares, in bytes.
    pub(crate) fn least_length(&self) -> u64 {
        self.size_hint().map_or(0, |hint| hint.lower())
    }

    /// The exact length that it declares, in bytes; `None` where it declares none.
    pub(crate) fn exact_length(&self) -> Option<u64> {
        match self.is_empty() {
            true => Some(0),
            false => self.size_hint()?.exact(),
        }
    }

    /// Takes the body to read it. `None` where there is none, or where it was taken.
    pub(crate) fn take(&self) -> Option<ReceivedBody> {
        self.lock()?.take()
    }

    /// Puts back what was not read.
    pub(crate) fn put_back(&self, unread: ReceivedBody) {
        if let Some(mut slot) = self.lock() {
            debug_assert!(slot.is_none(), "a body is read in one place at a time");
            *slot = Some(unread);
        }
    }

    /// Reads the beginning of the body: until it has `limit` bytes of data, or all. What is read
    /// is kept and replayed; it is at most `limit` bytes and one frame. Dropping the future loses
    /// nothing.
    ///
    /// `idle`: the longest wait between two frames.
    ///
    /// # Errors
    ///
    /// The client stalled, or its body broke.
    pub(crate) async fn prelude(&self, limit: usize, idle: Duration) -> Result<Prelude, UploadFailure> {
        let Some(received) = self.take() else { return Ok(Prelude { data: Vec::new(), is_whole: true }) };
        let mut lent = Lent { of: self, received: Some(received) };
        let Some(received) = &mut lent.received else { return Err(UploadFailure::Broken) };
        let mut stall = StallTimer::new(idle);
        while !received.incoming.is_end_stream() && received.replayed_bytes() < limit as u64 {
            let frame = poll_fn(|cx| match received.poll_incoming(cx) {
                Poll::Pending => stall.poll_stalled(cx).map(|()| Err(UploadFailure::Stalled)),
                Poll::Ready(frame) => {
                    stall.progressed();
                    Poll::Ready(frame.transpose().map_err(|BodyBroken| UploadFailure::Broken))
                }
            });
            let Some(frame) = frame.await? else { break };
            received.replay.push_back(frame);
        }
        let is_whole = received.incoming.is_end_stream();
        let data = received.replay.iter().filter_map(Frame::data_ref).cloned().collect();
        Ok(Prelude { data, is_whole })
    }

    fn size_hint(&self) -> Option<SizeHint> {
        self.lock()?.as_ref().map(Body::size_hint)
    }

    fn lock(&self) -> Option<MutexGuard<'_, Option<ReceivedBody>>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A body that is being looked at; dropping it puts it back.
struct Lent<'b> {
    of: &'b RequestBody,
    received: Option<ReceivedBody>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(received) = self.received.take() {
            self.of.put_back(received);
        }
    }
}

impl ReceivedBody {
    fn replayed_bytes(&self) -> u64 {
        self.replay.iter().filter_map(Frame::data_ref).map(|data| data.len() as u64).sum()
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            // hyper takes a stream that was reset without an error for one that has ended.
            None if self.protocol.has_streams() && !self.incoming.is_end_stream() => {
                Poll::Ready(Some(Err(BodyBroken)))
            }
            Some(Err(_)) => Poll::Ready(Some(Err(BodyBroken))),
            Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
            None => Poll::Ready(None),
        }
    }
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = BodyBroken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        match self.replay.pop_front() {
            Some(frame) => Poll::Ready(Some(Ok(frame))),
            None => self.poll_incoming(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.replay.is_empty() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, replayed) = (self.incoming.size_hint(), self.replayed_bytes());
        // The upper bound first: the lower one may not pass it.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + replayed);
        }
        hint.set_lower(hint.lower() + replayed);
        hint
    }
}
