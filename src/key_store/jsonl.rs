//! The JSON Lines store: one key on each line, for stores of up to a million keys.
//!
//! An unchanged line is recognized by its fingerprint, and is not parsed again. Any other line is
//! decoded by the fast path or by the exact decoder; both give the same key. The fast path parses
//! the fields that every key has, and looks up the key's terms by their text, because many keys
//! have the same terms. A line that the fast path can't decode, for any reason, is decoded by the
//! exact decoder, which all kinds of store use and which reports faults with their positions.

mod blocks;
mod exact;
mod fast_path;
mod loading;

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::config::fault::{Fault, Faults, Position};
use crate::key_store::build_set::{BuildSet, Built, Findings, KeysInService};
use crate::key_store::decode::Unique;
use crate::key_store::labels::Hashing;
use crate::key_store::reading::{AtFault, Pace, Reading};
use crate::key_store::settle::{self, Excluded, Twin, settled};
use crate::keys::record::KeyRecord;
use blocks::{BLOCK, Blocks};
pub(crate) use blocks::{MAX_LINE, each_line, each_raw_line};
use exact::decode;
pub(super) use exact::decode_alone;
pub(crate) use fast_path::is_of;
use loading::Read;
pub(super) use loading::{Loading, MAX_FAULTS};

/// How many bytes are read at a time while the server handles requests.
const SHORT_BLOCK: usize = 64 * 1024;

/// Loads a file for service.
pub(crate) fn load<'k, K: KeysInService>(
    path: &Path,
    reading: Reading<'k, K>,
) -> Result<Built<K::Builder<'k>>, Faults> {
    match reading.at_fault {
        AtFault::Refused => load_good(path, reading),
        AtFault::Held => load_held(path, reading),
    }
}

/// Loads a file, and fails if any line of it has a fault.
fn load_good<'k, K: KeysInService>(
    path: &Path,
    reading: Reading<'k, K>,
) -> Result<Built<K::Builder<'k>>, Faults> {
    let (mut builder, read) = pass(path, reading, &HashSet::new())?;
    let labels = builder.shared_labels();
    let mut faults = read.sorted();
    if faults.is_empty() && !labels.is_empty() {
        faults = duplicates(path, reading.known.hashing(), &labels)?;
    }
    match faults.is_empty() {
        true => {
            let findings = Findings { is_blank: read.lines == 0, ..Findings::default() };
            Ok(Built { builder, findings })
        }
        false => Err(Faults(faults)),
    }
}

/// Loads a file for a server that has keys of this file in service. The key of a line with a fault
/// keeps its last good form.
fn load_held<'k, K: KeysInService>(
    path: &Path,
    reading: Reading<'k, K>,
) -> Result<Built<K::Builder<'k>>, Faults> {
    let hashing = reading.known.hashing();
    let mut excluded = Excluded::default();
    let (mut builder, mut read) = settled(
        &mut excluded,
        |excluded| {
            let (builder, read) = pass(path, reading, excluded)?;
            match read.is_cut {
                true => Err(Faults(read.sorted())),
                false => Ok((builder, read)),
            }
        },
        |(builder, _)| builder.shared_labels(),
        |(builder, _), labels, excluded| twins(path, hashing, builder, labels, excluded),
    )?;
    builder.hold(&read.claims);
    read.faults.append(&mut excluded.faults);
    let has_entries = read.has_entries || !excluded.entries.is_empty();
    let findings = Findings { is_blank: read.lines == 0, refused: read.sorted(), ..Findings::default() };
    settle::if_list(Built { builder, findings }, has_entries)
}

/// Reads all lines except the excluded ones, and builds a set of their keys.
fn pass<'k, K: KeysInService>(
    path: &Path,
    reading: Reading<'k, K>,
    excluded: &HashSet<usize>,
) -> Result<(K::Builder<'k>, Read), Faults> {
    let mut builder = reading.known.begin();
    let (threads, step) = match reading.pace {
        Pace::Fast(threads) => (threads.max(1), BLOCK),
        Pace::Background => (1, SHORT_BLOCK),
    };
    let blocks = Mutex::new(Blocks::open(path, step)?);
    let of_all = Mutex::new(Read::default());
    let mut parts = Vec::new();
    std::thread::scope(|scope| {
        let (blocks, of_all) = (&blocks, &of_all);
        let mut work = (0..threads).map(|_| {
            let loading = Loading::new(builder.part(), (reading.at_fault, reading.provisions), excluded);
            move || loading.run(path, blocks, of_all, reading.pace)
        });
        let own = work.next();
        let others: Vec<_> = work.map(|work| scope.spawn(work)).collect();
        parts.extend(own.map(|work| work()));
        parts.extend(others.into_iter().filter_map(|thread| thread.join().ok()));
    });
    if parts.len() < threads {
        return Err(Fault::of_file(path, "an internal error; the log has more").into());
    }
    parts.into_iter().for_each(|part| builder.join(part));
    let read = of_all.into_inner().unwrap_or_else(PoisonError::into_inner);
    match &read.unreadable {
        Some(fault) => Err(fault.clone().into()),
        None => Ok((builder, read)),
    }
}

/// Returns every key as the file describes it.
pub(crate) fn records(path: &Path) -> Result<Vec<KeyRecord>, Faults> {
    let mut faults = Vec::new();
    let mut records = Vec::new();
    let mut unique = Unique::default();
    each_line(path, |number, line| {
        match decode(path, number, line, &mut unique) {
            Ok(record) => records.push(record),
            Err(unread) => faults.extend(unread.faults),
        }
        faults.len() < MAX_FAULTS
    })?;
    if faults.is_empty() { Ok(records) } else { Err(Faults(faults)) }
}

/// Returns the key of a line; `None` if the line has a fault.
pub(crate) fn record(path: &Path, line: &[u8]) -> Option<KeyRecord> {
    decode_alone(path, 1, line).ok()
}

/// Returns a fault for each line that shares an id, a name or a hash with an earlier line. Lines
/// that have none of `labels` are not decoded, because a file may have a million lines.
fn duplicates(path: &Path, hashing: &Hashing, labels: &HashSet<u64>) -> Result<Vec<Fault>, Faults> {
    let mut faults = Vec::new();
    let mut unique = Unique::default();
    each_line(path, |number, line| {
        if fast_path::may_have(line, hashing, labels)
            && decode_alone(path, number, line).is_ok_and(|record| has_any(hashing, &record, labels))
            && let Err(unread) = decode(path, number, line, &mut unique)
        {
            faults.extend(unread.faults);
        }
        faults.len() < MAX_FAULTS
    })?;
    // If no fault is found, two different texts have the same 64-bit label by chance.
    Ok(faults)
}

/// Finds the lines that have one of `labels`. Excluded lines are skipped.
fn twins(
    path: &Path,
    hashing: &Hashing,
    builder: &impl BuildSet,
    labels: &HashSet<u64>,
    excluded: &HashSet<usize>,
) -> Result<Vec<Twin>, Faults> {
    let mut twins = Vec::new();
    each_line(path, |number, line| {
        if !excluded.contains(&number)
            && fast_path::may_have(line, hashing, labels)
            && let Ok(record) = decode_alone(path, number, line)
            && has_any(hashing, &record, labels)
        {
            let fault = settle::shared(path, Position { line: number, column: 1 });
            twins.push(Twin { entry: number, is_owner: builder.is_owner(&record), fault });
        }
        true
    })?;
    Ok(twins)
}

fn has_any(hashing: &Hashing, record: &KeyRecord, labels: &HashSet<u64>) -> bool {
    hashing.labels_of(record).iter().any(|label| labels.contains(label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key_cache::{KeyCache, KeySet};
    use crate::key_store::provisions::Provisions;
    use crate::key_store::reading::LastGood;
    use crate::keys::id_secret::IdSecret;
    use crate::keys::{ApiKey, KeyHash};

    fn write(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn hash(secret: &str) -> String {
        KeyHash::of(secret.as_bytes()).to_stored()
    }

    fn line(id: &str, more: &str) -> String {
        format!("{{\"id\":\"key_{id}\",\"hash\":\"{}\",\"permissions\":[\"read\"]{more}}}\n", hash(id))
    }

    fn reading(known: &KeyCache, at_fault: AtFault, pace: Pace) -> Reading<'_, KeyCache> {
        static NONE: LastGood = LastGood::new();
        static IDS: std::sync::LazyLock<IdSecret> = std::sync::LazyLock::new(IdSecret::random);
        Reading { known, last_good: &NONE, ids: &IDS, provisions: Provisions::Any, at_fault, pace }
    }

    fn load_at(path: &Path, known: &KeyCache) -> Result<KeySet, Faults> {
        Ok(load(path, reading(known, AtFault::Refused, Pace::Fast(3)))?.finish())
    }

    fn load_text(text: &str) -> Result<KeySet, Faults> {
        load_at(write(text).path(), &KeyCache::default())
    }

    #[test]
    fn the_fast_path_and_the_exact_decoder_give_the_same_key() {
        let fields = [
            ",\"name\":\"a b\"",
            ",\"name\":\"\\u00e9 \\ud83d\\ude00\"",
            ",\"name\":null,\"disabled\":true,\"metadata\":{\"team\":\"x\"}",
            ",\"created_at\":\"2026-11-23T00:00:00+01:00\",\"expires_at\":\"9000-12-31T00:00:00.5Z\"",
            ",\"environment\":\"production\",\"rate_limits\":[{\"requests\":600,\"per\":\"1m\"}]",
            ",\"not_before\":\"2026-11-23T00:00:00Z\",\"max_concurrent\":8,\"allow_from\":[\"10.0.0.0/8\"]",
            ",\"routes\":[\"chat\"],\"metadata\":{\"n\":1}",
            ",\"previous\":[{\"hash\":\"HASH\",\"expires_at\":\"2026-12-01T00:00:00Z\"}]",
        ];
        for (number, fields) in fields.iter().enumerate() {
            let fields = fields.replace("HASH", &hash(&format!("old {number}")));
            let with = |id: &str| line(id, &fields.replace("a b", id));
            // The terms of the second line are known from the first line, so the fast path decodes
            // the second.
            let (first, second) = (with("a"), with("b"));
            let file = write(&second);
            let (nothing, none) = (KeyCache::default(), HashSet::new());
            let mut loading = Loading::new(nothing.begin(), (AtFault::Refused, Provisions::Any), &none);
            if !fields.contains("previous") {
                let record = decode_alone(file.path(), 1, first.trim().as_bytes()).unwrap();
                loading.take_record(&record, first.trim().as_bytes(), 1);
                let is_fast = loading.take_fast(second.trim().as_bytes(), 1);
                assert!(is_fast || fields.contains("\"n\":1"), "{fields}");
            }
            let fast = loading.builder.finish(Findings::default()).entries.pop();
            let exact = records(file.path()).unwrap().pop().unwrap();
            let of_file = load_at(file.path(), &KeyCache::default()).unwrap().entries.pop().unwrap();
            assert_eq!(of_file.0, exact.hash);
            assert_eq!(of_file.1.key, ApiKey::from(exact.draft()));
            if let Some((hash, live)) = fast.filter(|(hash, _)| *hash == exact.hash) {
                assert_eq!((hash, &live.key), (exact.hash, &ApiKey::from(exact.draft())));
            }
        }
    }

    #[test]
    fn every_fault_is_reported_with_its_position_and_nothing_is_quoted() {
        let text = [
            line("a", ""),
            "\n".to_owned(),
            line("b", ",\"permisions\":[]"),
            line("c", ",\"expires_at\":\"2026-01-01T00:00:00\""),
            "{\"id\":\"key_SECRET\",\n".to_owned(),
            line("d", ",\"id\":\"key_SECRET\""),
            "{\"id\":\"key_e\",\"hash\":\"SECRET\",\"permissions\":[\"SECRET\"]}".to_owned(),
        ];
        let faults = load_text(&text.concat()).unwrap_err();
        let lines: Vec<_> = faults.0.iter().map(|fault| fault.at.line).collect();
        assert_eq!(lines, [3, 4, 5, 6, 7, 7]);
        assert!(!faults.to_string().contains("SECRET"), "{faults}");
        assert!(faults.0[0].hint.as_deref().unwrap().contains("permissions"), "{faults}");
    }

    #[test]
    fn a_duplicate_is_reported_with_both_lines() {
        let named = |id: &str| line(id, ",\"name\":\"x\"");
        let same_hash = line("b", "").replace("key_b", "key_c");
        let rotated = line(
            "e",
            &format!(
                ",\"previous\":[{{\"hash\":\"{}\",\"expires_at\":\"2026-12-01T00:00:00Z\"}}]",
                hash("a")
            ),
        );
        for second in [line("a", ""), same_hash, rotated, named("d")] {
            let text = [line("a", ""), line("b", ""), named("f"), second].concat();
            let faults = load_text(&text).unwrap_err();
            assert!(
                faults.0.iter().all(|fault| fault.at.line == 4 && fault.message.contains("twice")),
                "{faults}"
            );
        }
    }

    #[test]
    fn a_cut_line_no_keys_and_endless_faults_are_refused() {
        let cut = line("a", "");
        assert!(load_text(&cut[..cut.len() - 5]).unwrap_err().to_string().contains("too early"));
        assert!(load_text("\n").is_ok_and(|set| set.is_blank && set.keys == 0));
        assert!(load_text("[]\n").is_err());
        assert!(load_text("key: value\n").is_err());
        assert_eq!(load_text(&"x\n".repeat(100_000)).unwrap_err().0.len(), MAX_FAULTS);
        assert!(load_text(&" ".repeat(2 * MAX_LINE)).is_err());
    }

    #[test]
    fn a_key_in_service_stays_the_same() {
        let file = write(&[line("a", ""), line("b", ""), line("c", "")].concat());
        let cache = KeyCache::from(&load_at(file.path(), &KeyCache::default()).unwrap());
        // Another cache made the fingerprints, so the first round decodes these lines. The second
        // round recognizes the lines by their fingerprints.
        for _ in 0..2 {
            let set = load_at(file.path(), &cache).unwrap();
            assert_eq!((set.entries.len(), set.kept, set.keys), (0, 3, 3));
            cache.replace(&set);
        }
        let changed = [line("a", ""), line("b", ",\"disabled\":true"), line("d", "")].concat();
        std::fs::write(file.path(), changed).unwrap();
        let set = load_at(file.path(), &cache).unwrap();
        assert_eq!((set.entries.len(), set.kept, set.keys), (2, 1, 3));
        let difference = cache.replace(&set);
        assert_eq!((difference.added, difference.changed, difference.removed), (1, 1, 1));
    }

    #[test]
    fn whatever_happens_to_the_lines_the_keys_are_those_of_the_file() {
        let mut random = fastrand::Rng::with_seed(7);
        let (file, cache) = (write(&line("0", "")), KeyCache::default());
        let mut lines: Vec<(usize, bool)> = vec![(0, false)];
        for round in 1..300 {
            for _ in 0..random.usize(1..4) {
                let index = random.usize(..lines.len());
                match random.usize(..6) {
                    0 => lines.insert(index, (round * 10 + lines.len(), false)),
                    1 if lines.len() > 1 => drop(lines.remove(index)),
                    2 => lines.swap(index, 0),
                    3 => lines.reverse(),
                    4 => lines.rotate_left(index),
                    _ => lines[index].1 = !lines[index].1,
                }
            }
            lines.sort_by_key(|(id, _)| if round % 7 == 0 { *id } else { 0 });
            lines.dedup_by_key(|(id, _)| *id);
            let text = |(id, off): &(usize, bool)| {
                line(&id.to_string(), if *off { ",\"disabled\":true" } else { "" })
            };
            let mut text: Vec<String> = lines.iter().map(text).collect();
            // A file with a duplicate changes no key in service. The next file without a duplicate
            // is loaded.
            if round % 5 == 0 {
                text.push(text[random.usize(..text.len())].clone());
                std::fs::write(file.path(), text.concat()).unwrap();
                assert!(load_at(file.path(), &cache).is_err());
                text.pop();
            }
            std::fs::write(file.path(), text.concat()).unwrap();
            let reading = reading(&cache, AtFault::Held, Pace::Background);
            cache.replace(&load(file.path(), reading).unwrap().finish());
            assert_eq!(cache.len(), lines.len(), "round {round}");
            for (id, off) in &lines {
                let found = cache.find(&KeyHash::of(id.to_string().as_bytes())).unwrap();
                assert_eq!(
                    (found.key.key.id(), found.key.key.disabled),
                    (format!("key_{id}").as_str(), *off)
                );
            }
        }
    }

    #[test]
    fn new_keys_and_those_that_stay_may_not_share_anything() {
        let named = |id: &str, name: &str| line(id, &format!(",\"name\":\"{name}\""));
        let file = write(&[named("a", "x"), named("b", "y")].concat());
        let cache = KeyCache::default();
        cache.replace(&load_at(file.path(), &cache).unwrap());
        let same_hash = named("a", "z").replace("key_a", "key_c");
        let same_id = named("c", "z").replace("key_c", "key_a");
        for new in [same_hash, same_id, named("c", "x"), named("a", "x")] {
            for text in
                [[&new, &named("a", "x"), &named("b", "y")], [&named("a", "x"), &named("b", "y"), &new]]
            {
                std::fs::write(file.path(), text.map(String::as_str).concat()).unwrap();
                let faults = load_at(file.path(), &cache).unwrap_err();
                assert!(faults.to_string().contains("twice"), "{faults}");
            }
        }
        std::fs::write(file.path(), [named("b", "y"), named("c", "x")].concat()).unwrap();
        assert_eq!(cache.replace(&load_at(file.path(), &cache).unwrap()).removed, 1);
    }

    #[test]
    fn blocks_are_of_whole_lines() {
        let text: String = (0..20_000).map(|number| line(&format!("{number}"), "")).collect();
        let file = write(text.trim_end());
        let mut seen = String::new();
        each_raw_line(file.path(), |number, line| {
            assert!(std::str::from_utf8(line).unwrap().contains(&format!("\"key_{}\"", number - 1)));
            seen.push_str(std::str::from_utf8(line).unwrap());
            Ok::<bool, Fault>(true)
        })
        .unwrap();
        assert_eq!(seen, text.trim_end());
        assert_eq!(load_text(&text).unwrap().keys, 20_000);
    }
}
