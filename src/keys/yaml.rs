//! The YAML key file: `keys:` and a list of keys.
//!
//! Invariant: no message quotes from the file, since any line of it may hold a secret.

use std::collections::HashMap;
use std::io::Read;
use std::path::Path;

use crate::config::decode::Decoder;
use crate::config::fault::{Fault, Faults, Position};
use crate::config::load::quotas;
use crate::config::tree::{self, Kind, Node, Quoting};
use crate::keys::token::is_key_id;
use crate::keys::{ApiKey, KeyHash, KeyRecord, Permission, Secret};

/// No honest YAML key file is larger; a million keys belong into JSON Lines.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Reads a key file whole, or says all that is wrong with it. A file without keys is a fault:
/// nothing could pass, which nobody means.
pub(crate) fn load(path: &Path) -> Result<Vec<KeyRecord>, Faults> {
    let source = read(path)?;
    parse(path, &source)
}

fn read(path: &Path) -> Result<String, Fault> {
    let unreadable = |error: std::io::Error| {
        let fault = Fault::of_file(path, format!("the key file can't be read: {error}"));
        match error.kind() {
            std::io::ErrorKind::NotFound => {
                let hint =
                    format!("`bearward keys create --keys {} --permissions read` makes it", path.display());
                fault.hint(hint)
            }
            _ => fault,
        }
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut source = String::new();
    let read = file.take(MAX_BYTES + 1).read_to_string(&mut source);
    match read {
        Ok(length) if length as u64 > MAX_BYTES => {
            Err(Fault::of_file(path, "the key file is larger than 256 MiB"))
        }
        Ok(_) => Ok(source),
        Err(error) => Err(unreadable(error)),
    }
}

pub(crate) fn parse(path: &Path, source: &str) -> Result<Vec<KeyRecord>, Faults> {
    let Some(root) = tree::parse(path, source, Quoting::Never)? else {
        return Err(Fault::of_file(path, "the key file is empty").into());
    };
    let mut decoder = Decoder::new(path, Quoting::Never, None);
    let records = key_list(&mut decoder, &root);
    match records {
        Some(records) if decoder.faults.is_empty() => Ok(records),
        _ => Err(Faults::sorted(decoder.faults)),
    }
}

fn key_list(decoder: &mut Decoder<'_>, root: &Node) -> Option<Vec<KeyRecord>> {
    let mut fields = decoder.fields(root, "a key file")?;
    let mut unique = Unique::default();
    let records = decoder.required(&mut fields, "keys", |decoder, node| {
        if matches!(&node.kind, Kind::List(items) if items.is_empty()) {
            decoder.fault(node.at, "the key file has no keys");
            return None;
        }
        decoder.list(node, |decoder, node| key(decoder, node, &mut unique))
    });
    decoder.done(fields);
    records
}

/// What may stand but once in a file, and where it stood first.
#[derive(Default)]
struct Unique {
    ids: HashMap<String, Position>,
    names: HashMap<String, Position>,
    hashes: HashMap<KeyHash, Position>,
}

fn once<T: std::hash::Hash + Eq>(
    decoder: &mut Decoder<'_>,
    seen: &mut HashMap<T, Position>,
    value: T,
    at: Position,
    what: &str,
) {
    if let Some(first) = seen.insert(value, at) {
        decoder.fault(at, format!("this {what} stands twice")).hint =
            Some(format!("it stands first in line {}", first.line));
    }
}

fn key(decoder: &mut Decoder<'_>, node: &Node, unique: &mut Unique) -> Option<KeyRecord> {
    let mut fields = decoder.fields(node, "a key")?;
    let f = &mut fields;
    let id = decoder.required(f, "id", |d, node| key_id(d, node, &mut unique.ids));
    let name = decoder.optional(f, "name", |d, node| key_name(d, node, &mut unique.names));
    let current = decoder.required(f, "hash", |d, node| hash(d, node, &mut unique.hashes));
    let previous = decoder.optional(f, "previous", |d, node| {
        d.list(node, |d, node| previous_secret(d, node, &mut unique.hashes))
    });
    let permissions = decoder.required(f, "permissions", permissions);
    let expires_at = decoder.optional(f, "expires_at", Decoder::instant);
    let environment = decoder.optional(f, "environment", label);
    let not_before = decoder.optional(f, "not_before", Decoder::instant);
    let disabled = decoder.optional(f, "disabled", Decoder::boolean);
    let rate_limits = decoder.optional(f, "rate_limits", quotas);
    let max_concurrent = decoder.optional(f, "max_concurrent", |d, node| d.number(node, 1));
    let allow_from = decoder.optional(f, "allow_from", |d, node| d.list(node, Decoder::network));
    let routes = decoder.optional(f, "routes", |d, node| d.list(node, Decoder::word));
    // For people alone: their form is checked, and nothing is kept of them.
    let _for_people = decoder.optional(f, "created_at", Decoder::instant);
    let _for_people = decoder.optional(f, "metadata", metadata);
    decoder.done(fields);
    let mut secrets = vec![Secret { hash: current?, expires_at }];
    secrets.extend(previous.unwrap_or_default());
    let key = ApiKey {
        id: id?,
        name,
        permissions: permissions?,
        environment,
        not_before,
        disabled: disabled.unwrap_or(false),
        rate_limits,
        max_concurrent,
        allow_from: allow_from.unwrap_or_default(),
        routes,
    };
    Some(KeyRecord { key, secrets })
}

fn key_id(decoder: &mut Decoder<'_>, node: &Node, seen: &mut HashMap<String, Position>) -> Option<String> {
    let id = decoder.text(node)?;
    if !is_key_id(&id) {
        decoder.fault(node.at, "this is not a key's id").hint =
            Some("`key_` and letters, digits, `_` or `-`, as in key_4f9Zk2Qx7B".to_owned());
        return None;
    }
    once(decoder, seen, id.clone(), node.at, "id");
    Some(id)
}

fn key_name(decoder: &mut Decoder<'_>, node: &Node, seen: &mut HashMap<String, Position>) -> Option<String> {
    let name = label(decoder, node)?;
    once(decoder, seen, name.clone(), node.at, "name");
    Some(name)
}

/// Text that upstream is sent as a header's value.
fn label(decoder: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = decoder.word(node)?;
    if text.chars().any(char::is_control) || text.trim() != text {
        decoder.fault(node.at, "must not hold control characters, nor begin or end with white space");
        return None;
    }
    Some(text)
}

fn hash(decoder: &mut Decoder<'_>, node: &Node, seen: &mut HashMap<KeyHash, Position>) -> Option<KeyHash> {
    let text = decoder.text(node)?;
    let Some(hash) = KeyHash::parse(&text) else {
        decoder.fault(node.at, "this is not a key's hash").hint =
            Some("`sha256:` and 64 hex digits; `bearward keys hash` makes one".to_owned());
        return None;
    };
    once(decoder, seen, hash, node.at, "hash");
    Some(hash)
}

fn previous_secret(
    decoder: &mut Decoder<'_>,
    node: &Node,
    seen: &mut HashMap<KeyHash, Position>,
) -> Option<Secret> {
    let mut fields = decoder.fields(node, "a rotated-out secret")?;
    let hash = decoder.required(&mut fields, "hash", |d, node| hash(d, node, seen));
    let expires_at = decoder.required(&mut fields, "expires_at", Decoder::instant);
    decoder.done(fields);
    Some(Secret { hash: hash?, expires_at: Some(expires_at?) })
}

fn permissions(decoder: &mut Decoder<'_>, node: &Node) -> Option<Vec<Permission>> {
    let permissions = decoder.list(node, |d, node| d.one_of(node, &Permission::ALL))?;
    if permissions.is_empty() {
        decoder.fault(node.at, "a key without permissions").hint =
            Some("`disabled: true` turns a key off".to_owned());
        return None;
    }
    Some(permissions)
}

fn metadata(decoder: &mut Decoder<'_>, node: &Node) -> Option<()> {
    let Kind::Map(entries) = &node.kind else {
        decoder.fault(node.at, "metadata is a map of names to values");
        return None;
    };
    for (_, value) in entries {
        decoder.text(value)?;
    }
    Some(())
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
        assert_eq!(record.secrets.len(), 2);
        assert_eq!(record.key.permission_names(), ["read", "write"]);
        assert_eq!(record.key.rate_limits.as_ref().unwrap()[1].burst, 2000);
    }

    #[test]
    fn every_fault_is_told_in_one_run_with_its_place() {
        let source = format!(
            "keys:\n  - id: nonsense\n    hash: {HASH}\n    permissions: [read_only]\n    expires_at: 2026-01-01T00:00:00\n  - id: key_b\n    hash: {HASH}\n    permisions: [read]\n"
        );
        let faults = faults(&source);
        let places: Vec<_> = faults.iter().map(|(line, column, _)| (*line, *column)).collect();
        assert_eq!(places, [(2, 9), (4, 19), (5, 17), (6, 5), (7, 11), (8, 5)]);
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
    fn no_keys_is_a_fault() {
        for source in ["", "keys:\n", "keys: []\n", "# nothing\n"] {
            assert!(parse(Path::new("keys.yaml"), source).is_err(), "{source:?}");
        }
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
