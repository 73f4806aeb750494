//! A set of keys that was loaded completely, and is ready to replace the set in service.

use std::sync::Arc;

use crate::config::fault::Fault;
use crate::key_cache::live_key::LiveKey;
use crate::key_store::labels::Hashing;
use crate::key_store::reading::LastGood;
use crate::keys::token::KeyHash;

/// A set of keys. It contains the new and changed keys. Keys that stay unchanged are not in it:
/// they are marked in the cache.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    /// New and changed keys, by the digests of all their secrets.
    pub(crate) entries: Vec<(KeyHash, Arc<LiveKey>)>,
    /// The number of secrets of all keys that stay unchanged.
    pub(crate) kept: usize,
    /// The number that marks, in the cache, the keys that stay unchanged.
    pub(crate) generation: u32,
    /// The hash functions that made the fingerprints of the set's lines.
    pub(crate) hashing: Hashing,
    /// The keys of a JSON Lines file in their order.
    pub(crate) order: Arc<Vec<Arc<LiveKey>>>,
    /// The number of keys in the set. A key with several secrets counts once.
    pub(crate) keys: usize,
    /// The number of keys in the set that are in service in their last good form, because their
    /// entries are at fault.
    pub(crate) held: usize,
    /// See [`Findings::refused`](crate::key_store::build_set::Findings).
    pub(crate) refused: Vec<Fault>,
    /// Whether the store is a JSON Lines file without any lines. Another program may be about to
    /// write the lines.
    pub(crate) is_blank: bool,
    /// The ids of the keys in service, by the file of a directory that they were read from.
    pub(crate) last_good: LastGood,
}
