//! The parameters with which a store is read.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::key_store::provisions::Provisions;
use crate::keys::id_secret::IdSecret;

/// For each file of a directory store, the ids of the keys in service that were read from the file.
pub(crate) type LastGood = BTreeMap<PathBuf, Vec<String>>;

/// The parameters with which a store is read. For `K`, see [`super::build_set::KeysInService`].
#[derive(Debug)]
pub(crate) struct Reading<'a, K> {
    /// The keys in service while the store is read.
    pub(crate) known: &'a K,
    pub(crate) last_good: &'a LastGood,
    /// The secret that makes the ids of the keys of a plain list.
    pub(crate) ids: &'a IdSecret,
    /// What keys may need of the configuration.
    pub(crate) provisions: Provisions<'a>,
    pub(crate) at_fault: AtFault,
    pub(crate) pace: Pace,
}

impl<K> Clone for Reading<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for Reading<'_, K> {}

/// What happens to an entry that is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtFault {
    /// The whole store is refused, because there is no last good form of the entry's key, or
    /// because the last good form belongs to another store.
    Refused,
    /// The key of the entry keeps its last good form.
    Held,
}

/// How fast a large store is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// The store is read on this many threads, because nothing else needs the processors.
    Fast(usize),
    /// The store is read on one thread, in short steps with a rest after each step, so that
    /// requests are not delayed.
    Background,
}

impl<'a, K> Reading<'a, K> {
    /// Returns the parameters for a first reading, when no keys are in service. `none` is the empty
    /// set of keys in service.
    pub(crate) fn first(none: &'a K, ids: &'a IdSecret) -> Self {
        static NO_FILES: LastGood = LastGood::new();
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Reading {
            known: none,
            last_good: &NO_FILES,
            ids,
            provisions: Provisions::Any,
            at_fault: AtFault::Refused,
            pace: Pace::Fast(threads),
        }
    }
}
