//! What a store is loaded into: a set of keys, built beside the keys in service.
//!
//! `key_cache` builds the sets that serve; [`super::tally`] checks and counts alone. A store of a
//! million keys is loaded straight into a builder, a line at a time, by several threads.

use std::collections::HashSet;

use crate::config::fault::Fault;
use crate::key_store::claim::Claim;
use crate::key_store::labels::Hashing;
use crate::key_store::reading::LastGood;
use crate::keys::{Draft, KeyHash, KeyRecord};

/// The keys in service, as far as a store that is loaded needs to know them.
pub(crate) trait KeysInService: Sync {
    /// Builds a set to replace these keys.
    type Builder<'a>: BuildSet
    where
        Self: 'a;

    /// Begins a set.
    fn begin(&self) -> Self::Builder<'_>;

    /// Makes the labels of sets that are built beside these keys.
    fn hashing(&self) -> &Hashing;

    /// The id of the key in service to which this digest belongs.
    fn id_of(&self, hash: &KeyHash) -> Option<String>;
}

/// The set that is built beside keys of this kind.
pub(crate) type SetOf<'k, K> = <<K as KeysInService>::Builder<'k> as BuildSet>::Set;

/// Collects the keys of one set.
pub(crate) trait BuildSet: Sized + Send {
    /// The set when it is complete.
    type Set;

    /// Another part of the same set, for another thread.
    fn part(&self) -> Self;

    /// Adds the part that another thread has built.
    fn join(&mut self, part: Self);

    /// The fingerprint of a line, by which [`BuildSet::keep`] knows it again.
    fn fingerprint(&self, line: &[u8]) -> u64;

    /// Takes the key in service that is expected next, if it was read from a line with this
    /// fingerprint.
    fn keep_next(&mut self, fingerprint: u64) -> bool;

    /// Takes the key in service with this digest, if it was read from a line with this fingerprint.
    fn keep(&mut self, hash: &KeyHash, fingerprint: u64) -> bool;

    /// Adds a key. `fingerprint`: of the line that it was read from, or zero.
    fn add(&mut self, hash: KeyHash, draft: Draft<'_>, fingerprint: u64);

    /// Adds keys that were not read from lines.
    fn add_all<'r>(mut self, records: impl IntoIterator<Item = &'r KeyRecord>) -> Self {
        for record in records {
            self.add(record.hash, record.draft(), 0);
        }
        self
    }

    /// The labels of ids, names and digests that several keys of the set have.
    fn shared_labels(&mut self) -> HashSet<u64>;

    /// Keeps the last good form of each key in service that a claim is about. Returns the number of
    /// each such claim with the id of its key. To be called when all good entries are added: those
    /// go first.
    fn hold(&mut self, claims: &[(usize, Claim)]) -> Vec<(usize, String)>;

    /// Whether a key in service has both the id and one of the digests of this record.
    fn is_owner(&self, record: &KeyRecord) -> bool;

    /// How many keys it has so far.
    fn keys(&self) -> usize;

    /// The set, with what else was found in its store.
    fn finish(self, findings: Findings) -> Self::Set;
}

/// What was found in a store beside its keys.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// What is wrong with entries, or files of a directory, that were left out or keep the last
    /// good form of their keys.
    pub(crate) refused: Vec<Fault>,
    /// It is a file of lines that has none. Such a file may be about to be written.
    pub(crate) is_blank: bool,
    /// The keys that each file of a directory has in service.
    pub(crate) last_good: LastGood,
}

/// A set that is built, and not finished: whether it counts is still to be decided.
pub(crate) struct Built<B> {
    pub(crate) builder: B,
    pub(crate) findings: Findings,
}

impl<B: BuildSet> Built<B> {
    /// The set.
    pub(crate) fn finish(self) -> B::Set {
        self.builder.finish(self.findings)
    }
}
