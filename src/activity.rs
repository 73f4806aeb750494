//! Tracks the requests in service on one connection. The request path begins and ends requests; the
//! connection's wire reads their state.

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

/// Idle time after which an HTTP/2 connection may be closed to make room for a new connection.
const AT_REST: Duration = Duration::from_secs(1);

/// The state of one connection that the request path and the wire share.
#[derive(Debug, Default)]
pub(crate) struct ConnectionActivity {
    requests: Requests,
    answers: Http2Answers,
    rest: Rest,
    ending: Ending,
    /// Whether each request has a task of its own (HTTP/2).
    is_multiplexed: AtomicBool,
    /// Whether new requests are refused, on HTTP/2.
    refuses_new: AtomicBool,
    /// The number of polls of the connection's task so far. By this number, the wire of an HTTP/2
    /// connection limits the bytes that it reads in each poll.
    turns: AtomicUsize,
    /// Whether a line that the client sent has ended with LF alone.
    has_bare_lf: AtomicBool,
    /// Whether the connection carries another protocol after an upgrade.
    is_tunnel: AtomicBool,
    /// A timer that the next request can reuse; `None` while a request uses it.
    spare: Mutex<Option<Alarm>>,
    /// The limits that apply to the connection until a client presents a valid key on it.
    pub(crate) unauthenticated_use: UnauthenticatedUse<ConnectionActivity>,
}

/// Counts of a connection's requests.
#[derive(Debug, Default)]
struct Requests {
    /// The number of requests in service.
    active: AtomicUsize,
    /// The number of requests that have begun on the connection. A change of this number shows the
    /// wire that a request has begun, even if the request has already ended.
    begun: AtomicUsize,
    /// Whether a part of the latest request's body is still unread.
    unread: AtomicBool,
}

/// Counts of the answers on an HTTP/2 connection.
#[derive(Debug, Default)]
struct Http2Answers {
    /// The number of frames of answers that were handed to hyper.
    frames: AtomicUsize,
    /// The number of bytes in the frames of answers that were handed to hyper.
    bytes: AtomicUsize,
    /// The number of answers that are partly written to the socket.
    unsent: AtomicUsize,
    /// The number of writes to the socket that contained parts of bodies.
    written: AtomicUsize,
}

/// The state of a connection between two requests.
#[derive(Debug, Default)]
struct Rest {
    /// Whether hyper may still buffer bytes of an answer that has ended.
    unflushed: AtomicBool,
    /// Whether the wire has received no bytes for a while, so that hyper's part of an HTTP/1.1
    /// connection (its parser and buffers) may be dropped.
    is_due: AtomicBool,
    /// Whether hyper's part of an HTTP/1.1 connection (its parser and buffers) is dropped until
    /// more bytes arrive.
    has_begun: AtomicBool,
}

/// Whether the server ends a connection, and for which reason.
#[derive(Debug, Default)]
struct Ending {
    /// Whether the connection must end at once.
    cut: AtomicBool,
    /// Whether the connection must end at its task's next check, if the connection is at rest then.
    cut_where_idle: AtomicBool,
    /// Wakes the connection's task to check `cut` and `cut_where_idle`.
    waker: AtomicWaker,
    /// The reason to log for requests that are in service when the server ends the connection.
    reason: cut::OfConnection,
    /// Whether the connection must be reset at its end, because an answer to an HTTP/1.0 client was
    /// broken off: the client would take a regular end of the connection for the end of the answer.
    broken_off: AtomicBool,
}

/// One request in service. Dropping this value ends the request.
#[derive(Debug)]
pub(crate) struct RequestInService {
    activity: Arc<ConnectionActivity>,
    /// Whether the limit of unread answers left room for the request's answer; `None` if the
    /// request does not count as unauthenticated.
    of_unauthenticated: Option<bool>,
}

impl ConnectionActivity {
    /// Notes that a request begins. `has_body`: whether a body follows the head.
    pub(crate) fn begin(self: &Arc<Self>, has_body: bool) -> RequestInService {
        self.requests.unread.store(has_body, Ordering::Relaxed);
        self.requests.active.fetch_add(1, Ordering::Relaxed);
        self.requests.begun.fetch_add(1, Ordering::Relaxed);
        RequestInService { activity: self.clone(), of_unauthenticated: None }
    }

    /// Notes that a line from the client ended with LF alone.
    pub(crate) fn note_bare_lf(&self) {
        self.has_bare_lf.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_bare_lf(&self) -> bool {
        self.has_bare_lf.load(Ordering::Relaxed)
    }

    /// Whether servers could disagree about where the chunked body of the latest request ends.
    /// hyper swallows bytes after trailers that end with LF alone.
    pub(crate) fn may_end_in_two_ways(&self) -> bool {
        self.has_bare_lf() || self.may_be_sending()
    }

    /// Whether the connection is a tunnel. It then carries another protocol, which has its own
    /// timers.
    pub(crate) fn is_tunnel(&self) -> bool {
        self.is_tunnel.load(Ordering::Relaxed)
    }

    /// Whether the connection must be reset at its end, because an answer to an HTTP/1.0 client was
    /// broken off: the client would take a regular end of the connection for the end of the answer.
    pub(crate) fn is_broken_off(&self) -> bool {
        self.ending.broken_off.load(Ordering::Relaxed)
    }

    /// Ends the connection, whatever its state.
    pub(crate) fn cut(&self, why: CutReason) {
        self.ending.reason.note(why);
        self.ending.cut.store(true, Ordering::Release);
        self.ending.waker.wake();
    }

    /// Ends the connection if it is at rest. A request that begins at this moment is not cut.
    pub(crate) fn cut_where_idle(&self) {
        self.ending.cut_where_idle.store(true, Ordering::Release);
        self.ending.waker.wake();
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.ending.cut.load(Ordering::Acquire) || self.ending.cut_where_idle.load(Ordering::Acquire)
    }

    /// Returns ready when the connection must end at once. `is_watched`: whether the task's waker
    /// is registered. Registering it once is enough.
    pub(crate) fn poll_cut(&self, cx: &mut Context<'_>, is_watched: &mut bool) -> Poll<()> {
        if !*is_watched {
            self.ending.waker.register(cx.waker());
            *is_watched = true;
        } else if !self.is_cut() {
            return Poll::Pending;
        }
        // No request can begin during this check: the task that begins the connection's requests is
        // this task, or runs on the same thread as this task.
        if self.ending.cut_where_idle.swap(false, Ordering::AcqRel) {
            if self.has_nothing_to_send() && self.is_at_rest() {
                return Poll::Ready(());
            }
            // The connection continues. A later call of `cut_where_idle` must wake the task again.
            self.ending.waker.register(cx.waker());
            if self.is_cut() {
                cx.waker().wake_by_ref();
            }
        }
        if self.ending.cut.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Notes the reason why the server ends the connection while requests are in service.
    pub(crate) fn ends_for(&self, why: CutReason) {
        self.ending.reason.note(why);
    }

    /// Returns the reason why the server ends the connection; `None` if no reason was noted.
    pub(crate) fn cut_for(&self) -> Option<CutReason> {
        self.ending.reason.reason()
    }

    /// Notes whether the connection has been silent for a while.
    pub(crate) fn note_rest(&self, at_rest: bool) {
        self.rest.is_due.store(at_rest, Ordering::Relaxed);
    }

    /// Whether hyper's part of the connection (its parser and buffers) may be dropped, because no
    /// request is in service and no bytes were received for a while.
    pub(crate) fn may_rest(&self) -> bool {
        self.rest.is_due.load(Ordering::Relaxed) && self.is_quiet() && !self.may_be_sending()
    }

    /// Notes that each request has a task of its own (HTTP/2).
    pub(crate) fn note_tasks(&self) {
        self.is_multiplexed.store(true, Ordering::Relaxed);
    }

    /// Whether each request on the connection has a task of its own (HTTP/2).
    pub(crate) fn is_multiplexed(&self) -> bool {
        self.is_multiplexed.load(Ordering::Relaxed)
    }

    /// Returns a timer for the waits of one request: the timer of an earlier request that has
    /// ended, or else a new timer.
    pub(crate) fn lend_alarm(&self) -> Alarm {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// Stores a timer for the next request, except on HTTP/2: there, the timer would keep the
    /// memory of a request's task allocated after the task has ended.
    pub(crate) fn keep_alarm(&self, alarm: Alarm) {
        if self.is_multiplexed() {
            return;
        }
        *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Some(alarm);
    }

    /// Whether at most one request is in service.
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

    /// Whether the connection has been between two requests for a while, so that closing it loses
    /// no request.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.is_multiplexed() {
            true => self.has_nothing_to_send() && self.unauthenticated_use.idles_for() >= AT_REST,
            false => self.rest.has_begun.load(Ordering::Relaxed),
        }
    }

    /// Notes whether hyper's connection object (its parser and buffers) is dropped for a rest.
    pub(crate) fn note_resting(&self, rests: bool) {
        self.rest.has_begun.store(rests, Ordering::Relaxed);
    }

    /// Returns the number of frames of answers that were handed to hyper, and the number of bytes
    /// in these frames.
    pub(crate) fn handed_out(&self) -> (usize, usize) {
        (self.answers.frames.load(Ordering::Relaxed), self.answers.bytes.load(Ordering::Relaxed))
    }

    /// Refuses new requests from now on, because the connection is ending.
    pub(crate) fn refuse_new(&self) {
        self.refuses_new.store(true, Ordering::Relaxed);
    }

    /// Whether new requests on the connection are refused.
    pub(crate) fn refuses_new(&self) -> bool {
        self.refuses_new.load(Ordering::Relaxed)
    }

    /// Notes a poll of the connection's task.
    pub(crate) fn note_turn(&self) {
        self.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns a number that changes with each poll of the connection's task.
    pub(crate) fn turn(&self) -> usize {
        self.turns.load(Ordering::Relaxed)
    }

    /// Notes the number of answers that are partly written to the socket, and whether a part of a
    /// body was just written.
    pub(crate) fn note_unsent(&self, answers: usize, has_data: bool) {
        let before = self.answers.unsent.swap(answers, Ordering::Relaxed);
        if answers < before {
            self.unauthenticated_use.note_room();
        }
        if has_data {
            self.answers.written.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns, on HTTP/2, the number of answers that are partly written to the socket, and a
    /// number that changes with each write of a part of a body.
    pub(crate) fn unsent(&self) -> (usize, usize) {
        (self.answers.unsent.load(Ordering::Relaxed), self.answers.written.load(Ordering::Relaxed))
    }

    /// Returns the number of answers that are partly unsent although their requests are no longer
    /// in service.
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

    /// Whether the client may still be sending the body of the latest request.
    pub(crate) fn may_be_sending(&self) -> bool {
        self.requests.unread.load(Ordering::Relaxed)
    }

    /// Notes that hyper buffers no bytes of any answer.
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
    /// Counts this request's answer, which bearward itself makes, as an unread answer of an
    /// unauthenticated client. Does not count the answer if a valid key was presented on the
    /// connection before. Returns whether the limit of unread answers leaves room for the answer.
    pub(crate) fn count_as_unauthenticated(&mut self) -> bool {
        let ConnectionActivity { unauthenticated_use, .. } = &*self.activity;
        if !self.activity.is_multiplexed()
            || (self.of_unauthenticated.is_none() && unauthenticated_use.is_known())
        {
            return true;
        }
        *self.of_unauthenticated.get_or_insert_with(|| unauthenticated_use.begins(self.activity.tails()))
    }

    /// Returns ready when the limit of unread answers leaves room for one more answer. An
    /// upstream's answer to an unauthenticated client waits here, and its request keeps its permit
    /// during that time.
    pub(crate) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let ConnectionActivity { unauthenticated_use, .. } = &*self.activity;
        if !self.activity.is_multiplexed()
            || self.of_unauthenticated.is_some()
            || unauthenticated_use.is_known()
        {
            return Poll::Ready(());
        }
        // The waker is registered before the check, so that no change after the check is missed.
        unauthenticated_use.wait_for_room(cx.waker());
        if !unauthenticated_use.begins_where_room(self.activity.tails()) {
            return Poll::Pending;
        }
        self.of_unauthenticated = Some(true);
        Poll::Ready(())
    }

    /// Notes that this request's answer to an HTTP/1.0 client is broken off, so that the connection
    /// is reset: the client would take a regular end of the connection for the end of the answer.
    pub(crate) fn break_off(&self) {
        self.activity.ending.broken_off.store(true, Ordering::Relaxed);
    }

    /// Notes that the body of this request was read to its end.
    pub(crate) fn body_read(&self) {
        self.activity.body_read();
    }

    /// Returns the reason why the server ends the connection; `None` if no reason was noted.
    pub(crate) fn cut_for(&self) -> Option<CutReason> {
        self.activity.cut_for()
    }

    /// Notes that the connection continues with another protocol, after an upgrade.
    pub(crate) fn becomes_tunnel(&self) {
        self.activity.is_tunnel.store(true, Ordering::Relaxed);
    }

    /// Counts a frame of this request's answer that was handed to hyper, on HTTP/2.
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
