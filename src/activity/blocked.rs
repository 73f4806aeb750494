//! Records which party an HTTP/2 stream waits for: its client or upstream. The body of the answer
//! writes the record when it is polled, and the stream's task reads the record after the poll.
//!
//! hyper takes a frame from the body, keeps the frame until the client's flow-control window has
//! room, and only then polls the body for the next frame. A body that returns a frame therefore
//! records that the stream waits for its client. A body that has no frame records that the stream
//! waits for upstream. The record is a thread-local variable: the stream's task polls the body in
//! its own call stack, in which no other stream's body is polled. All this depends on hyper taking
//! a frame before it waits for room (test:
//! `hyper_contract::a_frame_is_taken_from_a_body_before_the_client_has_room_…`). In the opposite
//! order, a client that never opens its window would not be noticed.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::cut::CutReason;

/// The party that must act before an answer can continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockedOn {
    /// The client must make room for a frame of upstream's answer.
    Client,
    /// An unauthenticated client must make room for a frame of upstream's answer.
    ClientWithoutKey,
    /// The client must make room for a frame of an answer that bearward itself made.
    ClientOfOurs,
    /// Upstream must send more of the body.
    Upstream,
}

thread_local! {
    static LAST: Cell<Option<BlockedOn>> = const { Cell::new(None) };
}

/// Records the party that the stream is blocked on.
pub(crate) fn record(on: BlockedOn) {
    LAST.set(Some(on));
}

/// Returns the party that was recorded last, and clears the record. Returns `None` if no body was
/// polled since the last call.
pub(crate) fn take() -> Option<BlockedOn> {
    LAST.take()
}

/// A handle that ends one HTTP/2 stream from outside of its task.
#[derive(Debug, Default)]
pub(crate) struct StreamCut {
    why: OnceLock<CutReason>,
    waker: AtomicWaker,
}

impl StreamCut {
    /// Resets the stream, whatever its state. A second call does not replace the reason of the
    /// first call.
    pub(crate) fn cut(&self, why: CutReason) {
        let _earlier_one_stays = self.why.set(why);
        self.waker.wake();
    }

    /// Returns ready with the reason when the stream must end.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<CutReason> {
        self.waker.register(cx.waker());
        self.why.get().map_or(Poll::Pending, |why| Poll::Ready(*why))
    }
}

thread_local! {
    static ASKED_FOR: Cell<Option<Arc<StreamCut>>> = const { Cell::new(None) };
}

/// Makes a handle that can end the stream that is being polled on this thread. After the poll, the
/// stream's task gets the same handle from [`asked_cut`].
pub(crate) fn ask_for_cut() -> Arc<StreamCut> {
    let cut = Arc::<StreamCut>::default();
    ASKED_FOR.set(Some(cut.clone()));
    cut
}

/// Returns the handle that [`ask_for_cut`] made since the last call of this function, and clears
/// it. Returns `None` if there is no such handle.
pub(crate) fn asked_cut() -> Option<Arc<StreamCut>> {
    ASKED_FOR.take()
}
