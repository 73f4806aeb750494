//! Pages of keys that were shown a moment ago.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

/// A page of keys is shown for so many times as long as it took to make: however many callers ask,
/// they take a twentieth of a processor.
const SHOWN_FOR: u32 = 20;
/// Pages that are kept.
const MAX_PAGES: usize = 16;

/// Pages of keys as they were a moment ago, by the key before their first one.
#[derive(Debug, Default)]
pub(crate) struct LookedAt(Mutex<HashMap<String, Look>>);

#[derive(Debug)]
struct Look {
    /// The generation of configuration and keys.
    generation: u64,
    until: Instant,
    keys: Value,
}

impl LookedAt {
    /// The page after the key `after`. Only a walk through many keys takes long enough to keep its
    /// page for some seconds.
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
