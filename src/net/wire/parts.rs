//! The parts of a wire's state.

use tokio::time::Instant;

use crate::net::frames::{FrameMeter, OpenAnswers};
use crate::net::linger::Linger;
use crate::net::phase::{HeadSeen, Phase};

/// The counted frames of a connection of HTTP/2, in both directions.
#[derive(Debug)]
pub(super) struct Frames {
    pub(super) received: FrameMeter,
    pub(super) answers: OpenAnswers,
}

/// Bytes read in one poll of the connection's task.
#[derive(Debug, Default)]
pub(super) struct ReadTurn {
    pub(super) bytes: usize,
    /// The number of the poll (`ConnectionActivity::turn`).
    pub(super) number: usize,
}

/// The waits for heads of requests.
#[derive(Debug)]
pub(super) struct Heads {
    pub(super) phase: Phase,
    /// The next head, as far as it came behind a request in service, and the requests begun by
    /// then.
    pub(super) next: Option<(usize, HeadSeen)>,
    /// The deadline of the connection's first bytes, until they have come.
    pub(super) first_bytes_by: Option<Instant>,
    /// The requests that had begun when the phase was last updated.
    pub(super) seen: usize,
    /// The time to rest has come since the last request, whether hyper went or not.
    pub(super) has_rest: bool,
}

/// Checks whether a client has left from which hyper reads nothing.
#[derive(Debug, Default)]
pub(super) struct Presence {
    /// hyper has asked for more, and there was none: it learns of an end at once.
    pub(super) is_watched: bool,
    /// When to check next whether a client whose body waits unread has left.
    pub(super) probe_at: Option<Instant>,
    /// Since when more has been unread behind a request than the kernel takes.
    pub(super) behind_since: Option<Instant>,
}

/// The end of the connection.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// One of hyper's refusals was replaced: what the client sends is not understood.
    pub(super) has_refused: bool,
    /// hyper got the end of the stream at a deadline.
    pub(super) has_ended: bool,
    /// A deadline has passed, and hyper was woken up to read its end.
    pub(super) is_overdue: bool,
    /// The connection is ending: what comes now is nobody's, and hyper stays to the end.
    pub(super) is_closing: bool,
    pub(super) lingering: Option<Linger>,
}
