//! Why a request in service ends.

use std::time::Duration;

use jiff::Timestamp;

/// Reason why a request in service ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The key was deleted or turned off, or was restricted so that it may not use the request's route
    /// any more.
    Revoked,
    /// The key, the grace of its secret, or the permitted age of its secret ended at this time.
    Expired(Timestamp),
    /// The request has no key, and its time (`limits.public.total`, given here) is over.
    OutOfTime(Duration),
}
