//! Whose turn it is on an HTTP/2 stream, told from an answer's body to the task that drives its stream.
//!
//! hyper takes a frame from the body, keeps it until the client's window has room, and only then asks for the next one. So
//! the body leaves word on the thread as it is polled, and the task reads it when its poll is over: both happen in one call
//! stack, and no other stream's body is polled within it. Were hyper to wait for room before it takes a frame, a client
//! without any would not be noticed: `http2::a_client_that_opens_no_window_holds_nothing_for_ever` would tell.

use std::cell::Cell;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::cut::CutReason;

/// Who must act for an answer to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BlockedOn {
    /// A frame of upstream's answer was handed out: the client has to make room for it.
    Client,
    /// A frame of upstream's answer to somebody without a key was.
    ClientWithoutKey,
    /// A frame of an answer of our own was.
    ClientOfOurs,
    /// The body waits for more: upstream has to send it.
    Upstream,
}

thread_local! {
    static LAST: Cell<Option<BlockedOn>> = const { Cell::new(None) };
}

/// Leaves word of whose turn it is now.
pub(crate) fn record(on: BlockedOn) {
    LAST.set(Some(on));
}

/// The last word that was left since the last look; `None` where no body was polled.
pub(crate) fn take() -> Option<BlockedOn> {
    LAST.take()
}

/// Ends one HTTP/2 stream, from outside of its task.
#[derive(Debug, Default)]
pub(crate) struct StreamCut {
    why: OnceLock<CutReason>,
    waker: AtomicWaker,
}

impl StreamCut {
    /// Resets the stream, whatever it waits for. The first reason stays.
    pub(crate) fn cut(&self, why: CutReason) {
        let _earlier_one_stays = self.why.set(why);
        self.waker.wake();
    }

    /// Ready with the reason when the stream is to end.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<CutReason> {
        self.waker.register(cx.waker());
        self.why.get().map_or(Poll::Pending, |why| Poll::Ready(*why))
    }
}

thread_local! {
    static ASKED_FOR: Cell<Option<Arc<StreamCut>>> = const { Cell::new(None) };
}

/// A handle by which the stream that is being polled can be ended. Its task takes the other half when its poll is over.
pub(crate) fn ask_for_cut() -> Arc<StreamCut> {
    let cut = Arc::<StreamCut>::default();
    ASKED_FOR.set(Some(cut.clone()));
    cut
}

/// The handle that was asked for since the last look.
pub(crate) fn asked_cut() -> Option<Arc<StreamCut>> {
    ASKED_FOR.take()
}
