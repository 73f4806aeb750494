//! The keys in service, in a concurrent map from a secret's digest to its key.
//!
//! A reload changes the map only where the old and the new set of keys differ, one key at a time.
//! It inserts new keys before it removes old keys. A reload never blocks a lookup.

use std::hash::BuildHasherDefault;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use dashmap::DashMap;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::key_cache::live_key::LiveKey;
use crate::key_cache::set::KeySet;
use crate::key_store::availability::Availability;
use crate::key_store::labels::Hashing;
use crate::keys::token::{Credential, DigestHasher, Form, KeyHash};

/// A key that matches a credential's digest.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    pub(crate) key: Arc<LiveKey>,
    /// The end of the grace period of the matched secret; `None` if the secret is the key's current
    /// secret.
    pub(crate) rotated_out: Option<Timestamp>,
}

/// The reason why no key matches a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoMatch {
    /// The credential is a bearward token whose length or checksum is wrong.
    Mistyped,
    Unknown,
}

impl NoMatch {
    /// Returns the name of this reason, for logs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            NoMatch::Mistyped => "mistyped",
            NoMatch::Unknown => "unknown",
        }
    }
}

/// All keys in service, by the digests of their secrets.
#[derive(Debug)]
pub(crate) struct KeyCache {
    pub(super) by_hash: DashMap<KeyHash, Arc<LiveKey>, BuildHasherDefault<DigestHasher>>,
    /// The number of key sets that were begun so far. The number of a set marks the keys of this
    /// set.
    pub(super) generation: AtomicU32,
    pub(super) hashing: Hashing,
    /// The keys of the previously loaded JSON Lines file, in the order of its lines. The next file
    /// most likely has mostly the same lines.
    pub(super) order: Mutex<Arc<Vec<Arc<LiveKey>>>>,
    /// Notifies receivers that keys were removed or changed.
    changes: watch::Sender<()>,
    /// Whether the keys may be used.
    pub(crate) availability: Arc<Availability>,
}

/// How many secrets were added, changed and removed when a new set of keys replaced the old set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) added: usize,
    pub(crate) changed: usize,
    pub(crate) removed: usize,
}

impl Default for KeyCache {
    fn default() -> Self {
        Self::with_room(0)
    }
}

impl From<&KeySet> for KeyCache {
    /// Makes a cache of the keys of `set`. The map is allocated at its full size, because a map
    /// that grows blocks one of its shards for milliseconds.
    fn from(set: &KeySet) -> Self {
        let cache = KeyCache { hashing: set.hashing.clone(), ..KeyCache::with_room(set.entries.len()) };
        cache.remember_order(set);
        // The keys of `set` are already marked with this generation.
        cache.generation.store(set.generation, Ordering::Relaxed);
        for (hash, key) in &set.entries {
            cache.by_hash.insert(*hash, key.clone());
        }
        cache
    }
}

impl KeyCache {
    fn with_room(room: usize) -> Self {
        KeyCache {
            by_hash: DashMap::with_capacity_and_hasher(room, BuildHasherDefault::default()),
            generation: AtomicU32::new(0),
            hashing: Hashing::default(),
            order: Mutex::default(),
            changes: watch::Sender::new(()),
            availability: Arc::default(),
        }
    }

    /// Replaces all keys by the keys of `set`, and returns the difference. `set` must be the last
    /// set that was built for this cache, and only one caller may call this function at a time.
    ///
    /// New and changed keys are inserted before other keys are removed, so a lookup always finds a
    /// key that is in the old and in the new set. Unchanged keys are not touched.
    pub(crate) fn replace(&self, set: &KeySet) -> Difference {
        let mut difference = Difference::default();
        self.remember_order(set);
        for (hash, key) in &set.entries {
            match self.by_hash.insert(*hash, key.clone()) {
                Some(_) => difference.changed += 1,
                None => difference.added += 1,
            }
        }
        // The map now contains every digest of the set. If the map has more entries than the set
        // has digests, the surplus entries belong to removed keys.
        if self.by_hash.len() > set.kept + set.entries.len() {
            let entries = self.by_hash.iter().filter(|entry| !entry.value().is_of(set.generation));
            let gone: Vec<KeyHash> = entries.map(|entry| *entry.key()).collect();
            for hash in &gone {
                self.by_hash.remove(hash);
            }
            difference.removed = gone.len();
        }
        if difference.removed + difference.changed > 0 {
            self.changes.send_replace(());
        }
        difference
    }

    fn remember_order(&self, set: &KeySet) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.clone_from(&set.order);
    }

    /// Returns a receiver that is notified whenever keys are removed or changed.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Finds the key that matches a credential.
    ///
    /// # Errors
    ///
    /// Fails if no key matches the credential. A token with a wrong checksum is refused without a lookup; one with
    /// a wrong length could be another program's key.
    pub(crate) fn lookup(&self, credential: &Credential) -> Result<(KeyHash, Match), NoMatch> {
        self.lookup_as(credential.form(), credential)
    }

    /// Finds the key that matches a credential, like [`KeyCache::lookup`], if the form of the
    /// credential is already known.
    ///
    /// # Errors
    ///
    /// Fails with the same errors as [`KeyCache::lookup`].
    pub(crate) fn lookup_as(&self, form: Form, credential: &Credential) -> Result<(KeyHash, Match), NoMatch> {
        if form == Form::Mistyped {
            return Err(NoMatch::Mistyped);
        }
        let hash = credential.hash();
        let no_match = || if credential.is_damaged() { NoMatch::Mistyped } else { NoMatch::Unknown };
        let found = self.find(&hash).ok_or_else(no_match)?;
        Ok((hash, found))
    }

    /// Finds the key that matches this digest, whether the key is valid or not.
    pub(crate) fn find(&self, hash: &KeyHash) -> Option<Match> {
        let key = self.by_hash.get(hash)?.value().clone();
        let rotated_out = key.key.rotated_out(hash);
        Some(Match { key, rotated_out })
    }

    /// Visits every key once, in no particular order.
    pub(crate) fn for_each(&self, mut visit: impl FnMut(&Arc<LiveKey>)) {
        self.for_each_current(|_, live| visit(live));
    }

    /// Visits every key once, with the digest of its current secret, in no particular order.
    pub(crate) fn for_each_current(&self, mut visit: impl FnMut(&KeyHash, &Arc<LiveKey>)) {
        for entry in &self.by_hash {
            // The map also has an entry for each rotated-out secret, and skipping these entries
            // visits each key once.
            if entry.value().key.rotated_out(entry.key()).is_none() {
                visit(entry.key(), entry.value());
            }
        }
    }

    /// Returns the number of secrets of all keys in service, including secrets that are rotated
    /// out.
    pub(crate) fn len(&self) -> usize {
        self.by_hash.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_store::build_set::{BuildSet, Findings, KeysInService as _};
    use crate::keys::{KeyRecord, Permission, Secret};

    fn record(name: &str) -> KeyRecord {
        let permissions = [Permission::Read].into_iter().collect();
        KeyRecord::new(format!("key_{name}"), KeyHash::of(name.as_bytes()), permissions)
    }

    fn set(cache: &KeyCache, records: &[KeyRecord]) -> KeySet {
        cache.begin().add_all(records).finish(Findings::default())
    }

    fn replace(cache: &KeyCache, names: &[&str]) -> Difference {
        let records: Vec<_> = names.iter().map(|name| record(name)).collect();
        cache.replace(&set(cache, &records))
    }

    #[test]
    fn a_new_set_replaces_the_old_one() {
        let cache = KeyCache::default();
        replace(&cache, &["a", "b"]);
        let stays = cache.find(&KeyHash::of(b"b")).unwrap().key;
        let difference = replace(&cache, &["b", "c"]);
        assert_eq!(difference, Difference { added: 1, changed: 0, removed: 1 });
        assert!(
            Arc::ptr_eq(&stays, &cache.find(&KeyHash::of(b"b")).unwrap().key),
            "a key that stays is not touched"
        );
        let found =
            |name: &str| cache.find(&KeyHash::of(name.as_bytes())).map(|found| found.key.key.id().to_owned());
        assert_eq!(found("a"), None);
        assert_eq!(found("b").as_deref(), Some("key_b"));
        assert_eq!(found("c").as_deref(), Some("key_c"));
        assert_eq!(cache.len(), 2);
        assert_eq!(replace(&cache, &["b", "c"]), Difference::default());
    }

    #[test]
    fn a_rotation_and_its_undoing_are_changes_of_one_identity() {
        let cache = KeyCache::default();
        let (old, new) = (KeyHash::of(b"a"), KeyHash::of(b"a2"));
        let rotated_out = |hash| cache.find(&hash).map(|found| found.rotated_out);
        let end = "2026-12-01T00:00:00Z".parse().unwrap();
        replace(&cache, &["a"]);
        let rotated = |hash, previous| {
            let mut record = KeyRecord { hash, ..record("a") };
            record.terms.previous.push(Secret { hash: previous, expires_at: end });
            record
        };
        cache.replace(&set(&cache, &[rotated(new, old)]));
        assert_eq!((rotated_out(new), rotated_out(old)), (Some(None), Some(Some(end))));
        cache.replace(&set(&cache, &[rotated(old, new)]));
        assert_eq!((rotated_out(new), rotated_out(old)), (Some(Some(end)), Some(None)));
        cache.replace(&set(&cache, &[record("a")]));
        assert_eq!((rotated_out(new), rotated_out(old)), (None, Some(None)));
        // The key now has only the new secret, so the old secret matches no key.
        cache.replace(&set(&cache, &[KeyRecord { hash: new, ..record("a") }]));
        assert_eq!((rotated_out(new), rotated_out(old), cache.len()), (Some(None), None, 1));
    }

    /// Adds keys that have entries of their own.
    fn with_lines<B: BuildSet>(mut builder: B, names: &[&str]) -> B {
        for name in names {
            let record = record(name);
            builder.add(record.hash, record.draft(), 7);
        }
        builder
    }

    #[test]
    fn a_set_of_changes_keeps_all_other_keys() {
        let cache = KeyCache::default();
        let first = with_lines(cache.begin(), &["a", "b", "c", "d"]);
        cache.replace(&first.finish(Findings::default()));
        let stays = cache.find(&KeyHash::of(b"a")).unwrap().key;
        for round in 0..3 {
            // `b` is changed, `c` is removed, and `e` is added; later rounds change nothing more.
            let mut builder = cache.begin();
            builder.keep_all_but(&["key_b", "key_c", "key_e"].into());
            let off = KeyRecord { disabled: true, ..record("b") };
            builder.add(off.hash, off.draft(), 8);
            let mut builder = with_lines(builder, &["e"]);
            assert!(builder.shared_labels().is_empty());
            let set = builder.finish(Findings::default());
            assert_eq!(set.keys, 4);
            let difference = cache.replace(&set);
            let expected = if round == 0 { (1, 1, 1) } else { (0, 0, 0) };
            assert_eq!((difference.added, difference.changed, difference.removed), expected);
            assert!(Arc::ptr_eq(&stays, &cache.find(&KeyHash::of(b"a")).unwrap().key));
            assert!(cache.find(&KeyHash::of(b"b")).unwrap().key.key.disabled);
            assert!(cache.find(&KeyHash::of(b"c")).is_none());
        }
        // A changed key that takes another key's hash shares a label with it.
        let mut builder = cache.begin();
        builder.keep_all_but(&["key_b"].into());
        let thief = KeyRecord { hash: KeyHash::of(b"a"), ..record("b") };
        builder.add(thief.hash, thief.draft(), 9);
        assert!(!builder.shared_labels().is_empty());
    }

    #[test]
    fn a_change_notifies_and_an_added_key_does_not() {
        let cache = KeyCache::default();
        replace(&cache, &["a", "b"]);
        let mut changes = cache.changes();
        replace(&cache, &["a", "b", "c"]);
        assert!(!changes.has_changed().unwrap(), "a key that is added ends nothing");
        replace(&cache, &["b", "c"]);
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        let off = KeyRecord { disabled: true, ..record("b") };
        cache.replace(&set(&cache, &[off, record("c")]));
        assert!(changes.has_changed().unwrap());
    }
}
