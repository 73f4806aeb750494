//! The journals of usage, one for each day.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use jiff::ToSpan;
use jiff::civil::Date;

use super::entries::{Entry, KEPT_DAYS, Records, take};
use crate::journal::{self, Journal, OpenError, record_bytes};
use crate::observe::day_rows::DayRows;
use crate::observe::ledger::{Counts, LastUses, RowKey};
use crate::random_id::random_id;

/// The name of the directory with a directory for each day.
const USAGE: &str = "usage";

/// Returns the directory with a directory for each day.
fn directory(state: &Path) -> PathBuf {
    state.join(USAGE)
}

/// Returns the directory of a day.
pub(super) fn directory_of(state: &Path, day: Date) -> PathBuf {
    directory(state).join(day.to_string())
}

/// The journal of a day, with all its rows.
#[derive(Debug)]
pub(super) struct DayJournal {
    journal: Journal,
    pub(super) rows: DayRows,
    live_bytes: u64,
}

impl DayJournal {
    /// Opens the journal of a day.
    pub(super) fn open(state: &Path, day: Date) -> Result<Self, OpenError> {
        let directory = directory(state);
        if let Err(error) = DirBuilder::new().mode(0o700).create(&directory)
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(OpenError::system("create", &directory, error));
        }
        let path = directory_of(state, day);
        let mut entries = Records::default();
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
        let mut day = DayJournal { journal, rows: DayRows::default(), live_bytes: 0 };
        for (key, value) in &entries {
            if let Some(Entry::Usage { key: row, counts }) = Entry::decode(key, value) {
                day.live_bytes += record_bytes(key.len(), value.len());
                day.rows.set(row, counts);
            }
        }
        Ok(day)
    }

    /// Adds counts to rows, and makes them durable: all of them, or none. Returns the new sums.
    pub(super) fn add(&mut self, counted: &[(RowKey, Counts)]) -> io::Result<Vec<(RowKey, Counts)>> {
        let sums = self.rows.added(counted);
        let records: Vec<_> = sums.iter().map(|(key, sum)| record(key, *sum)).collect();
        self.journal.append(records.iter().map(|(key, value)| (key.as_slice(), value.as_slice())))?;
        for ((row, sum), (key, value)) in sums.iter().zip(&records) {
            self.live_bytes += record_bytes(key.len(), value.len());
            if let Some(before) = self.rows.set(row.clone(), *sum) {
                self.live_bytes -= record_bytes(key.len(), record(row, before).1.len());
            }
        }
        Ok(sums)
    }

    /// Writes the journal anew if it has grown.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        if !self.journal.wants_compaction(self.live_bytes) {
            return Ok(());
        }
        self.journal.compact(self.rows.iter().map(|(key, sum)| record(key, *sum)))
    }

    pub(super) fn bytes(&self) -> u64 {
        self.journal.bytes()
    }
}

/// Returns the key and the value of a row's record.
fn record(key: &RowKey, counts: Counts) -> (Vec<u8>, Vec<u8>) {
    Entry::Usage { key: key.clone(), counts }.encode()
}

/// Returns the directories of days, with their days.
pub(super) fn days(state: &Path) -> io::Result<Vec<(Date, PathBuf)>> {
    let directory = directory(state);
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
        match rows_of(&path) {
            Ok(rows) => rows.for_each(|(key, counts)| take_row(key, counts)),
            Err(error) => unreadable.push((day, error)),
        }
    }
    Ok(unreadable)
}

/// Returns the rows of a day, by the path of its directory.
///
/// # Errors
///
/// The journal can't be read.
pub(super) fn rows_of(path: &Path) -> Result<impl Iterator<Item = (RowKey, Counts)> + use<>, OpenError> {
    let mut entries = Records::default();
    match journal::read(path, |key, value| take(&mut entries, key, value)) {
        // The day has just begun, or its journal is being removed.
        Ok(_) | Err(OpenError::Absent(_)) => {}
        Err(error) => return Err(error),
    }
    Ok(entries.into_iter().filter_map(|(key, value)| match Entry::decode(&key, &value) {
        Some(Entry::Usage { key, counts }) => Some((key, counts)),
        _ => None,
    }))
}

/// Returns when each key was last used, of a running bearward, too.
///
/// # Errors
///
/// The journal can't be read.
pub(crate) fn last_uses(state: &Path) -> Result<LastUses, OpenError> {
    let mut entries = Records::default();
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
