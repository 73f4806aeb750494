//! A set of keys that was loaded whole, and is ready to replace the one in service.

use std::sync::Arc;

use crate::config::fault::Fault;
use crate::key_cache::live_key::LiveKey;
use crate::key_store::labels::Hashing;
use crate::key_store::reading::LastGood;
use crate::keys::token::KeyHash;

/// A set of keys. It has the new and changed ones; those that stay are marked in the cache.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    /// New and changed keys, by the digests of all their secrets.
    pub(crate) entries: Vec<(KeyHash, Arc<LiveKey>)>,
    /// How many secrets the keys have that stay as they are.
    pub(crate) kept: usize,
    /// The mark of the keys that stay.
    pub(crate) generation: u32,
    /// Makes the fingerprints of its lines.
    pub(crate) hashing: Hashing,
    /// The keys of a file of lines in their order.
    pub(crate) order: Arc<Vec<Arc<LiveKey>>>,
    /// How many keys it has in all. Some have several secrets.
    pub(crate) keys: usize,
    /// How many of these keep their last good form, since their entries are at fault.
    pub(crate) held: usize,
    /// See [`Findings::refused`](crate::key_store::build_set::Findings).
    pub(crate) refused: Vec<Fault>,
    /// It is of a file of lines that has none. Such a file may be in the middle of being written.
    pub(crate) is_blank: bool,
    /// The keys that each file of a directory has in service.
    pub(crate) last_good: LastGood,
}
