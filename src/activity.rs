//! The requests in service on one connection. Its service begins and ends them; its wire reads
//! their state.

pub(crate) mod blocked;
pub(crate) mod cut;
mod list;
pub(crate) mod unauthenticated;
pub(crate) mod unauthenticated_use;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;

use crate::alarm::Alarm;
use cut::CutReason;
use unauthenticated_use::UnauthenticatedUse;

/// Idle time before a connection counts as at rest: on HTTP/2 for making room, on HTTP/1.1 for
/// giving back buffers.
const AT_REST: Duration = Duration::from_secs(1);

/// The requests in service on one connection, as its service and its wire both see them.
#[derive(Debug, Default)]
pub(crate) struct ConnectionActivity {
    requests: Requests,
    answers: Http2Answers,
    rest: Rest,
    ending: Ending,
    /// Each request has a task of its own (HTTP/2).
    is_multiplexed: AtomicBool,
    /// On HTTP/2, no request is begun any more.
    refuses_new: AtomicBool,
    /// Counts the polls of the connection's task, where its wire reads a bounded number of bytes in
    /// each.
    turns: AtomicUsize,
    /// A line has ended with LF alone somewhere in what the client sent.
    has_bare_lf: AtomicBool,
    /// The connection is HTTP's no more.
    is_tunnel: AtomicBool,
    /// A timer that no request has at the moment.
    spare: Mutex<Option<Alarm>>,
    /// Limits of the connection until a valid key came on it.
    pub(crate) unauthenticated_use: UnauthenticatedUse<ConnectionActivity>,
}

/// The requests of a connection.
#[derive(Debug, Default)]
struct Requests {
    /// Requests in service.
    active: AtomicUsize,
    /// Counts those begun, so that a wire notices a request that came and went.
    begun: AtomicUsize,
    /// The latest request has a body that was not read to its end.
    unread: AtomicBool,
}

/// The answers of a connection of HTTP/2.
#[derive(Debug, Default)]
struct Http2Answers {
    /// Frames of answers handed out, and the bytes in them.
    frames: AtomicUsize,
    bytes: AtomicUsize,
    /// Answers that have begun on the wire and not ended.
    unsent: AtomicUsize,
    /// Counts the writes of parts of bodies.
    written: AtomicUsize,
}

/// A connection between two requests.
#[derive(Debug, Default)]
struct Rest {
    /// An answer has ended, and hyper may still hold bytes of it.
    unflushed: AtomicBool,
    /// The wire says that nothing has come for a while: hyper's part of an HTTP/1.1 connection may
    /// be dropped.
    is_due: AtomicBool,
    /// hyper's part of an HTTP/1.1 connection is dropped, until more comes.
    has_begun: AtomicBool,
}

/// The end of a connection, as the server brings it about.
#[derive(Debug, Default)]
struct Ending {
    /// The connection is to end at once.
    cut: AtomicBool,
    /// The connection is to end, unless a request is in service when its own task checks.
    cut_where_idle: AtomicBool,
    /// Wakes the connection's task for that.
    waker: AtomicWaker,
    /// The reason, where requests are in service.
    reason: cut::OfConnection,
    /// An answer was broken off, and its end is the connection's own.
    broken_off: AtomicBool,
}

/// One request in service; dropping it ends it.
#[derive(Debug)]
pub(crate) struct RequestInService {
    activity: Arc<ConnectionActivity>,
    /// Whether the request counts as unauthenticated, and then whether there was room for it.
    of_unauthenticated: Option<bool>,
}

impl ConnectionActivity {
    /// Begins a request. `has_body`: a body follows its head.
    pub(crate) fn begin(self: &Arc<Self>, has_body: bool) -> RequestInService {
        self.requests.unread.store(has_body, Ordering::Relaxed);
        self.requests.active.fetch_add(1, Ordering::Relaxed);
        self.requests.begun.fetch_add(1, Ordering::Relaxed);
        RequestInService { activity: self.clone(), of_unauthenticated: None }
    }

    /// Notes a line that ended with LF alone.
    pub(crate) fn note_bare_lf(&self) {
        self.has_bare_lf.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_bare_lf(&self) -> bool {
        self.has_bare_lf.load(Ordering::Relaxed)
    }

    /// Whether servers could differ in where the chunked body of the latest request ends. hyper
    /// swallows bytes behind trailers that end with LF alone.
    pub(crate) fn may_end_in_two_ways(&self) -> bool {
        self.has_bare_lf() || self.may_be_sending()
    }

    /// Whether the connection is a tunnel: its bytes are another protocol's, which has timers of
    /// its own.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Ordering::Relaxed)
    }

    /// Whether an answer was broken off, and its end is the connection's own.
    pub(crate) fn is_broken_off(&self) -> bool {
        self.ending.broken_off.load(Ordering::Relaxed)
    }

    /// Ends the connection in any state.
    pub(crate) fn cut(&self, why: CutReason) {
        self.ending.reason.note(why);
        self.ending.cut.store(true, Ordering::Release);
        self.ending.waker.wake();
    }

    /// Ends the connection unless a request is in service. A request that begins at this moment is
    /// not cut.
    pub(crate) fn cut_where_idle(&self) {
        self.ending.cut_where_idle.store(true, Ordering::Release);
        self.ending.waker.wake();
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.ending.cut.load(Ordering::Acquire) || self.ending.cut_where_idle.load(Ordering::Acquire)
    }

    /// Ready when the connection is to end at once. `is_watched`: whether the task has registered
    /// before, which needs doing only once.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>, is_watched: &mut bool) -> Poll<()> {
        if !*is_watched {
            self.ending.waker.register(cx.waker());
            *is_watched = true;
        } else if !self.is_cut() {
            return Poll::Pending;
        }
        // This task begins the connection's requests, or is on the same thread: no request can
        // begin meanwhile.
        if self.ending.cut_where_idle.swap(false, Ordering::AcqRel) {
            if self.has_nothing_to_send() && self.is_at_rest() {
                return Poll::Ready(());
            }
            // The connection goes on, and may be asked again from here on.
            self.ending.waker.register(cx.waker());
            if self.is_cut() {
                cx.waker().wake_by_ref();
            }
        }
        if self.ending.cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Notes the reason for which the connection ends with requests in service.
    pub(crate) fn ends_for(&self, why: CutReason) {
        self.ending.reason.note(why);
    }

    /// The reason for which the server ends the connection, if it does.
    pub(crate) fn cut_for(&self) -> Option<CutReason> {
        self.ending.reason.reason()
    }

    /// Notes whether the connection has been silent for a while.
    pub(crate) fn note_rest(&self, at_rest: bool) {
        self.rest.is_due.store(at_rest, Ordering::Relaxed);
    }

    /// Whether the connection is between two requests that are far apart.
    pub(crate) fn may_rest(&self) -> bool {
        self.rest.is_due.load(Ordering::Relaxed) && self.is_quiet() && !self.may_be_sending()
    }

    /// Each request has a task of its own (HTTP/2).
    pub(crate) fn note_tasks(&self) {
        self.is_multiplexed.store(true, Ordering::Relaxed);
    }

    /// Whether each request has a task of its own.
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.is_multiplexed.load(Ordering::Relaxed)
    }

    /// A timer for the waits of one request: the last request's, where that is over.
    pub(crate) fn lend_alarm(&self) -> Alarm {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// Keeps a timer for the next request. A task that ends with its request keeps none: the timer
    /// would hold on to its memory.
    pub(crate) fn keep_alarm(&self, alarm: Alarm) {
        if self.is_multiplexed() {
            return;
        }
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(alarm);
    }

    /// Whether no more than one request is in service.
    pub(crate) fn is_alone(&self) -> bool {
        self.requests.active.load(Ordering::Relaxed) <= 1
    }

    pub(crate) fn has_no_request(&self) -> bool {
        self.requests.active.load(Ordering::Relaxed) == 0
    }

    /// Whether no request is in service, and no part of an answer waits to be sent.
    pub(crate) fn has_nothing_to_send(&self) -> bool {
        self.has_no_request() && self.answers.unsent.load(Ordering::Relaxed) == 0
    }

    /// Whether closing the connection loses nothing of its client's: it has been between two
    /// requests for a while.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.is_multiplexed() {
            true => self.has_nothing_to_send() && self.unauthenticated_use.idles_for() >= AT_REST,
            false => self.rest.has_begun.load(Ordering::Relaxed),
        }
    }

    /// Notes whether hyper's part of an HTTP/1.1 connection is dropped.
    pub(crate) fn note_resting(&self, rests: bool) {
        self.rest.has_begun.store(rests, Ordering::Relaxed);
    }

    /// Frames of answers handed out, and the bytes in them.
    pub(crate) fn handed_out(&self) -> (usize, usize) {
        (self.answers.frames.load(Ordering::Relaxed), self.answers.bytes.load(Ordering::Relaxed))
    }

    /// Refuses requests from now on: the connection is going away, and its client had time to learn
    /// of it.
    pub(crate) fn refuse_new(&self) {
        self.refuses_new.store(true, Ordering::Relaxed);
    }

    /// Whether new requests are refused.
    pub(crate) fn refuses_new(&self) -> bool {
        self.refuses_new.load(Ordering::Relaxed)
    }

    /// Notes a poll of the connection's task.
    pub(crate) fn note_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// A number that changes with each poll of the connection's task.
    pub(crate) fn turn(&self) -> usize {
        self.turns.load(Ordering::Relaxed)
    }

    /// Notes the number of answers that have begun on the wire and not ended, and whether a part of
    /// one was written.
    pub(crate) fn note_unsent(&self, answers: usize, has_data: bool) {
        let before = self.answers.unsent.swap(answers, Ordering::Relaxed);
        if answers < before {
            self.unauthenticated_use.note_room();
        }
        if has_data {
            self.answers.written.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// On HTTP/2, the answers that have begun on the wire and not ended, and a number that changes
    /// with each write of a part of one.
    pub(crate) fn unsent(&self) -> (usize, usize) {
        (self.answers.unsent.load(Ordering::Relaxed), self.answers.written.load(Ordering::Relaxed))
    }

    /// Answers whose streams are over for us, and whose last bytes have not gone out.
    fn tails(&self) -> usize {
        self.answers
            .unsent
            .load(Ordering::Relaxed)
            .saturating_sub(self.requests.active.load(Ordering::Relaxed))
    }

    pub(crate) fn begun(&self) -> usize {
        self.requests.begun.load(Ordering::Relaxed)
    }

    /// Notes that the body of the latest request was read to its end.
    pub(crate) fn body_read(&self) {
        self.requests.unread.store(false, Ordering::Relaxed);
    }

    /// Whether the client may still be sending a body that nobody will read.
    pub(crate) fn may_be_sending(&self) -> bool {
        self.requests.unread.load(Ordering::Relaxed)
    }

    /// Notes that hyper holds no byte of an answer.
    pub(crate) fn flushed(&self) {
        if self.has_no_request() {
            self.rest.unflushed.store(false, Ordering::Relaxed);
        }
    }

    /// Whether every byte of every answer has left hyper, and no request is in service.
    pub(crate) fn is_quiet(&self) -> bool {
        self.has_no_request() && !self.rest.unflushed.load(Ordering::Relaxed)
    }
}

impl RequestInService {
    /// Counts an answer of our own to an unauthenticated client while it waits to be taken. Nothing
    /// is counted where a valid key came on this connection before. Returns whether there
    /// is room for the answer.
    pub(crate) fn count_as_unauthenticated(&mut self) -> bool {
        let ConnectionActivity { unauthenticated_use, .. } = &*self.activity;
        if !self.activity.is_multiplexed()
            || (self.of_unauthenticated.is_none() && unauthenticated_use.is_known())
        {
            return true;
        }
        *self.of_unauthenticated.get_or_insert_with(|| unauthenticated_use.begins(self.activity.tails()))
    }

    /// Ready when there is room for one more answer that waits to be taken. An upstream's answer to
    /// an unauthenticated client waits here, and keeps its permit meanwhile.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ConnectionActivity { unauthenticated_use, .. } = &*self.activity;
        if !self.activity.is_multiplexed()
            || self.of_unauthenticated.is_some()
            || unauthenticated_use.is_known()
        {
            return Poll::Ready(());
        }
        // Registered first, so that no change between the two is missed.
        unauthenticated_use.wait_for_room(cx.waker());
        if !unauthenticated_use.begins_where_room(self.activity.tails()) {
            return Poll::Pending;
        }
        self.of_unauthenticated = Some(true);
        Poll::Ready(())
    }

    /// Breaks off this request's answer, whose end is the connection's own: a client of HTTP/1.0
    /// would take the break for the end.
    pub(crate) fn break_off(&self) {
        self.activity.ending.broken_off.store(true, Ordering::Relaxed);
    }

    /// Notes that the body of this request was read to its end.
    pub(crate) fn body_read(&self) {
        self.activity.body_read();
    }

    /// The reason for which the server ends the connection, if it does.
    pub(crate) fn cut_for(&self) -> Option<CutReason> {
        self.activity.cut_for()
    }

    /// Notes that another protocol follows on the connection.
    pub(crate) fn becomes_tunnel(&self) {
        self.activity.is_tunnel.store(true, Ordering::Relaxed);
    }

    /// On HTTP/2, counts a frame of this request's answer that was handed out.
    pub(crate) fn answered(&self, bytes: usize) {
        self.activity.answers.frames.fetch_add(1, Ordering::Relaxed);
        self.activity.answers.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for RequestInService {
    fn drop(&mut self) {
        if self.of_unauthenticated.is_some() {
            self.activity.unauthenticated_use.ends();
        }
        if self.activity.unauthenticated_use.is_listed() || self.activity.is_multiplexed() {
            self.activity.unauthenticated_use.note_idle();
        }
        self.activity.rest.unflushed.store(true, Ordering::Relaxed);
        let before = self.activity.requests.active.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0);
    }
}
