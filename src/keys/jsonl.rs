//! JSON Lines: one key a line, for stores of a million keys.
//!
//! A line goes one of two ways to the same key. The short one reads the fields that are a key's own, and looks up what
//! narrows it by its text, which many keys have alike. Whatever the short way does not take, for whichever reason, goes
//! the long way of every other store, through a tree of values with their places, which tells what is wrong.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::str;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::cache::KeyCache;
use super::record::{self, KeyRecord, Unique, is_label};
use super::set::{KeySet, SetBuilder};
use super::store::unreadable;
use super::token::is_key_id;
use super::{Draft, KeyHash, Permission, Permissions, Terms};
use crate::config::decode::Decoder;
use crate::config::fault::{Fault, Faults, Position};
use crate::config::tree::{self, Quoting};

/// No honest line is longer.
const MAX_LINE: usize = 1024 * 1024;
const READ_BUFFER: usize = 256 * 1024;
/// More faults than anybody reads; past them the reading ends.
const MAX_FAULTS: usize = 100;
/// Different sets of terms that are remembered by their text.
const MAX_TERMS: usize = 10_000;

/// Reads a file for service.
pub(super) fn load(path: &Path, known: &KeyCache) -> Result<KeySet, Faults> {
    let mut loading = Loading { set: SetBuilder::new(known), seen: Seen::default(), terms: HashMap::new() };
    let mut faults = Vec::new();
    each_line(path, |number, line| {
        if !loading.take_short(line)
            && let Some(record) = long_way(path, number, line, &mut faults)
        {
            loading.take(&record, line);
        }
        faults.len() < MAX_FAULTS
    })?;
    let set = loading.set.finish();
    if faults.is_empty() && loading.seen.has_duplicates() {
        faults = duplicates(path)?;
    }
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

/// Whether a line is of the key with this id or name, without looking at all of it: it may be one of a million.
pub(super) fn is_of(line: &[u8], key: &str) -> bool {
    #[derive(Deserialize)]
    struct Labels<'a> {
        #[serde(borrow)]
        id: Text<'a>,
        name: Option<Text<'a>>,
    }
    let labels = serde_json::from_slice::<Labels<'_>>(line);
    labels.is_ok_and(|labels| labels.id.0 == key || labels.name.is_some_and(|name| name.0 == key))
}

/// One line as a key, if it is one.
pub(super) fn record(path: &Path, line: &[u8]) -> Option<KeyRecord> {
    long_way(path, 1, line, &mut Vec::new())
}

/// Calls `take` with every line that is not blank, and its number, until it says that this is enough.
pub(super) fn each_line(path: &Path, mut take: impl FnMut(usize, &[u8]) -> bool) -> Result<(), Fault> {
    each_raw_line(path, |number, line| {
        let line = line.trim_ascii();
        Ok::<bool, Fault>(line.is_empty() || take(number, line))
    })
}

/// Calls `take` with every line as it is, its end included, and its number, until it says that this is enough.
pub(super) fn each_raw_line<E: From<Fault>>(
    path: &Path,
    mut take: impl FnMut(usize, &[u8]) -> Result<bool, E>,
) -> Result<(), E> {
    let failed = |error: std::io::Error| unreadable(path, &error);
    let metadata = std::fs::metadata(path).map_err(failed)?;
    // A pipe would be waited for, a device has no end.
    if !metadata.is_file() {
        return Err(Fault::of_file(path, "is not a regular file").into());
    }
    let mut reader = BufReader::with_capacity(READ_BUFFER, File::open(path).map_err(failed)?);
    let mut line = Vec::new();
    let mut number = 0;
    loop {
        line.clear();
        let limited = std::io::Read::take(&mut reader, MAX_LINE as u64 + 1);
        let length = { limited }.read_until(b'\n', &mut line).map_err(failed)?;
        if length == 0 {
            return Ok(());
        }
        number += 1;
        if length > MAX_LINE {
            let at = Position { line: number, column: 1 };
            let message = "this line is longer than 1 MiB".to_owned();
            return Err(Fault { file: path.to_owned(), at, message, hint: None }.into());
        }
        if !take(number, &line)? {
            return Ok(());
        }
    }
}

fn decode(
    path: &Path,
    number: usize,
    line: &[u8],
    unique: &mut Unique,
    faults: &mut Vec<Fault>,
) -> Option<KeyRecord> {
    let Ok(text) = str::from_utf8(line) else {
        let at = Position { line: number, column: 1 };
        faults.push(Fault { file: path.to_owned(), at, message: "not UTF-8".to_owned(), hint: None });
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

/// Where the duplicates are that were found to be there.
fn duplicates(path: &Path) -> Result<Vec<Fault>, Faults> {
    match records(path) {
        Err(faults) => Ok(faults.0),
        // Two labels had the same 64 bits by chance; or the file has changed, and is read again.
        Ok(_) => Ok(Vec::new()),
    }
}

struct Loading<'k> {
    set: SetBuilder<'k>,
    seen: Seen,
    /// By the text of what narrows a key.
    terms: HashMap<String, Option<Arc<Terms>>>,
}

impl Loading<'_> {
    /// Takes a line the short way, if it can go there.
    fn take_short(&mut self, line: &[u8]) -> bool {
        let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else { return false };
        let terms = match line.terms_text() {
            None => None,
            Some(text) => match self.terms.get(&text) {
                Some(terms) => terms.clone(),
                None => return false,
            },
        };
        let Some((hash, draft)) = line.draft(terms) else { return false };
        self.seen.note(draft.id, draft.name, std::iter::once(hash));
        self.set.add(hash, draft);
        true
    }

    /// Takes what came the long way, and remembers its terms, so that others like it can go the short one.
    fn take(&mut self, record: &KeyRecord, line: &[u8]) {
        let previous = record.previous.iter().map(|secret| secret.hash);
        self.seen.note(&record.id, record.name.as_deref(), std::iter::once(record.hash).chain(previous));
        let draft = record.draft();
        if record.previous.is_empty()
            && self.terms.len() < MAX_TERMS
            && let Some(text) =
                serde_json::from_slice::<Line<'_>>(line).ok().and_then(|line| line.terms_text())
        {
            self.terms.insert(text, draft.terms.clone());
        }
        self.set.add(record.hash, draft);
    }
}

/// Which labels and digests were there, in eight bytes each: a million strings would be a hundred megabytes.
#[derive(Default)]
struct Seen {
    random: RandomState,
    ids: Vec<u64>,
    names: Vec<u64>,
    hashes: Vec<u64>,
}

impl Seen {
    fn note(&mut self, id: &str, name: Option<&str>, hashes: impl Iterator<Item = KeyHash>) {
        self.ids.push(self.random.hash_one(id));
        self.names.extend(name.map(|name| self.random.hash_one(name)));
        self.hashes.extend(hashes.map(|hash| hash.head()));
    }

    /// Whether anything stands twice, most likely.
    fn has_duplicates(self) -> bool {
        [self.ids, self.names, self.hashes].into_iter().any(|mut seen| {
            seen.sort_unstable();
            seen.windows(2).any(|pair| pair.first() == pair.last())
        })
    }
}

/// A line's fields; of those that few keys have, or many have alike, the text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    name: Option<Text<'a>>,
    hash: Text<'a>,
    #[serde(deserialize_with = "permissions")]
    permissions: Permissions,
    created_at: Option<Text<'a>>,
    expires_at: Option<Text<'a>>,
    disabled: Option<bool>,
    #[serde(rename = "metadata")]
    _for_people: Option<HashMap<Text<'a>, Text<'a>>>,
    environment: Option<&'a RawValue>,
    not_before: Option<&'a RawValue>,
    rate_limits: Option<&'a RawValue>,
    max_concurrent: Option<&'a RawValue>,
    allow_from: Option<&'a RawValue>,
    routes: Option<&'a RawValue>,
    previous: Option<&'a RawValue>,
}

/// Text, borrowed where it has no escape in it.
#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Line<'_> {
    /// The text of what narrows the key, if anything does.
    fn terms_text(&self) -> Option<String> {
        let parts = [
            self.environment,
            self.not_before,
            self.rate_limits,
            self.max_concurrent,
            self.allow_from,
            self.routes,
            self.previous,
        ];
        if parts.iter().all(Option::is_none) {
            return None;
        }
        let mut text = String::with_capacity(128);
        for part in parts {
            text.push_str(part.map(RawValue::get).unwrap_or_default());
            // No JSON text holds a bare control character.
            text.push('\n');
        }
        Some(text)
    }

    /// The key, if all of it is well.
    fn draft(&self, terms: Option<Arc<Terms>>) -> Option<(KeyHash, Draft<'_>)> {
        let is_well = is_key_id(&self.id.0)
            && self.name.as_ref().is_none_or(|name| is_label(&name.0))
            && !self.permissions.is_empty();
        let instant = |text: &Option<Text<'_>>| -> Option<Option<Timestamp>> {
            let Some(text) = text else { return Some(None) };
            text.0.parse().ok().map(Some)
        };
        let draft = Draft {
            id: &self.id.0,
            name: self.name.as_ref().map(|name| name.0.as_ref()),
            disabled: self.disabled.unwrap_or(false),
            permissions: self.permissions,
            created_at: instant(&self.created_at)?,
            expires_at: instant(&self.expires_at)?,
            terms,
        };
        is_well.then_some((KeyHash::parse(&self.hash.0)?, draft))
    }
}

fn permissions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Permissions, D::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = Permissions;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of permissions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Permissions, A::Error> {
            let mut permissions = Permissions::default();
            while let Some(Text(name)) = seq.next_element()? {
                let permission =
                    Permission::named(&name).ok_or_else(|| A::Error::custom("not a permission"))?;
                permissions.add(permission);
            }
            Ok(permissions)
        }
    }

    deserializer.deserialize_seq(Names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::ApiKey;

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

    fn load_text(text: &str) -> Result<KeySet, Faults> {
        load(write(text).path(), &KeyCache::default())
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
            let mut loading =
                Loading { set: SetBuilder::new(&nothing), seen: Seen::default(), terms: HashMap::new() };
            if !fields.contains("previous") {
                let record = long_way(file.path(), 1, first.trim().as_bytes(), &mut Vec::new()).unwrap();
                loading.take(&record, first.trim().as_bytes());
                let is_short = loading.take_short(second.trim().as_bytes());
                assert!(is_short || fields.contains("\"n\":1"), "{fields}");
            }
            let short = loading.set.finish().entries.pop();
            let long = records(file.path()).unwrap().pop().unwrap();
            let of_file = load(file.path(), &KeyCache::default()).unwrap().entries.pop().unwrap();
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
        let file = write(&[line("a", ""), line("b", "")].concat());
        let cache = KeyCache::from(&load(file.path(), &KeyCache::default()).unwrap());
        std::fs::write(file.path(), [line("a", ""), line("b", ",\"disabled\":true")].concat()).unwrap();
        let set = load(file.path(), &cache).unwrap();
        let is_same = |index: usize| {
            Arc::ptr_eq(&set.entries[index].1, &cache.find(&set.entries[index].0).unwrap().key)
        };
        assert!(is_same(0) && !is_same(1));
    }
}
