//! Lists of models, as servers answer them, and the entries that a key may see.
//!
//! OpenAI, vLLM, SGLang, TGI and llama.cpp answer `{"data": [{"id": NAME}]}`, Ollama and llama.cpp
//! `{"models": [{"name": NAME, "model": NAME}]}`, and Triton a list of `{"name": NAME}`.

use std::ops::Range;

use crate::json::{Kind, Literal, Scanner, Text, Visitor};

/// The list is not one that is known, so that its entries can't be told apart.
#[derive(Debug)]
pub(crate) struct UnknownList;

/// Returns a list without the entries for which `may_see` returns false for all of their names. All
/// other bytes stay unchanged.
///
/// # Errors
///
/// The list is not one that is known.
pub(crate) fn filtered(list: &[u8], may_see: impl Fn(&str) -> bool) -> Result<Vec<u8>, UnknownList> {
    let (mut scanner, mut entries) = (Scanner::default(), Entries::default());
    scanner.push(list, &mut entries).map_err(|_| UnknownList)?;
    scanner.finish(&mut entries).map_err(|_| UnknownList)?;
    if entries.lists.is_empty() || entries.is_unclear {
        return Err(UnknownList);
    }
    let mut out = Vec::with_capacity(list.len());
    let mut from = 0;
    let mut cut = |out: &mut Vec<u8>, range: Range<usize>, with: &[u8]| {
        out.extend_from_slice(list.get(from..range.start).unwrap_or_default());
        out.extend_from_slice(with);
        from = range.end;
    };
    for part in &entries.lists {
        match part {
            Part::Cursor(range, name) if !may_see(name) => cut(&mut out, range.clone(), b"null"),
            Part::Cursor(..) => {}
            Part::List(items) => {
                let is_seen = |item: &&Item| item.names.iter().any(|name| may_see(name));
                let kept: Vec<&[u8]> =
                    items.iter().filter(is_seen).filter_map(|item| list.get(item.range.clone())).collect();
                let (Some(first), Some(last)) = (items.first(), items.last()) else { continue };
                if kept.len() < items.len() {
                    let between = items.get(1).map(|second| first.range.end..second.range.start);
                    let comma = between.and_then(|range| list.get(range)).unwrap_or(b",");
                    cut(&mut out, first.range.start..last.range.end, &kept.join(comma));
                }
            }
        }
    }
    out.extend_from_slice(list.get(from..).unwrap_or_default());
    Ok(out)
}

/// The parts of a document that name models, in their order.
#[derive(Debug, Default)]
struct Entries {
    lists: Vec<Part>,
    /// Whether a list has an entry that is no object.
    is_unclear: bool,
    /// The kind of each open object and list.
    open: Vec<Kind>,
    member: String,
    /// Depth of the entries of the list that is open.
    entries_at: Option<usize>,
    in_aliases: bool,
}

#[derive(Debug)]
enum Part {
    List(Vec<Item>),
    /// The name of the first or last model, in Anthropic's lists.
    Cursor(Range<usize>, String),
}

#[derive(Debug, Default)]
struct Item {
    range: Range<usize>,
    names: Vec<String>,
}

impl Entries {
    fn item(&mut self) -> Option<&mut Item> {
        match self.lists.last_mut() {
            Some(Part::List(items)) => items.last_mut(),
            _ => None,
        }
    }

    /// Whether the member that is being read is one of an entry.
    fn is_in_entry(&self) -> bool {
        self.entries_at == Some(self.open.len())
    }

    /// Notes a value that is no object: it is unclear where a list's entries should be.
    fn note_other(&mut self) {
        self.is_unclear |= self.entries_at == Some(self.open.len() + 1);
    }
}

impl Visitor for Entries {
    fn open(&mut self, kind: Kind, at: u64) {
        let depth = self.open.len();
        let is_list = match depth {
            0 => kind == Kind::Array,
            1 => kind == Kind::Array && matches!(self.member.as_str(), "data" | "models"),
            _ => false,
        };
        match (is_list, kind) {
            (true, _) => {
                self.lists.push(Part::List(Vec::new()));
                self.entries_at = Some(depth + 2);
            }
            (false, Kind::Object) if self.entries_at == Some(depth + 1) => {
                if let Some(Part::List(items)) = self.lists.last_mut() {
                    items.push(Item { range: at as usize..at as usize, names: Vec::new() });
                }
            }
            (false, _) => {
                self.note_other();
                self.in_aliases = kind == Kind::Array && self.is_in_entry() && self.member == "aliases";
            }
        }
        self.open.push(kind);
        self.member.clear();
    }

    fn close(&mut self, at: u64) {
        let is_entry = self.is_in_entry();
        self.open.pop();
        self.in_aliases = false;
        if is_entry && let Some(item) = self.item() {
            item.range.end = at as usize + 1;
        }
        if self.entries_at.is_some_and(|depth| self.open.len() + 1 < depth) {
            self.entries_at = None;
        }
    }

    fn name(&mut self, name: &Text) {
        self.member = name.whole().unwrap_or_default().to_owned();
    }

    fn piece(&mut self, _decoded: &[u8]) {}

    fn string(&mut self, value: &Text, from: u64, to: u64) {
        let name = value.whole().map(str::to_owned);
        let is_alias = self.in_aliases && self.entries_at == Some(self.open.len() - 1);
        let is_name = self.is_in_entry() && matches!(self.member.as_str(), "id" | "name" | "model");
        let is_cursor = self.open.len() == 1 && matches!(self.member.as_str(), "first_id" | "last_id");
        match name {
            Some(name) if is_alias || is_name => {
                if let Some(item) = self.item() {
                    item.names.push(name);
                }
            }
            name if is_cursor => {
                let range = from as usize..to as usize;
                self.lists.push(Part::Cursor(range, name.unwrap_or_default()));
            }
            _ => self.note_other(),
        }
    }

    fn number(&mut self, _written: &Text, _from: u64) {
        self.note_other();
    }

    fn literal(&mut self, _literal: Literal, _from: u64) {
        self.note_other();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(list: &str, allowed: &[&str]) -> Option<String> {
        let kept = filtered(list.as_bytes(), |name| allowed.contains(&name)).ok()?;
        Some(String::from_utf8(kept).unwrap())
    }

    #[test]
    fn entries_of_other_models_are_removed_and_nothing_else_changes() {
        let openai = r#"{"object": "list", "data": [{"id": "a", "x": [1]}, {"id": "b"}, {"id": "c"}]}"#;
        assert_eq!(of(openai, &["a", "b", "c"]).unwrap(), openai);
        assert_eq!(of(openai, &["b"]).unwrap(), r#"{"object": "list", "data": [{"id": "b"}]}"#);
        assert_eq!(
            of(openai, &["a", "c"]).unwrap(),
            r#"{"object": "list", "data": [{"id": "a", "x": [1]}, {"id": "c"}]}"#
        );
        assert_eq!(of(openai, &[]).unwrap(), r#"{"object": "list", "data": []}"#);
        let ollama =
            r#"{"models":[{"name":"a:latest","model":"a:latest","details":{"name":"b"}},{"name":"b"}]}"#;
        assert_eq!(of(ollama, &["b"]).unwrap(), r#"{"models":[{"name":"b"}]}"#);
        let both = r#"{"models":[{"name":"a"}],"data":[{"id":"a","aliases":["z"]}]}"#;
        assert_eq!(of(both, &["z"]).unwrap(), r#"{"models":[],"data":[{"id":"a","aliases":["z"]}]}"#);
        let anthropic = r#"{"data":[{"id":"a"},{"id":"b"}],"first_id":"a","last_id":"b"}"#;
        assert_eq!(of(anthropic, &["b"]).unwrap(), r#"{"data":[{"id":"b"}],"first_id":null,"last_id":"b"}"#);
        assert_eq!(of(r#"[{"name":"a"},{"name":"b"}]"#, &["a"]).unwrap(), r#"[{"name":"a"}]"#);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for list in
            ["", "{}", "{\"data\":{}}", "{\"data\":[\"a\"]}", "{\"data\":[[]]}", "{\"data\":[1]}", "x"]
        {
            assert_eq!(of(list, &["a"]), None, "{list}");
        }
        assert_eq!(of("{\"data\":[]}", &["a"]).unwrap(), "{\"data\":[]}");
    }
}
