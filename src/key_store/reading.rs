//! How a store is read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::keys::id_secret::IdSecret;

/// The ids of the keys in service that each file of a directory gave.
pub(crate) type LastGood = BTreeMap<PathBuf, Vec<String>>;

/// What a store is read with. `K`: see [`super::build_set::KeysInService`].
#[derive(Debug)]
pub(crate) struct Reading<'a, K> {
    /// The keys in service.
    pub(crate) known: &'a K,
    pub(crate) last_good: &'a LastGood,
    /// Makes the ids of the keys of a plain list.
    pub(crate) ids: &'a IdSecret,
    pub(crate) at_fault: AtFault,
    pub(crate) pace: Pace,
}

impl<K> Clone for Reading<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Reading<'_, K> {}

/// What becomes of an entry that is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtFault {
    /// The store is refused with it: there is no last good form, or it is another store's.
    Refused,
    /// The key keeps its last good form.
    Held,
}

/// How fast a large store is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// On this many threads: nothing else needs the processors.
    Fast(usize),
    /// On one thread, in short steps with a rest behind each, so that requests do not wait for it.
    Background,
}

impl<'a, K> Reading<'a, K> {
    /// A first reading. `none`: keys in service, of which there are none yet.
    pub(crate) fn first(none: &'a K, ids: &'a IdSecret) -> Self {
        static NO_FILES: LastGood = LastGood::new();
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Reading {
            known: none,
            last_good: &NO_FILES,
            ids,
            at_fault: AtFault::Refused,
            pace: Pace::Fast(threads),
        }
    }
}
