//! Many appends, compactions and restarts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use proptest::prelude::*;

use super::faults::{Fault, during};
use super::*;

/// A step of a server's life.
#[derive(Clone, Debug)]
enum Event {
    Append(Vec<(u8, Vec<u8>)>),
    /// An append to a disk with so much room, which is repeated when the disk has room again.
    AppendToFull(usize, Vec<(u8, Vec<u8>)>),
    Compact,
    CompactOnFull(usize),
    Restart,
    /// A restart after a crash that left these bytes behind the records.
    Crash(Vec<u8>),
}

fn event() -> impl Strategy<Value = Event> {
    let value = prop_oneof![1 => Just(Vec::new()), 4 => proptest::collection::vec(any::<u8>(), 0..40)];
    let batch = proptest::collection::vec((0..20_u8, value), 0..12);
    prop_oneof![
        6 => batch.clone().prop_map(Event::Append),
        2 => (0..600_usize, batch).prop_map(|(room, batch)| Event::AppendToFull(room, batch)),
        1 => Just(Event::Compact),
        1 => (0..600_usize).prop_map(Event::CompactOnFull),
        2 => Just(Event::Restart),
        1 => proptest::collection::vec(any::<u8>(), 0..70).prop_map(Event::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_entries_are_those_of_a_map(events in proptest::collection::vec(event(), 1..40)) {
        let place = directory();
        let mut journal = Some(open(place.path()).0);
        let mut model = Entries::new();
        for event in events {
            let of_model = model.clone();
            let open_journal = journal.as_mut().unwrap();
            match event {
                Event::Append(batch) | Event::AppendToFull(_, batch) if batch.is_empty() => {}
                Event::Append(batch) => {
                    append(open_journal, &apply(&mut model, batch)).unwrap();
                }
                Event::AppendToFull(room, batch) => {
                    let batch = apply(&mut model, batch);
                    if during(Fault::Full { room }, || append(open_journal, &batch)).is_err() {
                        let found = read_pairs(place.path()).1;
                        prop_assert_eq!(entries(&found), of_model);
                        append(open_journal, &batch).unwrap();
                    }
                }
                Event::Compact => open_journal.compact(of_model.into_iter()).unwrap(),
                Event::CompactOnFull(room) => {
                    let _may_fail = during(Fault::Full { room }, || open_journal.compact(of_model.into_iter()));
                }
                Event::Restart | Event::Crash(_) => {
                    drop(journal.take());
                    if let Event::Crash(torn) = event {
                        let mut bytes = fs::read(place.path().join(NAME)).unwrap();
                        // Of the header alone and garbage, nothing could be recovered.
                        if bytes.len() > 32 {
                            bytes.extend(torn);
                            fs::write(place.path().join(NAME), bytes).unwrap();
                        }
                    }
                    let (opened, _, found) = open(place.path());
                    prop_assert_eq!(entries(&found), of_model);
                    journal = Some(opened);
                }
            }
        }
        prop_assert_eq!(entries(&read_pairs(place.path()).1), model);
    }
}

fn apply(model: &mut Entries, batch: Vec<(u8, Vec<u8>)>) -> Pairs {
    let batch: Pairs = batch.into_iter().map(|(key, value)| (vec![key], value)).collect();
    model.extend(batch.clone());
    model.retain(|_, value| !value.is_empty());
    batch
}

/// Appends records of entries of 100 bytes, of which 500 change each second, as the server does.
/// Returns the greatest length of the journal, in bytes, and the number of compactions.
fn run(directory: &Path, live: u64, records: u64) -> (u64, u64) {
    let (mut journal, ..) = open(directory);
    let pair = |entry: u64, number: u64| {
        (format!("key-{entry:016}").into_bytes(), format!("{number:080}").into_bytes())
    };
    let mut all: Entries = (0..live).map(|entry| pair(entry, 0)).collect();
    let live_bytes: u64 = all.iter().map(|(key, value)| record_bytes(key.len(), value.len())).sum();
    append(&mut journal, &all.clone().into_iter().collect::<Pairs>()).unwrap();
    let (mut greatest, mut compactions) = (0, 0);
    for first in (live..records).step_by(500) {
        let batch: Pairs = (first..first + 500).map(|number| pair(number * 7 % live, number)).collect();
        append(&mut journal, &batch).unwrap();
        all.extend(batch);
        greatest = greatest.max(fs::metadata(directory.join(NAME)).unwrap().len());
        assert_eq!(greatest.max(journal.bytes()), greatest);
        if journal.wants_compaction(live_bytes) {
            journal.compact(all.clone().into_iter()).unwrap();
            compactions += 1;
        }
    }
    drop(journal);
    assert_eq!(entries_of(directory), all);
    (greatest, compactions)
}

fn entries_of(directory: &Path) -> Entries {
    let mut entries = Entries::new();
    read(directory, |key, value| drop(entries.insert(key.to_vec(), value.to_vec()))).unwrap();
    entries
}

#[test]
fn the_journal_stays_below_twice_its_entries_and_one_batch() {
    let place = directory();
    let batch = 500 * record_bytes(20, 80);
    let (greatest, compactions) = run(place.path(), 100, 50_000);
    assert!(greatest <= 1024 * 1024 + batch, "{greatest}");
    assert!(compactions > 3);
    let place = directory();
    let (greatest, compactions) = run(place.path(), 10_000, 50_000);
    assert!(greatest <= 2 * 10_000 * record_bytes(20, 80) + batch, "{greatest}");
    assert!(compactions > 2);
}

#[test]
#[ignore = "takes minutes on a disk: cargo test --release ten_million -- --ignored --nocapture"]
fn ten_million_records_of_ten_thousand_entries_stay_below_64_mib() {
    let place = tempfile::tempdir().unwrap();
    let start = Instant::now();
    let (greatest, compactions) = run(place.path(), 10_000, 10_000_000);
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("{seconds:.1} s, at most {greatest} bytes, {compactions} compactions");
    assert!(greatest < 64 * 1024 * 1024);
}

#[test]
fn a_reader_sees_whole_records_while_another_process_appends_and_compacts() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    let is_over = AtomicBool::new(false);
    // Each batch gives all keys the same value, which grows.
    let batch = |number: u64| -> Pairs {
        let value = format!("{number:020}").into_bytes();
        (0..50).map(|key: u8| (vec![key], value.clone())).collect()
    };
    append(&mut journal, &batch(0)).unwrap();
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut reads, mut last) = (0, Entries::new());
            while !is_over.load(Ordering::Relaxed) || reads == 0 {
                let (recovered, found) = read_pairs(place.path());
                assert_eq!(recovered.records, found.len() as u64);
                let now = entries(&found);
                assert_eq!(now.len(), 50);
                assert!(last.iter().all(|(key, value)| now[key] >= *value), "a value went back");
                (reads, last) = (reads + 1, now);
            }
            reads
        });
        for number in 1..600 {
            append(&mut journal, &batch(number)).unwrap();
            if number % 100 == 0 {
                let room = number as usize;
                assert!(during(Fault::Full { room }, || append(&mut journal, &batch(number))).is_err());
                journal.compact(batch(number).into_iter()).unwrap();
            }
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}
