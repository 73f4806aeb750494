//! Loads a store from its server: all entries, or those that have changed.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::path::PathBuf;
use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::link::LinkError;
use super::version::Version;
use super::{RedisStore, apart};
use crate::config::fault::{Fault, Faults, Position};
use crate::key_store::build_set::{BuildSet, Built, Findings, KeysInService};
use crate::key_store::claim::Claim;
use crate::key_store::jsonl::{Loading, MAX_FAULTS, decode_alone};
use crate::key_store::provisions::Provisions;
use crate::key_store::reading::{AtFault, Reading};
use crate::key_store::settle::{self, Entry, Excluded, Unread};
use crate::keys::KeyRecord;
use crate::keys::token::is_key_id;

/// The highest number of entries of a store.
const MOST_ENTRIES: u64 = 4_000_000;
/// The position of the text of an entry, which is one line.
const FIRST: Position = Position { line: 1, column: 1 };

impl RedisStore {
    /// Loads the store for service: only what has changed, if that is known.
    ///
    /// # Errors
    ///
    /// The server can't be reached, has no store, or has something else under the store's names.
    pub(crate) fn load<'k, K: KeysInService>(
        &self,
        reading: Reading<'k, K>,
    ) -> Result<Built<K::Builder<'k>>, Faults> {
        apart(|| match self.load_changes(reading)? {
            Some(built) => Ok(built),
            None => self.load_all(reading),
        })
    }

    /// Returns the records of all keys, by their ids; `None` if the server has no store.
    ///
    /// # Errors
    ///
    /// The server can't be reached, or some entries are at fault.
    pub(crate) fn records(&self) -> Result<Option<Vec<KeyRecord>>, Faults> {
        apart(|| {
            let (mut records, mut faults) = (Vec::new(), Vec::new());
            let mut labels: HashSet<String> = HashSet::new();
            let version = self.scan(|id, text| match self.decode(id, text) {
                Ok(record) => {
                    let hashes = record.hashes().map(|hash| hash.to_stored());
                    let are_new = hashes.chain(record.name.clone()).all(|label| labels.insert(label));
                    match are_new {
                        true => records.push(record),
                        false => faults.push(settle::shared(&self.label(id), FIRST)),
                    }
                }
                Err(unread) => faults.extend(unread.faults),
            })?;
            records.sort_by(|a: &KeyRecord, b| a.id.cmp(&b.id));
            faults.truncate(MAX_FAULTS);
            match faults.is_empty() {
                true => Ok(version.map(|_| records)),
                false => Err(Faults::sorted(faults)),
            }
        })
    }

    /// Builds the set of the keys in service with the changes. Returns `None` if all entries have to
    /// be read.
    fn load_changes<'k, K: KeysInService>(
        &self,
        reading: Reading<'k, K>,
    ) -> Result<Option<Built<K::Builder<'k>>>, Faults> {
        let Some(known) = self.taken().to_compare() else { return Ok(None) };
        let changes = self.link().changes(&self.names, &known).map_err(|error| self.fault(error))?;
        let (Some(now), Some(entries)) = (changes.now, changes.entries) else { return Ok(None) };
        let ids: HashSet<&str> = entries.iter().filter_map(|(id, _)| str::from_utf8(id).ok()).collect();
        let mut builder = reading.known.begin();
        builder.keep_all_but(&ids);
        for (id, text) in entries.iter().filter(|(_, text)| !text.is_empty()) {
            let Ok(record) = self.decode_known(id, text, reading.provisions) else { return Ok(None) };
            let fingerprint = builder.fingerprint(text);
            builder.add(record.hash, record.draft(), fingerprint);
        }
        if builder.keys() as u64 != now.entries || !builder.shared_labels().is_empty() {
            return Ok(None);
        }
        self.taken().loaded(now, false);
        Ok(Some(Built { builder, findings: Findings::default() }))
    }

    fn load_all<'k, K: KeysInService>(
        &self,
        reading: Reading<'k, K>,
    ) -> Result<Built<K::Builder<'k>>, Faults> {
        let begun = Instant::now();
        let nothing = HashSet::new();
        let mut loading =
            Loading::new(reading.known.begin(), (reading.at_fault, reading.provisions), &nothing);
        let mut number = 0;
        let version = self.scan(|id, text| {
            number += 1;
            let taken = if is_under_own_id(id, text) { loading.take_quickly(text) } else { Err(0) };
            let Err(fingerprint) = taken else { return };
            match self.decode_known(id, text, reading.provisions) {
                Ok(record) => loading.take_record(&record, text, fingerprint),
                Err(unread) => loading.take_unread(number, unread),
            }
        })?;
        let version = version.ok_or_else(|| self.no_store())?;
        let (mut builder, mut faults, claims) = loading.into_parts();
        if !builder.shared_labels().is_empty() {
            drop(builder);
            return self.load_settled(reading);
        }
        if reading.at_fault == AtFault::Refused && !faults.is_empty() {
            return Err(Faults(faults));
        }
        builder.hold(&claims);
        faults.truncate(MAX_FAULTS);
        let mut taken = self.taken();
        taken.loaded(version, !claims.is_empty());
        taken.load_time = begun.elapsed();
        Ok(Built { builder, findings: Findings { refused: faults, ..Findings::default() } })
    }

    /// Loads a store in which entries share an id, a name or a hash. Only other programs make such
    /// entries, so all entries may be in memory at once.
    fn load_settled<'k, K: KeysInService>(
        &self,
        reading: Reading<'k, K>,
    ) -> Result<Built<K::Builder<'k>>, Faults> {
        let (mut entries, mut labels) = (Vec::new(), Vec::new());
        let version = self.scan(|id, text| {
            entries.push(Entry { at: FIRST, read: self.decode_known(id, text, reading.provisions) });
            labels.push(id.to_vec());
        })?;
        let version = version.ok_or_else(|| self.no_store())?;
        let fault = |number: usize, entry: &Entry| {
            settle::shared(&self.label(labels.get(number).map_or(&[], Vec::as_slice)), entry.at)
        };
        let counted = settle::set(reading.known, reading.at_fault, &entries, Excluded::default(), fault)?;
        let of_entries = entries.into_iter().filter_map(|entry| entry.read.err());
        let faults = of_entries.flat_map(|unread| unread.faults).chain(counted.excluded.faults);
        let faults: Vec<Fault> = faults.take(MAX_FAULTS).collect();
        if reading.at_fault == AtFault::Refused && !faults.is_empty() {
            return Err(Faults(faults));
        }
        self.taken().loaded(version, true);
        let findings = Findings { refused: faults, ..Findings::default() };
        Ok(Built { builder: counted.builder, findings })
    }

    /// Calls `take` with the id and the text of every entry, once. Returns the version of which all
    /// entries are, or a later form of them; `None` if the server has no store.
    pub(super) fn scan(&self, mut take: impl FnMut(&[u8], &[u8])) -> Result<Option<Version>, Faults> {
        let mut link = self.link();
        let failed = |error: LinkError| self.fault(error);
        let too_many = || Err(self.fault(format!("the store has more than {MOST_ENTRIES} entries")));
        let mut piece = link.scan(&self.names, b"0").map_err(failed)?;
        let Some(version) = piece.version.clone() else { return Ok(None) };
        // A scan may return an entry twice while the server resizes the hash. Two ids with the same
        // hash value would be one entry too few, which is noticed by the number of entries.
        let (mut seen, hashing) = (HashSet::new(), RandomState::new());
        loop {
            for (id, text) in &piece.entries {
                if seen.insert(hashing.hash_one(id)) {
                    take(id, text);
                }
            }
            let entries = seen.len() as u64;
            if entries.max(version.entries) > MOST_ENTRIES {
                return too_many();
            }
            if piece.next == b"0" {
                return Ok(Some(Version { entries, ..version }));
            }
            self.keep_announced(&mut link);
            piece = link.scan(&self.names, &piece.next).map_err(failed)?;
            if piece.version.as_ref().is_none_or(|now| now.store != version.store) {
                return Err(self.fault("the store was replaced while it was read"));
            }
        }
    }

    /// Decodes an entry, and requires that the configuration has what it needs.
    fn decode_known(&self, id: &[u8], text: &[u8], provisions: Provisions<'_>) -> Result<KeyRecord, Unread> {
        let record = self.decode(id, text)?;
        settle::check_needs(&record, &self.label(id), FIRST, provisions)?;
        Ok(record)
    }

    /// Decodes an entry, and requires that its id is the one under which the server has it. An entry
    /// at fault claims the key with that id.
    pub(super) fn decode(&self, id: &[u8], text: &[u8]) -> Result<KeyRecord, Unread> {
        let place = self.label(id);
        let unread = match decode_alone(&place, 1, text) {
            Ok(record) if record.id.as_bytes() == id => return Ok(record),
            Ok(record) => {
                let fault = Fault::at(&place, FIRST, "the key has another id than its entry");
                let fault = fault.hint("`bearward keys` changes entries");
                Unread { claim: Claim::of_record(&record), is_entry: true, faults: vec![fault] }
            }
            Err(unread) => unread,
        };
        let own = str::from_utf8(id).ok().filter(|id| is_key_id(id)).map(Into::into);
        let claim = Claim { id: own.or(unread.claim.id), ..unread.claim };
        Err(Unread { claim, ..unread })
    }

    /// Returns the place of an entry, for messages. An id that is none may be a secret.
    fn label(&self, id: &[u8]) -> PathBuf {
        let id = str::from_utf8(id).ok().filter(|id| is_key_id(id)).unwrap_or("(an entry without an id)");
        PathBuf::from(format!("{} {id}", self.server.url.display()))
    }
}

/// The id of an entry.
#[derive(Deserialize)]
struct OnlyId<'a> {
    #[serde(borrow)]
    id: std::borrow::Cow<'a, str>,
    #[serde(flatten)]
    _others: std::collections::HashMap<&'a str, IgnoredAny>,
}

/// Whether the text of an entry has the id under which the server has it. A text that is no JSON
/// object passes, because its decoder reports the fault.
fn is_under_own_id(id: &[u8], text: &[u8]) -> bool {
    let Ok(id) = str::from_utf8(id) else { return false };
    // bearward writes the id first.
    let rest = text.strip_prefix(b"{\"id\":\"").and_then(|rest| rest.strip_prefix(id.as_bytes()));
    if rest.is_some_and(|rest| rest.starts_with(b"\"")) {
        return true;
    }
    serde_json::from_slice::<OnlyId<'_>>(text).map_or(true, |entry| entry.id == id)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::StorePlace;
    use crate::keys::KeyHash;

    fn store() -> RedisStore {
        let Ok(StorePlace::Redis(server)) = StorePlace::parse(Path::new("redis://redis")) else {
            panic!("a server")
        };
        RedisStore::new(*server)
    }

    fn text(id: &str) -> String {
        let hash = KeyHash::of(id.as_bytes()).to_stored();
        format!("{{\"id\":\"key_{id}\",\"hash\":\"{hash}\",\"permissions\":[\"read\"]}}")
    }

    #[test]
    fn an_entry_is_the_key_of_its_own_id_only() {
        let store = store();
        let spaced = text("a").replace("{\"id\":", "{ \"id\" : ");
        for good in [text("a"), spaced] {
            assert!(is_under_own_id(b"key_a", good.as_bytes()));
            assert_eq!(store.decode(b"key_a", good.as_bytes()).unwrap().id, "key_a");
        }
        let nested = text("b").replace("}", ",\"metadata\":{\"id\":\"key_a\"}}");
        for other in [text("b"), nested, text("ab")] {
            assert!(!is_under_own_id(b"key_a", other.as_bytes()), "{other}");
            let unread = store.decode(b"key_a", other.as_bytes()).unwrap_err();
            assert_eq!(unread.claim.id.as_deref(), Some("key_a"), "{other}");
        }
    }

    #[test]
    fn an_entry_at_fault_claims_its_key_and_is_not_quoted() {
        let store = store();
        let long = "SECRET".repeat(20_000);
        let unknown = text("a").replace("}", ",\"SECRETS\":1}").replace("SECRETS", "unheard_of");
        for bad in ["", "SECRET", "[]", "{\"id\":\"SECRET", &long, &unknown, "\u{0}"] {
            let unread = store.decode(b"key_a", bad.as_bytes()).unwrap_err();
            assert_eq!(unread.claim.id.as_deref(), Some("key_a"));
            let shown = Faults(unread.faults).to_string();
            assert!(shown.contains("redis://redis key_a") && !shown.contains("SECRET"), "{shown}");
        }
        for id in [&b"SECRET"[..], b"\xff\xfe", b""] {
            let unread = store.decode(id, text("a").as_bytes()).unwrap_err();
            let shown = Faults(unread.faults).to_string();
            assert!(shown.contains("without an id") && !shown.contains("SECRET"), "{shown}");
        }
    }
}
