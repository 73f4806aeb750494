//! A set of keys that was read whole, and is ready to be put in the place of the one before.

use std::sync::Arc;

use super::cache::{Hashing, KeyCache, LiveKey};
use crate::config::fault::Fault;
use crate::key_store::directory::LastGood;
use crate::key_store::id_secret::IdSecret;
use crate::keys::KeyHash;

/// What is new or changed, by the digests of all secrets; what stays is marked in the cache.
#[derive(Debug, Default)]
pub(crate) struct KeySet {
    pub(crate) entries: Vec<(KeyHash, Arc<LiveKey>)>,
    /// Secrets of the keys that stay as they are.
    pub(crate) kept: usize,
    /// The mark of those.
    pub(crate) generation: u32,
    /// What the fingerprints of texts in it were made with.
    pub(crate) hashing: Hashing,
    /// The keys of a file of lines in their order.
    pub(crate) order: Arc<Vec<Arc<LiveKey>>>,
    /// Keys in all, of which some have several secrets.
    pub(crate) keys: usize,
    /// How many of these are in their last good form, since their entries are at fault.
    pub(crate) held: usize,
    /// What is wrong with entries, or with files of a directory, that were left out or stay in their last good form.
    pub(crate) refused: Vec<Fault>,
    /// It is of a file of lines that has none. Such a file may be about to be written.
    pub(crate) is_blank: bool,
    /// Which keys each file of a directory has in service.
    pub(crate) last_good: LastGood,
}

/// What a store is read with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading<'a> {
    /// The keys in service.
    pub(crate) known: &'a KeyCache,
    pub(crate) last_good: &'a LastGood,
    /// What names the keys of a plain list.
    pub(crate) ids: &'a IdSecret,
    pub(crate) at_fault: AtFault,
    pub(crate) pace: Pace,
}

/// What becomes of an entry that is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtFault {
    /// The store is refused with it: there is no last good form, or it is another store's.
    Refused,
    /// The key stays in its last good form.
    Held,
}

/// How a large store is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    /// On so many threads, as fast as may be: nothing else wants the processors.
    Fast(usize),
    /// On one thread, in short steps with a rest behind each, so that requests do not wait for it.
    Background,
}

impl<'a> Reading<'a> {
    /// A first reading: nothing is in service, and nothing else wants the processors.
    pub(crate) fn first(nothing: &'a (KeyCache, LastGood), ids: &'a IdSecret) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Reading {
            known: &nothing.0,
            last_good: &nothing.1,
            ids,
            at_fault: AtFault::Refused,
            pace: Pace::Fast(threads),
        }
    }
}
