//! JSON Lines: one key a line, for stores of a million keys.
//!
//! A line that has not changed since it was read last is known by its fingerprint, and not read again. Every other goes
//! one of two ways to the same key. The short one reads the fields that are a key's own, and looks up what
//! narrows it by its text, which many keys have alike. Whatever the short way does not take, for whichever reason, goes
//! the long way of every other store, through a tree of values with their places, which tells what is wrong.

mod blocks;
mod line;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::str;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::cache::{KeyCache, SetBuilder};
use super::record::{self, KeyRecord, Unique};
use super::set::{KeySet, Pace, Reading};
use super::{KeyHash, Terms};
use crate::config::decode::Decoder;
use crate::config::fault::{Fault, Faults, Position};
use crate::config::tree::{self, Quoting};
use blocks::{BLOCK, Blocks, MAX_LINE, lines, too_long};
pub(super) use blocks::{each_line, each_raw_line};
pub(super) use line::is_of;
use line::{Instants, Line};

/// What is read at a time while requests are served …
const SHORT_BLOCK: usize = 64 * 1024;
/// … and behind so much work, a rest as long: a request waits for that, and not for the system's time slice.
const STRETCH: Duration = Duration::from_micros(200);
/// After this long, that the change is soon live counts for more.
const CONSIDERATION: Duration = Duration::from_millis(1200);
/// More faults than anybody reads; past them the reading ends.
const MAX_FAULTS: usize = 100;
/// Different sets of terms that are remembered by their text.
const MAX_TERMS: usize = 10_000;

/// Reads a file for service.
pub(super) fn load(path: &Path, reading: Reading<'_>) -> Result<KeySet, Faults> {
    let mut set = SetBuilder::new(reading.known);
    let (threads, step) = match reading.pace {
        Pace::Fast(threads) => (threads.max(1), BLOCK),
        Pace::Considerate => (1, SHORT_BLOCK),
    };
    let blocks = Mutex::new(Blocks::open(path, step)?);
    let failed = Mutex::new(Vec::new());
    let mut parts = Vec::new();
    std::thread::scope(|scope| {
        let (blocks, failed) = (&blocks, &failed);
        let mut work = (0..threads).map(|_| {
            let part = set.part();
            move || Loading::new(part).run(path, blocks, failed, reading.pace)
        });
        let own = work.next();
        let others: Vec<_> = work.map(|work| scope.spawn(work)).collect();
        parts.extend(own.map(|work| work()));
        parts.extend(others.into_iter().filter_map(|thread| thread.join().ok()));
    });
    if parts.len() < threads {
        return Err(Fault::of_file(path, "an internal error; the log has more").into());
    }
    parts.into_iter().for_each(|part| set.join(part));
    let mut faults = Faults::sorted(failed.into_inner().unwrap_or_else(PoisonError::into_inner)).0;
    faults.truncate(MAX_FAULTS);
    let twins = set.twins();
    if faults.is_empty() && !twins.is_empty() {
        faults = duplicates(path, reading.known, &twins)?;
    }
    let set = set.finish();
    if faults.is_empty() && set.keys == 0 {
        faults.push(Fault::of_file(path, "the key file has no keys"));
    }
    if faults.is_empty() { Ok(set) } else { Err(Faults(faults)) }
}

/// Every key as it is described, the long way.
pub(super) fn records(path: &Path) -> Result<Vec<KeyRecord>, Faults> {
    let mut faults = Vec::new();
    let mut records = Vec::new();
    let mut unique = Unique::default();
    each_line(path, |number, line| {
        records.extend(decode(path, number, line, &mut unique, &mut faults));
        faults.len() < MAX_FAULTS
    })?;
    if faults.is_empty() { Ok(records) } else { Err(Faults(faults)) }
}

/// One line as a key, if it is one.
pub(super) fn record(path: &Path, line: &[u8]) -> Option<KeyRecord> {
    long_way(path, 1, line, &mut Vec::new())
}

fn decode(
    path: &Path,
    number: usize,
    line: &[u8],
    unique: &mut Unique,
    faults: &mut Vec<Fault>,
) -> Option<KeyRecord> {
    if line.len() > MAX_LINE {
        faults.push(too_long(path, number));
        return None;
    }
    let Ok(text) = str::from_utf8(line) else {
        faults.push(Fault::at(path, Position { line: number, column: 1 }, "not UTF-8"));
        return None;
    };
    let node = tree::from_json(path, text, number).map_err(|fault| faults.push(fault)).ok()?;
    let mut decoder = Decoder::new(path, Quoting::Never, None);
    let record = record::decode(&mut decoder, &node, unique);
    let has_faults = !decoder.faults.is_empty();
    faults.append(&mut decoder.faults);
    record.filter(|_| !has_faults)
}

/// One line by itself; what it has in common with others is looked at elsewhere.
fn long_way(path: &Path, number: usize, line: &[u8], faults: &mut Vec<Fault>) -> Option<KeyRecord> {
    decode(path, number, line, &mut Unique::default(), faults)
}

/// Where the duplicates are that were found to be there. Lines that have no label in common with any are not read, since
/// there may be a million.
fn duplicates(path: &Path, known: &KeyCache, twins: &HashSet<u64>) -> Result<Vec<Fault>, Faults> {
    let mut faults = Vec::new();
    let mut unique = Unique::default();
    each_line(path, |number, line| {
        if let Some(record) = long_way(path, number, line, &mut Vec::new())
            && known.labels_of(&record).iter().any(|label| twins.contains(label))
        {
            decode(path, number, line, &mut unique, &mut faults);
        }
        faults.len() < MAX_FAULTS
    })?;
    // None: two labels had the same 64 bits by chance.
    Ok(faults)
}

struct Loading<'k> {
    set: SetBuilder<'k>,
    /// By the text of what narrows a key.
    terms: HashMap<String, Option<Arc<Terms>>>,
    /// Where such a text is put together.
    text: String,
    created_at: Instants,
    expires_at: Instants,
}

impl<'k> Loading<'k> {
    fn new(set: SetBuilder<'k>) -> Self {
        let (created_at, expires_at) = Default::default();
        Loading { set, terms: HashMap::new(), text: String::new(), created_at, expires_at }
    }

    /// Takes blocks until there are none, or somebody has found too many faults.
    fn run(
        mut self,
        path: &Path,
        blocks: &Mutex<Blocks<'_>>,
        failed: &Mutex<Vec<Fault>>,
        pace: Pace,
    ) -> SetBuilder<'k> {
        let (mut block, mut faults) = (Vec::new(), Vec::new());
        let started = Instant::now();
        let mut rested = started;
        loop {
            let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).next(&mut block);
            let first = match next {
                Ok(Some(first)) => first,
                Ok(None) => break,
                Err(fault) => {
                    faults.push(fault);
                    break;
                }
            };
            for (index, line) in lines(&block).enumerate() {
                let line = line.trim_ascii();
                if !line.is_empty() && faults.len() < MAX_FAULTS {
                    self.take(path, first + index, line, &mut faults);
                }
            }
            let is_considerate = pace == Pace::Considerate && started.elapsed() < CONSIDERATION;
            if is_considerate && rested.elapsed() >= STRETCH {
                std::thread::sleep(STRETCH);
                rested = Instant::now();
            }
            if faults.len() >= MAX_FAULTS || failed.lock().is_ok_and(|failed| failed.len() >= MAX_FAULTS) {
                break;
            }
        }
        failed.lock().unwrap_or_else(PoisonError::into_inner).append(&mut faults);
        self.set
    }

    fn take(&mut self, path: &Path, number: usize, line: &[u8], faults: &mut Vec<Fault>) {
        let fingerprint = self.set.fingerprint(line);
        let is_taken =
            self.keep(line, fingerprint) || line.len() <= MAX_LINE && self.take_short(line, fingerprint);
        if !is_taken && let Some(record) = long_way(path, number, line, faults) {
            self.take_record(&record, line, fingerprint);
        }
    }

    /// Takes a line that has not changed without reading it: most of a million have not.
    fn keep(&mut self, line: &[u8], fingerprint: u64) -> bool {
        const MARK: &[u8] = b"sha256:";
        if self.set.keep_next(fingerprint) {
            return true;
        }
        let Some(start) = memchr::memmem::find(line, MARK) else { return false };
        let text = line.get(start..start + MARK.len() + 64).and_then(|text| str::from_utf8(text).ok());
        text.and_then(KeyHash::parse).is_some_and(|hash| self.set.keep(&hash, fingerprint))
    }

    /// Takes a line the short way, if it can go there.
    fn take_short(&mut self, line: &[u8], fingerprint: u64) -> bool {
        let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else { return false };
        let terms = match line.terms_text(&mut self.text) {
            false => None,
            true => match self.terms.get(&self.text) {
                Some(terms) => terms.clone(),
                None => return false,
            },
        };
        let Some((hash, draft)) = line.draft(terms, &mut self.created_at, &mut self.expires_at) else {
            return false;
        };
        self.set.add(hash, draft, fingerprint);
        true
    }

    /// Takes what came the long way, and remembers its terms, so that others like it can go the short one.
    fn take_record(&mut self, record: &KeyRecord, line: &[u8], fingerprint: u64) {
        let draft = record.draft();
        if record.previous.is_empty()
            && self.terms.len() < MAX_TERMS
            && serde_json::from_slice::<Line<'_>>(line).is_ok_and(|line| line.terms_text(&mut self.text))
        {
            self.terms.insert(self.text.clone(), draft.terms.clone());
        }
        self.set.add(record.hash, draft, fingerprint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ApiKey;
    use crate::keys::cache::KeyCache;
    use crate::keys::directory::LastGood;
    use crate::keys::id_secret::IdSecret;

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

    fn load_at(path: &Path, known: &KeyCache) -> Result<KeySet, Faults> {
        load(
            path,
            Reading { known, last_good: &LastGood::new(), ids: &IdSecret::random(), pace: Pace::Fast(3) },
        )
    }

    fn load_text(text: &str) -> Result<KeySet, Faults> {
        load_at(write(text).path(), &KeyCache::default())
    }

    #[test]
    fn both_ways_lead_to_the_same_key() {
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
            // The second of two alike has its terms known already, and goes the short way.
            let (first, second) = (with("a"), with("b"));
            let file = write(&second);
            let nothing = KeyCache::default();
            let mut loading = Loading::new(SetBuilder::new(&nothing));
            if !fields.contains("previous") {
                let record = long_way(file.path(), 1, first.trim().as_bytes(), &mut Vec::new()).unwrap();
                loading.take_record(&record, first.trim().as_bytes(), 1);
                let is_short = loading.take_short(second.trim().as_bytes(), 1);
                assert!(is_short || fields.contains("\"n\":1"), "{fields}");
            }
            let short = loading.set.finish().entries.pop();
            let long = records(file.path()).unwrap().pop().unwrap();
            let of_file = load_at(file.path(), &KeyCache::default()).unwrap().entries.pop().unwrap();
            assert_eq!(of_file.0, long.hash);
            assert_eq!(of_file.1.key, ApiKey::from(long.draft()));
            if let Some((hash, live)) = short.filter(|(hash, _)| *hash == long.hash) {
                assert_eq!((hash, &live.key), (long.hash, &ApiKey::from(long.draft())));
            }
        }
    }

    #[test]
    fn every_fault_is_told_with_its_place_and_nothing_is_quoted() {
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
    fn what_stands_twice_is_told_with_both_lines() {
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
        assert!(load_text("\n").is_err());
        assert!(load_text("[]\n").is_err());
        assert!(load_text("key: value\n").is_err());
        assert_eq!(load_text(&"x\n".repeat(100_000)).unwrap_err().0.len(), MAX_FAULTS);
        assert!(load_text(&" ".repeat(2 * MAX_LINE)).is_err());
    }

    #[test]
    fn what_is_in_service_already_is_the_very_same() {
        let file = write(&[line("a", ""), line("b", ""), line("c", "")].concat());
        let cache = KeyCache::from(&load_at(file.path(), &KeyCache::default()).unwrap());
        // Another cache made the fingerprints, so these lines are read; then they are known.
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
                let place = random.usize(..lines.len());
                match random.usize(..6) {
                    0 => lines.insert(place, (round * 10 + lines.len(), false)),
                    1 if lines.len() > 1 => drop(lines.remove(place)),
                    2 => lines.swap(place, 0),
                    3 => lines.reverse(),
                    4 => lines.rotate_left(place),
                    _ => lines[place].1 = !lines[place].1,
                }
            }
            lines.sort_by_key(|(id, _)| if round % 7 == 0 { *id } else { 0 });
            lines.dedup_by_key(|(id, _)| *id);
            let text = |(id, off): &(usize, bool)| {
                line(&id.to_string(), if *off { ",\"disabled\":true" } else { "" })
            };
            let mut text: Vec<String> = lines.iter().map(text).collect();
            // A file with a twin, or a fault, changes nothing; what comes behind it is right again.
            if round % 5 == 0 {
                text.push(text[random.usize(..text.len())].clone());
                std::fs::write(file.path(), text.concat()).unwrap();
                assert!(load_at(file.path(), &cache).is_err());
                text.pop();
            }
            std::fs::write(file.path(), text.concat()).unwrap();
            let reading = Reading {
                known: &cache,
                last_good: &LastGood::new(),
                ids: &IdSecret::random(),
                pace: Pace::Considerate,
            };
            cache.replace(&load(file.path(), reading).unwrap());
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
    fn what_is_new_and_what_stays_may_not_share_anything() {
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
            assert!(str::from_utf8(line).unwrap().contains(&format!("\"key_{}\"", number - 1)));
            seen.push_str(str::from_utf8(line).unwrap());
            Ok::<bool, Fault>(true)
        })
        .unwrap();
        assert_eq!(seen, text.trim_end());
        assert_eq!(load_text(&text).unwrap().keys, 20_000);
    }
}
