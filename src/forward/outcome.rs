//! How a request ended whose answer was cut.

use super::body::DownloadFailure;
use crate::observe::Outcome;

impl DownloadFailure {
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
