//! The keys of a store, for lookups without a server.

use std::fmt;
use std::path::Path;

use crate::config::fault::Faults;
use crate::key_cache::cache::KeyCache;
use crate::key_store::{Reading, Store};
use crate::keys::id_secret::IdSecret;
use crate::keys::token::Credential;

/// The keys of a store, by the tokens that match them.
pub struct KeyRing {
    cache: KeyCache,
    keys: usize,
}

impl KeyRing {
    /// Reads a store: a `.yaml`, `.jsonl` or `.txt` file, or a directory of files.
    ///
    /// # Errors
    ///
    /// All that is wrong with it. A directory with a bad file is refused as well.
    pub fn load(path: &Path) -> Result<Self, Faults> {
        let nothing = KeyCache::default();
        // The ids are seen by the caller alone.
        let ids = IdSecret::random();
        let set = Store::at(path)?.load(Reading::first(&nothing, &ids))?;
        let cache = KeyCache::from(&set);
        match set.refused.is_empty() {
            true => Ok(KeyRing { cache, keys: set.keys }),
            false => Err(Faults(set.refused)),
        }
    }

    /// The id of the key that matches `credential`, valid now or not.
    pub fn find(&self, credential: &Credential) -> Option<String> {
        self.cache.lookup(credential).ok().map(|(_, found)| found.key.key.id().to_owned())
    }

    /// How many keys there are; some may have several secrets.
    pub fn keys(&self) -> usize {
        self.keys
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").field("keys", &self.keys).finish_non_exhaustive()
    }
}
