//! Fuzzes key files and configurations: no panic, positions of faults lie within the file, and
//! messages contain no secret.

use std::path::Path;

use crate::config::fault::Faults;
use crate::key_cache::KeyCache;
use crate::key_store::Store;
use crate::key_store::{AtFault, Pace, Reading};
use crate::keys::id_secret::IdSecret;
use crate::{Config, KeyRing};

/// Loads the bytes as a key file. The first byte selects the kind of file.
pub fn keys(bytes: &[u8]) {
    let Some((kind, content)) = bytes.split_first() else { return };
    let directory = tempfile::tempdir().unwrap();
    let name = ["keys.yaml", "keys.jsonl", "keys.txt", "part.yaml"][usize::from(kind % 4)];
    let path = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    // For `part.yaml`, the store is the directory. Each file of a directory store may contain one
    // key only.
    let store = if name == "part.yaml" { directory.path() } else { &path };
    let store = Store::at_path(store).unwrap();
    let ids = IdSecret::random();
    let loaded = store.load(Reading::first(&KeyCache::default(), &ids));
    let described = store.records(&ids);
    match (&loaded, &described) {
        (Ok(set), Ok(records)) if set.refused.is_empty() => {
            assert_eq!(set.keys, records.len(), "both ways of reading find the same keys");
        }
        (Ok(set), _) => assert!(!set.refused.is_empty(), "{described:?}"),
        // The commands can read a store without keys, but a server refuses to start with such a
        // store.
        (Err(faults), described) => {
            let is_empty = described.as_ref().is_ok_and(Vec::is_empty);
            assert!(described.is_err() || is_empty, "only the one for service fails: {faults}");
        }
    }
    for faults in [loaded.as_ref().err(), described.as_ref().err()].into_iter().flatten() {
        check(faults, content);
        check_secrets(faults, content);
    }
    changed(&store, &path, content, &ids);
    if let Ok(ring) = KeyRing::load(store.path()) {
        assert_eq!(ring.keys(), described.map_or(0, |records| records.len()), "as many as are described");
    }
}

/// Loads the first half of the bytes as the content of the store in service, and then all bytes as
/// the store's changed content.
fn changed(store: &Store, path: &Path, content: &[u8], ids: &IdSecret) {
    std::fs::write(path, content.get(..content.len() / 2).unwrap_or_default()).unwrap();
    let nothing = KeyCache::default();
    let Ok(before) = store.load(Reading::first(&nothing, ids)) else { return };
    let known = KeyCache::from(&before);
    std::fs::write(path, content).unwrap();
    let (at_fault, pace) = (AtFault::Held, Pace::Fast(1));
    let reading = Reading {
        known: &known,
        last_good: &before.last_good,
        at_fault,
        pace,
        ..Reading::first(&known, ids)
    };
    if let Ok(set) = store.load(reading) {
        let secrets = set.kept + set.entries.len();
        known.replace(&set);
        assert_eq!(known.len(), secrets, "what is served is what was found, and nothing more");
    }
}

/// Parses the bytes as a configuration.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let environment = |name: &str| (name == "SET").then(|| "value".to_owned());
    if let Err(faults) = Config::parse(Path::new("bearward.yaml"), text, &environment) {
        check(&faults, bytes);
    }
}

/// Checks that there is a fault, and that the positions of all faults lie within the file.
fn check(faults: &Faults, content: &[u8]) {
    assert!(!faults.0.is_empty(), "a refusal says why");
    // In YAML, a CR alone ends a line, too.
    let lines = content.split(|byte| matches!(byte, b'\n' | b'\r')).count();
    for fault in &faults.0 {
        assert!(fault.at.line <= lines + 1, "{fault} of {lines} lines");
    }
}

/// Checks that no message about a key file contains a possible secret.
fn check_secrets(faults: &Faults, content: &[u8]) {
    let (text, said) = (String::from_utf8_lossy(content), faults.to_string());
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':');
    for word in text.split(|c| !is_part(c)) {
        let is_secret =
            word.len() >= 20 && ["bwk_", "sk-", "sha256:"].iter().any(|start| word.starts_with(start));
        assert!(!is_secret || !said.contains(word), "a secret is shown: {said}");
    }
}
