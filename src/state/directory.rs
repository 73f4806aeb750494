//! The state directory: what it had when it was opened.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use jiff::civil::Date;

use super::entries::{Entry, Records, take};
use super::usage::DayJournal;
use crate::config::fault::Fault;
use crate::journal::{self, Journal, OpenError, Recovered};
use crate::limit::{BudgetReport, Kept};
use crate::observe::ledger::{Ledger, day_of};
use crate::random_id::random_id;

/// The directory, opened.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) path: PathBuf,
    pub(super) journal: Journal,
    /// All entries of the journal, as they are written.
    pub(super) entries: Records,
    /// What is to be written first.
    pub(super) pending: Records,
    /// Usage of keys, which requests add to.
    pub(crate) ledger: Arc<Ledger>,
    pub(super) today: (Date, DayJournal),
    /// The name by which the server of shared limits knows what this directory has told.
    pub(crate) origin: String,
    /// What that server was not told of budgets.
    pub(crate) unsettled: Vec<BudgetReport>,
}

impl State {
    /// Opens the directory, and returns what was kept of each key and group, by its id.
    ///
    /// # Errors
    ///
    /// The directory can't be used, or nothing can be read of what was in it.
    pub(crate) fn open(path: &Path, now: Timestamp) -> Result<(State, HashMap<String, Kept>), Fault> {
        let fault = |error: OpenError| Fault::of_file(Path::new("state.path"), error.to_string());
        let mut entries = Records::default();
        let (journal, recovered) =
            Journal::open(path, |key, value| take(&mut entries, key, value)).map_err(fault)?;
        report(path, &recovered);
        let (ledger, mut kept) = (Arc::<Ledger>::default(), HashMap::<String, Kept>::new());
        let (mut known_origin, mut unsettled) = (None, Vec::new());
        for (key, value) in &entries {
            match Entry::decode(key, value) {
                Some(Entry::Budget { holder, state }) => kept.entry(holder).or_default().budgets.push(state),
                Some(Entry::Window { holder, window }) => {
                    kept.entry(holder).or_default().windows.push(window)
                }
                Some(Entry::LastUse { key, at }) => ledger.restore_last_use(&key, at),
                Some(Entry::Origin { id }) => known_origin = Some(id),
                Some(Entry::Settlement { report }) => unsettled.push(report),
                Some(Entry::Usage { .. } | Entry::Born { .. } | Entry::Told { .. }) | None => {}
            }
        }
        let today = DayJournal::open(path, day_of(now));
        let today = today.map_err(fault)?;
        let origin = known_origin.unwrap_or_else(random_id);
        // What is not in the journal yet is written first.
        let first = [Entry::Born { at: now }.encode(), Entry::Origin { id: origin.clone() }.encode()];
        let pending = first.into_iter().filter(|(key, _)| !entries.contains_key(key)).collect();
        let today = (day_of(now), today);
        let path = path.to_owned();
        Ok((State { path, journal, entries, pending, ledger, today, origin, unsettled }, kept))
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
