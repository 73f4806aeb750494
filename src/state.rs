//! State that survives a restart, in the directory `state.path`: budgets, windows of an hour and more,
//! usage, and when keys were last used.
//!
//! The directory has a journal (`crate::journal`) of budgets, windows and last uses, and one journal of
//! usage for each day, in `usage/DAY`. Journals of days that are older than [`KEPT_DAYS`] are removed.
//! A thread, the [`Keeper`], writes what has changed, once a second. No request waits for it.

mod entries;
mod keeper;
mod report;
mod usage;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::fault::Fault;
use crate::journal::{self, Journal, OpenError, Recovered};
use crate::limit::Kept;
use crate::observe::ledger::{Ledger, day_of};
use entries::Entry;
pub(crate) use keeper::{Keeper, Keeping};
pub(crate) use report::{By, COUNTS, Report, first_day, parts};
pub(crate) use usage::{last_uses, rows_since};

/// Number of days for which usage, and when a key was last used, is kept.
const KEPT_DAYS: i64 = 400;

/// The directory, opened.
#[derive(Debug)]
pub(crate) struct State {
    path: PathBuf,
    journal: Journal,
    /// All entries of the journal, as they are written.
    entries: HashMap<Vec<u8>, Vec<u8>>,
    /// Usage of keys, which requests add to.
    pub(crate) ledger: Arc<Ledger>,
    today: usage::DayJournal,
}

impl State {
    /// Opens the directory, and returns what was kept of each key and group, by its id.
    ///
    /// # Errors
    ///
    /// The directory can't be used, or nothing can be read of what was in it.
    pub(crate) fn open(path: &Path, now: Timestamp) -> Result<(State, HashMap<String, Kept>), Fault> {
        let fault = |error: OpenError| Fault::of_file(Path::new("state.path"), error.to_string());
        let mut entries = HashMap::new();
        let (journal, recovered) =
            Journal::open(path, |key, value| take(&mut entries, key, value)).map_err(fault)?;
        report(path, &recovered);
        let (ledger, mut kept) = (Arc::<Ledger>::default(), HashMap::<String, Kept>::new());
        for (key, value) in &entries {
            match Entry::decode(key, value) {
                Some(Entry::Budget { holder, state }) => kept.entry(holder).or_default().budgets.push(state),
                Some(Entry::Window { holder, window }) => {
                    kept.entry(holder).or_default().windows.push(window)
                }
                Some(Entry::LastUse { key, at }) => ledger.restore_last_use(&key, at),
                Some(Entry::Usage { .. }) | None => {}
            }
        }
        let today = usage::DayJournal::open(path, day_of(now), |key, counts| ledger.restore(key, counts));
        let today = today.map_err(fault)?;
        Ok((State { path: path.to_owned(), journal, entries, ledger, today }, kept))
    }

    /// Looks whether the directory can be read, without a change. A directory that does not exist yet is
    /// no fault.
    pub(crate) fn check(path: &Path) -> Option<Fault> {
        match journal::read(path, |_, _| {}) {
            Ok(_) | Err(OpenError::Absent(_)) => None,
            Err(error) => Some(Fault::of_file(Path::new("state.path"), error.to_string())),
        }
    }
}

/// Takes a record: the newest value of a key counts, and an empty one removes it.
fn take(entries: &mut HashMap<Vec<u8>, Vec<u8>>, key: &[u8], value: &[u8]) {
    match value.is_empty() {
        true => drop(entries.remove(key)),
        false => drop(entries.insert(key.to_vec(), value.to_vec())),
    }
}

fn report(path: &Path, recovered: &Recovered) {
    let Recovered { records, damaged, cut, is_new, .. } = recovered;
    let path = path.display();
    if *is_new {
        tracing::warn!(%path, "the state directory is new: nothing of any budget is used yet");
    }
    if damaged.parts > 0 {
        let (parts, bytes, first) = (damaged.parts, damaged.bytes, damaged.first);
        tracing::error!(%path, parts, bytes, first, "parts of the state were damaged; the keys that they hit have an earlier value");
    }
    tracing::info!(%path, records, cut, "the state was read");
}
