//! The keys of a key store, for programs that look up keys without running a server.

use std::fmt;
use std::path::Path;

use crate::config::fault::Faults;
use crate::key_cache::cache::KeyCache;
use crate::key_store::{Reading, Store};
use crate::keys::id_secret::IdSecret;
use crate::keys::token::Credential;

/// The keys of a store, found by their tokens.
pub struct KeyRing {
    cache: KeyCache,
    keys: usize,
}

impl KeyRing {
    /// Reads a store: a `.yaml`, `.jsonl` or `.txt` file, or a directory of files.
    ///
    /// # Errors
    ///
    /// Returns all faults of the store. A directory is refused if any of its files has a fault.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let nothing = KeyCache::default();
        // Only the caller sees the key ids that this secret makes, so another process may make
        // different ids for the same keys.
        let ids = IdSecret::random();
        let set = Store::at_path(path)?.load(Reading::first(&nothing, &ids))?;
        let cache = KeyCache::from(&set);
        match set.refused.is_empty() {
            true => Ok(KeyRing { cache, keys: set.keys }),
            false => Err(Faults(set.refused)),
        }
    }

    /// Returns the id of the key that matches `credential`, whether the key is valid or not.
    pub fn find(&self, credential: &Credential) -> Option<String> {
        self.cache.lookup(credential).ok().map(|(_, found)| found.key.key.id().to_owned())
    }

    /// Returns the number of keys. A key with several secrets is one key.
    pub fn keys(&self) -> usize {
        self.keys
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.keys).finish_non_exhaustive()
    }
}
