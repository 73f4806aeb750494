//! The interface between a store and the set of keys that is built from the store. The set is built
//! while other keys are in service.
//!
//! `key_cache` builds the sets that are put into service; [`super::tally`] only checks and counts
//! keys. The lines of a store of a million keys are added to builders one by one, by several
//! threads.

use std::collections::HashSet;

use crate::config::fault::Fault;
use crate::key_store::claim::Claim;
use crate::key_store::labels::Hashing;
use crate::key_store::reading::LastGood;
use crate::keys::{Draft, KeyHash, KeyRecord};

/// Gives the code that loads a store access to the keys in service.
pub(crate) trait KeysInService: Sync {
    /// The type that builds a set to replace these keys.
    type Builder<'a>: BuildSet
    where
        Self: 'a;

    /// Begins a new set.
    fn begin(&self) -> Self::Builder<'_>;

    /// Returns the hash functions that make the labels and fingerprints of new sets.
    fn hashing(&self) -> &Hashing;

    /// Returns the id of the key in service that has this digest.
    fn id_of(&self, hash: &KeyHash) -> Option<String>;
}

/// The type of the set that replaces keys in service of type `K`.
pub(crate) type SetOf<'k, K> = <<K as KeysInService>::Builder<'k> as BuildSet>::Set;

/// Collects the keys of one set.
pub(crate) trait BuildSet: Sized + Send {
    /// The type of the complete set.
    type Set;

    /// Begins another part of this set, for another thread to build.
    fn part(&self) -> Self;

    /// Adds the part of the set that another thread has built.
    fn join(&mut self, part: Self);

    /// Returns the fingerprint of a line. [`BuildSet::keep`] recognizes the line by it after a
    /// reload.
    fn fingerprint(&self, line: &[u8]) -> u64;

    /// Adds the next key in service, in the order of the file, if this key was read from a line
    /// with this fingerprint. Returns whether the key was added.
    fn keep_next(&mut self, fingerprint: u64) -> bool;

    /// Adds the key in service with this digest, if it was read from a line with this fingerprint.
    /// Returns whether the key was added.
    fn keep(&mut self, hash: &KeyHash, fingerprint: u64) -> bool;

    /// Adds all keys in service that were read from entries of their own, except the keys with these
    /// ids.
    fn keep_all_but(&mut self, ids: &HashSet<&str>);

    /// Adds a key. `fingerprint` is the fingerprint of the line that the key was read from; zero if
    /// the key was not read from a line.
    fn add(&mut self, hash: KeyHash, draft: Draft<'_>, fingerprint: u64);

    /// Adds keys that were not read from lines.
    fn add_all<'r>(mut self, records: impl IntoIterator<Item = &'r KeyRecord>) -> Self {
        for record in records {
            self.add(record.hash, record.draft(), 0);
        }
        self
    }

    /// Returns the labels of the ids, names and digests that several keys of the set share.
    fn shared_labels(&mut self) -> HashSet<u64>;

    /// For each claim that names a key in service, adds the last good form of that key, unless a
    /// good entry has the key. Returns the number of the entry and the id of the key for each of
    /// these claims. Must be called after all good entries are added.
    fn hold(&mut self, claims: &[(usize, Claim)]) -> Vec<(usize, String)>;

    /// Whether a key in service has both the id and one of the digests of this record.
    fn is_owner(&self, record: &KeyRecord) -> bool;

    /// Returns the number of keys that were added so far.
    fn keys(&self) -> usize;

    /// Completes the set. `findings` is what was found in the store in addition to keys.
    fn finish(self, findings: Findings) -> Self::Set;
}

/// What was found in a store in addition to keys.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// The faults of entries, or of files of a directory, that are not used. The key of such an
    /// entry is left out or keeps its last good form.
    pub(crate) refused: Vec<Fault>,
    /// Whether the store is a JSON Lines file without any lines. Another program may be about to
    /// write the lines.
    pub(crate) is_blank: bool,
    /// For each file of a directory store, the ids of the keys in service that were read from the
    /// file.
    pub(crate) last_good: LastGood,
}

/// A set that is built but not yet complete. The store may still be refused.
pub(crate) struct Built<B> {
    pub(crate) builder: B,
    pub(crate) findings: Findings,
}

impl<B: BuildSet> Built<B> {
    /// Completes the set.
    pub(crate) fn finish(self) -> B::Set {
        self.builder.finish(self.findings)
    }
}
