//! Whose turn it is on an HTTP/2 stream, told from an answer's body to the task that drives its stream.
//!
//! hyper polls a body only while the client's window has room, and owns what lies between body and window. So the body
//! leaves word on the thread as it is polled, and the task reads it when its poll is over: both happen in one call
//! stack, and no other stream's body is polled within it.

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
