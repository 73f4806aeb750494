//! Why an answer that had begun was cut, and the outcome that is logged for its request.

use crate::activity::cut::CutReason;
use crate::gate::Ended;
use crate::observe::Outcome;
use crate::upstream::exchange::Failure;

/// Why an answer that had begun was cut. The caller sees a broken body, never a clean end.
#[derive(Debug)]
pub(crate) enum DownloadFailure {
    /// Nothing moved for longer than upstream's `timeouts.idle`.
    Stalled,
    /// The key was revoked, or narrowed so that it may not have this answer, and open answers end with their key.
    KeyRevoked,
    /// The key has expired, or its secret's grace or age has ended, and open answers end with their key.
    KeyExpired,
    /// A request without a key has had its time.
    OutOfTime,
    /// Upstream ended the stream before the answer was whole.
    Truncated,
    /// Upstream broke off, or its framing did.
    Broken(Failure),
}

impl DownloadFailure {
    pub(super) fn of(failure: Failure) -> Self {
        if failure.is_truncation() { DownloadFailure::Truncated } else { DownloadFailure::Broken(failure) }
    }

    /// The outcome of the request that this happened to.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            DownloadFailure::Stalled => Outcome::UpstreamTimeout,
            DownloadFailure::KeyRevoked => Outcome::Revoked,
            DownloadFailure::KeyExpired | DownloadFailure::OutOfTime => Outcome::Expired,
            DownloadFailure::Truncated | DownloadFailure::Broken(_) => Outcome::UpstreamFailed,
        }
    }
}

impl std::fmt::Display for DownloadFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DownloadFailure::Stalled => f.write_str("nothing moved for too long"),
            DownloadFailure::Truncated => f.write_str("upstream ended the stream early"),
            DownloadFailure::KeyRevoked => f.write_str("the key was revoked"),
            DownloadFailure::KeyExpired => f.write_str("the key has expired"),
            DownloadFailure::OutOfTime => f.write_str("a request without a key has had its time"),
            DownloadFailure::Broken(error) => write!(f, "upstream broke off: {error}"),
        }
    }
}

impl std::error::Error for DownloadFailure {}

impl From<Ended> for DownloadFailure {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Revoked => DownloadFailure::KeyRevoked,
            Ended::Expired(_) => DownloadFailure::KeyExpired,
            Ended::OutOfTime(_) => DownloadFailure::OutOfTime,
        }
    }
}

impl From<Ended> for CutReason {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Revoked => CutReason::Revoked,
            Ended::Expired(_) => CutReason::Expired,
            Ended::OutOfTime(_) => CutReason::OutOfTime,
        }
    }
}
