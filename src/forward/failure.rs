//! Failures of an answer's body, and the outcome that is logged for each.
//!
//! `body` uses these failures for answers, and `tunnel` uses them for tunnels.

use crate::activity::cut::CutReason;
use crate::gate::Ended;
use crate::observe::Outcome;
use crate::upstream::failure::Failure;

/// Reason why an answer was cut after its head was sent. The client sees a broken body, never a
/// normal end.
#[derive(Debug)]
pub(crate) enum DownloadFailure {
    /// Neither direction moved a byte for longer than the upstream's `timeouts.idle`.
    Stalled,
    /// The key was revoked, or changed so that it no longer allows this request.
    KeyRevoked,
    /// The key expired, the grace of its rotated-out secret ended, or its secret became too old.
    KeyExpired,
    /// A request without a key has used up the time of `limits.public.total`.
    OutOfTime,
    /// Upstream ended the stream before the answer was complete.
    Truncated,
    /// Upstream closed the connection, or the framing of its answer was malformed.
    Broken(Failure),
}

impl DownloadFailure {
    pub(super) fn of(failure: Failure) -> Self {
        if failure.is_truncation() { DownloadFailure::Truncated } else { DownloadFailure::Broken(failure) }
    }

    /// Returns the outcome to log for the request.
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
            DownloadFailure::Stalled => f.write_str("no byte moved within the idle timeout"),
            DownloadFailure::Truncated => f.write_str("upstream ended the stream early"),
            DownloadFailure::KeyRevoked => f.write_str("the key was revoked"),
            DownloadFailure::KeyExpired => f.write_str("the key has expired"),
            DownloadFailure::OutOfTime => f.write_str("a request without a key has used up its time"),
            DownloadFailure::Broken(error) => write!(f, "upstream's answer broke: {error}"),
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
