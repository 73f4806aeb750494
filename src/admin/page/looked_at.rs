//! Caches the pages of keys that the status page showed last.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

/// A page of keys that took some time to build stays cached for that time multiplied by this
/// factor. Building this page thus uses at most a twentieth of a processor, however many callers
/// ask for the page.
const SHOWN_FOR: u32 = 20;
/// Maximum number of cached pages.
const MAX_PAGES: usize = 16;

/// Cached pages of keys, by the id of the key after which each page begins.
#[derive(Debug, Default)]
pub(crate) struct LookedAt(Mutex<HashMap<String, Look>>);

#[derive(Debug)]
struct Look {
    /// The generation of the configuration and the keys from which the page was built.
    generation: u64,
    until: Instant,
    keys: Value,
}

impl LookedAt {
    /// Returns the page of keys that begins after the key id `after`, from the cache or built by
    /// `walk`. A page stays cached for some seconds only if there are many keys, because `walk` is
    /// fast otherwise.
    pub(crate) fn keys(&self, generation: u64, after: &str, walk: impl FnOnce() -> Value) -> Value {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        pages.retain(|_, page| page.generation == generation && began < page.until);
        if let Some(page) = pages.get(after) {
            return page.keys.clone();
        }
        let keys = walk();
        let until = Instant::now() + began.elapsed() * SHOWN_FOR;
        if pages.len() < MAX_PAGES {
            pages.insert(after.to_owned(), Look { generation, until, keys: keys.clone() });
        }
        keys
    }
}
