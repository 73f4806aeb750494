//! The body of a client's request. It is kept from the arrival of the request's head until the
//! answer has ended.
//!
//! `net` makes a [`RequestBody`] for each request. A hook may read the body's first frames (its
//! prelude), the upload sends the body to upstream, and `forward::unread` drains the rest.
//! Invariant: no byte is lost between these readers. A prelude is replayed to the next reader, and
//! a reader that stops early puts the unread rest back.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::stall::StallTimer;
use crate::protocol::Protocol;

/// The body of a request, kept until the answer to the request has ended.
///
/// The body must live longer than the answer even if no code reads it. hyper resets an HTTP/2
/// stream whose body is dropped before the answer was sent, and the client would lose the answer.
#[derive(Clone, Debug)]
pub(crate) struct RequestBody(Option<Arc<Mutex<Option<ReceivedBody>>>>);

/// A request's body while it is read: first the replayed frames of a prelude, then frames from the
/// client.
#[derive(Debug)]
pub(crate) struct ReceivedBody {
    incoming: Incoming,
    protocol: Protocol,
    /// Data of a prelude that is still to be replayed.
    replay: BytesMut,
    /// Trailers that were read with the prelude. They are replayed behind its data.
    trailers: Option<Frame<Bytes>>,
    /// The memory of the prelude, until it was replayed.
    memory: Option<PreludePermit>,
}

/// The memory for the preludes of all requests.
#[derive(Debug, Default)]
pub(crate) struct PreludeMemory {
    used: AtomicU64,
}

/// Memory for one prelude. Dropping the permit gives it back.
#[derive(Debug)]
pub(crate) struct PreludePermit {
    memory: Arc<PreludeMemory>,
    bytes: u64,
    limit: u64,
}

impl PreludeMemory {
    /// Makes a permit for a prelude that has no memory yet. `limit`: the most bytes that all
    /// preludes together may have.
    pub(crate) fn permit(self: &Arc<Self>, limit: u64) -> PreludePermit {
        PreludePermit { memory: self.clone(), bytes: 0, limit }
    }
}

impl PreludePermit {
    /// Takes memory for a prelude of `bytes` bytes. Returns whether there is room for it.
    fn grow_to(&mut self, bytes: u64) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let grown = |used: u64| used.checked_add(more).filter(|used| *used <= self.limit);
        let is_granted = self.memory.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        self.bytes += if is_granted { more } else { 0 };
        is_granted
    }
}

impl Drop for PreludePermit {
    fn drop(&mut self) {
        self.memory.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// How long a reader waits for the frames of a prelude.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// The reader takes what has been received, and does not wait for more.
    None,
    /// The reader waits for each frame, for at most this time.
    UpTo(Duration),
}

impl Patience {
    fn idle(self) -> Duration {
        match self {
            Patience::None => Duration::MAX,
            Patience::UpTo(idle) => idle,
        }
    }

    /// Whether `bytes` took too long to arrive.
    fn is_over(self, elapsed: Duration, bytes: u64) -> bool {
        let Patience::UpTo(idle) = self else { return false };
        elapsed.saturating_sub(idle).as_secs_f64() * LEAST_RATE > bytes as f64
    }
}

/// The least rate at which a prelude has to arrive, in bytes a second, after one idle time. A client
/// that sends a byte now and then would hold memory for hours.
const LEAST_RATE: f64 = 4096.0;

/// Number of polls after which a body has passed on all bytes that were received with its head.
/// hyper reads a body only after the reader has polled it once.
const POLLS_FOR_RECEIVED: u32 = 2;

/// A change of a prelude: `length` bytes at the position `at` are replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Edit {
    pub(crate) at: u64,
    pub(crate) length: u64,
    pub(crate) bytes: String,
}

/// Reason why a request's body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadFailure {
    /// The body is longer than its limit.
    TooLarge,
    /// The client sent no byte of the body for longer than the idle timeout.
    Stalled,
    /// The client closed the connection, or the framing of its body was malformed.
    Broken,
    /// The rest of the body makes it unclear which model the request names.
    UnclearModel,
    /// The rest of the body asks for more output than is allowed.
    TooMuchOutput,
    /// The body sets its priority behind the part that was looked at.
    LatePriority,
    /// The rest of the body asks for an answer that is made in the background, whose tokens are limited.
    InBackground,
    /// The rest of the body makes it unclear whether a stream has its usage.
    UnclearStream,
    /// The rest of the body picks the members of the answer, whose tokens are limited.
    PickedAnswer,
}

/// Error of a request's body: the client closed the connection, or the body's framing was
/// malformed.
#[derive(Debug)]
pub(crate) struct BodyBroken;

/// The prelude: the first frames of a request's body.
#[derive(Debug)]
pub(crate) struct Prelude {
    pub(crate) data: Bytes,
    /// Whether `data` is the complete body.
    pub(crate) is_whole: bool,
    /// Whether there was memory for the whole prelude.
    pub(crate) has_room: bool,
}

impl RequestBody {
    /// Wraps the body that hyper reads. `protocol` is the protocol of the client's connection.
    pub(crate) fn new(incoming: Incoming, protocol: Protocol) -> Self {
        if incoming.is_end_stream() {
            return RequestBody(None);
        }
        let received =
            ReceivedBody { incoming, protocol, replay: BytesMut::new(), trailers: None, memory: None };
        RequestBody(Some(Arc::new(Mutex::new(Some(received)))))
    }

    /// Whether the request has no body.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the body may contain bytes: the request has a body, and its declared length is not
    /// zero.
    pub(crate) fn may_hold_bytes(&self) -> bool {
        !self.is_empty() && self.size_hint().is_none_or(|hint| hint.exact() != Some(0))
    }

    /// Returns the smallest length that the body may have, in bytes.
    pub(crate) fn least_length(&self) -> u64 {
        self.size_hint().map_or(0, |hint| hint.lower())
    }

    /// Returns the declared length of the body, in bytes; `None` if no length is declared.
    pub(crate) fn exact_length(&self) -> Option<u64> {
        match self.is_empty() {
            true => Some(0),
            false => self.size_hint()?.exact(),
        }
    }

    /// Removes and returns the body, for a reader; `None` if the request has no body, or if another
    /// reader has removed the body.
    pub(crate) fn take(&self) -> Option<ReceivedBody> {
        self.lock()?.take()
    }

    /// Puts back a body that was not read to its end, for the next reader.
    pub(crate) fn put_back(&self, unread: ReceivedBody) {
        if let Some(mut slot) = self.lock() {
            debug_assert!(slot.is_none(), "a body has one reader at a time");
            *slot = Some(unread);
        }
    }

    /// Reads the first frames of the body, until these frames contain `limit` bytes of data or the
    /// body ends.
    ///
    /// The frames are stored, and replayed to the next reader. Their data is at most `limit` bytes
    /// and one frame long. Dropping the future loses no byte.
    ///
    /// `patience`: how long to wait for a frame. `memory`: the memory of the prelude, which is given
    /// back when the prelude was replayed.
    ///
    /// # Errors
    ///
    /// Fails if the client sends nothing for longer than `patience` allows, if the prelude arrives
    /// more slowly than [`LEAST_RATE`], or if the body breaks.
    pub(crate) async fn prelude(
        &self,
        limit: u64,
        patience: Patience,
        memory: Option<PreludePermit>,
    ) -> Result<Prelude, UploadFailure> {
        let Some(received) = self.take() else {
            debug_assert!(self.is_empty(), "a body has one reader at a time");
            return Ok(Prelude { data: Bytes::new(), is_whole: true, has_room: true });
        };
        let mut lent = Lent { of: self, received: Some(received) };
        let Some(received) = &mut lent.received else {
            debug_assert!(false, "a lent body is there until it is put back");
            return Err(UploadFailure::Broken);
        };
        received.memory = memory;
        let (mut stall, begun) = (StallTimer::new(patience.idle()), Instant::now());
        let mut polls = 0;
        let mut has_ended = received.incoming.is_end_stream();
        while !has_ended && received.replayed_bytes() < limit {
            let frame = poll_fn(|cx| match received.poll_incoming(cx) {
                Poll::Pending if patience == Patience::None => {
                    polls += 1;
                    if polls > POLLS_FOR_RECEIVED {
                        return Poll::Ready(Ok(None));
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Poll::Pending => stall.poll_stalled(cx).map(|()| Err(UploadFailure::Stalled)),
                Poll::Ready(frame) => {
                    stall.progressed();
                    Poll::Ready(frame.transpose().map_err(|BodyBroken| UploadFailure::Broken))
                }
            });
            match frame.await? {
                Some(frame) => {
                    has_ended = frame.is_trailers() || received.incoming.is_end_stream();
                    match frame.into_data() {
                        // The data is copied: a client may send it in many small frames.
                        Ok(data) => received.replay.extend_from_slice(&data),
                        Err(trailers) => received.trailers = Some(trailers),
                    }
                    let replayed = received.replayed_bytes();
                    if patience.is_over(begun.elapsed(), replayed) {
                        return Err(UploadFailure::Stalled);
                    }
                    if received.memory.as_mut().is_some_and(|memory| !memory.grow_to(replayed)) {
                        let data = received.replay.clone().freeze();
                        return Ok(Prelude { data, is_whole: has_ended, has_room: false });
                    }
                }
                None if polls > POLLS_FOR_RECEIVED => break,
                None => has_ended = true,
            }
        }
        let data = received.replay.clone().freeze();
        Ok(Prelude { data, is_whole: has_ended, has_room: true })
    }

    /// Changes the prelude that is replayed to the next reader. `edits`: changes within the
    /// prelude, in the order of their positions.
    pub(crate) fn edit_prelude(&self, edits: &[Edit]) {
        let mut slot = self.lock();
        let Some(received) = slot.as_mut().and_then(|slot| slot.as_mut()) else { return };
        let before = std::mem::take(&mut received.replay);
        let mut after = BytesMut::with_capacity(before.len() + 64);
        let mut from = 0;
        for Edit { at, length, bytes } in edits {
            let (at, end) = (*at as usize, (*at + *length) as usize);
            debug_assert!(from <= at && end <= before.len(), "an edit is within the prelude");
            after.extend_from_slice(before.get(from..at).unwrap_or_default());
            after.extend_from_slice(bytes.as_bytes());
            from = end;
        }
        after.extend_from_slice(before.get(from..).unwrap_or_default());
        received.replay = after;
    }

    /// Returns the number of bytes of the prelude that is replayed to the next reader.
    pub(crate) fn prelude_bytes(&self) -> u64 {
        self.lock().and_then(|slot| Some(slot.as_ref()?.replayed_bytes())).unwrap_or(0)
    }

    fn size_hint(&self) -> Option<SizeHint> {
        self.lock()?.as_ref().map(Body::size_hint)
    }

    fn lock(&self) -> Option<MutexGuard<'_, Option<ReceivedBody>>> {
        Some(self.0.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A body that is lent to the reader of a prelude. Dropping `Lent` puts the body back.
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
        self.replay.len() as u64
    }

    #[inline(always)]
    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
            // hyper reports a stream that the client reset with NO_ERROR like a stream that ended
            // normally, so this code checks whether the stream has really ended.
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

    #[inline(always)]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyBroken>>> {
        if !self.replay.is_empty() {
            self.memory = None;
            let data = std::mem::take(&mut self.replay).freeze();
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match self.trailers.take() {
            Some(trailers) => Poll::Ready(Some(Ok(trailers))),
            None => self.poll_incoming(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.replay.is_empty() && self.trailers.is_none() && self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, replayed) = (self.incoming.size_hint(), self.replayed_bytes());
        // The upper bound is set first, because `set_lower` panics if the lower bound is above it.
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + replayed);
        }
        hint.set_lower(hint.lower() + replayed);
        hint
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prelude_has_to_arrive_at_a_least_rate_after_one_idle_time() {
        let is_over = |seconds, bytes| {
            Patience::UpTo(Duration::from_secs(30)).is_over(Duration::from_secs(seconds), bytes)
        };
        assert!(!is_over(30, 1) && is_over(31, 4095) && !is_over(31, 4096));
        assert!(!is_over(46, 64 * 1024) && is_over(47, 64 * 1024));
        assert!(!Patience::None.is_over(Duration::from_secs(3600), 0));
    }
}
