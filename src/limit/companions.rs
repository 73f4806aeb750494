//! Credentials that came beside a key and match none.
//!
//! A client that sends a key of another service along sends the same one with every request. It
//! counts as a failed attempt once.
//! Invariant: memory is bounded. At the bound all are forgotten, and each may count once more.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, PoisonError};

use foldhash::quality::RandomState;

/// The credentials that are remembered, of eight bytes each.
const MOST: usize = 16 * 1024;

/// The credentials that were seen.
#[derive(Debug, Default)]
pub(super) struct Companions {
    /// Keyed at random, so that nobody can make a credential that counts as another one.
    hasher: RandomState,
    seen: Mutex<HashSet<u64>>,
}

impl Companions {
    /// Notes a credential. Returns whether it is new.
    pub(super) fn note(&self, credential: impl Hash) -> bool {
        let hash = self.hasher.hash_one(credential);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MOST && !seen.contains(&hash) {
            seen.clear();
        }
        seen.insert(hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_new_once_and_the_memory_is_bounded() {
        let companions = Companions::default();
        assert!(companions.note("one") && !companions.note("one") && companions.note("two"));
        let news = (0..3 * MOST).filter(|number| companions.note(number)).count();
        assert_eq!(news, 3 * MOST);
        assert!(companions.seen.lock().unwrap().len() <= MOST);
    }
}
