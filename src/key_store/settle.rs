//! Finds the entries of a store that count, where some are at fault (docs/decisions/023).
//!
//! A good entry counts. Of entries that share an id, a name or a hash, the one counts whose key had
//! that before; where none or several had it, none counts. An entry that does not count keeps the
//! last good form of its key. A key without an entry is removed, even from a list without one good
//! entry. A file that is no list of keys changes nothing.

use std::collections::HashSet;
use std::path::Path;

use crate::config::fault::{Fault, Faults, Position};
use crate::key_store::build_set::{BuildSet, Built, Findings, KeysInService};
use crate::key_store::claim::Claim;
use crate::key_store::reading::AtFault;
use crate::keys::record::KeyRecord;

/// An entry of a store that is read whole.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) at: Position,
    pub(crate) read: Result<KeyRecord, Unread>,
}

/// An entry that could not be read.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) claim: Claim,
    /// Whether it has the form of an entry, such as a map of fields. A file with such an entry is a
    /// list of keys.
    pub(crate) is_entry: bool,
    pub(crate) faults: Vec<Fault>,
}

impl Entry {
    pub(crate) fn claim(&self) -> Claim {
        match &self.read {
            Ok(record) => Claim::of_record(record),
            Err(unread) => unread.claim.clone(),
        }
    }

    fn is_entry(&self) -> bool {
        self.read.as_ref().map_or_else(|unread| unread.is_entry, |_| true)
    }
}

/// An entry that shares something with another one.
#[derive(Debug)]
pub(crate) struct Twin {
    pub(crate) entry: usize,
    pub(crate) is_owner: bool,
    pub(crate) fault: Fault,
}

pub(crate) fn shared(path: &Path, at: Position) -> Fault {
    Fault::at(path, at, "this entry has an id, a name or a hash that another one has, too")
        .hint("keep one of them")
}

/// Entries that are good by themselves and do not count, with the fault of each.
#[derive(Debug, Default)]
pub(crate) struct Excluded {
    pub(crate) entries: HashSet<usize>,
    pub(crate) faults: Vec<Fault>,
}

impl Excluded {
    /// Excludes the entries whose keys did not have the shared value before; all of them, where all
    /// had it.
    pub(crate) fn take(&mut self, twins: Vec<Twin>) {
        let are_owners = twins.iter().all(|twin| twin.is_owner);
        for twin in twins.into_iter().filter(|twin| are_owners || !twin.is_owner) {
            if self.entries.insert(twin.entry) {
                self.faults.push(twin.fault);
            }
        }
    }
}

/// Builds a set pass by pass, until its entries share nothing. `pass`: adds all entries but these;
/// `twins_of`: finds the entries that have one of these labels.
pub(crate) fn settled<T>(
    excluded: &mut Excluded,
    mut pass: impl FnMut(&HashSet<usize>) -> Result<T, Faults>,
    mut labels_of: impl FnMut(&mut T) -> HashSet<u64>,
    mut twins_of: impl FnMut(&T, &HashSet<u64>, &HashSet<usize>) -> Result<Vec<Twin>, Faults>,
) -> Result<T, Faults> {
    loop {
        let mut built = pass(&excluded.entries)?;
        let labels = labels_of(&mut built);
        if labels.is_empty() {
            return Ok(built);
        }
        let twins = twins_of(&built, &labels, &excluded.entries)?;
        // Without twins, two labels had the same 64 bits by chance.
        if twins.is_empty() {
            return Ok(built);
        }
        excluded.take(twins);
    }
}

/// The entries of a store that count.
pub(crate) struct Counted<B> {
    pub(crate) builder: B,
    pub(crate) excluded: Excluded,
    /// The ids of keys that stay in their last good form, by the entry that is about them.
    pub(crate) held: Vec<(usize, String)>,
}

/// Finds the entries that count, and for each other entry the id of the key that it keeps. `fault`:
/// makes the fault of an entry that shares something.
pub(crate) fn set<'k, K: KeysInService>(
    known: &'k K,
    at_fault: AtFault,
    entries: &[Entry],
    mut excluded: Excluded,
    fault: impl Fn(usize, &Entry) -> Fault,
) -> Result<Counted<K::Builder<'k>>, Faults> {
    let good = |excluded: &HashSet<usize>| {
        let entries = entries.iter().enumerate().filter(|(number, _)| !excluded.contains(number));
        entries
            .filter_map(|(number, entry)| Some((number, entry, entry.read.as_ref().ok()?)))
            .collect::<Vec<_>>()
    };
    let mut builder = settled(
        &mut excluded,
        |excluded| {
            let records = good(excluded).into_iter().map(|(_, _, record)| record);
            Ok(known.begin().add_all(records))
        },
        BuildSet::shared_labels,
        |builder, labels, excluded| {
            let twins = good(excluded).into_iter();
            let twins = twins.filter(|(_, _, record)| {
                known.hashing().labels_of(record).iter().any(|label| labels.contains(label))
            });
            let twin = |(number, entry, record): (usize, &Entry, &KeyRecord)| Twin {
                entry: number,
                is_owner: builder.is_owner(record),
                fault: fault(number, entry),
            };
            Ok(twins.map(twin).collect())
        },
    )?;
    let faulty = entries.iter().enumerate();
    let faulty = faulty.filter(|(number, entry)| entry.read.is_err() || excluded.entries.contains(number));
    let claims: Vec<(usize, Claim)> = faulty.map(|(number, entry)| (number, entry.claim())).collect();
    let held = match at_fault {
        AtFault::Held => builder.hold(&claims),
        AtFault::Refused => Vec::new(),
    };
    Ok(Counted { builder, excluded, held })
}

/// Reads a file of entries for a server that has its keys in service already. `beside`: what is
/// wrong beside the entries.
pub(crate) fn of_file<'k, K: KeysInService>(
    path: &Path,
    known: &'k K,
    entries: Vec<Entry>,
    beside: Vec<Fault>,
) -> Result<Built<K::Builder<'k>>, Faults> {
    let mut faults = beside;
    let is_list = entries.is_empty() || entries.iter().any(Entry::is_entry);
    let Counted { builder, excluded, .. } =
        set(known, AtFault::Held, &entries, Excluded::default(), |_, entry| shared(path, entry.at))?;
    faults.extend(excluded.faults.into_iter().chain(faults_of(entries)));
    let findings = Findings { refused: Faults::sorted(faults).0, ..Findings::default() };
    if_list(Built { builder, findings }, is_list)
}

/// Decides whether a file counts. It is a list of keys if any part of it has the form of an entry
/// or claims a key. Then a key without an entry is removed, even where no entry is good. Any other
/// file at fault, such as a page of HTML, changes nothing.
pub(crate) fn if_list<B: BuildSet>(built: Built<B>, has_entries: bool) -> Result<Built<B>, Faults> {
    match has_entries || built.builder.keys() > 0 || built.findings.refused.is_empty() {
        true => Ok(built),
        false => Err(Faults(built.findings.refused)),
    }
}

/// The faults of entries by themselves.
pub(crate) fn faults_of(entries: Vec<Entry>) -> impl Iterator<Item = Fault> {
    entries.into_iter().filter_map(|entry| entry.read.err()).flat_map(|unread| unread.faults)
}
