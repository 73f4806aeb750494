//! Pages of keys that were shown a moment ago.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use serde_json::Value;

/// Of a page of keys: it is shown for so many times as long as it took to make, so that however many look, they take a
/// twentieth of a processor for it.
const SHOWN_FOR: u32 = 20;
/// Pages that are remembered.
const MAX_PAGES: usize = 16;

/// Pages of keys as they were a moment ago, by the key that each begins behind.
#[derive(Debug, Default)]
pub(crate) struct LookedAt(Mutex<HashMap<String, Look>>);

#[derive(Debug)]
struct Look {
    /// Of the configuration and the keys.
    generation: u64,
    until: Instant,
    keys: Value,
}

impl LookedAt {
    /// Few keys are looked up at each look; of a million, a walk through all is worth keeping for some seconds.
    pub(crate) fn keys(&self, generation: u64, after: &str, walk: impl FnOnce() -> Value) -> Value {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        looks.retain(|_, look| look.generation == generation && began < look.until);
        if let Some(look) = looks.get(after) {
            return look.keys.clone();
        }
        let keys = walk();
        let until = Instant::now() + began.elapsed() * SHOWN_FOR;
        if looks.len() < MAX_PAGES {
            looks.insert(after.to_owned(), Look { generation, until, keys: keys.clone() });
        }
        keys
    }
}
