//! The journals of usage, one for each day.

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};

use super::entries::{Entry, KEPT_DAYS, take};
use crate::journal::{self, Journal, OpenError, record_bytes};
use crate::observe::ledger::{Counts, RowKey};
use crate::random_id::random_id;

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
        if let Err(error) = DirBuilder::new().mode(0o700).create(&directory)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(OpenError::system("create", &directory, error));
        }
        let path = directory.join(day.to_string());
        let mut entries = HashMap::new();
        let opened = match Journal::open(&path, |key, value| take(&mut entries, key, value)) {
            // Usage is a report. One that is lost keeps no budget and no start.
            Err(error @ (OpenError::Lost(_) | OpenError::Foreign(_) | OpenError::Unreadable(_))) => {
                let aside = directory.join(format!("{day}.damaged-{}", random_id()));
                std::fs::rename(&path, &aside)
                    .map_err(|error| OpenError::system("move aside", &path, error))?;
                let aside = aside.display();
                tracing::error!(%aside, %error, "the usage of a day can't be read: it was moved aside, and is counted anew");
                entries.clear();
                Journal::open(&path, |key, value| take(&mut entries, key, value))
            }
            opened => opened,
        };
        let (journal, recovered) = opened?;
        if recovered.damaged.parts > 0 {
            let path = path.display();
            tracing::error!(%path, parts = recovered.damaged.parts, "parts of the usage of a day were damaged");
        }
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
        let day = name.and_then(|name| name.parse::<Date>().ok().filter(|day| day.to_string() == name));
        if let Some(day) = day.filter(|_| path.is_dir()) {
            days.push((day, path));
        }
    }
    days.sort();
    Ok(days)
}

/// Removes the journals of days that are no longer kept. What can't be removed stays.
pub(super) fn remove_old(state: &Path, today: Date) {
    let Ok(oldest) = today.checked_sub(KEPT_DAYS.days()) else { return };
    for (_, path) in days(state).unwrap_or_default().into_iter().filter(|(day, _)| *day < oldest) {
        if let Err(error) = std::fs::remove_dir_all(&path) {
            tracing::warn!(path = %path.display(), %error, "the usage of an old day can't be removed");
        }
    }
}

/// Calls `take` with the rows of all days from `since` on, of a running bearward, too. Returns the days that
/// can't be read, with the reason.
///
/// # Errors
///
/// The directory can't be read.
pub(crate) fn each_row_since(
    state: &Path,
    since: Date,
    mut take_row: impl FnMut(RowKey, Counts),
) -> Result<Vec<(Date, OpenError)>, OpenError> {
    let mut unreadable = Vec::new();
    let days = days(state).map_err(|error| OpenError::system("read", state, error))?;
    for (day, path) in days.into_iter().filter(|(day, _)| *day >= since) {
        let mut entries = HashMap::new();
        match journal::read(&path, |key, value| take(&mut entries, key, value)) {
            // The day has just begun, or its journal is being removed.
            Ok(_) | Err(OpenError::Absent(_)) => {}
            Err(error) => unreadable.push((day, error)),
        }
        for (key, value) in &entries {
            if let Some(Entry::Usage { key, counts }) = Entry::decode(key, value) {
                take_row(key, counts);
            }
        }
    }
    Ok(unreadable)
}

/// When keys were last used.
#[derive(Debug, Default)]
pub(crate) struct LastUses {
    pub(crate) by_key: HashMap<String, Timestamp>,
    /// When the directory was made. What was used before is not known; `None` if that is not known either.
    pub(crate) since: Option<Timestamp>,
}

/// Returns when each key was last used, of a running bearward, too.
///
/// # Errors
///
/// The journal can't be read.
pub(crate) fn last_uses(state: &Path) -> Result<LastUses, OpenError> {
    let mut entries = HashMap::new();
    journal::read(state, |key, value| take(&mut entries, key, value))?;
    let mut uses = LastUses::default();
    for (key, value) in &entries {
        match Entry::decode(key, value) {
            Some(Entry::LastUse { key, at }) => drop(uses.by_key.insert(key, at).is_some()),
            Some(Entry::Born { at }) => uses.since = Some(at),
            _ => {}
        }
    }
    Ok(uses)
}
