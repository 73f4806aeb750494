//! The nodes of a tree.

use crate::config::fault::Position;

/// The deepest nesting that is read: honest files stay far below it.
pub(super) const MAX_DEPTH: usize = 32;

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) at: Position,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// A scalar's text after YAML's own escapes; `plain` if it was not quoted.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// The fields of a map. A repeated name is a fault of this map alone, which its decoder reports.
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

    /// The value of a map's field; the first one where the name is repeated.
    pub(crate) fn field(&self, name: &str) -> Option<&Node> {
        let Kind::Map(entries) = &self.kind else { return None };
        entries.iter().find(|(key, _)| key.name == name).map(|(_, value)| value)
    }

    /// The position of a field's value, or of the whole map where the field is left out.
    pub(crate) fn position_of(&self, name: &str) -> Position {
        self.field(name).map_or(self.at, |value| value.at)
    }

    /// Whether this is the scalar `text`, quoted or not.
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

/// Whether the messages of a file's faults may quote from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Quoting {
    /// A configuration: quoting helps.
    Allowed,
    /// A key file: any line may hold a secret.
    Never,
}
