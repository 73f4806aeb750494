//! Cache of the pages of keys that were shown last.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

/// A page of keys stays cached for this many times the time that it took to build. However many
/// callers ask for a page, building it takes at most a twentieth of a processor.
const SHOWN_FOR: u32 = 20;
/// Maximum number of cached pages.
const MAX_PAGES: usize = 16;

/// Cached pages of keys, by the id of the key after which each page begins.
#[derive(Debug, Default)]
pub(crate) struct LookedAt(Mutex<HashMap<String, Look>>);

#[derive(Debug)]
struct Look {
    /// The generation of configuration and keys when the page was built.
    generation: u64,
    until: Instant,
    keys: Value,
}

impl LookedAt {
    /// Returns the page after the key `after`, from the cache or built by `walk`. Only with many
    /// keys does `walk` take long enough for a page to stay cached for some seconds.
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
