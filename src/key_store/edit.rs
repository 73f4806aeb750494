//! Changes a store for commands and the admin API: one key at a time, under a lock, and with a
//! check of the new text before it replaces the old text.
//!
//! A change is written only if the store's own reader finds in the new text the old keys with this
//! change, and no other difference. A file is replaced as a whole: a temporary file beside it is
//! made durable, and is then renamed to the file's name.

mod change_fields;
mod disk;
pub(super) mod entry_text;
pub(super) mod error;
pub(crate) mod kubectl;
mod layout;
mod lines;
mod lock;
mod splice;
mod yaml_list;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use disk::Locked;
pub(crate) use error::EditError;
use error::{last, refused};

use crate::config::StorePlace;
use crate::config::fault::{Fault, Faults};
use crate::key_store::directory::files;
use crate::key_store::redis::Waited;
use crate::key_store::store::Store;
use crate::key_store::{file, text, yaml};
use crate::keys::id_secret::IdSecret;
use crate::keys::record::KeyRecord;
use crate::shell_word::shell_word;

/// Returns the reason why this host can't change the store, if the reason is visible before a
/// change is tried.
pub(crate) fn unwritable_reason(place: &StorePlace) -> Option<String> {
    let StorePlace::Path(path) = place else { return None };
    if disk::is_mounted(path) {
        return Some("It is a mounted Secret or ConfigMap, which is changed where it comes from".to_owned());
    }
    match Store::at_path(path) {
        Ok(Store::Text(_)) => Some("It is a list of plain tokens, which has no permissions".to_owned()),
        Ok(Store::Directory(directory)) => disk::unwritable_reason(&directory),
        Ok(_) => {
            disk::resolved(path).ok().and_then(|path| disk::unwritable_reason(&disk::directory_of(&path)))
        }
        Err(faults) => Some(faults.to_string()),
    }
}

/// A store that is locked against other commands for as long as the `Editor` lives.
#[derive(Debug)]
pub(crate) struct Editor {
    store: Store,
    ids: Arc<IdSecret>,
    /// The lock of the store's directory; `None` for a store in a Redis server, whose edits are atomic.
    locked: Option<Locked>,
    /// Whether an edit may begin a store in a Redis server that has none.
    may_begin: bool,
}

/// A key that was found in a store, and the file that contains it.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) record: KeyRecord,
    /// The file with the key: the store's only file, or one file of a directory.
    file: PathBuf,
}

impl Editor {
    /// Locks a store, and removes temporary files that killed commands left. `ids` is the secret
    /// that makes the ids of the keys of a plain list.
    pub(crate) fn open(place: &StorePlace, ids: Arc<IdSecret>) -> Result<Self, EditError> {
        let StorePlace::Path(path) = place else {
            return Ok(Editor { store: Store::at(place)?, ids, locked: None, may_begin: true });
        };
        let store = Store::at_path(path)?;
        let directory = match &store {
            Store::Directory(directory) => directory.clone(),
            _ => disk::directory_of(&disk::resolved(path)?),
        };
        let locked = Locked::new(&directory, disk::is_mounted(path))?;
        let store = match store {
            Store::Directory(directory) => Store::Directory(directory),
            _ => Store::at_path(&disk::resolved(path)?)?,
        };
        Ok(Editor { store, ids, locked: Some(locked), may_begin: true })
    }

    /// Returns the editor of a server with keys in service, which never begins a store: an empty
    /// Redis server has lost the store.
    pub(crate) fn of_running_server(self) -> Self {
        Editor { may_begin: false, ..self }
    }

    fn locked(&self) -> Result<&Locked, EditError> {
        debug_assert!(self.locked.is_some(), "every store of files is locked");
        self.locked.as_ref().ok_or_else(|| EditError::Refused("the store is not locked".to_owned()))
    }

    /// Waits until every replica has applied the last edit.
    ///
    /// # Errors
    ///
    /// The store is not in a Redis server, or the server can't be asked.
    pub(crate) fn wait_for_replicas(&self, patience: Duration) -> Result<Waited, EditError> {
        match &self.store {
            Store::Redis(store) => Ok(store.wait_for_replicas(patience)?),
            store => refused(format!(
                "{} is no store in a Redis server, so that nobody knows who reads it",
                store.path().display()
            )),
        }
    }

    /// Returns the path of the store.
    pub(crate) fn path(&self) -> &Path {
        self.store.path()
    }

    /// Returns a key as text that a person can paste into a store of this kind.
    pub(crate) fn pasteable(&self, record: &KeyRecord) -> String {
        match &self.store {
            Store::JsonLines(_) | Store::Redis(_) => entry_text::line(record),
            Store::Directory(_) => entry_text::fields(record).join("\n"),
            Store::Yaml(_) | Store::Text(_) => entry_text::list_entry(record),
        }
    }

    /// Returns the records of all keys; an empty list if the store's file does not exist yet.
    pub(crate) fn records(&self) -> Result<Vec<KeyRecord>, EditError> {
        let path = self.store.path();
        Ok(match &self.store {
            Store::Redis(store) => store.records()?.unwrap_or_default(),
            Store::Directory(directory) if files(directory).is_ok_and(|files| files.is_empty()) => Vec::new(),
            Store::Yaml(_) if path.exists() => yaml::parse_any(path, &file::read(path)?)?,
            _ if !path.exists() => Vec::new(),
            Store::JsonLines(_) | Store::Text(_) if fs::metadata(path).is_ok_and(|file| file.len() == 0) => {
                Vec::new()
            }
            store => store.records(&self.ids)?,
        })
    }

    /// Finds the key with this id or name.
    pub(crate) fn find(&self, key: &str) -> Result<Found, EditError> {
        find(&self.store, key, &self.ids)
    }

    /// Adds keys to the store.
    pub(crate) fn add(&self, records: &[KeyRecord]) -> Result<(), EditError> {
        let path = self.store.path();
        match &self.store {
            Store::Text(_) => refused(format!(
                "{} is a list of plain tokens, which has no permissions; `bearward keys import {} --keys keys.yaml` makes a \
                 file of hashes of it, to which keys can be added",
                path.display(),
                shell_word(path)
            )),
            Store::JsonLines(_) => lines::add(self.locked()?, path, records),
            Store::Redis(store) => store.add(records, self.may_begin),
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
                let mut added: Vec<PathBuf> = Vec::new();
                for record in records {
                    let file = free_file(directory, record);
                    let text = entry_text::fields(record).join("\n") + "\n";
                    let one = std::slice::from_ref(record);
                    let written =
                        self.write(&file, None, Some(text), |text| yaml::parse_part(&file, text), one);
                    if let Err(error) = written {
                        // All keys or none: nobody has seen the secrets of those that are there already.
                        return Err(error::taken_back(error, &added));
                    }
                    added.push(file);
                }
                Ok(())
            }
        }
    }

    /// Replaces the key `found` by `after`. The two may differ only in fields that a rotation or a
    /// revocation changes.
    pub(crate) fn replace(&self, found: &Found, after: &KeyRecord) -> Result<(), EditError> {
        let Found { record: before, file } = found;
        match &self.store {
            Store::Text(_) => refused(format!(
                "{} is a list of plain tokens: `delete` takes one out, and `bearward keys import` makes a store of hashes \
                 of it",
                file.display()
            )),
            Store::JsonLines(_) => lines::replace(self.locked()?, file, before, Some(after)),
            Store::Redis(store) => store.replace(before, Some(after)),
            Store::Yaml(_) | Store::Directory(_) => {
                let source = file::read(file)?;
                // A fault in another entry does not prevent a change of this entry.
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

    /// Removes a key from the store.
    pub(crate) fn delete(&self, found: &Found) -> Result<(), EditError> {
        let Found { record, file } = found;
        if let Store::JsonLines(_) = &self.store {
            return lines::replace(self.locked()?, file, record, None);
        }
        if let Store::Redis(store) = &self.store {
            return store.replace(record, None);
        }
        let is_last = match &self.store {
            // A file at fault is counted like any other file of the directory, because its keys may
            // become good again.
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
            return self.locked()?.remove(file);
        }
        let text = yaml_list::delete(&source, &record.id);
        self.write(file, Some(&source), text, |text| yaml::outline(file, text), &expected)
    }

    /// Replaces a file whose content was `source` by `text`, if the store's reader finds exactly
    /// `expected` in `text`.
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
        self.locked()?.replace(file, text.as_bytes(), || match source {
            Some(source) => file::read(file).is_ok_and(|now| now == source),
            None => fs::symlink_metadata(file).is_err(),
        })
    }
}

/// Puts these keys in the place of all keys of a store, which need not exist. `overwrites`: whether
/// the store may have keys already.
///
/// # Errors
///
/// The store has keys and `overwrites` is not set, a directory has files, or it can't be written.
pub(crate) fn write_all(
    place: &StorePlace,
    records: &[KeyRecord],
    overwrites: bool,
) -> Result<(), EditError> {
    // The ids of a plain list are not needed: no keys are written to one.
    let editor = Editor::open(place, Arc::new(IdSecret::random()))?;
    let path = editor.store.path();
    let is_taken = || refused(format!("{} is not empty; --overwrite replaces it", path.display()));
    let text = match &editor.store {
        Store::Redis(store) => return store.replace_all(records, overwrites),
        Store::Directory(directory) => {
            let files = files(directory).map_err(|error| error::in_words("read", directory, &error))?;
            return match files.is_empty() {
                true => editor.add(records),
                false => refused(format!("{} has files already; name an empty directory", path.display())),
            };
        }
        Store::Text(_) => return editor.add(records),
        Store::Yaml(_) => yaml_text(records),
        Store::JsonLines(_) => records.iter().map(|record| entry_text::line(record) + "\n").collect(),
    };
    let is_empty = || fs::metadata(path).map_or(true, |file| file.len() == 0);
    if !overwrites && !is_empty() {
        return is_taken();
    }
    editor.locked()?.replace(path, text.as_bytes(), || overwrites || is_empty())
}

/// Returns the text of a new YAML file with these keys.
pub(crate) fn yaml_text(records: &[KeyRecord]) -> String {
    let entries: Vec<Vec<String>> = records.iter().map(entry_text::fields).collect();
    yaml_list::add("", &entries).unwrap_or_default()
}

/// Returns the text of a file for one key of a directory.
pub(crate) fn one_key_text(record: &KeyRecord) -> String {
    entry_text::fields(record).join("\n") + "\n"
}

/// Finds the key with this id or name. The store does not have to be locked.
pub(crate) fn find(store: &Store, key: &str, ids: &IdSecret) -> Result<Found, EditError> {
    let is_wanted = |record: &KeyRecord| record.id == key || record.name.as_deref() == Some(key);
    let path = store.path();
    let found = |record| Found { record, file: path.to_owned() };
    let mut found: Vec<Found> = match store {
        Store::Directory(directory) => find_in_files(directory, is_wanted)?,
        Store::JsonLines(_) => lines::find(path, key)?.into_iter().map(found).collect(),
        Store::Redis(store) => store.find(key)?.into_iter().map(found).collect(),
        Store::Yaml(path) => {
            let (entries, _) = yaml::entries(path, &file::read(path)?)?;
            let records: Vec<KeyRecord> = entries
                .iter()
                .filter_map(|entry| entry.read.as_ref().ok())
                .filter(|record| is_wanted(record))
                .cloned()
                .collect();
            if records.len() != 1 {
                // If not exactly one key was found, the wanted key may be at fault or a duplicate.
                // `records` then returns this fault.
                store.records(ids)?;
            }
            records.into_iter().map(found).collect()
        }
        Store::Text(_) => store.records(ids)?.into_iter().filter(is_wanted).map(found).collect(),
    };
    // A key with the wanted id is preferred to a key with the wanted name.
    found.sort_by_key(|found| found.record.id != key);
    match found.into_iter().next() {
        Some(found) => Ok(found),
        None => Err(EditError::NoSuchKey(format!(
            "{} has no key of this id or name; `bearward keys list` shows them",
            path.display()
        ))),
    }
}

/// Finds the matching keys of a directory. A file at fault does not prevent the revocation of a key
/// in another file.
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
    // If several files contain the wanted key, this function can't know which copy is in service.
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

/// Refuses a new key if another key already has its id, name or hash. The store's reader would
/// refuse the new text, too, but its fault would name a line that is not in the file.
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

/// Returns the path of a new file for one key of a directory, named after the key.
fn free_file(directory: &Path, record: &KeyRecord) -> PathBuf {
    let is_plain = |name: &&str| name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    let name = record.name.as_deref().filter(is_plain).unwrap_or(&record.id);
    let numbered = (2..).map(|number| format!("{}-{number}", record.id));
    let names = [name.to_owned(), record.id.clone()].into_iter().chain(numbered);
    let mut files = names.map(|name| directory.join(format!("{name}.yaml")));
    files.find(|file| fs::symlink_metadata(file).is_err()).unwrap_or_else(|| directory.join("key.yaml"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::KeyHash;

    #[test]
    fn of_keys_for_a_directory_all_are_added_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join("keys");
        fs::create_dir(&keys).unwrap();
        let record = |name: &str| {
            let hash = KeyHash::of(name.as_bytes()).to_stored();
            let text = format!("id: key_{name}\nhash: {hash}\npermissions: [read]\n");
            yaml::parse_part(Path::new("part.yaml"), &text).unwrap().remove(0)
        };
        // Its file would be refused.
        let broken = KeyRecord { name: Some(String::new()), ..record("broken") };
        let editor = Editor::open(&StorePlace::Path(keys.clone()), Arc::new(IdSecret::random())).unwrap();
        assert!(editor.add(&[record("first"), record("second"), broken]).is_err());
        assert_eq!(files(&keys).unwrap(), Vec::<PathBuf>::new());
        editor.add(&[record("first"), record("second")]).unwrap();
        assert_eq!(files(&keys).unwrap().len(), 2);
    }
}
