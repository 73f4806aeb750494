//! Changes files with one key on each line. All other lines are copied byte by byte.

use std::path::Path;

use super::disk::Locked;
use super::error::{EditError, last, refused};
use super::{change_fields, entry_text};
use crate::config::fault::Faults;
use crate::key_store::jsonl;
use crate::key_store::reading::{AtFault, Reading};
use crate::key_store::tally::{NoKeys, Tally};
use crate::keys::id_secret::IdSecret;
use crate::keys::record::KeyRecord;
use crate::keys::{Credential, KeyHash};
use crate::stamp::Stamp;

/// Reads a file, and counts its keys.
fn read(path: &Path, at_fault: AtFault) -> Result<Tally, Faults> {
    let none = NoKeys::default();
    // A JSON Lines file contains the ids of its keys, so this secret is needed but makes no id.
    let ids = IdSecret::random();
    Ok(jsonl::load(path, Reading { at_fault, ..Reading::first(&none, &ids) })?.finish())
}

/// Reads a file, and fails if any line has a fault.
fn load(path: &Path) -> Result<Tally, Faults> {
    read(path, AtFault::Refused)
}

/// Counts the good keys and the lines at fault. A line at fault is no error here, because it must
/// not prevent the change of another line.
fn outline(path: &Path) -> Result<(usize, usize), Faults> {
    let tally = read(path, AtFault::Held)?;
    Ok((tally.keys, tally.refused.len()))
}

/// Finds the keys of a JSON Lines file with this id or name.
pub(super) fn find(path: &Path, key: &str) -> Result<Vec<KeyRecord>, EditError> {
    let mut found = Vec::new();
    jsonl::each_line(path, |_, line| {
        if jsonl::is_of(line, key) {
            found.extend(jsonl::record(path, line));
        }
        true
    })?;
    if found.len() != 1 {
        // If not exactly one key was found, the wanted key may be at fault or a duplicate. `load`
        // then returns this fault.
        load(path)?;
    }
    Ok(found)
}

/// Appends keys to a file as lines, and creates the file if it does not exist.
pub(super) fn add(locked: &Locked, path: &Path, records: &[KeyRecord]) -> Result<(), EditError> {
    let stamp = Stamp::of(path);
    let mut is_empty = true;
    if path.exists() {
        jsonl::each_raw_line(path, |_, line| {
            is_empty &= line.trim_ascii().is_empty();
            Ok::<bool, EditError>(is_empty)
        })?;
    }
    let before = if path.exists() && !is_empty { load(path)?.keys } else { 0 };
    let mut writing = locked.begin(path)?;
    let mut is_ended = true;
    if before > 0 {
        jsonl::each_raw_line(path, |_, line| {
            is_ended = line.ends_with(b"\n");
            writing.write(line).map(|()| true)
        })?;
    }
    if !is_ended {
        writing.write(b"\n")?;
    }
    for record in records {
        writing.write(format!("{}\n", entry_text::line(record)).as_bytes())?;
    }
    // `load` refuses a new key if another key already has its id, name or hash.
    match load(writing.path()) {
        Ok(set) if set.keys == before + records.len() => writing.finish(|| Stamp::of(path) == stamp),
        Ok(_) => refused("another program has changed the file meanwhile; nothing was changed"),
        Err(faults) if faults.0.iter().any(|fault| fault.message.contains("twice")) => {
            refused(format!("an id, a name or a hash of the new key is in {} already", path.display()))
        }
        Err(faults) => Err(EditError::Faults(faults)),
    }
}

/// Replaces the line of a key, or removes the line if no new line is given.
pub(super) fn replace(
    locked: &Locked,
    path: &Path,
    before: &KeyRecord,
    after: Option<&KeyRecord>,
) -> Result<(), EditError> {
    let stamp = Stamp::of(path);
    let (count, faults) = outline(path)?;
    if after.is_none() && count + faults < 2 {
        return last(before);
    }
    let mut writing = locked.begin(path)?;
    let mut changed = 0;
    let mut is_proved = true;
    jsonl::each_raw_line(path, |_, line| {
        let line_of_key = Some(line).filter(|line| jsonl::is_of(line, &before.id));
        let record = line_of_key.and_then(|line| jsonl::record(path, line.trim_ascii()));
        let is_old = record.is_some_and(|record| record == *before);
        if !is_old {
            return writing.write(line).map(|()| true);
        }
        changed += 1;
        let Some(after) = after else { return Ok(true) };
        let source = std::str::from_utf8(line).unwrap_or_default();
        let new = change_fields::change(source, before, after, true).unwrap_or_default();
        is_proved &= jsonl::record(path, new.as_bytes().trim_ascii()).is_some_and(|record| record == *after);
        writing.write(new.as_bytes()).map(|()| true)
    })?;
    let expected = if after.is_some() { count } else { count - 1 };
    let is_read = outline(writing.path()).is_ok_and(|read| read == (expected, faults));
    if changed != 1 || !is_proved || !is_read {
        return refused(format!(
            "the line of {} can't be changed as it is written; nothing was changed",
            before.id
        ));
    }
    writing.finish(|| Stamp::of(path) == stamp)
}

/// Returns a plain list without the token of this digest.
pub(super) fn without_token(source: &str, hash: KeyHash) -> String {
    let is_it = |line: &str| Credential::new(line.trim().as_bytes()).hash() == hash;
    source.split_inclusive('\n').filter(|line| !is_it(line)).collect()
}
