//! Full disks, broken disks and crashes cost nothing that was appended before.

use super::faults::{Fault, during};
use super::*;
use crate::journal::disk::Step;

#[test]
fn an_append_to_a_full_disk_loses_nothing_and_can_be_repeated() {
    let batch = pairs(6);
    let length: u64 = batch.iter().map(|(key, value)| record_bytes(key.len(), value.len())).sum();
    for room in 0..length as usize {
        let place = directory();
        let (mut journal, ..) = open(place.path());
        append(&mut journal, &pairs(3)).unwrap();
        let error = during(Fault::Full { room }, || append(&mut journal, &batch)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(read_pairs(place.path()).1, pairs(3));
        append(&mut journal, &batch).unwrap();
        assert!(!journal.wants_compaction(0));
        drop(journal);
        let (_, recovered, found) = open(place.path());
        assert_eq!(found, [pairs(3), batch.clone()].concat());
        assert_eq!((recovered.damaged, recovered.cut), (reader::Damaged::default(), false));
    }
}

#[test]
fn a_tail_that_could_not_be_truncated_is_truncated_before_the_next_append() {
    for room in [0, 1, 30, 100, 190] {
        let place = directory();
        let (mut journal, ..) = open(place.path());
        append(&mut journal, &pairs(3)).unwrap();
        assert!(during(Fault::Full { room }, || append(&mut journal, &pairs(6))).is_err());
        let broken = Fault::Broken(|step| matches!(step, Step::Truncate | Step::Sync));
        assert!(during(broken, || append(&mut journal, &pairs(6))).is_err());
        assert!(during(broken, || append(&mut journal, &pairs(6))).is_err());
        append(&mut journal, &pairs(2)).unwrap();
        drop(journal);
        let (_, recovered, found) = open(place.path());
        assert_eq!(found, [pairs(3), pairs(2)].concat());
        assert_eq!((recovered.damaged.parts, recovered.cut), (0, false));
    }
}

#[test]
fn a_failed_sync_makes_the_journal_want_a_compaction() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    append(&mut journal, &pairs(3)).unwrap();
    let broken = Fault::Broken(|step| matches!(step, Step::Sync));
    assert!(during(broken, || append(&mut journal, &pairs(9))).is_err());
    assert!(journal.wants_compaction(u64::MAX));
    append(&mut journal, &pairs(9)).unwrap();
    assert!(journal.wants_compaction(u64::MAX));
    assert!(during(broken, || journal.compact(entries(&pairs(9)).into_iter())).is_err());
    assert!(journal.wants_compaction(u64::MAX));
    journal.compact(entries(&pairs(9)).into_iter()).unwrap();
    assert!(!journal.wants_compaction(u64::MAX));
}

#[test]
fn a_failed_compaction_leaves_the_old_journal_in_use() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    let mut all = pairs(30);
    append(&mut journal, &all).unwrap();
    let faults = [
        Fault::Broken(|step| matches!(step, Step::Create)),
        Fault::Broken(|step| matches!(step, Step::Write { .. })),
        Fault::Broken(|step| matches!(step, Step::Sync)),
        Fault::Broken(|step| matches!(step, Step::Rename)),
        Fault::Broken(|step| matches!(step, Step::Rename | Step::Remove)),
        Fault::Broken(|_| true),
    ];
    let full = (0..300).step_by(7).map(|room| Fault::Full { room });
    for fault in faults.into_iter().chain(full) {
        during(fault, || journal.compact(entries(&all).into_iter())).unwrap_err();
        let more = (b"more".to_vec(), format!("{fault:?}").into_bytes());
        append(&mut journal, std::slice::from_ref(&more)).unwrap();
        all.push(more);
        assert_eq!(read_pairs(place.path()).1, all);
    }
    journal.compact(entries(&all).into_iter()).unwrap();
    append(&mut journal, &pairs(3)).unwrap();
    drop(journal);
    all.extend(pairs(3));
    assert_eq!(entries(&open(place.path()).2), entries(&all));
    assert!(!place.path().join(TEMPORARY).exists());
}

#[test]
fn nothing_is_appended_behind_a_rename_that_is_not_durable() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    append(&mut journal, &pairs(30)).unwrap();
    let broken = Fault::Broken(|step| matches!(step, Step::SyncDirectory));
    during(broken, || {
        journal.compact(entries(&pairs(30)).into_iter()).unwrap_err();
        append(&mut journal, &pairs(2)).unwrap_err();
    });
    assert_eq!(entries(&read_pairs(place.path()).1), entries(&pairs(30)));
    append(&mut journal, &pairs(2)).unwrap();
    assert_eq!(entries(&read_pairs(place.path()).1), entries(&[pairs(30), pairs(2)].concat()));
}

#[test]
fn a_crash_at_any_step_of_a_compaction_loses_nothing() {
    let mut is_done = false;
    for after in 0.. {
        let place = directory();
        let (mut journal, ..) = open(place.path());
        append(&mut journal, &pairs(30)).unwrap();
        let crashed = Fault::Crashed { after };
        is_done |= during(crashed, || journal.compact(entries(&pairs(30)).into_iter())).is_ok();
        drop(journal);
        let (mut journal, recovered, found) = open(place.path());
        assert_eq!(entries(&found), entries(&pairs(30)), "{after}");
        assert_eq!((recovered.damaged.parts, recovered.cut), (0, false));
        assert!(!place.path().join(TEMPORARY).exists());
        append(&mut journal, &pairs(2)).unwrap();
        journal.compact(entries(&pairs(30)).into_iter()).unwrap();
        if is_done {
            assert!(after > 5, "{after}");
            return;
        }
    }
}

#[test]
fn a_crash_at_any_step_of_the_first_start_is_repaired_by_the_next_one() {
    for after in 0.. {
        let place = directory();
        let path = place.path().join("state");
        let mut found = 0;
        let opened = during(Fault::Crashed { after }, || Journal::open(&path, |_, _| found += 1).is_ok());
        let (mut journal, _, none) = open(&path);
        assert!(none.is_empty());
        append(&mut journal, &pairs(2)).unwrap();
        drop(journal);
        assert_eq!(open(&path).2, pairs(2));
        if opened && fs::metadata(path.join(LOCK)).unwrap().len() > 0 {
            assert!(after > 5, "{after}");
            return;
        }
    }
}

#[test]
fn a_left_over_journal_in_any_state_is_removed() {
    let place = directory();
    let bytes = journal_of(place.path(), &pairs(5));
    for length in 0..=bytes.len() {
        // Blocks that did not reach the disk before a crash are zeros.
        let zeros = vec![0; length];
        for content in [&bytes[..length], &zeros] {
            fs::write(place.path().join(TEMPORARY), content).unwrap();
            assert_eq!(open(place.path()).2, pairs(5));
            assert!(!place.path().join(TEMPORARY).exists());
        }
    }
}

#[test]
fn a_journal_that_is_removed_while_it_is_in_use_is_written_anew() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    append(&mut journal, &pairs(5)).unwrap();
    fs::remove_file(place.path().join(NAME)).unwrap();
    assert_eq!(append(&mut journal, &pairs(1)).unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(journal.wants_compaction(u64::MAX));
    journal.compact(entries(&pairs(5)).into_iter()).unwrap();
    append(&mut journal, &pairs(1)).unwrap();
    drop(journal);
    assert_eq!(entries(&open(place.path()).2), entries(&[pairs(5), pairs(1)].concat()));
}

#[test]
#[ignore = "needs a small file system: mount -t tmpfs -o size=256k none DIR; SMALL_DISK=DIR cargo test small_disk -- --ignored"]
fn a_small_disk_that_is_full_again_and_again_loses_nothing() {
    let disk = PathBuf::from(std::env::var_os("SMALL_DISK").unwrap());
    let path = disk.join("state");
    let (mut journal, ..) = open(&path);
    let mut model = Entries::new();
    let mut refused = 0;
    for number in 0..20_000_u32 {
        let value = number.to_string().repeat(8).into_bytes();
        let pair = [(vec![(number % 200) as u8], value)];
        // A second file takes the room of the journal, and gives it back.
        match number % 400 {
            0 => drop(fs::write(disk.join("ballast"), vec![0; 200 * 1024])),
            300 => drop(fs::remove_file(disk.join("ballast"))),
            _ => {}
        }
        match append(&mut journal, &pair) {
            Ok(()) => model.extend(pair),
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::StorageFull);
                refused += 1;
            }
        }
        if journal.bytes() > 60_000 {
            let _may_be_full = journal.compact(model.clone().into_iter());
        }
        if number % 500 == 0 {
            drop(journal);
            let (opened, recovered, found) = open(&path);
            assert_eq!(entries(&found), model);
            assert_eq!((recovered.damaged.parts, recovered.cut), (0, false));
            journal = opened;
        }
    }
    assert!(refused > 100, "{refused}");
    eprintln!("{refused} appends were refused");
}
