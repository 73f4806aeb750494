//! The registration of a replica, which those who wait for an edit look at.

use std::time::{Duration, Instant};

use super::version::Version;

/// The life of a registration that heartbeats renew, and of one before the first heartbeat, which
/// loads of many entries renew.
pub(super) const REGISTRATION: Duration = Duration::from_millis(2500);
pub(super) const ANNOUNCED: Duration = Duration::from_secs(10);

/// The registration of a replica that has not applied any version yet.
#[derive(Debug)]
pub(super) struct Announced {
    /// The id of the replica.
    pub(super) id: String,
    pub(super) renewed_at: Instant,
}

/// Returns the arguments of the script of a registration. `life`: zero ends it; `applied`: the version
/// in service.
pub(super) fn registration(id: &str, life: Duration, applied: Option<Version>) -> [String; 4] {
    let (generation, store) = applied.map_or_else(Default::default, |of| (of.generation, of.store));
    [id.to_owned(), life.as_millis().to_string(), generation.to_string(), store]
}
