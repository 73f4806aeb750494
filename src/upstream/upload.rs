//! The body of a request on its way to upstream: counted, timed, and stripped of trailers that may
//! not pass.
//!
//! Invariant: it passes frames on as they come and holds none back; a body that broke is never
//! completed.

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

/// What a request's body may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UploadLimits {
    pub(crate) bytes: u64,
    /// The longest wait between two frames.
    pub(crate) idle: Duration,
}

/// Which trailers of a request pass.
#[derive(Clone, Debug)]
pub(crate) struct TrailerRule {
    pub(crate) is_harmless: fn(&HeaderName) -> bool,
    /// Names that a credential may stand in: none of them passes.
    pub(crate) secret: Arc<[HeaderName]>,
    /// Names that the route removes.
    pub(crate) removed: Arc<[HeaderName]>,
}

impl TrailerRule {
    fn keeps(&self, name: &HeaderName) -> bool {
        (self.is_harmless)(name) && !self.secret.contains(name) && !self.removed.contains(name)
    }
}

/// What the request path can see of an upload that the connection to upstream drives. Of a request without a body there
/// is nothing to see.
#[derive(Clone, Debug)]
pub(crate) struct UploadProgress(Option<Arc<Progress>>);

#[derive(Debug)]
struct Progress {
    started: Instant,
    /// Nanoseconds from `started` until something last moved.
    last_moved: AtomicU64,
    state: AtomicU8,
    /// Upstream answers already: whoever passes the answer on watches over both directions.
    is_answered: AtomicBool,
    /// The answer is over: nobody reads the rest.
    is_over: AtomicBool,
    /// Woken when the answer is over.
    waker: AtomicWaker,
}

const MOVING: u8 = 0;
const AWAITING_CLIENT: u8 = 1;
const DONE: u8 = 2;
const TOO_LARGE: u8 = 3;
const STALLED: u8 = 4;
const BROKEN: u8 = 5;

impl Progress {
    fn new() -> Self {
        Progress {
            started: Instant::now(),
            last_moved: AtomicU64::new(0),
            state: AtomicU8::new(MOVING),
            is_answered: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
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
    /// When the upload last moved.
    pub(crate) fn last_moved(&self) -> Option<Instant> {
        Some(self.0.as_ref()?.last_moved())
    }

    /// The head of the answer has come. A client that is silent from here on does not stall its upload: on a
    /// stream in both directions, silence is ordinary.
    pub(crate) fn answered(&self) {
        if let Some(progress) = &self.0 {
            progress.is_answered.store(true, Ordering::Relaxed);
        }
    }

    /// The answer has ended. What is left of the upload ends with it: it would outlive the right to it.
    pub(crate) fn over(&self) {
        if let Some(progress) = &self.0 {
            progress.is_over.store(true, Ordering::Release);
            progress.waker.wake();
        }
    }

    /// Whether it is the client, not upstream, that is being waited for.
    pub(crate) fn awaits_client(&self) -> bool {
        self.0.as_ref().is_some_and(|progress| progress.state() == AWAITING_CLIENT)
    }

    pub(crate) fn failure(&self) -> Option<UploadFailure> {
        match self.0.as_ref()?.state() {
            TOO_LARGE => Some(UploadFailure::TooLarge),
            STALLED => Some(UploadFailure::Stalled),
            BROKEN => Some(UploadFailure::Broken),
            _ => None,
        }
    }
}

/// A request's body as upstream gets it; nothing where the request has none. In a box, since requests are moved from
/// hand to hand.
#[derive(Debug)]
pub(crate) struct Upload(Option<Box<Uploading>>);

#[derive(Debug)]
struct Uploading {
    /// `None` once it has ended.
    received: Option<ReceivedBody>,
    body: RequestBody,
    tap: TapSlot,
    progress: Arc<Progress>,
    activity: Arc<ConnectionActivity>,
    limits: UploadLimits,
    bytes: u64,
    stall: StallTimer,
    trailers: TrailerRule,
    /// What lasts as long as the upload does.
    held: Held,
    /// The connection that the body goes to, where the server may leave it unread for this long.
    waits: Option<(Arc<Socket>, Duration)>,
}

/// A body up to this length fits into what a server's kernel takes in ahead of the server.
const SHORT_BODY: u64 = 16 * 1024;

#[derive(Default)]
struct Held(Option<Arc<dyn Send + Sync>>);

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Held(1)" } else { "Held(0)" })
    }
}

/// An upload's error, as the connection to upstream sees it: it aborts.
#[derive(Debug)]
pub(crate) struct UploadAborted(UploadFailure);

impl std::fmt::Display for UploadAborted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the request body ended early: {:?}", self.0)
    }
}

impl std::error::Error for UploadAborted {}

impl Upload {
    /// The body of a request that is in service on the connection of `exchanges`.
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
            held: Held::default(),
            waits: None,
        })))
    }

    /// None.
    pub(crate) fn none() -> Self {
        Upload(None)
    }

    /// Keeps `what` for as long as the upload lives, in the place of what it kept before.
    pub(crate) fn hold(&mut self, what: Arc<dyn Send + Sync>) {
        if let Some(uploading) = &mut self.0 {
            uploading.held = Held(Some(what));
        }
    }

    /// The server behind `socket` may leave a long body unread for `limit`.
    pub(super) fn may_wait(&mut self, socket: &Arc<Socket>, limit: Duration) {
        if let Some(uploading) = &mut self.0 {
            uploading.waits = Some((socket.clone(), limit));
        }
    }

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
                && let Some((socket, limit)) = self.waits.take()
            {
                socket.is_patient_for(limit);
            }
        }
        self.progress.moved(MOVING);
        // Nothing comes behind trailers, and nobody asks for it.
        let is_last = self.has_ended() || frame.is_trailers();
        if is_last {
            self.activity.body_read();
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
        if self.progress.is_over.load(Ordering::Acquire) {
            return self.fail(UploadFailure::Broken);
        }
        match Pin::new(received).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => self.take(frame),
            Poll::Ready(Some(Err(_broken))) => self.fail(UploadFailure::Broken),
            Poll::Ready(None) => {
                self.progress.moved(DONE);
                self.activity.body_read();
                self.tap.ended(BodyEnd::Complete);
                Poll::Ready(None)
            }
            Poll::Pending => {
                self.progress.state.store(AWAITING_CLIENT, Ordering::Relaxed);
                if self.progress.is_answered.load(Ordering::Relaxed) {
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

/// The trailers whose names `keeps` accepts.
pub(crate) fn filtered(trailers: HeaderMap, keeps: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(trailers.len());
    let mut current = None;
    for (name, value) in trailers {
        // Only the first value of a name comes with the name itself.
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
