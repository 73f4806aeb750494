//! The parts of a wire's state.

use tokio::time::Instant;

use crate::net::frames::{FrameMeter, OpenAnswers};
use crate::net::linger::Linger;
use crate::net::phase::{HeadSeen, Phase};

/// The counts of frames of an HTTP/2 connection, in both directions.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) received: FrameMeter,
    pub(super) answers: OpenAnswers,
}

/// The bytes that were read in one poll of the connection's task.
#[derive(Debug, Default)]
pub(super) struct ReadTurn {
    pub(super) bytes: usize,
    /// The number of the poll (`ConnectionActivity::turn`).
    pub(super) number: usize,
}

/// The state of the wait for the head of a request.
#[derive(Debug)]
pub(super) struct Heads {
    pub(super) phase: Phase,
    /// The part of the next head that arrived while a request was in service: the number of
    /// requests that had begun by then, and the size of the part.
    pub(super) next: Option<(usize, HeadSeen)>,
    /// The deadline for the connection's first bytes; `None` once they have arrived.
    pub(super) first_bytes_by: Option<Instant>,
    /// The number of requests that had begun when the phase was last updated.
    pub(super) seen: usize,
    /// Whether the connection has been idle for `REST_AFTER` since the last request, even if
    /// hyper's connection object was not dropped.
    pub(super) has_rest: bool,
}

/// The state of the checks whether a client has left while hyper does not read.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// Whether hyper's last read found nothing. hyper then learns at once if the client leaves.
    pub(super) is_watched: bool,
    /// The time of the next check whether the client has left.
    pub(super) probe_at: Option<Instant>,
    /// The time since which more than `MOST_BEHIND` bytes have been unread after a request.
    pub(super) behind_since: Option<Instant>,
}

/// The state of the end of a connection.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Whether one of hyper's refusals was replaced by ours. Further bytes from the client are not
    /// parsed.
    pub(super) has_refused: bool,
    /// Whether the end of the stream was reported to hyper because a deadline had passed.
    pub(super) has_ended: bool,
    /// Whether a deadline has passed and hyper was woken to read the end of the stream.
    pub(super) is_overdue: bool,
    /// Whether the connection is ending. It then no longer rests, and further bytes from the client
    /// are not parsed.
    pub(super) is_closing: bool,
    pub(super) lingering: Option<Linger>,
}
