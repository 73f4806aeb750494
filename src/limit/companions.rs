//! Credentials that were sent beside a valid key and match no key.
//!
//! A client that also sends the key of another service sends that key with every request. Such a
//! credential therefore counts as a failed attempt only when it is sent for the first time.
//! Invariant: memory is bounded. When the bound is reached, all credentials are forgotten, so each
//! of them may count as a failed attempt once more.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hash};
use std::sync::{Mutex, PoisonError};

use foldhash::quality::RandomState;

/// Largest number of credentials that are remembered, with eight bytes each.
const MOST: usize = 16 * 1024;

/// Hashes of the credentials that were sent beside a key.
#[derive(Debug, Default)]
pub(super) struct Companions {
    /// Hasher with a random key, so that nobody can make a credential that has the same hash as
    /// another one.
    hasher: RandomState,
    seen: Mutex<HashSet<u64>>,
}

impl Companions {
    /// Records a credential. Returns whether the credential is new.
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
