//! Finds entries that share an id, a name or a hash. Only 64-bit labels of the ids, names and
//! hashes are compared.
//!
//! The labels save memory, because a million ids and names as text would take a hundred megabytes.
//! Two different texts may have the same label by chance, so a caller compares the texts as well.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::keys::record::KeyRecord;
use crate::keys::{Draft, KeyHash};

/// Makes labels with a random key, so that no client can construct two texts with the same label.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hashing {
    labels: RandomState,
    /// The hash function of whole lines, which are many and long.
    lines: foldhash::quality::RandomState,
}

impl Hashing {
    /// Returns the label of an id or a name.
    pub(crate) fn label(&self, text: &str) -> u64 {
        self.labels.hash_one(text)
    }

    /// Returns the labels of a key's id, name and digests.
    pub(crate) fn labels_of(&self, record: &KeyRecord) -> Vec<u64> {
        let labels = std::iter::once(&record.id).chain(&record.name).map(|text| self.label(text));
        labels.chain(record.hashes().map(|hash| hash.head())).collect()
    }

    /// Returns the fingerprint of a line. It is never zero.
    pub(crate) fn fingerprint(&self, line: &[u8]) -> u64 {
        self.lines.hash_one(line).max(1)
    }
}

/// The labels of all keys of a set.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    ids: Vec<u64>,
    names: Vec<u64>,
    hashes: Vec<u64>,
}

impl Labels {
    /// Adds the labels of a key. `hash` is its current hash.
    pub(crate) fn add(&mut self, hashing: &Hashing, hash: &KeyHash, draft: &Draft<'_>) {
        self.ids.push(hashing.label(draft.id));
        self.names.extend(draft.name.map(|name| hashing.label(name)));
        let previous = draft.terms.iter().flat_map(|terms| &terms.previous);
        self.hashes.extend(previous.map(|secret| secret.hash.head()));
        self.hashes.push(hash.head());
    }

    /// Adds the labels of another part of the set.
    pub(crate) fn append(&mut self, mut other: Labels) {
        self.ids.append(&mut other.ids);
        self.names.append(&mut other.names);
        self.hashes.append(&mut other.hashes);
    }

    /// Returns the labels of all ids.
    pub(crate) fn ids(&self) -> &[u64] {
        &self.ids
    }

    /// Sorts the labels, and returns the labels that several keys share.
    pub(crate) fn repeated(&mut self) -> HashSet<u64> {
        let mut repeated = HashSet::new();
        for labels in [&mut self.ids, &mut self.names, &mut self.hashes] {
            labels.sort_unstable();
            let pairs = labels.windows(2).filter(|pair| pair.first() == pair.last());
            repeated.extend(pairs.filter_map(|pair| pair.first()));
        }
        repeated
    }

    /// Whether one of the keys has an id with this label. [`Labels::repeated`] must have sorted the
    /// labels.
    pub(crate) fn has_id(&self, label: u64) -> bool {
        self.ids.binary_search(&label).is_ok()
    }

    /// Whether one of the keys has a name with this label. [`Labels::repeated`] must have sorted
    /// the labels.
    pub(crate) fn has_name(&self, label: u64) -> bool {
        self.names.binary_search(&label).is_ok()
    }
}
