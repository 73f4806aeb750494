//! Tokens that were verified, by their digests, until their end: the next request with one costs what a key
//! costs.
//!
//! Invariants: what was verified by other rules, other keys or another list of denied tokens does not count; the
//! number of tokens is bounded, and the ones that were used longest ago go first.

use std::hash::BuildHasherDefault;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use dashmap::DashMap;
use jiff::Timestamp;

use super::token::LEEWAY;
use crate::key_cache::LiveKey;
use crate::keys::KeyHash;
use crate::keys::token::DigestHasher;

/// Time after which an unused token is forgotten. Its next request verifies it again.
const UNUSED_SECONDS: u32 = 3600;

/// What a token was verified by: the number of the rules, and how often keys or denied tokens had changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    pub(super) rules: u64,
    pub(super) epoch: u64,
}

/// A token that was verified.
#[derive(Debug)]
pub(super) struct Verified {
    pub(super) live: Arc<LiveKey>,
    pub(super) basis: Basis,
    /// The end of the token, in seconds since 1970.
    expires_at: i64,
    /// When the token was last used, in seconds since some instant.
    last_used: AtomicU32,
    /// The number of the issuer in the rules.
    pub(super) issuer: u16,
}

impl Verified {
    pub(super) fn new(
        live: Arc<LiveKey>,
        basis: Basis,
        issuer: u16,
        expires_at: Timestamp,
        now: u32,
    ) -> Self {
        Verified { live, basis, expires_at: expires_at.as_second(), last_used: AtomicU32::new(now), issuer }
    }

    pub(super) fn expires_at(&self) -> Timestamp {
        Timestamp::from_second(self.expires_at).unwrap_or(Timestamp::MIN)
    }

    pub(super) fn is_expired(&self, now: Timestamp) -> bool {
        now.as_second() >= self.expires_at.saturating_add(LEEWAY.as_secs())
    }

    pub(super) fn note_use(&self, now: u32) {
        // The line of the processor's cache is written only once a second.
        if self.last_used.load(Ordering::Relaxed) != now {
            self.last_used.store(now, Ordering::Relaxed);
        }
    }
}

/// The tokens that were verified.
#[derive(Debug)]
pub(super) struct KnownTokens {
    by_hash: DashMap<KeyHash, Arc<Verified>, BuildHasherDefault<DigestHasher>>,
    number: AtomicUsize,
    most: usize,
}

impl KnownTokens {
    pub(super) fn with_room(most: usize) -> Self {
        KnownTokens { by_hash: DashMap::default(), number: AtomicUsize::new(0), most }
    }

    pub(super) fn get(&self, hash: &KeyHash) -> Option<Arc<Verified>> {
        self.by_hash.get(hash).map(|known| known.value().clone())
    }

    /// Keeps a token, unless there are too many.
    pub(super) fn put(&self, hash: KeyHash, verified: Arc<Verified>) {
        if self.number.fetch_add(1, Ordering::Relaxed) >= self.most
            || self.by_hash.insert(hash, verified).is_some()
        {
            self.number.fetch_sub(1, Ordering::Relaxed);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.len() > self.most / 8 * 7
    }

    /// Forgets tokens that have ended, were verified by other rules, or were not used for an hour, and more of
    /// them if there is too much. `seconds`: the time of their use.
    pub(super) fn sweep(&self, basis: Basis, now: Timestamp, (seconds, is_crowded): (u32, bool)) {
        let used = |verified: &Verified| verified.last_used.load(Ordering::Relaxed);
        let is_over = |verified: &Verified| {
            verified.is_expired(now)
                || verified.basis != basis
                || seconds.saturating_sub(used(verified)) > UNUSED_SECONDS
        };
        let over: Vec<KeyHash> =
            self.by_hash.iter().filter(|entry| is_over(entry.value())).map(|entry| *entry.key()).collect();
        over.iter().for_each(|hash| self.remove(hash));
        if !is_crowded {
            return;
        }
        let mut by_use: Vec<(u32, KeyHash)> =
            self.by_hash.iter().map(|entry| (used(entry.value()), *entry.key())).collect();
        by_use.sort_unstable_by_key(|(used, _)| *used);
        let surplus = by_use.len().saturating_sub(self.most / 4 * 3);
        by_use.iter().take(surplus).for_each(|(_, hash)| self.remove(hash));
    }

    fn remove(&self, hash: &KeyHash) {
        if self.by_hash.remove(hash).is_some() {
            self.number.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
