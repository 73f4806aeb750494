//! The nodes of a tree.

use crate::config::fault::Position;

/// The deepest nesting of a file that is accepted. Honest files stay far below this depth.
pub(super) const MAX_DEPTH: usize = 32;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A scalar: its text with escapes replaced, and whether the text was `plain`, that is, not
    /// quoted.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// The fields of a map. A field's name may be repeated here; the decoder of the map reports a
    /// repeated name as a fault.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) at: Position,
    pub(crate) name: String,
}

impl Node {
    /// Whether the node has no value: `key:`, `key: ~` or `key: null` (YAML 1.2, section 10.3.2).
    pub(crate) fn is_null(&self) -> bool {
        matches!(
            &self.kind,
            Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
        )
    }

    /// Whether the node has no value, or is a list or map without items.
    pub(crate) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::Scalar { .. } => self.is_null(),
            Kind::List(items) => items.is_empty(),
            Kind::Map(entries) => entries.is_empty(),
        }
    }

    /// Returns the value of a map's field; the first value if the name is repeated.
    pub(crate) fn field(&self, name: &str) -> Option<&Node> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    /// Returns the item of a list at this index.
    pub(crate) fn item(&self, index: usize) -> Option<&Node> {
        let Kind::List(items) = &self.kind else { return None };
        items.get(index)
    }

    /// Returns the position of a field's value, or of the whole map if the field is left out.
    pub(crate) fn position_of(&self, name: &str) -> Position {
        self.field(name).map_or(self.at, |value| value.at)
    }

    /// Whether this node is a scalar with the text `expected`, quoted or not.
    pub(crate) fn is_scalar(&self, expected: &str) -> bool {
        matches!(&self.kind, Kind::Scalar { text, .. } if text == expected)
    }

    pub(super) fn count(&self) -> usize {
        1 + match &self.kind {
            Kind::Scalar { .. } => 0,
            Kind::List(items) => items.iter().map(Node::count).sum::<usize>(),
            Kind::Map(entries) => entries.iter().map(|(_, value)| value.count()).sum::<usize>(),
        }
    }
}

/// Whether messages about faults in a file may quote the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quoting {
    /// Messages may quote the file, because it is a configuration.
    Allowed,
    /// Messages never quote the file, because it is a key file, and any line may contain a secret.
    Never,
}
