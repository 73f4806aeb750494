//! Reads the keys of agentgateway's configuration: the `apiKey` policies of listeners and routes.

use super::imported::{ImportedKey, ImportedKeys, Terms};
use super::tree::{fields, given, items, list, narrowed, scalar, text, unknown};
use crate::config::tree::Node;

/// The keys of an `apiKey` policy, and whether the policy belongs to a route.
struct Policy<'n> {
    keys: &'n [Node],
    is_of_route: bool,
}

pub(super) fn is_one(root: &Node) -> bool {
    let mut policies = Vec::new();
    collect(root, false, &mut policies);
    !policies.is_empty()
}

/// Reads the keys. `names_routes`: whether `--routes` narrows the imported keys to routes of
/// bearward.
pub(super) fn read(root: &Node, names_routes: bool) -> ImportedKeys {
    let mut sources = ImportedKeys::default();
    let mut policies = Vec::new();
    collect(root, false, &mut policies);
    let has_several = routes(root) > 1;
    // An expression that contains the text `apiKey`, such as `apiKey.role`, `apiKey["role"]` or
    // `has(apiKey)`, may decide by the metadata of a key.
    let decides = mentions(root, "apiKey");
    for policy in policies {
        for entry in policy.keys {
            let at = format!("line {}", entry.at.line);
            let source = match () {
                () if decides => {
                    Err("an expression of the file decides by its metadata, which can't be carried over"
                        .to_owned())
                }
                () if policy.is_of_route && has_several && !names_routes => {
                    Err("it is valid for one route of several; `--routes` names those that it may use here"
                        .to_owned())
                }
                () => key(entry),
            };
            // Several routes may list the same key, which is imported once.
            let is_there =
                |source: &ImportedKey| sources.keys.iter().any(|known| known.hash() == source.hash());
            if !source.as_ref().is_ok_and(is_there) {
                sources.take(at, source);
            }
        }
    }
    sources
}

fn key(entry: &Node) -> Result<ImportedKey, String> {
    if let Some(field) = unknown(entry, &["key", "keyHash", "metadata"]) {
        return Err(narrowed(field));
    }
    let metadata = given(entry, "metadata");
    let name = metadata.and_then(|metadata| ["name", "user"].iter().find_map(|field| text(metadata, field)));
    match (text(entry, "key"), text(entry, "keyHash")) {
        (Some(key), None) => ImportedKey::of(key, name, Terms::default()),
        (None, Some(hash)) => match hash.strip_prefix("sha256:") {
            Some(digest) => ImportedKey::of_digest(&digest.to_ascii_lowercase(), name, Terms::default()),
            None => Err("a salted hash: the secret itself is needed".to_owned()),
        },
        _ => Err("one of `key` and `keyHash` is needed".to_owned()),
    }
}

/// Collects the `apiKey` policies at any depth below `node`.
fn collect<'n>(node: &'n Node, is_of_route: bool, found: &mut Vec<Policy<'n>>) {
    for (name, value) in fields(node) {
        if name.name == "apiKey" && given(value, "keys").is_some() {
            found.push(Policy { keys: list(value, "keys"), is_of_route });
        }
        collect(value, is_of_route || name.name == "routes", found);
    }
    items(node).iter().for_each(|item| collect(item, is_of_route, found));
}

fn routes(node: &Node) -> usize {
    let own = |(name, value): &(crate::config::tree::Key, Node)| match name.name.as_str() {
        "routes" => items(value).len(),
        _ => 0,
    };
    let of_fields = fields(node).iter().map(|field| own(field) + routes(&field.1));
    of_fields.sum::<usize>() + items(node).iter().map(routes).sum::<usize>()
}

/// Whether any text value below `node` contains `what`.
fn mentions(node: &Node, what: &str) -> bool {
    scalar(node).is_some_and(|text| text.contains(what))
        || fields(node).iter().any(|(_, value)| mentions(value, what))
        || items(node).iter().any(|item| mentions(item, what))
}
