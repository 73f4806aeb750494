//! Parser of YAML to a tree, by the parser inside `serde_yaml`.

use std::collections::HashMap;
use std::path::Path;

use serde_yaml::granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, Span};

use super::node::{Key, Kind, MAX_DEPTH, Node, Quoting};
use crate::config::fault::{Fault, Position};

/// The highest number of nodes that aliases may add to a tree. This limit stops a "billion laughs"
/// attack.
const MAX_ALIASED_NODES: usize = 100_000;

/// Parses `source` as YAML. Returns `None` if `source` contains no document. A second document is a
/// fault.
pub(crate) fn parse(file: &Path, source: &str, quoting: Quoting) -> Result<Option<Node>, Fault> {
    let mut builder = Builder::new(file);
    for event in Parser::new_from_str(source) {
        let (event, span) = event.map_err(|error| syntax_fault(file, &error, quoting))?;
        builder.take(event, &span)?;
    }
    Ok(builder.root)
}

fn syntax_fault(file: &Path, error: &ScanError, quoting: Quoting) -> Fault {
    let message = match quoting {
        Quoting::Allowed => format!("not valid YAML: {}", error.info()),
        Quoting::Never => format!("not valid YAML: {}", kind_in_words(error.kind())),
    };
    let at = Position { line: error.marker().line().max(1), column: error.marker().col() + 1 };
    Fault::at(file, at, message)
}

/// Returns the name of an error's kind without its data: `UnknownAnchor { name: … }` → "unknown
/// anchor".
fn kind_in_words(kind: &ErrorKind) -> String {
    let debug = format!("{kind:?}");
    let name = debug.split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
    debug_assert!(!name.is_empty(), "an error has a kind");
    let mut words = String::new();
    for (index, c) in name.chars().enumerate() {
        if c.is_ascii_uppercase() && index > 0 {
            words.push(' ');
        }
        words.push(c.to_ascii_lowercase());
    }
    words
}

/// A list or map whose end has not been read yet.
struct Open {
    at: Position,
    anchor: usize,
    items: OpenItems,
}

enum OpenItems {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, pending: Option<Key> },
}

struct Builder<'a> {
    file: &'a Path,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    aliased: usize,
    root: Option<Node>,
    documents: usize,
}

impl<'a> Builder<'a> {
    fn new(file: &'a Path) -> Self {
        Builder { file, open: Vec::new(), anchors: HashMap::new(), aliased: 0, root: None, documents: 0 }
    }

    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Fault> {
        let at = Position { line: span.start.line().max(1), column: span.start.col() + 1 };
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                match self.documents {
                    1 => Ok(()),
                    _ => Err(self.fault(at, "a second YAML document: only one is read")),
                }
            }
            Event::Scalar(text, style, anchor, _) => {
                let kind = Kind::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                self.close(Node { at, kind }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => self.open(at, anchor, OpenItems::List(Vec::new())),
            Event::MappingStart(_, anchor, _) => {
                let items = OpenItems::Map { entries: Vec::new(), pending: None };
                self.open(at, anchor, items)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { at, anchor, items }) = self.open.pop() else {
                    debug_assert!(false, "the parser ends only what it has begun");
                    return Ok(());
                };
                let kind = match items {
                    OpenItems::List(items) => Kind::List(items),
                    OpenItems::Map { entries, .. } => Kind::Map(merged(entries)),
                };
                self.close(Node { at, kind }, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor) else {
                    return Err(self.fault(at, "an alias to something that contains it"));
                };
                self.aliased += node.count();
                if self.aliased > MAX_ALIASED_NODES {
                    return Err(self.fault(at, "its aliases expand to too much"));
                }
                let node = Node { at, kind: node.kind.clone() };
                self.close(node, 0)
            }
            _ => Ok(()),
        }
    }

    fn open(&mut self, at: Position, anchor: usize, items: OpenItems) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(self.fault(at, "nested too deeply"));
        }
        self.open.push(Open { at, anchor, items });
        Ok(())
    }

    /// Adds a finished node to the list or map that it is part of.
    fn close(&mut self, node: Node, anchor: usize) -> Result<(), Fault> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let file = self.file;
        match self.open.last_mut().map(|open| &mut open.items) {
            None => self.root = Some(node),
            Some(OpenItems::List(items)) => items.push(node),
            Some(OpenItems::Map { entries, pending }) => match pending.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let Kind::Scalar { text: name, .. } = node.kind else {
                        return Err(Fault::at(file, node.at, "a field's name must be plain text"));
                    };
                    *pending = Some(Key { at: node.at, name });
                }
            },
        }
        Ok(())
    }

    fn fault(&self, at: Position, message: &str) -> Fault {
        Fault::at(self.file, at, message)
    }
}

/// Resolves `<<: *defaults` (YAML 1.1 merge keys, used with anchors). A map's own fields take
/// precedence over merged ones.
fn merged(entries: Vec<(Key, Node)>) -> Vec<(Key, Node)> {
    if !entries.iter().any(|(key, _)| key.name == "<<") {
        return entries;
    }
    let (merges, mut own): (Vec<_>, Vec<_>) = entries.into_iter().partition(|(key, _)| key.name == "<<");
    for (key, node) in merges {
        let sources = match node.kind {
            Kind::List(items) => items,
            kind => vec![Node { at: node.at, kind }],
        };
        for source in sources {
            match source.kind {
                Kind::Map(fields) => {
                    for (field, value) in fields {
                        if !own.iter().any(|(known, _)| known.name == field.name) {
                            own.push((field, value));
                        }
                    }
                }
                // A `<<` without a map is kept, so that the decoder reports it as an unknown field.
                kind => own.push((key.clone(), Node { at: source.at, kind })),
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> Result<Option<Node>, Fault> {
        parse(Path::new("t.yaml"), source, Quoting::Never)
    }

    #[test]
    fn every_node_has_its_position() {
        let root = read("a: 1\nb:\n  - x\n").unwrap().unwrap();
        let Kind::Map(entries) = root.kind else { panic!() };
        assert_eq!(entries[0].1.at, Position { line: 1, column: 4 });
        let Kind::List(items) = &entries[1].1.kind else { panic!() };
        assert_eq!(items[0].at, Position { line: 3, column: 5 });
    }

    #[test]
    fn an_alias_bomb_ends() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..9 {
            let below = format!("*a{}", level - 1);
            bomb.push_str(&format!("a{level}: &a{level} [{}]\n", [below.as_str(); 10].join(",")));
        }
        assert!(read(&bomb).unwrap_err().message.contains("too much"));
    }

    #[test]
    fn deep_nesting_ends() {
        assert!(
            read(&format!("{}{}", "[".repeat(40), "]".repeat(40))).unwrap_err().message.contains("deeply")
        );
        assert!(read(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn no_message_about_a_key_file_quotes_it() {
        for source in ["? [bwk_secret]\n: 2\n", "*bwk_secret\n", "a: [bwk_secret\n", "a: \"bwk_secret\n"] {
            let message = read(source).unwrap_err().message;
            assert!(!message.contains("secret"), "{source:?} → {message}");
        }
    }

    #[test]
    fn merge_keys_fill_in_fields_that_are_left_out() {
        let root = read("d: &d {x: 1, y: 2}\ne: {<<: *d, y: 3}\n").unwrap().unwrap();
        let Kind::Map(entries) = root.kind else { panic!() };
        let Kind::Map(fields) = &entries[1].1.kind else { panic!() };
        let names: Vec<_> = fields.iter().map(|(key, _)| key.name.as_str()).collect();
        assert_eq!(names, ["y", "x"]);
    }

    #[test]
    fn a_second_document_is_refused() {
        assert!(read("a: 1\n---\nb: 2\n").is_err());
    }
}
