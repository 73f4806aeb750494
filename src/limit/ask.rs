//! Asks: the messages to the server that has the buckets which all replicas share, and its answers.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::charge::WindowCharge;
use super::gcra::{Wait, Window};
use super::status::LimitStatus;

/// Units to give back to the bucket, unless it has regained them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Refund {
    pub(crate) units: u32,
    /// The line of the bucket behind the charge, in microseconds.
    pub(crate) line: u64,
}

/// A request that waits for an ask.
#[derive(Debug)]
pub(super) struct Waiting {
    /// The units that it needs, by the index of the window.
    pub(super) costs: SmallVec<[(usize, u32); 2]>,
    /// The refusal of a window that only counts, which no wait would change.
    pub(super) would_refuse: Option<(Arc<Window>, Wait)>,
    /// Whether the charge may be taken back later.
    pub(super) may_be_taken_back: bool,
    pub(super) reply: oneshot::Sender<Reply>,
}

/// The answer to a request.
#[derive(Debug)]
pub(crate) enum Reply {
    Granted(Granted),
    Refused(Arc<Window>, Wait),
    /// The server did not answer in time.
    Unavailable,
}

/// A request that was granted.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) status: LimitStatus,
    /// The charges that are settled when the request has ended.
    pub(crate) settled_later: SmallVec<[WindowCharge; 2]>,
    /// The units that were charged, by the index of the window.
    pub(super) charged: SmallVec<[(usize, u32); 2]>,
    /// The refusal of a window that only counts.
    pub(crate) would_refuse: Option<(Arc<Window>, Wait)>,
}

/// A message to the server.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) windows: SmallVec<[AskOfWindow; 2]>,
    /// The cost of each request in each window; `None` if the window does not concern it.
    pub(crate) requests: Vec<SmallVec<[Option<u32>; 2]>>,
    pub(super) waiting: Vec<Waiting>,
    /// Time at which the ask was made, in nanoseconds of the clock.
    pub(super) sent: u64,
}

/// The part of an ask that concerns one window. Times are in microseconds.
#[derive(Clone, Debug)]
pub(crate) struct AskOfWindow {
    pub(crate) window: Arc<Window>,
    pub(crate) width: u64,
    pub(crate) extra: u32,
    pub(crate) slot: u64,
    pub(crate) gone: u32,
    pub(crate) left: u32,
    pub(crate) back: u64,
    pub(crate) debt: u64,
    pub(crate) away: u64,
    pub(crate) line: u64,
    /// Time until the bucket is full, as it is known here.
    pub(crate) full_in: u64,
    pub(crate) refunds: Vec<Refund>,
}

/// The server's answer to an ask. Times are in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) windows: Vec<AnswerOfWindow>,
    pub(crate) requests: Vec<Outcome>,
}

/// The part of an answer that concerns one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnswerOfWindow {
    /// Units that are added to the lease.
    pub(crate) leased: u32,
    /// Whether the lease goes on. If not, what was left of it went back to the bucket.
    pub(crate) is_kept: bool,
    pub(crate) slot: u64,
    pub(crate) lasts: u64,
    pub(crate) room: u32,
    pub(crate) full_in: u64,
    /// The time at which the bucket is full plus all that was ever given back, since 2026. It never
    /// goes back.
    pub(crate) line: u64,
}

/// The outcome of one request of an ask.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// The window that refuses the request, by its index, and how long the request has to wait.
    pub(crate) refused: Option<(usize, u64)>,
    /// The same for a window that only counts.
    pub(crate) would_refuse: Option<(usize, u64)>,
}

impl Answer {
    /// Whether the answer has a part for each window and each request of the ask.
    pub(super) fn answers(&self, ask: &Ask) -> bool {
        self.windows.len() == ask.windows.len() && self.requests.len() == ask.requests.len()
    }
}
