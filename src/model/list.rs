//! Lists of models, as servers answer them, and the entries that a key may see.
//!
//! OpenAI, vLLM, SGLang, TGI and llama.cpp answer `{"data": [{"id": NAME}]}`, Ollama and llama.cpp
//! `{"models": [{"name": NAME, "model": NAME}]}`, and Triton a list of `{"name": NAME}`.

use std::ops::Range;

use crate::json::{Kind, Literal, Scanner, Text, Visitor};

/// The document is no list of models in a form that is known.
#[derive(Debug)]
pub(crate) struct UnknownList;

/// Returns a list without the entries for which `may_see` returns false for all of their names. All
/// other bytes stay unchanged.
///
/// # Errors
///
/// The list is not one that is known.
pub(crate) fn filtered(list: &[u8], may_see: impl Fn(&str) -> bool) -> Result<Vec<u8>, UnknownList> {
    let entries = Entries::of(list)?;
    let is_seen = |item: &&Item| item.names.iter().any(|name| may_see(name));
    let mut out = Vec::with_capacity(list.len());
    let mut from = 0;
    let mut cut = |out: &mut Vec<u8>, range: Range<usize>, with: &[u8]| {
        out.extend_from_slice(list.get(from..range.start).unwrap_or_default());
        out.extend_from_slice(with);
        from = range.end;
    };
    for part in &entries.lists {
        match part {
            Part::Cursor { range, name, is_first } if !may_see(name) => {
                let mut kept = entries.items_of("data").iter().filter(is_seen);
                let end = if *is_first { kept.next() } else { kept.next_back() };
                let name = serde_json::Value::from(end.and_then(|item| item.names.first()).cloned());
                cut(&mut out, range.clone(), name.to_string().as_bytes());
            }
            Part::Cursor { .. } => {}
            Part::List { items, .. } => {
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

/// Adds the entries of another list to a list, except those with a name that the list has already.
/// Both lists are [`filtered`] ones.
///
/// # Errors
///
/// A list is not one that is known.
pub(crate) fn joined(list: &[u8], more: &[u8]) -> Result<Vec<u8>, UnknownList> {
    let (ours, theirs) = (Entries::of(list)?, Entries::of(more)?);
    let mut out = Vec::with_capacity(list.len() + more.len());
    let mut from = 0;
    for part in &ours.lists {
        let Part::List { member, items, end } = part else { continue };
        let known: Vec<&String> = items.iter().flat_map(|item| &item.names).collect();
        let is_new = |item: &&Item| !item.names.iter().any(|name| known.contains(&name));
        let added =
            theirs.items_of(member).iter().filter(is_new).filter_map(|item| more.get(item.range.clone()));
        out.extend_from_slice(list.get(from..*end).unwrap_or_default());
        from = *end;
        for (index, item) in added.enumerate() {
            out.extend_from_slice(if index > 0 || !items.is_empty() { b"," } else { b"" });
            out.extend_from_slice(item);
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
    /// Whether a list is null.
    is_empty: bool,
}

#[derive(Debug)]
enum Part {
    /// A list: the name of its member, its entries, and the position of its closing bracket.
    List { member: String, items: Vec<Item>, end: usize },
    /// The name of the first or last model of the list `data`, in Anthropic's lists. A client asks
    /// for the next part of the list with it.
    Cursor { range: Range<usize>, name: String, is_first: bool },
}

#[derive(Debug, Default)]
struct Item {
    range: Range<usize>,
    names: Vec<String>,
}

impl Entries {
    fn of(list: &[u8]) -> Result<Self, UnknownList> {
        let (mut scanner, mut entries) = (Scanner::default(), Entries::default());
        scanner.push(list, &mut entries).map_err(|_| UnknownList)?;
        scanner.finish(&mut entries).map_err(|_| UnknownList)?;
        let has_list = entries.lists.iter().any(|part| matches!(part, Part::List { .. }));
        if (has_list || entries.is_empty) && !entries.is_unclear { Ok(entries) } else { Err(UnknownList) }
    }

    /// Returns the entries of the list that is the member of this name.
    fn items_of(&self, wanted: &str) -> &[Item] {
        let of_name = |part: &&Part| matches!(part, Part::List { member, .. } if member == wanted);
        match self.lists.iter().find(of_name) {
            Some(Part::List { items, .. }) => items,
            _ => &[],
        }
    }

    fn item(&mut self) -> Option<&mut Item> {
        match self.lists.last_mut() {
            Some(Part::List { items, .. }) => items.last_mut(),
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
                let member = std::mem::take(&mut self.member);
                self.lists.push(Part::List { member, items: Vec::new(), end: 0 });
                self.entries_at = Some(depth + 2);
            }
            (false, Kind::Object) if self.entries_at == Some(depth + 1) => {
                if let Some(Part::List { items, .. }) = self.lists.last_mut() {
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
            if let Some(Part::List { end, .. }) = self.lists.last_mut() {
                *end = at as usize;
            }
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
                let (name, is_first) = (name.unwrap_or_default(), self.member == "first_id");
                self.lists.push(Part::Cursor { range, name, is_first });
            }
            _ => self.note_other(),
        }
    }

    fn number(&mut self, _written: &Text, _from: u64) {
        self.note_other();
    }

    fn literal(&mut self, literal: Literal, _from: u64) {
        // Ollama's empty list.
        let is_list = self.open.len() == 1 && matches!(self.member.as_str(), "data" | "models");
        self.is_empty |= is_list && literal == Literal::Null;
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
        assert_eq!(of(anthropic, &["b"]).unwrap(), r#"{"data":[{"id":"b"}],"first_id":"b","last_id":"b"}"#);
        assert_eq!(of(anthropic, &["a"]).unwrap(), r#"{"data":[{"id":"a"}],"first_id":"a","last_id":"a"}"#);
        assert_eq!(of(anthropic, &[]).unwrap(), r#"{"data":[],"first_id":null,"last_id":null}"#);
        assert_eq!(of(r#"[{"name":"a"},{"name":"b"}]"#, &["a"]).unwrap(), r#"[{"name":"a"}]"#);
    }

    #[test]
    fn lists_are_joined_without_repetitions() {
        let join = |one: &str, other: &str| {
            let joined = joined(one.as_bytes(), other.as_bytes()).ok()?;
            Some(String::from_utf8(joined).unwrap())
        };
        let (a, b) =
            (r#"{"object":"list","data":[{"id":"a"}]}"#, r#"{"data":[{"id":"b"},{"id":"a"}],"x":1}"#);
        assert_eq!(join(a, b).unwrap(), r#"{"object":"list","data":[{"id":"a"},{"id":"b"}]}"#);
        assert_eq!(join(r#"{"data":[]}"#, b).unwrap(), r#"{"data":[{"id":"b"},{"id":"a"}]}"#);
        assert_eq!(join(a, r#"{"models":[{"name":"b"}]}"#).unwrap(), a);
        assert_eq!(join(a, "{}"), None);
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
