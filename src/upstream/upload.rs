//! The upload: a request's body on its way to upstream. Its bytes are counted, its waits are timed,
//! and its trailers are filtered.
//!
//! The codec of the connection to upstream polls the upload. The request path observes the upload
//! through its [`UploadProgress`].
//! Invariants: each frame is forwarded as soon as it arrives. A body that broke is never sent to
//! upstream as a complete body.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{HeaderMap, HeaderName};
use http_body::{Body, Frame, SizeHint};

use super::request_body::{ReceivedBody, RequestBody, UploadFailure};
use super::socket::Socket;
use super::stall::StallTimer;
use crate::activity::ConnectionActivity;
use crate::tap::{BodyEnd, TapSlot};

/// Limits of a request's body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadLimits {
    /// Largest body of a request, in bytes.
    pub(crate) bytes: u64,
    /// Longest wait between two frames of a request's body.
    pub(crate) idle: Duration,
    /// The most output tokens that the request may ask for; `None` for any number.
    pub(crate) output: Option<u32>,
}

/// Rule that decides which trailers of a request are forwarded.
#[derive(Clone, Debug)]
pub(crate) struct TrailerRule {
    pub(crate) is_harmless: fn(&HeaderName) -> bool,
    /// Names of headers that may carry a credential. Trailers with these names are dropped.
    pub(crate) secret: Arc<[HeaderName]>,
    /// Names of headers that the route removes. Trailers with these names are dropped, too.
    pub(crate) removed: Arc<[HeaderName]>,
}

impl TrailerRule {
    fn keeps(&self, name: &HeaderName) -> bool {
        (self.is_harmless)(name) && !self.secret.contains(name) && !self.removed.contains(name)
    }
}

/// Progress of an upload, shared with the request path; empty if the request has no body.
#[derive(Clone, Debug)]
pub(crate) struct UploadProgress(Option<Arc<Progress>>);

#[derive(Debug)]
struct Progress {
    started: Instant,
    /// Nanoseconds from `started` until a byte of the upload last moved.
    last_moved: AtomicU64,
    state: AtomicU8,
    /// Whether the head of the answer has arrived. After that, the answer's body measures the idle
    /// time of both directions.
    has_answer_started: AtomicBool,
    /// Whether the answer has ended. The rest of the upload is then aborted.
    has_answer_ended: AtomicBool,
    /// Wakes the upload when the answer has ended.
    waker: AtomicWaker,
}

const MOVING: u8 = 0;
const BLOCKED_ON_CLIENT: u8 = 1;
const DONE: u8 = 2;
const TOO_LARGE: u8 = 3;
const STALLED: u8 = 4;
const BROKEN: u8 = 5;
const UNCLEAR_MODEL: u8 = 6;
const TOO_MUCH_OUTPUT: u8 = 7;
const LATE_PRIORITY: u8 = 8;
const IN_BACKGROUND: u8 = 9;
const UNCLEAR_STREAM: u8 = 10;
const PICKED_ANSWER: u8 = 11;

/// Checks a request's body as it is forwarded.
pub(crate) trait UploadGuard: Send + Sync {
    /// Checks the next data of the body. `is_last`: whether the body ends with it.
    ///
    /// # Errors
    ///
    /// The body must not be forwarded completely.
    fn check(&mut self, data: &[u8], is_last: bool) -> Result<(), UploadFailure>;
}

impl std::fmt::Debug for dyn UploadGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UploadGuard")
    }
}

impl Progress {
    fn new() -> Self {
        Progress {
            started: Instant::now(),
            last_moved: AtomicU64::new(0),
            state: AtomicU8::new(MOVING),
            has_answer_started: AtomicBool::new(false),
            has_answer_ended: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    fn moved(&self, state: u8) {
        let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.last_moved.store(elapsed, Ordering::Relaxed);
        self.state.store(state, Ordering::Relaxed);
    }

    fn last_moved(&self) -> Instant {
        self.started + Duration::from_nanos(self.last_moved.load(Ordering::Relaxed))
    }

    fn state(&self) -> u8 {
        self.state.load(Ordering::Relaxed)
    }
}

impl UploadProgress {
    /// Returns the time at which a byte of the upload last moved.
    pub(crate) fn last_moved(&self) -> Option<Instant> {
        Some(self.0.as_ref()?.last_moved())
    }

    /// Records that the head of the answer has arrived. From now on, a client that sends nothing
    /// does not cause a stall, because one direction of a bidirectional stream is often silent.
    pub(crate) fn answer_started(&self) {
        if let Some(progress) = &self.0 {
            progress.has_answer_started.store(true, Ordering::Relaxed);
        }
    }

    /// Records that the answer has ended, and aborts the rest of the upload, because the upload
    /// must not outlive the permit of its request.
    pub(crate) fn answer_ended(&self) {
        if let Some(progress) = &self.0 {
            progress.has_answer_ended.store(true, Ordering::Release);
            progress.waker.wake();
        }
    }

    /// Whether the upload waits for the client, and not for upstream.
    pub(crate) fn is_blocked_on_client(&self) -> bool {
        self.0.as_ref().is_some_and(|progress| progress.state() == BLOCKED_ON_CLIENT)
    }

    /// Returns the reason why the upload was aborted, if it was.
    pub(crate) fn failure(&self) -> Option<UploadFailure> {
        match self.0.as_ref()?.state() {
            TOO_LARGE => Some(UploadFailure::TooLarge),
            STALLED => Some(UploadFailure::Stalled),
            BROKEN => Some(UploadFailure::Broken),
            UNCLEAR_MODEL => Some(UploadFailure::UnclearModel),
            TOO_MUCH_OUTPUT => Some(UploadFailure::TooMuchOutput),
            LATE_PRIORITY => Some(UploadFailure::LatePriority),
            IN_BACKGROUND => Some(UploadFailure::InBackground),
            UNCLEAR_STREAM => Some(UploadFailure::UnclearStream),
            PICKED_ANSWER => Some(UploadFailure::PickedAnswer),
            _ => None,
        }
    }
}

/// A request's body as it is sent to upstream; empty if the request has no body.
///
/// The contents are boxed, because requests are moved several times.
#[derive(Debug)]
pub(crate) struct Upload(Option<Box<Uploading>>);

#[derive(Debug)]
struct Uploading {
    /// The body that is read from the client; `None` if another reader has the body.
    received: Option<ReceivedBody>,
    body: RequestBody,
    tap: TapSlot,
    progress: Arc<Progress>,
    activity: Arc<ConnectionActivity>,
    limits: UploadLimits,
    bytes: u64,
    stall: StallTimer,
    trailers: TrailerRule,
    /// Checks the part of the body that was not looked at before the request was admitted.
    guard: Option<Box<dyn UploadGuard>>,
    /// A resource, such as a stream permit, that is dropped together with the upload.
    held: HeldResource,
    /// The connection's socket, and the longest time for which the server may leave a long body
    /// unread. The field becomes `None` when the body is long and the socket's timeout was
    /// extended.
    slow_reader: Option<(Arc<Socket>, Duration)>,
}

/// Longest body, in bytes, that the kernel is assumed to buffer for a server that does not read.
const SHORT_BODY: u64 = 16 * 1024;

/// A resource, such as a stream permit, that is dropped together with an upload.
#[derive(Default)]
struct HeldResource(Option<Arc<dyn Send + Sync>>);

impl std::fmt::Debug for HeldResource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "HeldResource(1)" } else { "HeldResource(0)" })
    }
}

/// Error with which an aborted upload ends on the connection to upstream.
#[derive(Debug)]
pub(crate) struct UploadAborted(UploadFailure);

impl std::fmt::Display for UploadAborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the request body ended early: {:?}", self.0)
    }
}

impl std::error::Error for UploadAborted {}

impl Upload {
    /// Makes the upload of a request. `activity` is the activity of the client's connection.
    pub(crate) fn new(
        body: &RequestBody,
        limits: UploadLimits,
        activity: &Arc<ConnectionActivity>,
        trailers: TrailerRule,
        tap: TapSlot,
    ) -> Self {
        if body.is_empty() {
            return Upload(None);
        }
        Upload(Some(Box::new(Uploading {
            received: body.take(),
            body: body.clone(),
            tap,
            progress: Arc::new(Progress::new()),
            activity: activity.clone(),
            limits,
            bytes: 0,
            stall: StallTimer::new(limits.idle),
            trailers,
            guard: None,
            held: HeldResource::default(),
            slow_reader: None,
        })))
    }

    /// Makes the upload of a request without a body.
    pub(crate) fn empty() -> Self {
        Upload(None)
    }

    /// Has `guard` check the body as it is forwarded.
    pub(crate) fn guarded(mut self, guard: Option<Box<dyn UploadGuard>>) -> Self {
        if let Some(uploading) = &mut self.0 {
            uploading.guard = guard;
        }
        self
    }

    /// Stores a resource that is dropped together with the upload. The new resource replaces an
    /// earlier resource.
    pub(crate) fn hold(&mut self, resource: Arc<dyn Send + Sync>) {
        if let Some(uploading) = &mut self.0 {
            uploading.held = HeldResource(Some(resource));
        }
    }

    /// Allows the server at the other end of `socket` to leave a long body unread for `limit`.
    pub(super) fn allow_slow_reader(&mut self, socket: &Arc<Socket>, limit: Duration) {
        if let Some(uploading) = &mut self.0 {
            uploading.slow_reader = Some((socket.clone(), limit));
        }
    }

    /// Returns the progress of this upload, for the request path.
    pub(crate) fn progress(&self) -> UploadProgress {
        UploadProgress(self.0.as_ref().map(|uploading| uploading.progress.clone()))
    }
}

impl Uploading {
    fn fail(&mut self, failure: UploadFailure) -> Poll<Option<Result<Frame<Bytes>, UploadAborted>>> {
        let state = match failure {
            UploadFailure::TooLarge => TOO_LARGE,
            UploadFailure::Stalled => STALLED,
            UploadFailure::Broken => BROKEN,
            UploadFailure::UnclearModel => UNCLEAR_MODEL,
            UploadFailure::TooMuchOutput => TOO_MUCH_OUTPUT,
            UploadFailure::LatePriority => LATE_PRIORITY,
            UploadFailure::InBackground => IN_BACKGROUND,
            UploadFailure::UnclearStream => UNCLEAR_STREAM,
            UploadFailure::PickedAnswer => PICKED_ANSWER,
        };
        self.progress.moved(state);
        self.tap.ended(BodyEnd::Failed);
        Poll::Ready(Some(Err(UploadAborted(failure))))
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Poll<Option<Result<Frame<Bytes>, UploadAborted>>> {
        self.stall.progressed();
        if let Some(data) = frame.data_ref() {
            self.bytes = self.bytes.saturating_add(data.len() as u64);
            if self.bytes > self.limits.bytes {
                return self.fail(UploadFailure::TooLarge);
            }
            if self.bytes > SHORT_BODY
                && let Some((socket, limit)) = self.slow_reader.take()
            {
                socket.extend_user_timeout(limit);
            }
        }
        self.progress.moved(MOVING);
        // No frame follows trailers, and a codec does not poll the upload again after trailers.
        let is_last = self.has_ended() || frame.is_trailers();
        if is_last {
            self.activity.body_read();
        }
        if let Some(guard) = &mut self.guard {
            let data = frame.data_ref().map(|data| &data[..]).unwrap_or_default();
            if let Err(failure) = guard.check(data, is_last) {
                return self.fail(failure);
            }
        }
        let frame = match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(filtered(trailers, |name| self.trailers.keeps(name))),
            Err(data) => data,
        };
        self.tap.frame(&frame);
        if is_last {
            self.tap.ended(BodyEnd::Complete);
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn has_ended(&self) -> bool {
        self.received.as_ref().is_none_or(Body::is_end_stream)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadAborted>>> {
        let Some(received) = self.received.as_mut() else {
            self.progress.moved(DONE);
            return Poll::Ready(None);
        };
        self.progress.waker.register(cx.waker());
        if self.progress.has_answer_ended.load(Ordering::Acquire) {
            return self.fail(UploadFailure::Broken);
        }
        match Pin::new(received).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => self.take(frame),
            Poll::Ready(Some(Err(_broken))) => self.fail(UploadFailure::Broken),
            Poll::Ready(None) => {
                if let Some(Err(failure)) = self.guard.as_mut().map(|guard| guard.check(&[], true)) {
                    return self.fail(failure);
                }
                self.progress.moved(DONE);
                self.activity.body_read();
                self.tap.ended(BodyEnd::Complete);
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.progress.state.store(BLOCKED_ON_CLIENT, Ordering::Relaxed);
                if self.progress.has_answer_started.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                match self.stall.poll_stalled(cx) {
                    Poll::Ready(()) => self.fail(UploadFailure::Stalled),
                    Poll::Pending => Poll::Pending,
                }
            }
        }
    }
}

/// Returns only those trailers whose names `keeps` accepts.
pub(crate) fn filtered(trailers: HeaderMap, keeps: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(trailers.len());
    let mut current = None;
    for (name, value) in trailers {
        // `HeaderMap` yields a name only with the first value of this name. The other values come
        // without a name.
        if name.is_some() {
            current = name;
        }
        if let Some(name) = current.as_ref().filter(|name| keeps(name)) {
            kept.append(name.clone(), value);
        }
    }
    kept
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if let Some(unread) = self.received.take() {
            self.body.put_back(unread);
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadAborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadAborted>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |uploading| uploading.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|uploading| uploading.has_ended())
    }

    fn size_hint(&self) -> SizeHint {
        let received = self.0.as_ref().and_then(|uploading| uploading.received.as_ref());
        received.map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
