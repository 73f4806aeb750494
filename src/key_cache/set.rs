//! A set of keys that was read whole, and is ready to be put in the place of the one before.

use std::sync::Arc;

use crate::config::fault::Fault;
use crate::key_cache::live_key::LiveKey;
use crate::key_store::labels::Hashing;
use crate::key_store::reading::LastGood;
use crate::keys::token::KeyHash;

/// What is new or changed, by the digests of all secrets; what stays is marked in the cache.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    pub(crate) entries: Vec<(KeyHash, Arc<LiveKey>)>,
    /// Secrets of the keys that stay as they are.
    pub(crate) kept: usize,
    /// The mark of those.
    pub(crate) generation: u32,
    /// What the fingerprints of texts in it were made with.
    pub(crate) hashing: Hashing,
    /// The keys of a file of lines in their order.
    pub(crate) order: Arc<Vec<Arc<LiveKey>>>,
    /// Keys in all, of which some have several secrets.
    pub(crate) keys: usize,
    /// How many of these are in their last good form, since their entries are at fault.
    pub(crate) held: usize,
    /// What is wrong with entries, or with files of a directory, that were left out or stay in their last good form.
    pub(crate) refused: Vec<Fault>,
    /// It is of a file of lines that has none. Such a file may be about to be written.
    pub(crate) is_blank: bool,
    /// Which keys each file of a directory has in service.
    pub(crate) last_good: LastGood,
}
