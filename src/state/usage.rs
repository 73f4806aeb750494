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
use crate::observe::ledger::{Counts, MOST_MODELS, OTHER_MODELS, RowKey};
use crate::random_id::random_id;

/// The name of the directory with a directory for each day.
const USAGE: &str = "usage";

/// The journal of a day, with all its rows.
#[derive(Debug)]
pub(super) struct DayJournal {
    journal: Journal,
    /// Counts, and the length of the record that has them, in bytes.
    rows: HashMap<RowKey, (Counts, u64)>,
    /// The number of rows of each key.
    of_keys: HashMap<String, usize>,
    live_bytes: u64,
}

impl DayJournal {
    /// Opens the journal of a day.
    pub(super) fn open(state: &Path, day: Date) -> Result<Self, OpenError> {
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
        let mut day = DayJournal { journal, rows: HashMap::new(), of_keys: HashMap::new(), live_bytes: 0 };
        for (key, value) in &entries {
            if let Some(Entry::Usage { key: row, counts }) = Entry::decode(key, value) {
                day.set(row, counts, record_bytes(key.len(), value.len()));
            }
        }
        Ok(day)
    }

    /// Sets a row whose record has `bytes`.
    fn set(&mut self, key: RowKey, counts: Counts, bytes: u64) {
        self.live_bytes += bytes;
        match self.rows.insert(key.clone(), (counts, bytes)) {
            Some((_, before)) => self.live_bytes -= before,
            None => *self.of_keys.entry(key.key).or_default() += 1,
        }
    }

    /// Adds counts to rows, and makes them durable: all of them, or none.
    pub(super) fn add(&mut self, counted: &[(RowKey, Counts)]) -> io::Result<()> {
        let mut sums: HashMap<RowKey, Counts> = HashMap::new();
        for (key, counts) in counted {
            let is_one_too_many = !self.rows.contains_key(key)
                && self.of_keys.get(&key.key).is_some_and(|rows| *rows >= MOST_MODELS);
            let model = if is_one_too_many { Some(OTHER_MODELS.to_owned()) } else { key.model.clone() };
            let key = RowKey { model, ..key.clone() };
            let before = self.rows.get(&key).map(|(counts, _)| *counts).unwrap_or_default();
            sums.entry(key).or_insert(before).add(*counts);
        }
        let sums: Vec<_> = sums.into_iter().collect();
        let encode =
            |(key, counts): &(RowKey, Counts)| Entry::Usage { key: key.clone(), counts: *counts }.encode();
        let records: Vec<_> = sums.iter().map(encode).collect();
        self.journal.append(records.iter().map(|(key, value)| (key.as_slice(), value.as_slice())))?;
        for ((row, sum), (key, value)) in sums.into_iter().zip(&records) {
            self.set(row, sum, record_bytes(key.len(), value.len()));
        }
        Ok(())
    }

    /// Writes the journal anew if it has grown.
    pub(super) fn compact(&mut self) -> io::Result<()> {
        if !self.journal.wants_compaction(self.live_bytes) {
            return Ok(());
        }
        let encode = |(key, (counts, _)): (&RowKey, &(Counts, u64))| {
            Entry::Usage { key: key.clone(), counts: *counts }.encode()
        };
        self.journal.compact(self.rows.iter().map(encode))
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
