//! What the start has read, before the reloading thread begins.

use std::sync::Arc;

use crate::config::fault::Faults;
use crate::key_store::LastGood;
use crate::key_store::redis::RedisStore;
use crate::net::tls::Swappable;

/// The results of the first reading of all files.
pub(crate) struct Stood {
    pub(crate) tls: Vec<Option<Swappable>>,
    pub(crate) keys: StoodKeys,
    /// What was logged about files that everybody can change.
    pub(crate) alarms: Vec<String>,
}

/// The result of the first reading of the key store.
pub(crate) struct StoodKeys {
    /// Faults of the refused files of a key directory, or of refused entries in a Redis server.
    pub(crate) refused: Faults,
    /// Why the key store in a Redis server could not be read.
    pub(crate) unread: Option<Faults>,
    pub(crate) last_good: LastGood,
    /// The key store, if it is in a Redis server.
    pub(crate) redis: Option<Arc<RedisStore>>,
}
