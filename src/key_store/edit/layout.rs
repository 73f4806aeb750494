//! Finds the byte positions of all nodes of a YAML file, so that one part can be changed while all
//! other bytes stay the same.

use std::ops::Range;

use serde_yaml::granit_parser::{Event, Parser, ScalarStyle};

/// A node of a YAML file, and its position. The position of a block collection ends where the
/// collection's last node ends.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) span: Range<usize>,
    pub(super) shape: Shape,
    /// The number of the node's anchor, or of the anchor that an alias refers to; zero if there is
    /// none.
    pub(super) anchor: usize,
}

#[derive(Clone, Debug)]
pub(super) enum Shape {
    Scalar { text: String, is_plain: bool },
    Alias,
    List { is_flow: bool, items: Vec<Item> },
    Map { is_flow: bool, fields: Vec<(Item, Item)> },
}

impl Item {
    /// Returns a field of a map, as its key and value. Fields that `<<` merges into the map are not
    /// found.
    pub(super) fn field(&self, name: &str) -> Option<&(Item, Item)> {
        let Shape::Map { fields, .. } = &self.shape else { return None };
        fields.iter().find(|(key, _)| matches!(&key.shape, Shape::Scalar { text, .. } if text == name))
    }

    /// Returns the text of a field of a map. Fields that `<<` merges into the map are not found.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match &self.field(name)?.1.shape {
            Shape::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// Returns this node and all nodes inside it, in the order of the file.
    pub(super) fn all(&self) -> Vec<&Item> {
        let inner: Vec<&Item> = match &self.shape {
            Shape::Scalar { .. } | Shape::Alias => Vec::new(),
            Shape::List { items, .. } => items.iter().flat_map(Item::all).collect(),
            Shape::Map { fields, .. } => {
                fields.iter().flat_map(|(key, value)| [key.all(), value.all()].concat()).collect()
            }
        };
        [vec![self], inner].concat()
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(&self.shape, Shape::Scalar { text, is_plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }
}

/// A collection whose end the parser has not reached yet.
struct Open {
    start: usize,
    items: Vec<Item>,
    is_flow: bool,
    is_map: bool,
    anchor: usize,
}

/// Returns the layout of the only document of `source`; `None` if there is no document, or if it
/// can't be parsed.
pub(super) fn of(source: &str) -> Option<Item> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(source) {
        let (event, span) = event.ok()?;
        let at = span.start.byte_offset()?..span.end.byte_offset()?;
        let is_flow = |bracket| source.as_bytes().get(at.start) == Some(&bracket);
        let closed = match event {
            Event::Scalar(text, style, anchor, _) => {
                // The parser's span of a block scalar extends to the next token, so the white space
                // at its end is removed.
                let end = at.start + source.get(at.clone())?.trim_end().len();
                let shape = Shape::Scalar { text: text.into_owned(), is_plain: style == ScalarStyle::Plain };
                Some(Item { span: at.start..end, shape, anchor })
            }
            Event::Alias(anchor) => Some(Item { span: at, shape: Shape::Alias, anchor }),
            Event::SequenceStart(_, anchor, _) => {
                let is_flow = is_flow(b'[');
                open.push(Open { start: at.start, items: Vec::new(), is_flow, is_map: false, anchor });
                None
            }
            Event::MappingStart(_, anchor, _) => {
                let is_flow = is_flow(b'{');
                open.push(Open { start: at.start, items: Vec::new(), is_flow, is_map: true, anchor });
                None
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Open { start, items, is_flow, is_map, anchor } = open.pop()?;
                let end = match (is_flow, items.last()) {
                    (false, Some(last)) => last.span.end,
                    _ => at.end,
                };
                let shape = match is_map {
                    true => Shape::Map { is_flow, fields: paired(items) },
                    false => Shape::List { is_flow, items },
                };
                Some(Item { span: start..end, shape, anchor })
            }
            _ => None,
        };
        match (closed, open.last_mut()) {
            (Some(item), Some(open)) => open.items.push(item),
            (Some(item), None) => root = Some(item),
            (None, _) => {}
        }
    }
    root
}

fn paired(items: Vec<Item>) -> Vec<(Item, Item)> {
    let mut items = items.into_iter();
    std::iter::from_fn(|| Some((items.next()?, items.next()?))).collect()
}
