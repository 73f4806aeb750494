//! Where everything of a YAML file stands, in bytes, so that one part of it can be changed and all else left as it is.

use std::ops::Range;

use serde_yaml::granit_parser::{Event, Parser, ScalarStyle};

/// A node and its place. The end of a block collection is that of the last thing in it.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) span: Range<usize>,
    pub(super) shape: Shape,
}

#[derive(Clone, Debug)]
pub(super) enum Shape {
    Scalar { text: String, is_plain: bool },
    Alias,
    List { is_flow: bool, items: Vec<Item> },
    Map { is_flow: bool, fields: Vec<(Item, Item)> },
}

impl Item {
    /// The value of a map's own field; what it merges in is somebody else's.
    pub(super) fn field(&self, name: &str) -> Option<&(Item, Item)> {
        let Shape::Map { fields, .. } = &self.shape else { return None };
        fields.iter().find(|(key, _)| matches!(&key.shape, Shape::Scalar { text, .. } if text == name))
    }

    /// The text of a map's own field.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match &self.field(name)?.1.shape {
            Shape::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(&self.shape, Shape::Scalar { text, is_plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }
}

/// The layout of the one document of `source`; `None` where there is none, or no sense to be made of it.
pub(super) fn of(source: &str) -> Option<Item> {
    let mut open: Vec<(Range<usize>, Vec<Item>, bool, bool)> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(source) {
        let (event, span) = event.ok()?;
        let at = span.start.byte_offset()?..span.end.byte_offset()?;
        let is_flow = |bracket| source.as_bytes().get(at.start) == Some(&bracket);
        let closed = match event {
            Event::Scalar(text, style, ..) => {
                // A block scalar's span runs on to whatever comes next.
                let end = at.start + source.get(at.clone())?.trim_end().len();
                let shape = Shape::Scalar { text: text.into_owned(), is_plain: style == ScalarStyle::Plain };
                Some(Item { span: at.start..end, shape })
            }
            Event::Alias(_) => Some(Item { span: at, shape: Shape::Alias }),
            Event::SequenceStart(..) => {
                let is_flow = is_flow(b'[');
                open.push((at, Vec::new(), is_flow, false));
                None
            }
            Event::MappingStart(..) => {
                let is_flow = is_flow(b'{');
                open.push((at, Vec::new(), is_flow, true));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let (start, items, is_flow, is_map) = open.pop()?;
                let end = match (is_flow, items.last()) {
                    (false, Some(last)) => last.span.end,
                    _ => at.end,
                };
                let shape = match is_map {
                    true => Shape::Map { is_flow, fields: paired(items) },
                    false => Shape::List { is_flow, items },
                };
                Some(Item { span: start.start..end, shape })
            }
            _ => None,
        };
        match (closed, open.last_mut()) {
            (Some(item), Some((_, items, ..))) => items.push(item),
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
