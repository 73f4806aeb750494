//! A directory of key files: a mounted Secret or ConfigMap, or a directory that people edit.
//!
//! An entry at fault is not used: its key is left out, or keeps its last good form. All other
//! entries are used. Files whose names begin with a dot or end with `~` are ignored, such as the
//! kubelet's `..data` and temporary files of editors and of bearward.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::fault::{Fault, Faults, Position};
use crate::key_store::build_set::{BuildSet, Built, Findings, KeysInService};
use crate::key_store::claim::Claim;
use crate::key_store::reading::{AtFault, LastGood, Reading};
use crate::key_store::settle::{self, Counted, Entry, Excluded, Twin, Unread};
use crate::key_store::tally::NoKeys;
use crate::key_store::{file, yaml};
use crate::keys::id_secret::IdSecret;
use crate::keys::record::KeyRecord;
use crate::regular_file;
use crate::shell_word::shell_word;

/// Returns the files of a directory, in the order of their names.
pub(crate) fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let path = directory.join(&name);
        // A directory inside the store is ignored. bearward makes no such directory; most likely,
        // it is `lost+found`.
        let bytes = name.as_encoded_bytes();
        if !bytes.starts_with(b".") && !bytes.ends_with(b"~") && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads all files of a directory for a server. A directory without files is a store without keys.
/// The keys of a file at fault keep their last good form, and no other file is affected. When the
/// server starts and any file is at fault, the directory must have at least one good key.
pub(crate) fn load<'k, K: KeysInService>(
    directory: &Path,
    reading: Reading<'k, K>,
) -> Result<Built<K::Builder<'k>>, Faults> {
    let mut parts = parts(directory)?;
    for part in &mut parts {
        if let Ok(entries) = &mut part.entries {
            settle::check_provisions(&part.path, entries, reading.provisions);
        }
    }
    let built = settle(parts, reading)?;
    let refused = &built.findings.refused;
    if reading.at_fault == AtFault::Refused && built.builder.keys() == 0 && !refused.is_empty() {
        return Err(none(directory, built.findings.refused));
    }
    Ok(built)
}

/// Returns all keys of all files, if all files are good.
pub(crate) fn records(directory: &Path, ids: &IdSecret) -> Result<Vec<KeyRecord>, Faults> {
    let parts = parts(directory)?;
    let entries = parts.iter().filter_map(|part| part.entries.as_ref().ok()).flatten();
    let records = entries.filter_map(|entry| entry.read.as_ref().ok()).cloned().collect();
    let none = NoKeys::default();
    let Findings { refused, .. } = settle(parts, Reading::first(&none, ids))?.findings;
    if refused.is_empty() { Ok(records) } else { Err(Faults(refused)) }
}

fn none(directory: &Path, refused: Vec<Fault>) -> Faults {
    let none = Fault::of_file(directory, "the directory has no file with a key that is good");
    // Another key would be no remedy where the keys may not be read.
    let forbidden = |error: std::io::Error| error.kind() == std::io::ErrorKind::PermissionDenied;
    let none = match refused.iter().any(|fault| regular_file::open(&fault.file).is_err_and(forbidden)) {
        true => none,
        false => none.hint(format!(
            "`bearward keys create --keys {} --permissions read` makes one",
            shell_word(directory)
        )),
    };
    Faults(std::iter::once(none).chain(refused).collect())
}

/// One file of a directory, as it was read.
struct Part {
    path: PathBuf,
    /// The entries of the file, or the faults of a file that can't be read as entries.
    entries: Result<Vec<Entry>, Faults>,
    /// The faults that are outside of all entries.
    faults: Vec<Fault>,
}

fn parts(directory: &Path) -> Result<Vec<Part>, Fault> {
    let unreadable = |error| Fault::unreadable(directory, "the key directory", &error);
    let part = |path: PathBuf| {
        let source = file::read(&path).map_err(Faults::from);
        match source.and_then(|source| yaml::entries_of_part(&path, &source)) {
            Ok((entries, faults)) => Part { path, entries: Ok(entries), faults },
            Err(faults) => Part { path, entries: Err(faults), faults: Vec::new() },
        }
    };
    Ok(files(directory).map_err(unreadable)?.into_iter().map(part).collect())
}

/// Decides which keys each file has: the keys that the file contains or, if the file is at fault,
/// the keys that the file had before.
///
/// If two files contain the same key, the key is read from the file that had it before, even if the
/// entry in this file has changed. The other file is at fault. If neither file had the key before,
/// both files are at fault, because one of them may be an old copy from before the key was revoked.
fn settle<'k, K: KeysInService>(
    parts: Vec<Part>,
    reading: Reading<'k, K>,
) -> Result<Built<K::Builder<'k>>, Faults> {
    let (mut faults, mut whole) = (Vec::new(), Vec::new());
    let (mut entries, mut files) = (Vec::new(), Vec::new());
    for Part { path, entries: of_part, faults: beside } in parts {
        faults.extend(beside);
        match of_part {
            Ok(of_part) => {
                files.extend(std::iter::repeat_n(path, of_part.len()));
                entries.extend(of_part);
            }
            Err(of_file) => {
                faults.extend(of_file.0);
                whole.push(path);
            }
        }
    }
    name_by_file(&mut entries, &files, reading);
    // A file that can't be read claims every key that it had before.
    for path in &whole {
        for id in reading.last_good.get(path).into_iter().flatten() {
            let unread = Unread { claim: Claim::of_id(id), is_entry: false, faults: Vec::new() };
            entries.push(Entry { at: Position::default(), read: Err(unread) });
            files.push(path.clone());
        }
    }
    let fault = |number: usize, _: &Entry| shared(files.get(number).map_or(Path::new(""), |path| path));
    let before = Before { last_good: reading.last_good, entries: &entries, files: &files };
    let mut excluded = Excluded::default();
    excluded.take(before.copies(reading.known, fault));
    let Counted { builder, excluded, held } =
        settle::set(reading.known, reading.at_fault, &entries, excluded, fault)?;
    let good = entries.iter().zip(&files).enumerate();
    let good = good.filter(|(number, _)| !excluded.entries.contains(number));
    let good = good.filter_map(|(_, (entry, file))| Some((file, entry.read.as_ref().ok()?.id.clone())));
    let held = held.into_iter().filter_map(|(number, id)| Some((files.get(number)?, id)));
    let mut given = LastGood::new();
    for (file, id) in good.chain(held) {
        given.entry(file.clone()).or_default().push(id);
    }
    faults.extend(excluded.faults.into_iter().chain(settle::faults_of(entries)));
    let mut refused = Faults::sorted(faults).0;
    refused.dedup();
    Ok(Built { builder, findings: Findings { refused, last_good: given, is_blank: false } })
}

/// Gives an entry at fault, whose claim names no key in service, another claim: if the entry is the
/// only one of its file, and the file had exactly one key before, the entry claims that key.
fn name_by_file<K: KeysInService>(entries: &mut [Entry], files: &[PathBuf], reading: Reading<'_, K>) {
    let mut counts: HashMap<&Path, usize> = HashMap::new();
    files.iter().for_each(|path| *counts.entry(path).or_default() += 1);
    for (entry, path) in entries.iter_mut().zip(files) {
        let Err(unread) = &mut entry.read else { continue };
        if counts.get(path.as_path()) == Some(&1)
            && let Some([only]) = reading.last_good.get(path).map(Vec::as_slice)
            && !names_any(&unread.claim, reading)
        {
            unread.claim = Claim::of_id(only);
        }
    }
}

fn shared(path: &Path) -> Fault {
    let message = "has a key whose id, name or hash another file of the directory has, too";
    Fault::of_file(path, message).hint("keep one of them")
}

/// The keys that the files had before, and the entries that they have now.
struct Before<'a> {
    last_good: &'a LastGood,
    entries: &'a [Entry],
    files: &'a [PathBuf],
}

impl Before<'_> {
    /// Finds the entries that claim a key of another file. The key belongs to the other file if
    /// that file had the key before and still has an entry that claims it.
    fn copies<K: KeysInService>(&self, known: &K, fault: impl Fn(usize, &Entry) -> Fault) -> Vec<Twin> {
        let claims: Vec<Claim> = self.entries.iter().map(Entry::claim).collect();
        let about: Vec<Vec<String>> = claims.iter().map(|claim| ids_of(claim, known)).collect();
        let mut owners: HashMap<&str, &Path> = HashMap::new();
        for (path, ids) in about.iter().zip(self.files).map(|(ids, path)| (path, ids)) {
            let gave = |id: &&String| self.last_good.get(path).is_some_and(|given| given.contains(id));
            owners.extend(ids.iter().filter(gave).map(|id| (id.as_str(), path.as_path())));
        }
        let is_copy = |number: usize, path: &Path| {
            let ids = about.get(number).into_iter().flatten();
            ids.filter_map(|id| owners.get(id.as_str())).any(|owner| *owner != path)
        };
        let numbered = self.entries.iter().zip(self.files).enumerate();
        let copies = numbered.filter(|(number, (_, path))| is_copy(*number, path));
        let twin = |(number, (entry, _)): (usize, (&Entry, &PathBuf))| Twin {
            entry: number,
            is_owner: false,
            fault: fault(number, entry),
        };
        copies.map(twin).collect()
    }
}

/// Whether a key in service has the id, or one of the hashes, that the claim of a file names.
fn names_any<K: KeysInService>(claim: &Claim, reading: Reading<'_, K>) -> bool {
    let given = |id: &str| reading.last_good.values().flatten().any(|known| known == id);
    claim.id.as_deref().is_some_and(given)
        || claim.hashes.iter().any(|hash| reading.known.id_of(hash).is_some())
}

/// Returns the ids of the keys that a claim names: the id in the claim, and the ids of the keys in
/// service that have one of the claim's hashes.
fn ids_of<K: KeysInService>(claim: &Claim, known: &K) -> Vec<String> {
    let opened = claim.hashes.iter().filter_map(|hash| known.id_of(hash));
    claim.id.iter().map(|id| id.to_string()).chain(opened).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_cache::{KeyCache, KeySet};
    use crate::key_store::provisions::Provisions;
    use crate::key_store::reading::Pace;
    use crate::keys::KeyHash;

    struct Directory {
        root: tempfile::TempDir,
        last_good: LastGood,
        known: KeyCache,
        ids: IdSecret,
        at_fault: AtFault,
    }

    impl Directory {
        fn new() -> Self {
            Directory {
                root: tempfile::tempdir().unwrap(),
                last_good: LastGood::new(),
                known: KeyCache::default(),
                ids: IdSecret::random(),
                at_fault: AtFault::Refused,
            }
        }

        fn write(&self, name: &str, id: &str, secret: &str) {
            let hash = KeyHash::of(secret.as_bytes()).to_stored();
            self.write_raw(name, &format!("id: key_{id}\nhash: {hash}\npermissions: [read]\n"));
        }

        fn write_raw(&self, name: &str, text: &str) {
            fs::write(self.root.path().join(name), text).unwrap();
        }

        fn reading(&self) -> Reading<'_, KeyCache> {
            Reading {
                known: &self.known,
                last_good: &self.last_good,
                ids: &self.ids,
                provisions: Provisions::Any,
                at_fault: self.at_fault,
                pace: Pace::Fast(1),
            }
        }

        /// Loads the directory, and returns the ids of the live keys and the names of the refused
        /// files.
        fn load(&mut self) -> (Vec<String>, Vec<String>) {
            let set: KeySet = load(self.root.path(), self.reading()).unwrap().finish();
            self.known.replace(&set);
            assert_eq!(self.known.len(), set.entries.len() + set.kept);
            self.at_fault = AtFault::Held;
            let mut ids = Vec::new();
            self.known.for_each(|live| ids.push(live.key.id()["key_".len()..].to_owned()));
            ids.sort();
            let refused =
                set.refused.iter().map(|fault| fault.file.file_name().unwrap().to_str().unwrap().to_owned());
            let mut refused: Vec<_> = refused.collect();
            refused.dedup();
            self.last_good = set.last_good;
            (ids, refused)
        }
    }

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn a_bad_file_is_left_out_alone_and_one_that_was_live_stays_as_it_was() {
        let mut directory = Directory::new();
        directory.write("a", "a", "1");
        directory.write("b", "b", "2");
        directory.write_raw("c", "id: key_c\n");
        directory.write_raw(".hidden", "nonsense");
        fs::create_dir(directory.root.path().join("..data")).unwrap();
        assert_eq!(directory.load(), (words("a b"), words("c")));
        for bad in ["id: key_b\nhash: nonsense\n", "id: x\n", "keys: [1]\n", "nonsense", "", "keys:\n"] {
            directory.write_raw("b", bad);
            assert_eq!(directory.load(), (words("a b"), words("b c")), "{bad}");
        }
        fs::remove_file(directory.root.path().join("b")).unwrap();
        directory.write("c", "c", "3");
        assert_eq!(directory.load(), (words("a c"), words("")));
        fs::create_dir(directory.root.path().join("sub")).unwrap();
        assert_eq!(directory.load(), (words("a c"), words("")));
    }

    #[test]
    fn what_two_files_have_counts_where_it_was_before() {
        let mut directory = Directory::new();
        directory.write("b", "x", "1");
        assert_eq!(directory.load(), (words("x"), words("")));
        directory.write("a", "x", "2");
        assert_eq!(directory.load(), (words("x"), words("a")));
        // When file `b` is removed, key `x` is read from file `a`.
        fs::remove_file(directory.root.path().join("b")).unwrap();
        assert_eq!(directory.load(), (words("x"), words("")));
        // Two files swap their keys.
        directory.write("b", "y", "3");
        assert_eq!(directory.load(), (words("x y"), words("")));
        directory.write("a", "y", "3");
        directory.write("b", "x", "2");
        assert_eq!(directory.load(), (words("x y"), words("")));
        // File `b`, which had key `x` before, is at fault. File `a`, which had key `y` before, now
        // has an entry for key `x`. Key `x` keeps its last good form, and key `y` is deleted.
        directory.write("a", "x", "9");
        directory.write_raw("b", "nonsense");
        assert_eq!(directory.load(), (words("x"), words("a b")));
        assert!(directory.known.find(&KeyHash::of(b"9")).is_none());
    }

    #[test]
    fn a_copy_does_not_hinder_a_revocation() {
        let mut directory = Directory::new();
        directory.write("b", "x", "1");
        assert_eq!(directory.load(), (words("x"), words("")));
        directory.write("a-copy", "x", "1");
        assert_eq!(directory.load(), (words("x"), words("a-copy")));
        let hash = KeyHash::of(b"1").to_stored();
        directory.write_raw("b", &format!("id: key_x\nhash: {hash}\npermissions: [read]\ndisabled: true\n"));
        assert_eq!(directory.load(), (words("x"), words("a-copy")));
        directory.known.for_each(|live| assert!(live.key.disabled, "its own file counts"));
        // A server that starts can't know whether `a-copy` or `b` is the copy, so it uses neither
        // file.
        directory.write("c", "c", "2");
        directory = Directory { root: directory.root, ..Directory::new() };
        assert_eq!(directory.load(), (words("c"), words("a-copy b")));
    }

    #[test]
    fn a_directory_of_bad_files_is_a_fault_and_one_without_files_is_empty() {
        let directory = Directory::new();
        assert_eq!(load(directory.root.path(), directory.reading()).unwrap().builder.keys(), 0);
        directory.write_raw("a", "id: x\n");
        assert!(load(directory.root.path(), directory.reading()).err().unwrap().0.len() > 1);
        assert!(load(&directory.root.path().join("none"), directory.reading()).is_err());
    }

    #[test]
    fn a_fault_in_one_entry_of_a_file_affects_that_entry_alone() {
        let mut directory = Directory::new();
        let entry = |id: &str, more: &str| {
            let hash = KeyHash::of(id.as_bytes()).to_stored();
            format!("- {{id: key_{id}, hash: \"{hash}\", permissions: [read]{more}}}\n")
        };
        let keys = |entries: &[String]| format!("keys:\n{}", entries.concat());
        directory.write_raw("a", &keys(&[entry("a", ""), entry("b", ""), entry("c", "")]));
        directory.write("d", "d", "4");
        assert_eq!(directory.load(), (words("a b c d"), words("")));
        directory.write_raw("a", &keys(&[entry("a", ", routes:"), entry("c", ", disabled: true")]));
        assert_eq!(directory.load(), (words("a c d"), words("a")));
        let c = directory.known.find(&KeyHash::of(b"c")).unwrap();
        assert!(c.key.key.disabled);
        // While file `a` can't be read, its keys keep their last good form. The copy of one of
        // these keys in file `b` is not used.
        directory.write_raw("a", "keys: [");
        directory.write_raw("b", &keys(&[entry("c", "")]));
        assert_eq!(directory.load(), (words("a c d"), words("a b")));
        assert!(directory.known.find(&KeyHash::of(b"c")).unwrap().key.key.disabled);
        fs::remove_file(directory.root.path().join("a")).unwrap();
        assert_eq!(directory.load(), (words("c d"), words("")));
        assert!(!directory.known.find(&KeyHash::of(b"c")).unwrap().key.key.disabled);
    }

    #[test]
    fn a_file_that_can_not_be_read_keeps_its_own_keys_alone_and_no_files_are_no_keys() {
        let mut directory = Directory::new();
        directory.write("a", "a", "1");
        directory.write("b", "b", "2");
        assert_eq!(directory.load(), (words("a b"), words("")));
        for bad in ["<html>", "", "keys: [", "keys:\n", "- 1\n", "# gone\n"] {
            directory.write_raw("a", bad);
            assert_eq!(directory.load(), (words("a b"), words("a")), "{bad}");
        }
        fs::remove_file(directory.root.path().join("b")).unwrap();
        directory.write_raw("c", "<html>");
        assert_eq!(directory.load(), (words("a"), words("a c")), "a deleted key is gone");
        fs::remove_file(directory.root.path().join("a")).unwrap();
        assert_eq!(directory.load(), (words(""), words("c")), "the last one, too");
        directory.write("b", "b", "2");
        assert_eq!(directory.load(), (words("b"), words("c")));
        fs::remove_file(directory.root.path().join("b")).unwrap();
        fs::remove_file(directory.root.path().join("c")).unwrap();
        assert_eq!(directory.load(), (words(""), words("")));
    }
}
