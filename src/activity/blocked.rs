//! Records whether an HTTP/2 stream waits for its client or for upstream. The answer's body records
//! this for the task that polls the stream.
//!
//! hyper takes a frame from the body, keeps it until the client's window has room, and only then
//! polls for the next frame. When the body is polled, it records the state in a thread-local
//! variable, and the task reads that variable after the poll. Both happen in one call stack, in
//! which no other stream's body is polled. If hyper waited for room before it takes a frame, a
//! client that never opens its window would go unnoticed
//! (`hyper_contract::a_frame_is_taken_from_a_body_before_the_client_has_room_…`).

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::cut::CutReason;

/// The party that must act for an answer to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockedOn {
    /// The client must make room for a frame of upstream's answer.
    Client,
    /// An unauthenticated client must make room for a frame of upstream's answer.
    ClientWithoutKey,
    /// The client must make room for a frame of an answer of our own.
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

/// Takes the party that was last recorded; `None` if no body was polled since the last call.
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
    /// Resets the stream, whatever its state. Only the first reason is kept.
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

/// Returns a handle that ends the stream that is being polled. The stream's task gets the same
/// handle after the poll, from [`asked_cut`].
pub(crate) fn ask_for_cut() -> Arc<StreamCut> {
    let cut = Arc::<StreamCut>::default();
    ASKED_FOR.set(Some(cut.clone()));
    cut
}

/// Takes the handle that [`ask_for_cut`] has made since the last call, if any.
pub(crate) fn asked_cut() -> Option<Arc<StreamCut>> {
    ASKED_FOR.take()
}
