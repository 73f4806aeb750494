//! Whose turn it is on an HTTP/2 stream, told from an answer's body to the task that drives its stream.
//!
//! hyper takes a frame from the body, keeps it until the client's window has room, and only then asks for the next one. So
//! the body leaves word on the thread as it is polled, and the task reads it when its poll is over: both happen in one call
//! stack, and no other stream's body is polled within it. Were hyper to wait for room before it takes a frame, a client
//! without any would not be noticed: `http2::a_client_that_opens_no_window_holds_nothing_for_ever` would tell.

use std::cell::Cell;

/// Who must act for an answer to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// A frame was handed out: the client has to make room for it.
    Client,
    /// The body waits for more: upstream has to send it.
    Upstream,
}

thread_local! {
    static LAST: Cell<Option<Turn>> = const { Cell::new(None) };
}

/// Leaves word of whose turn it is now.
pub(crate) fn leave(turn: Turn) {
    LAST.set(Some(turn));
}

/// The last word that was left since the last look; `None` where no body was polled.
pub(crate) fn look() -> Option<Turn> {
    LAST.take()
}
