//! Everything that a decision is made with, except the request.

use jiff::Timestamp;

use crate::identity::Identities;
use crate::key_cache::KeyCache;
use crate::limit::Limiter;
use crate::snapshot::Snapshot;

/// Input of a decision: one snapshot of the configuration, the keys, the identities, the limits, and the
/// wall-clock time; and what the request has done for it so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) keys: &'a KeyCache,
    pub(crate) identities: &'a Identities,
    pub(crate) limiter: &'a Limiter,
    pub(crate) now: Timestamp,
    /// Whether the request has waited for the keys of a token's issuer. It waits once; then it is decided, and its
    /// failed attempts are counted.
    pub(crate) has_waited: bool,
}
