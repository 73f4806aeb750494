//! Changes of a store by commands and the admin API: one key at a time, under a lock, and proved
//! before they count.
//!
//! A change is written only if the store's own reader finds the old keys and this change in the new
//! text. A file is replaced whole: a temporary file beside it is made durable and renamed.

mod change_fields;
mod disk;
mod entry_text;
mod error;
mod layout;
mod lines;
mod lock;
mod splice;
mod yaml_list;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use disk::Locked;
pub(crate) use error::EditError;
use error::{last, refused};

use crate::config::fault::{Fault, Faults};
use crate::key_store::directory::files;
use crate::key_store::store::Store;
use crate::key_store::{file, text, yaml};
use crate::keys::id_secret::IdSecret;
use crate::keys::record::KeyRecord;

/// The reason why a store can't be changed from here, as far as it is known without a change.
pub(crate) fn unwritable_reason(path: &Path) -> Option<String> {
    if disk::is_mounted(path) {
        return Some("It is a mounted Secret or ConfigMap, which is changed where it comes from".to_owned());
    }
    match Store::at(path) {
        Ok(Store::Text(_)) => Some("It is a list of plain tokens, which has no permissions".to_owned()),
        Ok(Store::Directory(directory)) => disk::unwritable_reason(&directory),
        Ok(_) => {
            disk::resolved(path).ok().and_then(|path| disk::unwritable_reason(&disk::directory_of(&path)))
        }
        Err(faults) => Some(faults.to_string()),
    }
}

/// A store that is locked against other commands for as long as this lives.
#[derive(Debug)]
pub(crate) struct Editor {
    store: Store,
    ids: Arc<IdSecret>,
    locked: Locked,
}

/// A key of a store, and its file.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) record: KeyRecord,
    /// The store's file; in a directory, the file with this key.
    file: PathBuf,
}

impl Editor {
    /// Locks a store, and removes temporary files of killed commands. `ids`: makes the ids of the
    /// keys of a plain list.
    pub(crate) fn open(path: &Path, ids: Arc<IdSecret>) -> Result<Self, EditError> {
        let store = Store::at(path)?;
        let directory = match &store {
            Store::Directory(directory) => directory.clone(),
            _ => disk::directory_of(&disk::resolved(path)?),
        };
        let locked = Locked::new(&directory, disk::is_mounted(path))?;
        let store = match store {
            Store::Directory(directory) => Store::Directory(directory),
            _ => Store::at(&disk::resolved(path)?)?,
        };
        Ok(Editor { store, ids, locked })
    }

    /// The path of the store.
    pub(crate) fn path(&self) -> &Path {
        self.store.path()
    }

    /// The text of a key for a store of this kind, for people to insert.
    pub(crate) fn pasteable(&self, record: &KeyRecord) -> String {
        match &self.store {
            Store::JsonLines(_) => entry_text::line(record),
            Store::Directory(_) => entry_text::fields(record).join("\n"),
            Store::Yaml(_) | Store::Text(_) => entry_text::list_entry(record),
        }
    }

    /// The records of all keys; none where there is no file yet.
    pub(crate) fn records(&self) -> Result<Vec<KeyRecord>, EditError> {
        let path = self.store.path();
        Ok(match &self.store {
            Store::Directory(directory) if files(directory).is_ok_and(|files| files.is_empty()) => Vec::new(),
            Store::Yaml(_) if path.exists() => yaml::parse_any(path, &file::read(path)?)?,
            _ if !path.exists() => Vec::new(),
            Store::JsonLines(_) | Store::Text(_) if fs::metadata(path).is_ok_and(|file| file.len() == 0) => {
                Vec::new()
            }
            store => store.records(&self.ids)?,
        })
    }

    /// The key with this id or name.
    pub(crate) fn find(&self, key: &str) -> Result<Found, EditError> {
        find(&self.store, key, &self.ids)
    }

    /// Adds keys.
    pub(crate) fn add(&self, records: &[KeyRecord]) -> Result<(), EditError> {
        let path = self.store.path();
        match &self.store {
            Store::Text(_) => refused(format!(
                "{} is a list of plain tokens, which has no permissions; `bearward keys import {0} --keys keys.yaml` makes a \
                 file of hashes of it, to which keys can be added",
                path.display()
            )),
            Store::JsonLines(_) => lines::add(&self.locked, path, records),
            Store::Yaml(_) => {
                let before = self.records()?;
                refuse_taken(&before, records)?;
                let source = if path.exists() { Some(file::read(path)?) } else { None };
                let entries: Vec<Vec<String>> = records.iter().map(entry_text::fields).collect();
                let after = [before, records.to_vec()].concat();
                let text = yaml_list::add(source.as_deref().unwrap_or_default(), &entries);
                self.write(path, source.as_deref(), text, |text| yaml::parse(path, text), &after)
            }
            Store::Directory(directory) => {
                refuse_taken(&self.records()?, records)?;
                for record in records {
                    let file = free_file(directory, record);
                    let text = entry_text::fields(record).join("\n") + "\n";
                    let one = std::slice::from_ref(record);
                    self.write(&file, None, Some(text), |text| yaml::parse_part(&file, text), one)?;
                }
                Ok(())
            }
        }
    }

    /// Replaces a key by `after`. Only fields that a rotation or a revocation changes may differ.
    pub(crate) fn replace(&self, found: &Found, after: &KeyRecord) -> Result<(), EditError> {
        let Found { record: before, file } = found;
        match &self.store {
            Store::Text(_) => refused(format!(
                "{} is a list of plain tokens: `delete` takes one out, and `bearward keys import` makes a store of hashes \
                 of it",
                file.display()
            )),
            Store::JsonLines(_) => lines::replace(&self.locked, file, before, Some(after)),
            Store::Yaml(_) | Store::Directory(_) => {
                let source = file::read(file)?;
                // A fault in another entry does not prevent a change of this one.
                let parse = |text: &str| yaml::outline(file, text);
                let mut expected = parse(&source)?;
                if let Some(expected) = expected.iter_mut().flatten().find(|record| record.id == before.id) {
                    expected.clone_from(after);
                }
                self.write(
                    file,
                    Some(&source),
                    change_fields::change(&source, before, after, false),
                    parse,
                    &expected,
                )
            }
        }
    }

    /// Removes a key.
    pub(crate) fn delete(&self, found: &Found) -> Result<(), EditError> {
        let Found { record, file } = found;
        if let Store::JsonLines(_) = &self.store {
            return lines::replace(&self.locked, file, record, None);
        }
        let is_last = match &self.store {
            // A file at fault counts: its keys may be good again.
            Store::Directory(directory) if files(directory).is_ok_and(|files| files.len() > 1) => false,
            Store::Yaml(path) => yaml::outline(path, &file::read(path)?)?.len() < 2,
            _ => self.records()?.len() < 2,
        };
        if is_last {
            return last(record);
        }
        let source = file::read(file)?;
        if let Store::Text(_) = &self.store {
            let mut expected = self.records()?;
            expected.retain(|kept| kept.id != record.id);
            let text = lines::without_token(&source, record.hash);
            return self.write(
                file,
                Some(&source),
                Some(text),
                |text| text::parse(file, text, &self.ids),
                &expected,
            );
        }
        let mut expected = yaml::outline(file, &source)?;
        expected.retain(|kept| kept.as_ref().map_or(true, |kept| kept.id != record.id));
        if expected.is_empty() {
            return self.locked.remove(file);
        }
        let text = yaml_list::delete(&source, &record.id);
        self.write(file, Some(&source), text, |text| yaml::outline(file, text), &expected)
    }

    /// Replaces a file that was read as `source` by `text`, if that reads as `expected`.
    fn write<T: PartialEq>(
        &self,
        file: &Path,
        source: Option<&str>,
        text: Option<String>,
        parse: impl Fn(&str) -> Result<Vec<T>, Faults>,
        expected: &[T],
    ) -> Result<(), EditError> {
        let unproved = || EditError::Unwritable {
            reason: format!(
                "{} is written in a way that can't be changed without touching more than this key",
                file.display()
            ),
            hint: "edit it by hand as below".to_owned(),
        };
        let text = text.ok_or_else(unproved)?;
        if !parse(&text).is_ok_and(|records| records == expected) {
            return Err(unproved());
        }
        self.locked.replace(file, text.as_bytes(), || match source {
            Some(source) => file::read(file).is_ok_and(|now| now == source),
            None => fs::symlink_metadata(file).is_err(),
        })
    }
}

/// The key with this id or name, in a store that need not be locked.
pub(crate) fn find(store: &Store, key: &str, ids: &IdSecret) -> Result<Found, EditError> {
    let is_wanted = |record: &KeyRecord| record.id == key || record.name.as_deref() == Some(key);
    let path = store.path();
    let found = |record| Found { record, file: path.to_owned() };
    let mut found: Vec<Found> = match store {
        Store::Directory(directory) => find_in_files(directory, is_wanted)?,
        Store::JsonLines(_) => lines::find(path, key)?.into_iter().map(found).collect(),
        Store::Yaml(path) => {
            let (entries, _) = yaml::entries(path, &file::read(path)?)?;
            let records: Vec<KeyRecord> = entries
                .iter()
                .filter_map(|entry| entry.read.as_ref().ok())
                .filter(|record| is_wanted(record))
                .cloned()
                .collect();
            if records.len() != 1 {
                // The key may be at fault, or a duplicate.
                store.records(ids)?;
            }
            records.into_iter().map(found).collect()
        }
        Store::Text(_) => store.records(ids)?.into_iter().filter(is_wanted).map(found).collect(),
    };
    // An id takes precedence over a name.
    found.sort_by_key(|found| found.record.id != key);
    match found.into_iter().next() {
        Some(found) => Ok(found),
        None => refused(format!(
            "{} has no key of this id or name; `bearward keys list` shows them",
            path.display()
        )),
    }
}

/// The matching keys of a directory. A file at fault does not prevent a revocation of another key.
fn find_in_files(directory: &Path, is_wanted: impl Fn(&KeyRecord) -> bool) -> Result<Vec<Found>, EditError> {
    let (mut found, mut faults): (Vec<Found>, Vec<Fault>) = (Vec::new(), Vec::new());
    for file in files(directory).map_err(|error| error::in_words("read", directory, &error))? {
        let entries =
            file::read(&file).map_err(Faults::from).and_then(|text| yaml::entries_of_part(&file, &text));
        match entries {
            Ok((entries, beside)) => {
                faults.extend(beside);
                for entry in entries {
                    match entry.read {
                        Ok(record) if is_wanted(&record) => found.push(Found { record, file: file.clone() }),
                        Ok(_) => {}
                        Err(unread) => faults.extend(unread.faults),
                    }
                }
            }
            Err(of_file) => faults.extend(of_file.0),
        }
    }
    // It is not known here which of them is live.
    let copy = found.iter().enumerate().find_map(|(index, one)| {
        let same = |other: &&Found| other.record.id == one.record.id || other.record.hash == one.record.hash;
        found.iter().skip(index + 1).find(same).map(|other| (one, other))
    });
    if let Some((one, other)) = copy {
        let (id, one, other) = (&one.record.id, one.file.display(), other.file.display());
        return refused(format!("{id} is in {one} and in {other}; remove one of them"));
    }
    if found.is_empty() && !faults.is_empty() {
        return Err(EditError::Faults(Faults(faults)));
    }
    Ok(found)
}

/// Refuses an id, a name or a hash that is taken. The reader would report it with a line that was
/// never written.
fn refuse_taken(before: &[KeyRecord], records: &[KeyRecord]) -> Result<(), EditError> {
    let (mut names, mut ids, mut hashes) = (HashMap::new(), HashSet::new(), HashSet::new());
    for record in before {
        names.extend(record.name.as_deref().map(|name| (name, record.id.as_str())));
        ids.insert(record.id.as_str());
        hashes.extend(record.hashes());
    }
    for record in records {
        let name = record.name.as_deref().map(|name| (name, names.insert(name, &record.id)));
        if let Some((name, Some(other))) = name {
            return refused(format!("the name {name} is taken, by {other}"));
        }
        if !ids.insert(&record.id) || !hashes.insert(record.hash) {
            return refused(format!("the store has this key already: {}", record.id));
        }
    }
    Ok(())
}

/// A new file for one key of a directory, named after the key.
fn free_file(directory: &Path, record: &KeyRecord) -> PathBuf {
    let is_plain = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let name = record.name.as_deref().filter(is_plain).unwrap_or(&record.id);
    let numbered = (2..).map(|number| format!("{}-{number}", record.id));
    let names = [name.to_owned(), record.id.clone()].into_iter().chain(numbered);
    let mut files = names.map(|name| directory.join(format!("{name}.yaml")));
    files.find(|file| fs::symlink_metadata(file).is_err()).unwrap_or_else(|| directory.join("key.yaml"))
}
