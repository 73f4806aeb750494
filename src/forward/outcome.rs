//! How a request ended whose answer was cut.

use super::body::DownloadFailed;
use crate::observe::Outcome;

impl DownloadFailed {
    /// The outcome of the request that this happened to.
    pub(super) fn outcome(&self) -> Outcome {
        match self {
            DownloadFailed::Stalled => Outcome::UpstreamTimeout,
            DownloadFailed::KeyRevoked => Outcome::Revoked,
            DownloadFailed::KeyExpired | DownloadFailed::OutOfTime => Outcome::Expired,
            DownloadFailed::Truncated | DownloadFailed::Broken(_) => Outcome::UpstreamFailed,
        }
    }
}
