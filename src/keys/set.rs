//! A set of keys that was read whole, and is ready to be put in the place of the one before.

use std::sync::Arc;

use super::cache::{KeyCache, LiveKey};
use super::directory::LastGood;
use super::{Draft, KeyHash, KeyRecord};
use crate::config::fault::Fault;

/// Keys by the digests of their secrets. What is in service already, unchanged, is in here as the very same
/// [`LiveKey`].
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    pub(crate) entries: Vec<(KeyHash, Arc<LiveKey>)>,
    /// Keys, of which some have several secrets.
    pub(crate) keys: usize,
    /// What is wrong with those files of a directory that were left out, or stay as they were.
    pub(crate) refused: Vec<Fault>,
    /// What a directory's files held that were good.
    pub(crate) last_good: LastGood,
}

/// What a store is read with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a> {
    /// The keys in service.
    pub(crate) known: &'a KeyCache,
    pub(crate) last_good: &'a LastGood,
}

/// Collects keys one by one.
#[derive(Debug)]
pub(super) struct SetBuilder<'a> {
    known: &'a KeyCache,
    set: KeySet,
}

impl<'a> SetBuilder<'a> {
    pub(super) fn new(known: &'a KeyCache) -> Self {
        SetBuilder { known, set: KeySet { entries: Vec::with_capacity(known.len()), ..KeySet::default() } }
    }

    pub(super) fn add(&mut self, hash: KeyHash, draft: Draft<'_>) {
        // A key keeps its place only under its current secret: after a rotation it is another one.
        let live = match self.known.find(&hash) {
            Some(found) if found.rotated_out.is_none() && draft.is(&found.key.key) => found.key,
            _ => Arc::new(LiveKey::new(draft.into())),
        };
        let previous = live.key.previous().iter().map(|secret| (secret.hash, live.clone()));
        self.set.entries.extend(previous);
        self.set.entries.push((hash, live));
        self.set.keys += 1;
    }

    pub(super) fn add_all<'r>(mut self, records: impl IntoIterator<Item = &'r KeyRecord>) -> Self {
        for record in records {
            self.add(record.hash, record.draft());
        }
        self
    }

    pub(super) fn finish(self) -> KeySet {
        self.set
    }
}
