//! The YAML key file: `keys:` and a list of keys. A file of a directory store may also be a single
//! key.

use std::path::Path;

use crate::config::decode::Decoder;
use crate::config::fault::{Fault, Faults, Position};
use crate::config::tree::{self, Kind, Node, Quoting};
use crate::key_store::claim::Claim;
use crate::key_store::decode::{self, Unique};
use crate::key_store::settle::{Entry, Unread};
use crate::keys::record::KeyRecord;

/// Reads a key file, or returns all its faults. `keys: []` is a list without keys. A file without a
/// list is a fault, because a template may have rendered nothing.
pub(crate) fn parse(path: &Path, source: &str) -> Result<Vec<KeyRecord>, Faults> {
    read(path, source, key_list)
}

/// Reads a key file to which a key will be added. The file may lack a list of keys.
pub(crate) fn parse_any(path: &Path, source: &str) -> Result<Vec<KeyRecord>, Faults> {
    match tree::parse(path, source, Quoting::Never)? {
        None => Ok(Vec::new()),
        // The file has only comments, or only `---`.
        Some(root) if root.is_null() => Ok(Vec::new()),
        Some(root) if is_without_list(&root) => Ok(Vec::new()),
        Some(_) => parse(path, source),
    }
}

/// Whether a file has the field `keys` without a value, and no other field.
fn is_without_list(root: &Node) -> bool {
    matches!(&root.kind, Kind::Map(fields) if matches!(fields.as_slice(), [(key, node)] if key.name == "keys" && node.is_null()))
}

/// Returns the position of the list of keys.
pub(crate) fn position_of_list(path: &Path, source: &str) -> Option<Position> {
    let root = tree::parse(path, source, Quoting::Never).ok()??;
    let Kind::Map(fields) = &root.kind else { return None };
    fields.iter().find(|(key, _)| key.name == "keys").map(|(_, node)| node.at)
}

/// Reads each entry of a key file separately. Returns the entries, and the faults that are outside
/// of all entries.
///
/// # Errors
///
/// The file can't be read as a list of entries.
pub(crate) fn entries(path: &Path, source: &str) -> Result<(Vec<Entry>, Vec<Fault>), Faults> {
    list_of(path, &root(path, source)?)
}

/// Reads each entry of a file of a directory store. The file is a key file or a single key.
pub(crate) fn entries_of_part(path: &Path, source: &str) -> Result<(Vec<Entry>, Vec<Fault>), Faults> {
    let root = root(path, source)?;
    let only = match is_list(&root) {
        true => return list_of(path, &root),
        false => entry(path, &root),
    };
    match only.read {
        // The file is not even a map of fields, so all of it is at fault.
        Err(unread) if !unread.is_entry => Err(Faults(unread.faults)),
        read => Ok((vec![Entry { read, ..only }], Vec::new())),
    }
}

/// Returns the keys of a file in the order of the file. For an entry at fault, the result has the
/// entry's claim instead of a key.
pub(crate) fn outline(path: &Path, source: &str) -> Result<Vec<Result<KeyRecord, Claim>>, Faults> {
    let (entries, _faults) = entries_of_part(path, source)?;
    Ok(entries.into_iter().map(|entry| entry.read.map_err(|unread| unread.claim)).collect())
}

fn root(path: &Path, source: &str) -> Result<Node, Faults> {
    match tree::parse(path, source, Quoting::Never)? {
        Some(root) if !root.is_null() => Ok(root),
        _ => Err(Fault::of_file(path, "the key file is empty").hint(NO_LIST_HINT).into()),
    }
}

fn list_of(path: &Path, root: &Node) -> Result<(Vec<Entry>, Vec<Fault>), Faults> {
    let mut decoder = Decoder::new(path, Quoting::Never, None);
    if has_two_lists(root) {
        // The file has several lists of keys. If one of them were used, the keys of the others
        // would be removed.
        decoder.fields(root, "a key file");
        return Err(Faults::sorted(decoder.faults));
    }
    let entries = decoder.fields(root, "a key file").and_then(|mut fields| {
        let entries = decoder.required(&mut fields, "keys", |decoder, node| {
            decoder.list(node, |_, node| Some(entry(path, node)))
        });
        decoder.done(fields);
        entries
    });
    let faults = Faults::sorted(decoder.faults);
    entries.map(|entries| (entries, faults.0.clone())).ok_or(faults)
}

fn has_two_lists(root: &Node) -> bool {
    let Kind::Map(fields) = &root.kind else { return false };
    fields.iter().filter(|(key, _)| key.name == "keys").count() > 1
}

fn entry(path: &Path, node: &Node) -> Entry {
    let mut decoder = Decoder::new(path, Quoting::Never, None);
    let record = decode::decode(&mut decoder, node, &mut Unique::default());
    let faults = decoder.faults;
    let is_entry = matches!(node.kind, Kind::Map(_));
    let unread = || Unread { claim: Claim::of_node(node), is_entry, faults: faults.clone() };
    Entry { at: node.at, read: record.filter(|_| faults.is_empty()).ok_or_else(unread) }
}

/// Reads all keys of a file of a directory store. The file is a key file or a single key.
pub(crate) fn parse_part(path: &Path, source: &str) -> Result<Vec<KeyRecord>, Faults> {
    read(path, source, |decoder, root| match is_list(root) {
        true => key_list(decoder, root),
        false => Some(vec![decode::decode(decoder, root, &mut Unique::default())?]),
    })
}

/// Whether a file is a list of keys, which has the field `keys`. Any other file is a single key.
fn is_list(root: &Node) -> bool {
    matches!(&root.kind, Kind::Map(fields) if fields.iter().any(|(key, _)| key.name == "keys"))
}

fn read(
    path: &Path,
    source: &str,
    decode: impl FnOnce(&mut Decoder<'_>, &Node) -> Option<Vec<KeyRecord>>,
) -> Result<Vec<KeyRecord>, Faults> {
    let Some(root) = tree::parse(path, source, Quoting::Never)? else {
        return Err(Fault::of_file(path, "the key file is empty").hint(NO_LIST_HINT).into());
    };
    let mut decoder = Decoder::new(path, Quoting::Never, None);
    match decode(&mut decoder, &root) {
        Some(records) if decoder.faults.is_empty() => Ok(records),
        _ => Err(Faults::sorted(decoder.faults)),
    }
}

/// The hint of the fault of a file without a list of keys.
const NO_LIST_HINT: &str = "`keys: []` is a list without keys, which admits no client";

fn key_list(decoder: &mut Decoder<'_>, root: &Node) -> Option<Vec<KeyRecord>> {
    let mut fields = decoder.fields(root, "a key file")?;
    let mut unique = Unique::default();
    let records = decoder.required(&mut fields, "keys", |decoder, node| {
        decoder.list(node, |decoder, node| decode::decode(decoder, node, &mut unique))
    });
    decoder.done(fields);
    records
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";
    const OTHER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000002";

    fn faults(source: &str) -> Vec<(usize, usize, String)> {
        let faults = parse(Path::new("keys.yaml"), source).unwrap_err();
        faults
            .0
            .into_iter()
            .map(|fault| (fault.at.line, fault.at.column, format!("{} {:?}", fault.message, fault.hint)))
            .collect()
    }

    #[test]
    fn a_full_key_is_read() {
        let source = format!(
            "keys:\n  - id: key_4f9Zk2Qx7B\n    name: checkout-service\n    hash: {HASH}\n    previous:\n      - {{hash: {OTHER}, expires_at: 2026-12-01T00:00:00Z}}\n    permissions: [read, write]\n    environment: production\n    created_at: 2026-11-23T00:00:00Z\n    not_before: 2026-11-23T00:00:00Z\n    expires_at: 2027-02-21T00:00:00Z\n    disabled: false\n    rate_limits:\n      - {{requests: 600, per: 1m, burst: 60}}\n      - {{requests: 20000, per: 1d}}\n    max_concurrent: 8\n    allow_from: [10.0.0.0/8]\n    routes: [chat]\n    metadata: {{team: payments}}\n"
        );
        let records = parse(Path::new("keys.yaml"), &source).unwrap();
        let record = &records[0];
        assert_eq!(record.terms.previous.len(), 1);
        assert_eq!(record.permissions.names(), ["read", "write"]);
        assert_eq!(record.terms.rate_limits.as_ref().unwrap()[1].burst, 2000);
        assert_eq!(record.metadata["team"], "payments");
    }

    #[test]
    fn every_fault_is_reported_in_one_run_with_its_position() {
        let source = format!(
            "keys:\n  - id: nonsense\n    hash: {HASH}\n    permissions: [read_only]\n    expires_at: 2026-01-01T00:00:00\n  - id: key_b\n    hash: {HASH}\n    permisions: [read]\n"
        );
        let faults = faults(&source);
        let positions: Vec<_> = faults.iter().map(|(line, column, _)| (*line, *column)).collect();
        assert_eq!(positions, [(2, 9), (4, 19), (5, 17), (6, 5), (7, 11), (8, 5)]);
        assert!(faults[1].2.contains("read"), "{faults:?}");
        assert!(faults[5].2.contains("permissions"), "{faults:?}");
    }

    #[test]
    fn duplicates_are_refused() {
        let source = format!(
            "keys:\n  - {{id: key_a, name: x, hash: {HASH}, permissions: [read]}}\n  - {{id: key_a, name: x, hash: {HASH}, permissions: [read]}}\n"
        );
        assert_eq!(faults(&source).len(), 3);
    }

    #[test]
    fn an_empty_list_is_one_and_no_list_is_a_fault() {
        for (source, is_list) in
            [("", false), ("keys:\n", false), ("keys: []\n", true), ("# nothing\n", false), ("---\n", false)]
        {
            let path = Path::new("keys.yaml");
            assert_eq!(parse(path, source).is_ok(), is_list, "{source:?}");
            assert_eq!(
                entries(path, source).is_ok_and(|(entries, _)| entries.is_empty()),
                is_list,
                "{source:?}"
            );
            assert_eq!(parse_any(path, source), Ok(Vec::new()), "{source:?}");
        }
    }

    #[test]
    fn a_file_of_a_directory_is_a_list_or_one_key() {
        let one = format!("id: key_a\nhash: {HASH}\npermissions: [read]\n");
        let list = format!("keys:\n  - {{id: key_a, hash: {HASH}, permissions: [read]}}\n");
        for source in [one, list] {
            assert_eq!(parse_part(Path::new("a"), &source).unwrap()[0].id, "key_a");
        }
        assert!(parse_part(Path::new("a"), "id: key_a\n").is_err());
    }

    #[test]
    fn no_message_holds_a_value() {
        let secret = "bwk_SECRETSECRET";
        for template in [
            "keys: [{id: X, hash: X, permissions: X}]",
            "keys: [{id: key_a, hash: h, permissions: [X], expires_at: X, disabled: X, max_concurrent: X}]",
            "keys: [{X: 1, allow_from: [X], metadata: X, rate_limits: [{requests: X, per: X, X: 1}], previous: [X]}]",
            "X: 1\nkeys: X\n",
            "X",
            "keys: [X",
        ] {
            let source = template.replace('X', secret);
            let text = parse(Path::new("keys.yaml"), &source).unwrap_err().to_string();
            assert!(!text.contains("SECRET"), "{text}");
        }
    }
}
