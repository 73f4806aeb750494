//! Decides which entries of a store are used when some entries are at fault (docs/decisions/023).
//!
//! A good entry is used, unless it shares an id, a name or a hash with another entry. Of several
//! entries that share such a value, an entry is used only if its key is in service already (a key
//! in service has its id and one of its hashes) and the keys of the other entries are not. The key
//! of an entry that is not used keeps its last good form. A key without any entry is removed, even
//! if no entry of the list is good. A file that is not a list of keys changes nothing.

use std::collections::HashSet;
use std::path::Path;

use crate::config::fault::{Fault, Faults, Position};
use crate::key_store::build_set::{BuildSet, Built, Findings, KeysInService};
use crate::key_store::claim::Claim;
use crate::key_store::provisions::Provisions;
use crate::key_store::reading::AtFault;
use crate::keys::record::KeyRecord;

/// An entry of a store that is read as a whole.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) at: Position,
    pub(crate) read: Result<KeyRecord, Unread>,
}

/// An entry that could not be read.
#[derive(Debug)]
pub(crate) struct Unread {
    pub(crate) claim: Claim,
    /// Whether the text has the form of an entry, such as a map of fields. A file with such a text
    /// is a list of keys.
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

/// An entry that shares an id, a name or a hash with another entry.
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

/// Entries that are good by themselves but are not used, with the fault of each.
#[derive(Debug, Default)]
pub(crate) struct Excluded {
    pub(crate) entries: HashSet<usize>,
    pub(crate) faults: Vec<Fault>,
}

impl Excluded {
    /// Takes entries that share an id, a name or a hash, and excludes each entry whose key is not
    /// in service. If the keys of all these entries are in service, all of them are excluded.
    pub(crate) fn take(&mut self, twins: Vec<Twin>) {
        let are_owners = twins.iter().all(|twin| twin.is_owner);
        for twin in twins.into_iter().filter(|twin| are_owners || !twin.is_owner) {
            if self.entries.insert(twin.entry) {
                self.faults.push(twin.fault);
            }
        }
    }
}

/// Builds sets, each with more entries excluded, until no two entries of a set share an id, a name
/// or a hash. `pass` builds a set of all entries except the excluded ones, and `twins_of` finds the
/// entries that have one of the shared labels.
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
        // If `twins_of` finds no entry, two different texts have the same 64-bit label by chance.
        if twins.is_empty() {
            return Ok(built);
        }
        excluded.take(twins);
    }
}

/// The set of the entries that are used, the excluded entries, and the keys that keep their last
/// good form.
pub(crate) struct Counted<B> {
    pub(crate) builder: B,
    pub(crate) excluded: Excluded,
    /// For each entry at fault whose key keeps its last good form: the number of the entry, and the
    /// id of the key.
    pub(crate) held: Vec<(usize, String)>,
}

/// Builds the set of the entries that are used, and finds, for each other entry, the key that keeps
/// its last good form. `fault` makes the fault of an entry that shares an id, a name or a hash with
/// another entry.
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

/// Builds the set of a file for a server that has keys of this file in service. `beside` has the
/// faults that are outside of all entries.
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

/// Returns the built set if the file is a list of keys: a part of the file has the form of an
/// entry, a key was found, or the file has no fault. Keys without an entry are then removed, even
/// if no entry is good. Any other file, such as a page of HTML, changes nothing, and its faults are
/// returned.
pub(crate) fn if_list<B: BuildSet>(built: Built<B>, has_entries: bool) -> Result<Built<B>, Faults> {
    match has_entries || built.builder.keys() > 0 || built.findings.refused.is_empty() {
        true => Ok(built),
        false => Err(Faults(built.findings.refused)),
    }
}

/// Refuses the entries that need what the configuration does not have.
pub(crate) fn check_provisions(path: &Path, entries: &mut [Entry], provisions: Provisions<'_>) {
    for entry in entries {
        if let Ok(record) = &entry.read
            && let Err(unread) = check_needs(record, path, entry.at, provisions)
        {
            entry.read = Err(unread);
        }
    }
}

/// Checks that the configuration has what an entry, at `at` in the file `path`, needs.
///
/// # Errors
///
/// The configuration does not have it.
pub(crate) fn check_needs(
    record: &KeyRecord,
    path: &Path,
    at: Position,
    provisions: Provisions<'_>,
) -> Result<(), Unread> {
    match provisions.fault(record, path, at) {
        None => Ok(()),
        Some(fault) => Err(Unread { claim: Claim::of_record(record), is_entry: true, faults: vec![fault] }),
    }
}

/// Returns the faults of the entries that could not be read.
pub(crate) fn faults_of(entries: Vec<Entry>) -> impl Iterator<Item = Fault> {
    entries.into_iter().filter_map(|entry| entry.read.err()).flat_map(|unread| unread.faults)
}
