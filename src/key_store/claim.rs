//! The claim of an entry at fault to a key in service. As long as the store contains the entry at
//! fault, the claimed key keeps its last good form.
//!
//! An entry claims the key with its id. If no key in service has that id, the entry claims the key
//! with one of its hashes (docs/decisions/023).

use crate::config::tree::{Kind, Node};
use crate::keys::KeyHash;
use crate::keys::record::KeyRecord;
use crate::keys::token::is_key_id;

/// The id and the hashes in an entry at fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) id: Option<Box<str>>,
    /// The current hash and the hashes that were rotated out, in the order of the entry.
    pub(crate) hashes: Vec<KeyHash>,
}

impl Claim {
    /// Makes a claim to the key with this id.
    pub(crate) fn of_id(id: &str) -> Self {
        Claim { id: Some(id.into()), hashes: Vec::new() }
    }

    /// Makes the claim of an entry that is good by itself but shares an id, a name or a hash with
    /// another entry.
    pub(crate) fn of_record(record: &KeyRecord) -> Self {
        Claim { id: Some(record.id.as_str().into()), hashes: record.hashes().collect() }
    }

    /// Makes the claim of an entry that is a tree of values, but is not a valid key.
    pub(crate) fn of_node(node: &Node) -> Self {
        let Kind::Map(fields) = &node.kind else { return Claim::default() };
        let mut ids = fields.iter().filter(|(key, _)| key.name == "id").map(|(_, value)| value);
        // An entry with two ids does not claim a key by its id, because it is not clear which id is
        // meant.
        let id = match (ids.next().map(|value| &value.kind), ids.next()) {
            (Some(Kind::Scalar { text, .. }), None) if is_key_id(text) => Some(text.as_str().into()),
            _ => None,
        };
        let rotated_out = fields.iter().filter(|(key, _)| key.name == "previous");
        let rotated_out = rotated_out.flat_map(|(_, list)| match &list.kind {
            Kind::List(secrets) => secrets.iter().map(hashes).collect(),
            _ => Vec::new(),
        });
        Claim { id, hashes: hashes(node).into_iter().chain(rotated_out.flatten()).collect() }
    }

    /// Makes the claim of a line that is not JSON. The id and the hashes of the claim are the texts
    /// in the line that have the form of an id or of a hash.
    pub(crate) fn of_line(line: &[u8]) -> Self {
        const HASH: &[u8] = b"sha256:";
        let word = |start: usize| {
            let rest = line.get(start..).unwrap_or_default();
            let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
            let end = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
            rest.get(..end).and_then(|word| str::from_utf8(word).ok()).unwrap_or_default()
        };
        let mut ids = memchr::memmem::find_iter(line, b"\"key_").map(|at| word(at + 1));
        let id = ids.next().filter(|id| is_key_id(id) && ids.next().is_none()).map(Into::into);
        let hashes = memchr::memmem::find_iter(line, HASH).filter_map(|at| KeyHash::parse(word(at)));
        Claim { id, hashes: hashes.collect() }
    }
}

/// Returns the hashes in the fields `hash` of a map.
fn hashes(node: &Node) -> Vec<KeyHash> {
    let Kind::Map(fields) = &node.kind else { return Vec::new() };
    let named = fields.iter().filter(|(key, _)| key.name == "hash");
    let hash = |value: &Node| match &value.kind {
        Kind::Scalar { text, .. } => KeyHash::parse(text),
        _ => None,
    };
    named.filter_map(|(_, value)| hash(value)).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::tree::{Quoting, parse};

    #[test]
    fn an_entry_claims_a_key_by_its_id_and_its_hashes() {
        let hash = KeyHash::of(b"a");
        let stored = hash.to_stored();
        let of_yaml = |text: &str| {
            let text = text.replace("HASH", &stored);
            Claim::of_node(&parse(Path::new("k"), &text, Quoting::Never).unwrap().unwrap())
        };
        let both = Claim { id: Some("key_a".into()), hashes: vec![hash] };
        assert_eq!(of_yaml("{id: key_a, hash: HASH, permisions: []}"), both);
        assert_eq!(of_yaml("{id: nonsense, hash: HASH}"), Claim { id: None, ..both.clone() });
        assert_eq!(of_yaml("{id: key_a, id: key_b, hash: HASH}"), Claim { id: None, ..both.clone() });
        assert_eq!(of_yaml("{id: [key_a], hash: nonsense}"), Claim::default());
        assert_eq!(of_yaml("key_a"), Claim::default());
        let old = KeyHash::of(b"b");
        let rotated = format!(
            "{{id: key_, hash: HASH, previous: [{{hash: '{}', expires_at: x}}, 3]}}",
            old.to_stored()
        );
        assert_eq!(of_yaml(&rotated), Claim { id: None, hashes: vec![hash, old] });
        assert_eq!(of_yaml("{hash: HASH, previous: HASH}"), Claim { id: None, ..both.clone() });
        let of_line = |text: &str| Claim::of_line(text.replace("HASH", &stored).as_bytes());
        assert_eq!(of_line("{\"id\":\"key_a\",\"hash\":\"HASH\""), both);
        assert_eq!(of_line("{\"id\":\"key_a\" \"name\":\"key_b\", HASH"), Claim { id: None, ..both });
        assert_eq!(of_line("{\"id\":\"key_"), Claim::default());
    }
}
