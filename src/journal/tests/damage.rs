//! Cuts and flipped bits cost the records that they hit, and no others.

use std::ops::Range;

use super::*;

/// A record, and its place in the file.
type Placed = (Range<usize>, (Vec<u8>, Vec<u8>));

/// The records of a journal, each with its place in the file.
fn places(pairs: &[(Vec<u8>, Vec<u8>)]) -> Vec<Placed> {
    let mut end = 32;
    let place = |pair: &(Vec<u8>, Vec<u8>)| {
        let start = end;
        end += record_bytes(pair.0.len(), pair.1.len()) as usize;
        (start..end, pair.clone())
    };
    pairs.iter().map(place).collect()
}

/// The records that do not overlap these bytes.
fn without(pairs: &[(Vec<u8>, Vec<u8>)], hit: Range<usize>) -> Pairs {
    let places = places(pairs).into_iter();
    let kept = places.filter(|(place, _)| place.end <= hit.start || hit.end <= place.start);
    kept.map(|(_, pair)| pair).collect()
}

#[test]
fn a_cut_at_any_byte_costs_the_cut_record_and_later_appends_are_read() {
    let place = directory();
    let all = pairs(60);
    let bytes = journal_of(place.path(), &all);
    for cut in 32..=bytes.len() {
        fs::write(place.path().join(NAME), &bytes[..cut]).unwrap();
        let whole: Vec<_> = places(&all).into_iter().filter(|(place, _)| place.end <= cut).collect();
        let end = whole.last().map_or(32, |(place, _)| place.end);
        let whole: Pairs = whole.into_iter().map(|(_, pair)| pair).collect();
        let expected = Recovered {
            records: whole.len() as u64,
            bytes: end as u64,
            cut: end < cut,
            ..Recovered::default()
        };
        assert_eq!(read_pairs(place.path()), (expected, whole.clone()), "{cut}");
        let (mut journal, recovered, found) = open(place.path());
        assert_eq!((recovered, found), (expected, whole.clone()), "{cut}");
        assert_eq!(fs::metadata(place.path().join(NAME)).unwrap().len(), end as u64);
        append(&mut journal, &all[..3]).unwrap();
        drop(journal);
        let (after, found) = read_pairs(place.path());
        assert_eq!(found, [whole, all[..3].to_vec()].concat(), "{cut}");
        assert!(!after.cut);
    }
    // A cut header has lost all: nothing else is known of it.
    for cut in 0..32 {
        fs::write(place.path().join(NAME), &bytes[..cut]).unwrap();
        assert!(matches!(refusal(place.path()), OpenError::Unreadable(_) | OpenError::Foreign(_)));
        assert_eq!(fs::read(place.path().join(NAME)).unwrap(), &bytes[..cut]);
    }
}

#[test]
fn a_cut_between_records_is_noticed_if_the_missing_records_were_compacted() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    journal.compact(pairs(5).into_iter()).unwrap();
    drop(journal);
    let bytes = fs::read(place.path().join(NAME)).unwrap();
    fs::write(place.path().join(NAME), &bytes[..places(&pairs(5))[2].0.end]).unwrap();
    let (_, recovered, found) = open(place.path());
    assert_eq!(found, pairs(3));
    assert!(recovered.cut);
}

#[test]
fn a_flipped_bit_anywhere_costs_the_record_that_it_hits() {
    let place = directory();
    let all = pairs(9);
    let bytes = journal_of(place.path(), &all);
    for bit in 0..bytes.len() * 8 {
        check_flip(place.path(), &bytes, &all, bit);
    }
}

#[test]
fn random_flipped_bits_in_a_larger_journal_cost_the_records_that_they_hit() {
    let place = directory();
    let all = pairs(500);
    let bytes = journal_of(place.path(), &all);
    let mut state = 7_u64;
    for _ in 0..1000 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        check_flip(place.path(), &bytes, &all, (state >> 33) as usize % (bytes.len() * 8));
    }
}

fn check_flip(directory: &Path, bytes: &[u8], all: &[(Vec<u8>, Vec<u8>)], bit: usize) {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    fs::write(directory.join(NAME), &flipped).unwrap();
    let expected = without(all, bit / 8..bit / 8 + 1);
    let (recovered, found) = read_pairs(directory);
    assert_eq!(found, expected, "bit {bit}");
    let hit = places(all).into_iter().map(|(place, _)| place).find(|place| place.contains(&(bit / 8)));
    let hit = hit.unwrap_or(0..32);
    let is_last = hit.end == bytes.len();
    assert_eq!(recovered.cut, is_last);
    if recovered.damaged.parts > 0 {
        assert_eq!((recovered.damaged.parts, recovered.damaged.first), (1, Some(hit.start as u64)));
        assert_eq!(recovered.damaged.bytes, hit.len() as u64);
    } else {
        // A length field of the last record that is too long looks like a cut.
        assert!(is_last);
    }
    if !bit.is_multiple_of(64) {
        return;
    }
    // Appends behind the damage are read, and a compaction removes the damage.
    let (mut journal, _, found) = open(directory);
    assert_eq!(found, expected);
    append(&mut journal, &all[..2]).unwrap();
    drop(journal);
    let (mut journal, _, found) = open(directory);
    let after = [expected, all[..2].to_vec()].concat();
    assert_eq!(found, after, "bit {bit}");
    assert_eq!(journal.wants_compaction(0), !is_last);
    journal.compact(entries(&after).into_iter()).unwrap();
    assert!(!journal.wants_compaction(0));
    let (recovered, found) = read_pairs(directory);
    assert_eq!(recovered.damaged, reader::Damaged::default());
    assert_eq!(entries(&found), entries(&after));
}

#[test]
fn lost_sectors_cost_the_records_in_them() {
    let place = directory();
    let all = pairs(400);
    let bytes = journal_of(place.path(), &all);
    for sector in 0..bytes.len() / 512 {
        let hit = sector * 512..(sector + 1) * 512;
        for fill in [0, 0x55] {
            let mut damaged = bytes.clone();
            damaged[hit.clone()].fill(fill);
            fs::write(place.path().join(NAME), &damaged).unwrap();
            let (recovered, found) = read_pairs(place.path());
            assert_eq!(found, without(&all, hit.clone()), "{hit:?}");
            assert_eq!(recovered.damaged.parts, 1);
        }
        // Bytes that are missing, or that were inserted, too.
        fs::write(place.path().join(NAME), [&bytes[..hit.start], &bytes[hit.end..]].concat()).unwrap();
        let found = read_pairs(place.path()).1;
        // A record is whole if the bytes that follow are those that are missing.
        assert!(without(&all, hit.clone()).iter().all(|pair| found.contains(pair)), "{hit:?}");
        assert!(found.iter().all(|pair| all.contains(pair)), "{hit:?}");
        fs::write(place.path().join(NAME), [&bytes[..hit.start], b"?", &bytes[hit.start..]].concat())
            .unwrap();
        let at_hit = places(&all).iter().find(|(place, _)| place.start == hit.start).is_some();
        let split = if at_hit { 0..0 } else { hit.start..hit.start + 1 };
        assert_eq!(read_pairs(place.path()).1, without(&all, split));
    }
}

#[test]
fn records_of_an_older_file_and_stale_records_are_not_read() {
    let place = directory();
    let old = journal_of(place.path(), &pairs(8));
    let (mut journal, ..) = open(place.path());
    journal.compact(entries(&pairs(8)).into_iter()).unwrap();
    drop(journal);
    let new = fs::read(place.path().join(NAME)).unwrap();
    let now = read_pairs(place.path()).1;
    // The old file is longer, and the file system brings its bytes back behind the new ones.
    fs::write(place.path().join(NAME), [&new[..], &old[32..]].concat()).unwrap();
    let (recovered, found) = read_pairs(place.path());
    assert_eq!(found, now);
    assert_eq!((recovered.bytes, recovered.cut), (new.len() as u64, true));
    // Records of the same file come back behind newer ones.
    fs::write(place.path().join(NAME), [&old[..], &old[32..200]].concat()).unwrap();
    assert_eq!(open(place.path()).2, pairs(8));
    assert_eq!(fs::read(place.path().join(NAME)).unwrap(), old);
}

#[test]
fn the_numbers_of_cut_records_are_not_used_again() {
    let place = directory();
    let all = pairs(6);
    let bytes = journal_of(place.path(), &all);
    let places = places(&all);
    // The records 3 to 5 are lost, and the whole record 5 comes back behind a newer record.
    fs::write(place.path().join(NAME), [&bytes[..places[3].0.start], &[0; 120]].concat()).unwrap();
    let (mut journal, ..) = open(place.path());
    append(&mut journal, &all[..1]).unwrap();
    drop(journal);
    let now = fs::read(place.path().join(NAME)).unwrap();
    fs::write(place.path().join(NAME), [&now, &bytes[places[5].0.clone()]].concat()).unwrap();
    assert_eq!(read_pairs(place.path()).1, [&all[..3], &all[..1]].concat());
}

#[test]
fn a_record_is_found_wherever_the_reader_has_cut_the_file() {
    let place = directory();
    let all = pairs(3);
    let bytes = journal_of(place.path(), &all);
    let split = places(&all)[1].0.start;
    for shift in 0..2 * format::HEAD {
        let garbage = vec![b'?'; 256 * 1024 - split - shift];
        fs::write(place.path().join(NAME), [&bytes[..split], &garbage, &bytes[split..]].concat()).unwrap();
        let (recovered, found) = read_pairs(place.path());
        assert_eq!(found, all, "{shift}");
        assert_eq!(recovered.damaged.bytes, garbage.len() as u64);
    }
}

#[test]
fn a_value_that_holds_a_record_is_never_read_as_one() {
    let place = directory();
    let (mut journal, ..) = open(place.path());
    let mut forged = Vec::new();
    format::encode(&mut forged, !journal.salt, 1000, b"key-0", b"forged").unwrap();
    let mut all = pairs(3);
    all.insert(1, (b"forger".to_vec(), forged));
    append(&mut journal, &all).unwrap();
    drop(journal);
    let bytes = fs::read(place.path().join(NAME)).unwrap();
    for bit in 0..bytes.len() * 8 {
        check_flip(place.path(), &bytes, &all, bit);
    }
}

#[test]
fn lengths_and_markers_without_sense_do_not_make_the_search_slow() {
    let place = directory();
    let bytes = journal_of(place.path(), &pairs(2));
    let mut head = Vec::new();
    format::encode(&mut head, 0, u64::MAX, b"", &[0; 60_000]).unwrap();
    let markers = head[..format::HEAD].repeat(200_000);
    fs::write(place.path().join(NAME), [&bytes[..], &markers, &[0xff; 300_000]].concat()).unwrap();
    let (recovered, found) = read_pairs(place.path());
    assert_eq!(found, pairs(2));
    assert!(recovered.cut);
    assert_eq!(open(place.path()).2, pairs(2));
    assert_eq!(fs::read(place.path().join(NAME)).unwrap(), bytes);
}
