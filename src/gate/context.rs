//! What decisions are made with.

use jiff::Timestamp;

use crate::key_cache::KeyCache;
use crate::limit::Limiter;
use crate::snapshot::Snapshot;

/// One snapshot of the configuration, the keys, the limits, and the time by the wall clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) keys: &'a KeyCache,
    pub(crate) limiter: &'a Limiter,
    pub(crate) now: Timestamp,
}
