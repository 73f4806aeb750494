//! Reads values in YAML and JSON files of other programs.

use crate::config::tree::{Key, Kind, Node};

/// Returns the value of the field `name`; `None` if it is absent or empty.
pub(super) fn given<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    fields(node)
        .iter()
        .find(|(key, _)| key.name == name)
        .map(|(_, value)| value)
        .filter(|value| !is_nothing(value))
}

/// Returns the text of the field `name`, if it has one.
pub(super) fn text<'n>(node: &'n Node, name: &str) -> Option<&'n str> {
    given(node, name).and_then(scalar)
}

pub(super) fn scalar(node: &Node) -> Option<&str> {
    match &node.kind {
        Kind::Scalar { text, .. } => Some(text),
        _ => None,
    }
}

/// Returns the items of a list; an empty slice if the node is no list.
pub(super) fn items(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::List(items) => items,
        _ => &[],
    }
}

/// Returns the fields of a map; an empty slice if the node is no map.
pub(super) fn fields(node: &Node) -> &[(Key, Node)] {
    match &node.kind {
        Kind::Map(fields) => fields,
        _ => &[],
    }
}

/// Returns the items of the list in the field `name`.
pub(super) fn list<'n>(node: &'n Node, name: &str) -> &'n [Node] {
    given(node, name).map(items).unwrap_or_default()
}

/// Whether a value is null or empty.
pub(super) fn is_nothing(node: &Node) -> bool {
    match &node.kind {
        Kind::List(items) => items.is_empty(),
        Kind::Map(fields) => fields.is_empty(),
        Kind::Scalar { text, .. } => text.is_empty() || node.is_null(),
    }
}

/// Returns the value of a node that is `true` or `false` without quotes; `None` for any other node.
pub(super) fn boolean(node: &Node) -> Option<bool> {
    match &node.kind {
        Kind::Scalar { text, plain: true } => text.parse().ok(),
        _ => None,
    }
}

/// Returns the value of a node that is a whole number of at least 1; `None` for any other node.
pub(super) fn count(node: &Node) -> Option<u32> {
    scalar(node)?.parse().ok().filter(|number| *number > 0)
}

/// Returns the line of a field that appears twice in one map, at any depth. Programs differ in
/// which of the two they use.
pub(super) fn twice(node: &Node) -> Option<usize> {
    let own = fields(node);
    let again = |(index, (key, _)): (usize, &(Key, Node))| {
        own.iter().take(index).any(|(before, _)| before.name == key.name).then_some(key.at.line)
    };
    let here = own.iter().enumerate().find_map(again);
    here.or_else(|| own.iter().map(|(_, value)| value).chain(items(node)).find_map(twice))
}

/// Returns the name of the first field that is not empty and not in `known`.
pub(super) fn unknown<'n>(node: &'n Node, known: &[&str]) -> Option<&'n str> {
    let mut fields = fields(node).iter();
    let is_unknown = |(key, value): &&(Key, Node)| !known.contains(&key.name.as_str()) && !is_nothing(value);
    fields.find(is_unknown).map(|(key, _)| key.name.as_str())
}

/// Returns the message for a key that is left out because bearward has no counterpart for its field
/// `by`.
pub(super) fn narrowed(by: &str) -> String {
    // In a file of another form, the name of a field may be anything, even a secret.
    let is_plain = by.len() < 40 && by.bytes().all(|b| b.is_ascii_lowercase() || b == b'_' || b == b'-');
    match is_plain {
        true => format!("narrowed by `{by}`, which can't be carried over; remove that if it need not be"),
        false => "it has an unknown field, which may narrow it".to_owned(),
    }
}
