//! Parser of one line of JSON to a tree.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

use serde::Deserializer as _;
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::node::{Key, Kind, MAX_DEPTH, Node};
use crate::config::fault::{Fault, Position};

/// Parses the JSON value `source`, which is line `line` of a file. Messages never quote `source`.
pub(crate) fn from_json(file: &Path, source: &str, line: usize) -> Result<Node, Fault> {
    let reader = Reader { file, source, line };
    reader.node(source.trim(), 0)
}

struct Reader<'a> {
    file: &'a Path,
    source: &'a str,
    line: usize,
}

impl Reader<'_> {
    /// Returns the position of `part`, which must be a slice of the source.
    fn position(&self, part: &str) -> Position {
        let offset = (part.as_ptr() as usize).saturating_sub(self.source.as_ptr() as usize);
        let before = self.source.get(..offset);
        debug_assert!(before.is_some(), "a part is a slice of the source");
        let before = before.unwrap_or(self.source);
        Position { line: self.line, column: before.chars().count() + 1 }
    }

    fn node(&self, part: &str, depth: usize) -> Result<Node, Fault> {
        let at = self.position(part);
        if depth >= MAX_DEPTH {
            return Err(Fault::at(self.file, at, "nested too deeply"));
        }
        let invalid = |error: serde_json::Error| {
            let at = Position { column: at.column + error.column().saturating_sub(1), ..at };
            Fault::at(self.file, at, "not valid JSON").hint(hint(&error))
        };
        let mut deserializer = serde_json::Deserializer::from_str(part);
        let kind = match part.as_bytes().first() {
            Some(b'{') => {
                let entries = deserializer.deserialize_map(Entries).map_err(invalid)?;
                Kind::Map(self.map(entries, depth)?)
            }
            Some(b'[') => {
                let items = deserializer.deserialize_seq(Items).map_err(invalid)?;
                let items = items.into_iter().map(|item| self.node(item.get(), depth + 1));
                Kind::List(items.collect::<Result<_, _>>()?)
            }
            Some(b'"') => {
                let text: String = serde::Deserialize::deserialize(&mut deserializer).map_err(invalid)?;
                Kind::Scalar { text, plain: false }
            }
            _ => {
                let raw: &RawValue = serde::Deserialize::deserialize(&mut deserializer).map_err(invalid)?;
                Kind::Scalar { text: raw.get().to_owned(), plain: true }
            }
        };
        deserializer.end().map_err(invalid)?;
        Ok(Node { at, kind })
    }

    fn map(&self, entries: Vec<(Cow<'_, str>, &RawValue)>, depth: usize) -> Result<Vec<(Key, Node)>, Fault> {
        let mut fields: Vec<(Key, Node)> = Vec::with_capacity(entries.len());
        for (name, value) in entries {
            // If a field's name contains an escape, the name is a copy, not a slice of the source.
            // Such a name gets the position of the field's value.
            let mut at = self.position(match &name {
                Cow::Borrowed(name) => name,
                Cow::Owned(_) => value.get(),
            });
            at.column -= usize::from(matches!(name, Cow::Borrowed(_)));
            fields.push((Key { at, name: name.into_owned() }, self.node(value.get(), depth + 1)?));
        }
        Ok(fields)
    }
}

fn hint(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Eof => "the line ends too early",
        _ => "one object on a line, as in {\"id\": …, \"hash\": …, \"permissions\": […]}",
    }
}

/// A field's name, borrowed from the source if the name has no escape in it.
#[derive(serde::Deserialize)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(Cow<'de, str>, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some((Name(name), value)) = map.next_entry::<Name<'de>, &RawValue>()? {
            entries.push((name, value));
        }
        Ok(entries)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(source: &str) -> Result<Node, Fault> {
        from_json(Path::new("k.jsonl"), source, 7)
    }

    #[test]
    fn every_value_has_its_position() {
        let Kind::Map(fields) = read("  {\"a\": 1, \"é\":[true, \"x\"]}").unwrap().kind else { panic!() };
        assert_eq!(fields[0].0.at, Position { line: 7, column: 4 });
        assert_eq!(fields[0].1.at, Position { line: 7, column: 9 });
        let Kind::List(items) = &fields[1].1.kind else { panic!() };
        assert_eq!(items[1].at, Position { line: 7, column: 23 });
        assert!(matches!(&items[0].kind, Kind::Scalar { text, plain: true } if text == "true"));
    }

    #[test]
    fn invalid_json_is_reported_and_not_quoted() {
        for (source, column) in [
            ("{\"a\": bwk_secret}", 7),
            ("{\"a\": 1} bwk_secret", 10),
            ("{\"a\": {\"bwk_secret\": tru}}", 25),
            ("bwk_secret", 1),
            ("{id: bwk_secret}", 2),
            ("{\"a\": \"bwk_secret", 17),
        ] {
            let fault = read(source).unwrap_err();
            assert_eq!(fault.at, Position { line: 7, column }, "{source}: {fault}");
            assert!(!fault.to_string().contains("secret"), "{fault}");
        }
        assert!(read(&"[".repeat(100)).is_err());
        assert!(
            read(&format!("{}{}", "[".repeat(40), "]".repeat(40))).unwrap_err().message.contains("deeply")
        );
    }
}
