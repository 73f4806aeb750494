//! A directory of key files: a mounted Secret or ConfigMap, or one that people keep.
//!
//! A file that is bad is left out alone, or stays as it was when it was good last; the others are live. Names that begin
//! with a dot, or end with `~`, are not looked at: the kubelet's `..data`, editors' and our own temporary files.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::cache::SetBuilder;
use super::record::KeyRecord;
use super::set::{KeySet, Reading};
use super::{KeyHash, store, yaml};
use crate::config::fault::{Fault, Faults};

/// What each file held when it was good last.
pub(crate) type LastGood = BTreeMap<PathBuf, Vec<KeyRecord>>;

/// The files of a directory, in the order of their names.
pub(crate) fn files(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let path = directory.join(&name);
        // A directory in it is none of ours: `lost+found`, most likely.
        let bytes = name.as_encoded_bytes();
        if !bytes.starts_with(b".") && !bytes.ends_with(b"~") && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads all files for service.
pub(super) fn load(directory: &Path, reading: Reading<'_>) -> Result<KeySet, Faults> {
    let (last_good, refused) = settle(parse_all(directory)?, reading.last_good);
    if last_good.values().all(Vec::is_empty) {
        return Err(none(directory, refused));
    }
    let mut set = SetBuilder::new(reading.known).add_all(last_good.values().flatten()).finish();
    (set.refused, set.last_good) = (refused, last_good);
    Ok(set)
}

/// All keys of all files, where all are good.
pub(super) fn records(directory: &Path) -> Result<Vec<KeyRecord>, Faults> {
    let (good, refused) = settle(parse_all(directory)?, &LastGood::new());
    match refused.is_empty() {
        true if good.values().all(Vec::is_empty) => Err(none(directory, refused)),
        true => Ok(good.into_values().flatten().collect()),
        false => Err(Faults(refused)),
    }
}

fn none(directory: &Path, refused: Vec<Fault>) -> Faults {
    let hint = format!("`bearward keys create --keys {} --permissions read` makes one", directory.display());
    let none = Fault::of_file(directory, "the directory has no file with a key that is good").hint(hint);
    Faults(std::iter::once(none).chain(refused).collect())
}

type Parsed = (PathBuf, Result<Vec<KeyRecord>, Faults>);

fn parse_all(directory: &Path) -> Result<Vec<Parsed>, Fault> {
    let unreadable = |error| Fault::of_file(directory, format!("the key directory can't be read: {error}"));
    let parse = |path: PathBuf| {
        let records = store::read(&path).map_err(Faults::from);
        let records = records.and_then(|source| yaml::parse_part(&path, &source));
        (path, records)
    };
    Ok(files(directory).map_err(unreadable)?.into_iter().map(parse).collect())
}

/// Finds what each file gives: what it holds, or held last where that is bad.
///
/// What stands in two files counts in the one that had it before, however that one has changed; the other is bad then. Where
/// neither had it, both are bad: one may be an old copy, in which the key was not revoked yet.
fn settle(parsed: Vec<Parsed>, before: &LastGood) -> (LastGood, Vec<Fault>) {
    let mut faults = Vec::new();
    let (mut staying, mut owners, mut new) = (LastGood::new(), Vec::new(), Vec::new());
    for (path, records) in parsed {
        let known = before.get(&path);
        match records {
            Ok(records) if known == Some(&records) => drop(staying.insert(path, records)),
            Ok(records) if known.is_some_and(|known| share_any(known, &records)) => {
                owners.push((path, records))
            }
            Ok(records) => new.push((path, records)),
            Err(of_file) => {
                faults.extend(of_file.0);
                staying.insert(path.clone(), known.cloned().unwrap_or_default());
            }
        }
    }
    loop {
        let mut taken = Taken::default();
        // They were live side by side, so there is nothing between them.
        staying.values().flatten().for_each(|record| taken.take(record));
        let bad_owners = taken.take_free(&mut owners, |_| false);
        let twins = Taken::twice(&new);
        let bad = taken.take_free(&mut new, |record| !twins.is_free(record));
        let is_done = bad_owners.is_empty() && bad.is_empty();
        for path in bad_owners.into_iter().chain(bad) {
            let message = "has a key whose id, name or hash another file of the directory has, too";
            faults.push(Fault::of_file(&path, message).hint("keep one of them"));
            let known = before.get(&path).cloned().unwrap_or_default();
            staying.insert(path, known);
        }
        // What stays as it was may stand in the way of others that are new.
        if is_done {
            staying.extend(owners);
            staying.extend(new);
            return (staying, Faults::sorted(faults).0);
        }
    }
}

fn share_any(before: &[KeyRecord], after: &[KeyRecord]) -> bool {
    let is_of = |record: &KeyRecord| before.iter().any(|old| old.id == record.id || old.hash == record.hash);
    after.iter().any(is_of)
}

/// What may stand but once in a directory.
#[derive(Default)]
struct Taken {
    ids: HashSet<String>,
    names: HashSet<String>,
    hashes: HashSet<KeyHash>,
}

impl Taken {
    /// What stands in more than one of these files.
    fn twice(files: &[(PathBuf, Vec<KeyRecord>)]) -> Self {
        let (mut once, mut twice) = (Taken::default(), Taken::default());
        for (_, records) in files {
            records.iter().filter(|record| !once.is_free(record)).for_each(|record| twice.take(record));
            records.iter().for_each(|record| once.take(record));
        }
        twice
    }

    /// Takes what is free of the files, and leaves those in; says which are not.
    fn take_free(
        &mut self,
        files: &mut Vec<(PathBuf, Vec<KeyRecord>)>,
        is_barred: impl Fn(&KeyRecord) -> bool,
    ) -> Vec<PathBuf> {
        let mut bad = Vec::new();
        files.retain(|(path, records)| {
            let is_free = records.iter().all(|record| self.is_free(record) && !is_barred(record));
            match is_free {
                true => records.iter().for_each(|record| self.take(record)),
                false => bad.push(path.clone()),
            }
            is_free
        });
        bad
    }

    fn is_free(&self, record: &KeyRecord) -> bool {
        !self.ids.contains(&record.id)
            && !record.name.as_ref().is_some_and(|name| self.names.contains(name))
            && !record.hashes().any(|hash| self.hashes.contains(&hash))
    }

    fn take(&mut self, record: &KeyRecord) {
        self.ids.insert(record.id.clone());
        self.names.extend(record.name.clone());
        self.hashes.extend(record.hashes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::cache::KeyCache;
    use crate::keys::id_secret::IdSecret;
    use crate::keys::set::Pace;

    struct Directory {
        root: tempfile::TempDir,
        last_good: LastGood,
    }

    impl Directory {
        fn new() -> Self {
            Directory { root: tempfile::tempdir().unwrap(), last_good: LastGood::new() }
        }

        fn write(&self, name: &str, id: &str, secret: &str) {
            let hash = KeyHash::of(secret.as_bytes()).to_stored();
            self.write_raw(name, &format!("id: key_{id}\nhash: {hash}\npermissions: [read]\n"));
        }

        fn write_raw(&self, name: &str, text: &str) {
            fs::write(self.root.path().join(name), text).unwrap();
        }

        /// The ids that are live, and the files that were refused.
        fn load(&mut self) -> (Vec<String>, Vec<String>) {
            let known = KeyCache::default();
            let reading = Reading {
                known: &known,
                last_good: &self.last_good,
                ids: &IdSecret::random(),
                pace: Pace::Fast(1),
            };
            let set = load(self.root.path(), reading).unwrap();
            let mut ids: Vec<_> =
                set.entries.iter().map(|(_, live)| live.key.id()["key_".len()..].to_owned()).collect();
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
        directory.write_raw("b", "id: key_b\nhash: nonsense\n");
        assert_eq!(directory.load(), (words("a b"), words("b c")));
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
        // Both change at once, and `b` goes: `a` may have it then.
        fs::remove_file(directory.root.path().join("b")).unwrap();
        assert_eq!(directory.load(), (words("x"), words("")));
        // Two files swap their keys.
        directory.write("b", "y", "3");
        assert_eq!(directory.load(), (words("x y"), words("")));
        directory.write("a", "y", "3");
        directory.write("b", "x", "2");
        assert_eq!(directory.load(), (words("x y"), words("")));
        // One takes what a bad one had: both stay as they were.
        directory.write("a", "x", "9");
        directory.write_raw("b", "nonsense");
        assert_eq!(directory.load(), (words("x y"), words("a b")));
    }

    #[test]
    fn a_copy_does_not_stand_in_the_way_of_a_revocation() {
        let mut directory = Directory::new();
        directory.write("b", "x", "1");
        assert_eq!(directory.load(), (words("x"), words("")));
        directory.write("a-copy", "x", "1");
        assert_eq!(directory.load(), (words("x"), words("a-copy")));
        let hash = KeyHash::of(b"1").to_stored();
        directory.write_raw("b", &format!("id: key_x\nhash: {hash}\npermissions: [read]\ndisabled: true\n"));
        assert_eq!(directory.load(), (words("x"), words("a-copy")));
        assert!(directory.last_good.values().flatten().all(|record| record.disabled));
        // Nobody knows at a start which of them is the copy.
        directory.write("c", "c", "2");
        directory.last_good = LastGood::new();
        assert_eq!(directory.load(), (words("c"), words("a-copy b")));
    }

    #[test]
    fn a_directory_without_a_good_key_is_a_fault() {
        let directory = Directory::new();
        let known = KeyCache::default();
        let empty = Reading {
            known: &known,
            last_good: &directory.last_good,
            ids: &IdSecret::random(),
            pace: Pace::Fast(1),
        };
        assert_eq!(load(directory.root.path(), empty).unwrap_err().0.len(), 1);
        directory.write_raw("a", "id: x\n");
        assert!(load(directory.root.path(), empty).unwrap_err().0.len() > 1);
        assert!(load(&directory.root.path().join("none"), empty).is_err());
    }
}
