//! A set of keys that was loaded completely, and is ready to replace the set in service.

use std::sync::Arc;

use crate::config::fault::Fault;
use crate::key_cache::live_key::LiveKey;
use crate::key_store::labels::Hashing;
use crate::key_store::reading::LastGood;
use crate::keys::token::KeyHash;

/// A set of keys. `entries` contains only the new and changed keys. Unchanged keys are marked in
/// the cache instead.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    /// New and changed keys, by the digests of all their secrets.
    pub(crate) entries: Vec<(KeyHash, Arc<LiveKey>)>,
    /// The number of secrets of all keys that stay unchanged.
    pub(crate) kept: usize,
    /// The number of this set. In the cache, this number marks the keys that stay unchanged.
    pub(crate) generation: u32,
    /// The hash functions that computed the fingerprints of the key file's lines.
    pub(crate) hashing: Hashing,
    /// The keys of a JSON Lines file, in the order of its lines.
    pub(crate) order: Arc<Vec<Arc<LiveKey>>>,
    /// The number of keys in the set. A key with several secrets counts once.
    pub(crate) keys: usize,
    /// The number of keys whose entries are at fault, so that the last good form of these keys
    /// stays in service.
    pub(crate) held: usize,
    /// The faults of entries, or of files of a directory, that are not used. See
    /// [`Findings::refused`](crate::key_store::build_set::Findings).
    pub(crate) refused: Vec<Fault>,
    /// Whether the store is a JSON Lines file without any lines. Another program may be about to
    /// write the lines.
    pub(crate) is_blank: bool,
    /// For each file of a directory store, the ids of the keys in service that were read from the
    /// file.
    pub(crate) last_good: LastGood,
}
