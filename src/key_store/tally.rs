//! Checks a store and counts its keys for commands, without a cache of keys.

use std::collections::HashSet;

use crate::config::fault::Fault;
use crate::key_store::build_set::{BuildSet, Findings, KeysInService};
use crate::key_store::claim::Claim;
use crate::key_store::labels::{Hashing, Labels};
use crate::keys::{Draft, KeyHash, KeyRecord};

/// An empty set of keys in service, for commands that read a store.
#[derive(Debug, Default)]
pub(crate) struct NoKeys {
    hashing: Hashing,
}

impl KeysInService for NoKeys {
    type Builder<'a> = Counter<'a>;

    fn begin(&self) -> Counter<'_> {
        Counter { hashing: &self.hashing, labels: Labels::default(), keys: 0 }
    }

    fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    fn id_of(&self, _hash: &KeyHash) -> Option<String> {
        None
    }
}

/// The number of good keys in a store, and the faults of the entries that are not good.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) keys: usize,
    pub(crate) refused: Vec<Fault>,
}

/// Counts keys, and stores only their labels.
#[derive(Debug)]
pub(crate) struct Counter<'a> {
    hashing: &'a Hashing,
    labels: Labels,
    keys: usize,
}

impl BuildSet for Counter<'_> {
    type Set = Tally;

    fn part(&self) -> Self {
        Counter { hashing: self.hashing, labels: Labels::default(), keys: 0 }
    }

    fn join(&mut self, part: Self) {
        self.labels.append(part.labels);
        self.keys += part.keys;
    }

    fn fingerprint(&self, _line: &[u8]) -> u64 {
        0
    }

    fn keep_next(&mut self, _fingerprint: u64) -> bool {
        false
    }

    fn keep(&mut self, _hash: &KeyHash, _fingerprint: u64) -> bool {
        false
    }

    fn keep_all_but(&mut self, _ids: &HashSet<&str>) {}

    fn add(&mut self, hash: KeyHash, draft: Draft<'_>, _fingerprint: u64) {
        self.labels.add(self.hashing, &hash, &draft);
        self.keys += 1;
    }

    fn shared_labels(&mut self) -> HashSet<u64> {
        self.labels.repeated()
    }

    fn hold(&mut self, _claims: &[(usize, Claim)]) -> Vec<(usize, String)> {
        Vec::new()
    }

    fn is_owner(&self, _record: &KeyRecord) -> bool {
        false
    }

    fn keys(&self) -> usize {
        self.keys
    }

    fn finish(self, findings: Findings) -> Tally {
        Tally { keys: self.keys, refused: findings.refused }
    }
}
