//! Tests of the journal: opening, refusals and lengths. Damage, failures and long runs are in the
//! submodules.

mod damage;
mod failures;
pub(super) mod faults;
mod long_runs;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use tempfile::TempDir;

use super::*;

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// A directory in memory, if there is one: these tests sync thousands of times.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

fn open(directory: &Path) -> (Journal, Recovered, Pairs) {
    let mut pairs = Pairs::new();
    let take = |key: &[u8], value: &[u8]| pairs.push((key.to_vec(), value.to_vec()));
    let (journal, recovered) = Journal::open(directory, take).unwrap();
    (journal, recovered, pairs)
}

fn refusal(directory: &Path) -> OpenError {
    Journal::open(directory, |_, _| panic!("a record of a refused journal")).unwrap_err()
}

fn read_pairs(directory: &Path) -> (Recovered, Pairs) {
    let mut pairs = Pairs::new();
    let recovered = read(directory, |key, value| pairs.push((key.to_vec(), value.to_vec()))).unwrap();
    (recovered, pairs)
}

/// The entries that are left of records.
fn entries(pairs: &[(Vec<u8>, Vec<u8>)]) -> Entries {
    let mut entries = Entries::new();
    for (key, value) in pairs {
        entries.insert(key.clone(), value.clone());
        entries.retain(|_, value| !value.is_empty());
    }
    entries
}

fn append(journal: &mut Journal, pairs: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    journal.append(pairs.iter().map(|(key, value)| (&**key, &**value)))
}

/// Records of several keys, each of which has several records of different lengths.
fn pairs(count: usize) -> Pairs {
    let pair = |number| {
        let key = format!("key-{}", number % 7).into_bytes();
        (key, format!("{number}:{}", "x".repeat(number % 23)).into_bytes())
    };
    (0..count).map(pair).collect()
}

/// Makes a journal with these records, and returns its bytes.
fn journal_of(directory: &Path, pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut journal = open(directory).0;
    pairs.chunks(4).for_each(|batch| append(&mut journal, batch).unwrap());
    fs::read(directory.join(NAME)).unwrap()
}

#[test]
fn records_are_read_in_the_order_of_the_appends_by_the_next_process() {
    let place = directory();
    let path = place.path().join("state");
    let (mut journal, recovered, none) = open(&path);
    assert!(none.is_empty());
    assert_eq!(recovered, Recovered { bytes: 32, is_new: true, ..Recovered::default() });
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!([NAME, LOCK].map(|name| mode(&path.join(name))), [0o600; 2]);
    let mut all = pairs(10);
    all.push((b"key-3".to_vec(), Vec::new()));
    all.push((Vec::new(), b"of the empty key".to_vec()));
    append(&mut journal, &all).unwrap();
    append(&mut journal, &[]).unwrap();
    drop(journal);
    let (journal, recovered, found) = open(&path);
    assert_eq!(found, all);
    let bytes = fs::metadata(path.join(NAME)).unwrap().len();
    assert_eq!(recovered, Recovered { records: 12, bytes, ..Recovered::default() });
    assert_eq!(journal.bytes(), bytes);
    let of_records: u64 = all.iter().map(|(key, value)| record_bytes(key.len(), value.len())).sum();
    assert_eq!(of_records + 32, bytes);
    assert!(!journal.wants_compaction(0));
}

#[test]
fn the_format_is_the_documented_one() {
    let header = format::Header { salt: 0x0403_0201, sealed: 32 };
    let mut expected = b"bearward-state\x01\x00\x01\x02\x03\x04\x20\x00\x00\x00\x00\x00\x00\x00".to_vec();
    expected.extend(crc32fast::hash(&expected).to_le_bytes());
    assert_eq!(header.bytes(), expected);
    assert_eq!(expected.len(), 32);
    let mut record = Vec::new();
    format::encode(&mut record, 0x0403_0201, 5, b"key", b"value").unwrap();
    let covered = b"\x01\x02\x03\x04\x05\x00\x00\x00\x00\x00\x00\x00\x03\x00\x05\x00keyvalue";
    let mut expected = b"\xffbw\x01".to_vec();
    expected.extend(crc32fast::hash(covered).to_le_bytes());
    expected.extend(covered);
    assert_eq!(record, expected);
}

#[test]
fn a_second_process_is_refused_until_the_first_one_ends() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    append(&mut journal, &pairs(3)).unwrap();
    let error = refusal(place.path());
    assert!(matches!(error, OpenError::InUse(_)));
    assert!(error.to_string().starts_with("another process uses the state directory"), "{error}");
    assert_eq!(read_pairs(place.path()).1, pairs(3), "reading needs no lock");
    drop(journal);
    assert_eq!(open(place.path()).2, pairs(3));
}

#[test]
fn a_newer_version_is_refused_and_not_changed() {
    let place = directory();
    let mut bytes = journal_of(place.path(), &pairs(5));
    bytes[14] = 2;
    let checksum = crc32fast::hash(&bytes[..28]).to_le_bytes();
    bytes[28..32].copy_from_slice(&checksum);
    fs::write(place.path().join(NAME), &bytes).unwrap();
    let error = refusal(place.path());
    assert!(matches!(error, OpenError::Newer { version: 2, .. }), "{error}");
    assert!(error.to_string().contains("only a newer bearward can read"), "{error}");
    assert!(matches!(read(place.path(), |_, _| {}), Err(OpenError::Newer { .. })));
    assert_eq!(fs::read(place.path().join(NAME)).unwrap(), bytes);
}

#[test]
fn a_foreign_file_is_refused_and_not_changed() {
    let large: Vec<u8> =
        (0..1_000_000_u32).flat_map(|number| number.wrapping_mul(2_654_435_769).to_le_bytes()).collect();
    for content in [&b"shopping list\n"[..], &[0; 5000], &large] {
        let place = directory();
        fs::write(place.path().join(NAME), content).unwrap();
        fs::write(place.path().join(TEMPORARY), "of another program").unwrap();
        let error = refusal(place.path());
        assert!(matches!(error, OpenError::Foreign(_)), "{error}");
        assert!(error.to_string().contains("/lock to start anew: then all budgets"), "{error}");
        assert_eq!(fs::read(place.path().join(NAME)).unwrap(), content);
        assert_eq!(fs::read(place.path().join(TEMPORARY)).unwrap(), b"of another program");
    }
}

#[test]
fn a_journal_that_has_lost_all_records_is_refused_and_not_changed() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    journal.compact(pairs(7).into_iter()).unwrap();
    drop(journal);
    let bytes = fs::read(place.path().join(NAME)).unwrap();
    let zeroed: Vec<u8> = bytes[..32].iter().copied().chain(bytes[32..].iter().map(|_| 0)).collect();
    // The header alone says that more was durable; and so does the middle of a file.
    for content in [&b""[..], &bytes[..20], &bytes[..32], &bytes[..40], &zeroed] {
        fs::write(place.path().join(NAME), content).unwrap();
        let error = refusal(place.path());
        assert!(matches!(error, OpenError::Unreadable(_)), "{error}");
        assert_eq!(fs::read(place.path().join(NAME)).unwrap(), content);
    }
}

#[test]
fn a_first_append_may_be_cut_but_not_be_garbage() {
    let place = directory();
    let bytes = journal_of(place.path(), &pairs(1));
    fs::write(place.path().join(NAME), &bytes[..bytes.len() - 1]).unwrap();
    assert!(open(place.path()).1.cut);
    let mut flipped = bytes.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for content in [[&bytes[..32], &[0; 100]].concat(), flipped] {
        fs::write(place.path().join(NAME), &content).unwrap();
        assert!(matches!(refusal(place.path()), OpenError::Unreadable(_)));
    }
}

#[test]
fn a_compaction_leaves_removed_entries_out() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    append(&mut journal, &pairs(9)).unwrap();
    let removed = (b"removed".to_vec(), Vec::new());
    journal.compact([pairs(1), vec![removed]].concat().into_iter()).unwrap();
    assert_eq!(read_pairs(place.path()).1, pairs(1));
    journal.compact(std::iter::empty()).unwrap();
    drop(journal);
    let (_, recovered, found) = open(place.path());
    assert!(found.is_empty());
    assert_eq!(recovered, Recovered { bytes: 32, ..Recovered::default() });
}

#[test]
fn a_journal_that_was_removed_is_missed() {
    let place = directory();
    assert!(matches!(read(place.path(), |_, _| {}), Err(OpenError::Absent(_))));
    journal_of(place.path(), &pairs(3));
    fs::remove_file(place.path().join(NAME)).unwrap();
    let error = refusal(place.path());
    assert!(matches!(error, OpenError::Lost(_)), "{error}");
    assert!(matches!(read(place.path(), |_, _| {}), Err(OpenError::Lost(_))));
    assert!(!place.path().join(NAME).exists());
    // As the message says.
    fs::remove_file(place.path().join(LOCK)).unwrap();
    assert!(open(place.path()).1.is_new);
}

#[test]
fn a_record_of_64_kib_is_the_longest() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    let longest = vec![7; format::MAX_RECORD - format::HEAD - 3];
    let all = vec![(b"key".to_vec(), longest.clone()), (longest.clone(), b"val".to_vec())];
    append(&mut journal, &all).unwrap();
    for too_long in [(b"keys".to_vec(), longest.clone()), (vec![0; 70_000], vec![1])] {
        let error = append(&mut journal, &[(b"a".to_vec(), b"b".to_vec()), too_long.clone()]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(journal.compact([too_long].into_iter()).is_err());
    }
    append(&mut journal, &pairs(3)).unwrap();
    drop(journal);
    assert_eq!(open(place.path()).2, [all, pairs(3)].concat());
}

#[test]
fn no_pipe_or_link_is_opened_in_place_of_a_file() {
    for name in [NAME, LOCK] {
        let place = directory();
        let path = place.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
        assert!(matches!(refusal(place.path()), OpenError::System { .. }));
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(place.path().join("target"), &path).unwrap();
        assert!(matches!(refusal(place.path()), OpenError::System { .. }));
        assert!(!place.path().join("target").exists());
    }
    let place = directory();
    let error = refusal(&place.path().join("missing/state"));
    assert!(error.to_string().contains("missing/state: No such file"), "{error}");
}
