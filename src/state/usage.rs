//! The journals of usage, one for each day.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};

use super::entries::{Entry, KEPT_DAYS, take};
use crate::journal::{self, Journal, OpenError, record_bytes};
use crate::observe::ledger::{Counts, RowKey};

/// The name of the directory with a directory for each day.
const USAGE: &str = "usage";

/// The journal of a day, with all its entries.
#[derive(Debug)]
pub(super) struct DayJournal {
    pub(super) day: Date,
    journal: Journal,
    entries: HashMap<Vec<u8>, Vec<u8>>,
    live_bytes: u64,
}

impl DayJournal {
    /// Opens the journal of a day. `restore` gets what it has.
    pub(super) fn open(
        state: &Path,
        day: Date,
        mut restore: impl FnMut(RowKey, Counts),
    ) -> Result<Self, OpenError> {
        let directory = state.join(USAGE);
        if let Err(error) = std::fs::create_dir(&directory)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(OpenError::system("create", &directory, error));
        }
        let mut entries = HashMap::new();
        let path = directory.join(day.to_string());
        let (journal, _recovered) = Journal::open(&path, |key, value| take(&mut entries, key, value))?;
        for (key, value) in &entries {
            if let Some(Entry::Usage { key, counts }) = Entry::decode(key, value) {
                restore(key, counts);
            }
        }
        let live_bytes = entries.iter().map(|(key, value)| record_bytes(key.len(), value.len())).sum();
        Ok(DayJournal { day, journal, entries, live_bytes })
    }

    /// Writes rows, and makes them durable.
    pub(super) fn write(&mut self, rows: &[(RowKey, Counts)]) -> io::Result<()> {
        let encode =
            |(key, counts): &(RowKey, Counts)| Entry::Usage { key: key.clone(), counts: *counts }.encode();
        let records: Vec<_> = rows.iter().map(encode).collect();
        self.journal.append(records.iter().map(|(key, value)| (key.as_slice(), value.as_slice())))?;
        for (key, value) in records {
            self.live_bytes += record_bytes(key.len(), value.len());
            if let Some(before) = self.entries.insert(key.clone(), value) {
                self.live_bytes -= record_bytes(key.len(), before.len());
            }
        }
        if self.journal.wants_compaction(self.live_bytes) {
            self.journal.compact(self.entries.iter().map(|(key, value)| (key.clone(), value.clone())))?;
        }
        Ok(())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.journal.bytes()
    }
}

/// Returns the directories of days, with their days.
fn days(state: &Path) -> io::Result<Vec<(Date, PathBuf)>> {
    let directory = state.join(USAGE);
    let entries = match std::fs::read_dir(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut days = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        if let Some(day) = name.and_then(|name| name.parse::<Date>().ok()) {
            days.push((day, path));
        }
    }
    days.sort();
    Ok(days)
}

/// Removes the journals of days that are no longer kept.
pub(super) fn remove_old(state: &Path, today: Date) -> io::Result<()> {
    let Ok(oldest) = today.checked_sub(KEPT_DAYS.days()) else { return Ok(()) };
    for (_, path) in days(state)?.into_iter().filter(|(day, _)| *day < oldest) {
        std::fs::remove_dir_all(path)?;
    }
    Ok(())
}

/// Returns the rows of all days from `since` on, of a running bearward, too.
///
/// # Errors
///
/// The directory or a journal can't be read.
pub(crate) fn rows_since(state: &Path, since: Date) -> Result<Vec<(RowKey, Counts)>, OpenError> {
    let mut rows = Vec::new();
    let days = days(state).map_err(|error| OpenError::system("read", state, error))?;
    for (_, path) in days.into_iter().filter(|(day, _)| *day >= since) {
        let mut entries = HashMap::new();
        match journal::read(&path, |key, value| take(&mut entries, key, value)) {
            // The day has just begun, or its journal is being removed.
            Err(OpenError::Absent(_)) => {}
            read => drop(read?),
        }
        rows.extend(entries.iter().filter_map(|(key, value)| match Entry::decode(key, value)? {
            Entry::Usage { key, counts } => Some((key, counts)),
            _ => None,
        }));
    }
    Ok(rows)
}

/// Returns when each key was last used, of a running bearward, too.
///
/// # Errors
///
/// The journal can't be read.
pub(crate) fn last_uses(state: &Path) -> Result<HashMap<String, Timestamp>, OpenError> {
    let mut entries = HashMap::new();
    journal::read(state, |key, value| take(&mut entries, key, value))?;
    let last_use = |(key, value): (&Vec<u8>, &Vec<u8>)| match Entry::decode(key, value)? {
        Entry::LastUse { key, at } => Some((key, at)),
        _ => None,
    };
    Ok(entries.iter().filter_map(last_use).collect())
}
