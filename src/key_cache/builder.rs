//! Builds the set of keys that will replace the keys in service.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::key_cache::cache::KeyCache;
use crate::key_cache::live_key::LiveKey;
use crate::key_cache::set::KeySet;
use crate::key_store::build_set::{BuildSet, Findings, KeysInService};
use crate::key_store::claim::Claim;
use crate::key_store::labels::{Hashing, Labels};
use crate::keys::{Draft, KeyHash, KeyRecord};

impl KeysInService for KeyCache {
    type Builder<'a> = SetBuilder<'a>;

    /// Begins a new set of keys. Marks for an earlier set are no longer valid, even if the earlier
    /// set was never put into service.
    fn begin(&self) -> SetBuilder<'_> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        SetBuilder::of_generation(self, generation)
    }

    fn hashing(&self) -> &Hashing {
        &self.hashing
    }

    fn id_of(&self, hash: &KeyHash) -> Option<String> {
        Some(self.find(hash)?.key.key.id().to_owned())
    }
}

/// Builds one set of keys. A key in service that has not changed is only marked for the set, and
/// not built again.
#[derive(Debug)]
pub(crate) struct SetBuilder<'a> {
    known: &'a KeyCache,
    generation: u32,
    set: KeySet,
    /// The keys of the previously loaded file, in the order of its lines. `next` is the index in
    /// this list of the key that is expected in the next line.
    expected: Arc<Vec<Arc<LiveKey>>>,
    next: usize,
    /// The keys of the file that is being read, in the order of its lines.
    order: Vec<Arc<LiveKey>>,
    new: Labels,
    /// Whether a new or changed key has an id or a name that is not in service with the same
    /// secret. Such an id or name could collide with that of another key.
    has_new_labels: bool,
    twins: HashSet<u64>,
}

impl<'a> SetBuilder<'a> {
    fn of_generation(known: &'a KeyCache, generation: u32) -> Self {
        let set = KeySet { generation, hashing: known.hashing.clone(), ..KeySet::default() };
        let expected = known.order.lock().unwrap_or_else(PoisonError::into_inner).clone();
        SetBuilder {
            known,
            generation,
            set,
            expected,
            next: 0,
            order: Vec::new(),
            new: Labels::default(),
            has_new_labels: false,
            twins: HashSet::new(),
        }
    }

    fn mark(&mut self, live: Arc<LiveKey>) {
        if live.generation.swap(self.generation, Ordering::Relaxed) == self.generation {
            self.twins.insert(self.known.hashing.label(live.key.id()));
        }
        self.set.kept += 1 + live.key.previous().len();
        self.set.keys += 1;
        self.put_in_order(live);
    }

    /// Appends the key to the order of the file, if the key has a line of its own. The next file is
    /// expected to have the same order.
    fn put_in_order(&mut self, live: Arc<LiveKey>) {
        if live.fingerprint.load(Ordering::Relaxed) != 0 {
            self.order.push(live);
        }
    }

    /// Returns the key in service that has one of the secret hashes of `claim`.
    fn with_hash_of(&self, claim: &Claim) -> Option<Arc<LiveKey>> {
        claim.hashes.iter().find_map(|hash| Some(self.known.find(hash)?.key))
    }

    /// Returns the keys in service whose id or hash is in `claims`. The result maps each key's id
    /// to its current hash and the key. One pass over all keys finds these keys.
    fn in_service_by_id(&self, claims: &[(usize, Claim)]) -> HashMap<Box<str>, (KeyHash, Arc<LiveKey>)> {
        let by_hash: Vec<Arc<LiveKey>> =
            claims.iter().filter_map(|(_, claim)| self.with_hash_of(claim)).collect();
        let named = claims.iter().filter_map(|(_, claim)| claim.id.as_deref());
        let wanted: HashSet<&str> = named.chain(by_hash.iter().map(|live| live.key.id())).collect();
        let mut found = HashMap::new();
        for entry in &self.known.by_hash {
            let (hash, live) = (entry.key(), entry.value());
            if wanted.contains(live.key.id()) && live.key.rotated_out(hash).is_none() {
                found.insert(live.key.id().into(), (*hash, live.clone()));
            }
        }
        found
    }
}

impl BuildSet for SetBuilder<'_> {
    type Set = KeySet;

    fn part(&self) -> Self {
        Self::of_generation(self.known, self.generation)
    }

    fn join(&mut self, part: Self) {
        let KeySet { mut entries, kept, keys, .. } = part.set;
        self.order.extend(part.order);
        self.set.entries.append(&mut entries);
        self.set.kept += kept;
        self.set.keys += keys;
        self.new.append(part.new);
        self.has_new_labels |= part.has_new_labels;
        self.twins.extend(part.twins);
    }

    fn fingerprint(&self, line: &[u8]) -> u64 {
        self.known.hashing.fingerprint(line)
    }

    // After most reloads, most of a million lines are at the same place in the file. Comparing a
    // line with the expected key then saves a lookup of the key.
    fn keep_next(&mut self, fingerprint: u64) -> bool {
        let live = self.expected.get(self.next);
        let live = live.filter(|live| live.fingerprint.load(Ordering::Relaxed) == fingerprint).cloned();
        let Some(live) = live else { return false };
        self.next += 1;
        self.mark(live);
        true
    }

    fn keep(&mut self, hash: &KeyHash, fingerprint: u64) -> bool {
        let Some(live) = self.known.by_hash.get(hash).map(|live| live.value().clone()) else { return false };
        if live.fingerprint.load(Ordering::Relaxed) != fingerprint {
            return false;
        }
        // The line of this key has moved in the file. The following lines have most likely moved,
        // too, so the keys after this key are expected next.
        self.next = live.position.load(Ordering::Relaxed) as usize + 1;
        self.mark(live);
        true
    }

    fn keep_all_but(&mut self, ids: &HashSet<&str>) {
        let kept = self.expected.clone();
        for live in kept.iter().filter(|live| !ids.contains(live.key.id())) {
            self.mark(live.clone());
        }
    }

    fn add(&mut self, hash: KeyHash, draft: Draft<'_>, fingerprint: u64) {
        // This line is most likely a changed version of the expected key, so the key after the
        // expected key is expected next.
        self.next += 1;
        // A key in the file is the same as a key in service only if both have the same current
        // secret. A key with a rotated secret is treated as a different key.
        let known = self.known.find(&hash).filter(|found| found.rotated_out.is_none());
        match known.map(|found| found.key) {
            Some(live) if draft.is(&live.key) => {
                // The text of the line has changed, but the key that it describes has not.
                live.fingerprint.store(fingerprint, Ordering::Relaxed);
                self.mark(live);
                return;
            }
            // A changed key that has the same id and name as before can't collide with another key.
            Some(live) if draft.id == live.key.id() && draft.name == live.key.name() => {}
            _ => self.has_new_labels = true,
        }
        self.new.add(&self.known.hashing, &hash, &draft);
        let live = Arc::new(LiveKey::new(draft.into(), fingerprint));
        live.generation.store(self.generation, Ordering::Relaxed);
        let previous = live.key.previous().iter().map(|secret| (secret.hash, live.clone()));
        self.set.entries.extend(previous);
        self.put_in_order(live.clone());
        self.set.entries.push((hash, live));
        self.set.keys += 1;
    }

    fn shared_labels(&mut self) -> HashSet<u64> {
        self.twins.extend(self.new.repeated());
        // Keys that stay in service are known to differ from each other in id, name and hash. So
        // only new keys are compared, with each other and with the keys that stay in service.
        let stays =
            |hash: &KeyHash| self.known.by_hash.get(hash).is_some_and(|live| live.is_of(self.generation));
        self.twins
            .extend(self.set.entries.iter().filter(|(hash, _)| stays(hash)).map(|(hash, _)| hash.head()));
        if self.has_new_labels && self.set.kept > 0 {
            let hashing = &self.known.hashing;
            for entry in self.known.by_hash.iter().filter(|entry| entry.value().is_of(self.generation)) {
                let key = &entry.value().key;
                let id = Some(hashing.label(key.id())).filter(|id| self.new.has_id(*id));
                let name = key.name().map(|name| hashing.label(name));
                let name = name.filter(|name| self.new.has_name(*name));
                self.twins.extend(id.into_iter().chain(name));
            }
        }
        std::mem::take(&mut self.twins)
    }

    fn hold(&mut self, claims: &[(usize, Claim)]) -> Vec<(usize, String)> {
        if claims.is_empty() {
            return Vec::new();
        }
        let by_id = self.in_service_by_id(claims);
        let ids: HashSet<u64> = self.new.ids().iter().copied().collect();
        let hashes: HashSet<KeyHash> = self.set.entries.iter().map(|(hash, _)| *hash).collect();
        let (mut held, mut kept) = (Vec::new(), HashSet::new());
        for (entry, claim) in claims {
            let of_id = claim.id.as_ref().and_then(|id| by_id.get(id));
            let of_hash = || self.with_hash_of(claim).and_then(|live| by_id.get(live.key.id()));
            let Some((hash, live)) = of_id.or_else(of_hash) else { continue };
            let id = live.key.id();
            let is_written = ids.contains(&self.known.hashing.label(id))
                || hashes.contains(hash)
                || live.key.previous().iter().any(|secret| hashes.contains(&secret.hash));
            if is_written || live.is_of(self.generation) && !kept.contains(id) {
                continue;
            }
            held.push((*entry, id.to_owned()));
            if kept.insert(id.to_owned()) {
                live.generation.store(self.generation, Ordering::Relaxed);
                self.set.kept += 1 + live.key.previous().len();
                self.set.keys += 1;
                self.set.held += 1;
            }
        }
        held
    }

    fn is_owner(&self, record: &KeyRecord) -> bool {
        record
            .hashes()
            .any(|hash| self.known.find(&hash).is_some_and(|found| found.key.key.id() == record.id))
    }

    fn keys(&self) -> usize {
        self.set.keys
    }

    fn finish(self, findings: Findings) -> KeySet {
        let Findings { refused, is_blank, last_good } = findings;
        for (position, live) in (0..).zip(&self.order) {
            live.position.store(position, Ordering::Relaxed);
        }
        KeySet { order: Arc::new(self.order), refused, is_blank, last_good, ..self.set }
    }
}
