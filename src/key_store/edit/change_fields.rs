//! Changes fields of one key in the text of a YAML file or of a line of JSON. All lines without a
//! changed field stay as they are.
//!
//! The new text is checked: [`super`] parses it, and compares its keys with the intended keys.

use super::layout::{self, Item, Shape};
use super::splice::{Splice, behind_colon, indentation, line_behind, line_start, newline_of, next_line};
use super::yaml_list::last_dash;
use crate::keys::record::KeyRecord;

/// A field and its new value, as text that is valid in YAML and in JSON.
struct Field {
    name: &'static str,
    value: String,
    /// Whether the value is text, which JSON needs quotes for.
    is_text: bool,
}

/// Returns the fields in which `after` differs from `before`, except `previous`.
fn changed_fields(before: &KeyRecord, after: &KeyRecord) -> Vec<Field> {
    let text = |name, value: String| Field { name, value, is_text: true };
    let mut fields = Vec::new();
    if before.hash != after.hash {
        fields.push(text("hash", after.hash.to_stored()));
    }
    for (name, before, after) in [
        ("created_at", before.created_at, after.created_at),
        ("expires_at", before.expires_at, after.expires_at),
    ] {
        if let Some(instant) = after.filter(|_| before != after) {
            fields.push(text(name, instant.to_string()));
        }
    }
    if before.disabled != after.disabled {
        fields.push(Field { name: "disabled", value: after.disabled.to_string(), is_text: false });
    }
    fields
}

/// Returns the text with one key changed. This key is the only key of the file or, in a file with a
/// list, the key with the id of `before`.
pub(super) fn change(source: &str, before: &KeyRecord, after: &KeyRecord, is_json: bool) -> Option<String> {
    let mut text = source.to_owned();
    for field in changed_fields(before, after) {
        let root = layout::of(&text)?;
        let splice = set(&text, find(&root, &before.id)?, &field, is_json)?;
        text = splice.apply(&text)?;
    }
    if after.terms.previous.is_empty() && !before.terms.previous.is_empty() {
        let root = layout::of(&text)?;
        let splice = remove(&text, find(&root, &before.id)?, "previous")?;
        text = splice.apply(&text)?;
    }
    for secret in after.terms.previous.iter().filter(|secret| !before.terms.previous.contains(secret)) {
        let root = layout::of(&text)?;
        let (hash, end) = (secret.hash.to_stored(), secret.expires_at);
        let entry = match is_json {
            true => format!("{{\"hash\":\"{hash}\",\"expires_at\":\"{end}\"}}"),
            false => format!("{{hash: {hash}, expires_at: {end}}}"),
        };
        let splice = add_previous(&text, find(&root, &before.id)?, &entry, is_json)?;
        text = splice.apply(&text)?;
    }
    Some(text)
}

/// Finds the key with this id. The file has a list of keys, or is a single key.
fn find<'i>(root: &'i Item, id: &str) -> Option<&'i Item> {
    let is_it = |item: &&Item| item.text("id") == Some(id);
    match root.field("keys").map(|(_, list)| &list.shape) {
        Some(Shape::List { items, .. }) => items.iter().find(is_it),
        Some(_) => None,
        None => Some(root).filter(is_it),
    }
}

/// Makes the splice that sets a field of a key, and adds the field if the key lacks it.
fn set(source: &str, item: &Item, field: &Field, is_json: bool) -> Option<Splice> {
    let Field { name, value, is_text } = field;
    let quote = |quote: char| format!("{quote}{value}{quote}");
    if let Some((key, old)) = item.field(name) {
        let text = match (source.as_bytes().get(old.span.start), &old.shape) {
            (Some(b'"'), Shape::Scalar { is_plain: false, .. }) => quote('"'),
            (Some(b'\''), Shape::Scalar { is_plain: false, .. }) => quote('\''),
            _ if is_json && *is_text => quote('"'),
            _ => value.clone(),
        };
        if old.span.is_empty() {
            let colon = behind_colon(source, key.span.end)?;
            return Some(Splice { at: colon..colon, text: format!(" {text}") });
        }
        return Some(Splice { at: old.span.clone(), text });
    }
    let text = match is_json {
        true if *is_text => format!("\"{name}\":\"{value}\""),
        true => format!("\"{name}\":{value}"),
        false => format!("{name}: {value}"),
    };
    insert(source, item, &[text], is_json)
}

/// Makes the splice that removes a field of a key.
fn remove(source: &str, item: &Item, name: &str) -> Option<Splice> {
    let Shape::Map { is_flow, fields } = &item.shape else { return None };
    let index = fields
        .iter()
        .position(|(key, _)| matches!(&key.shape, Shape::Scalar { text, .. } if text == name))?;
    let (key, value) = fields.get(index)?;
    let at = match (is_flow, index.checked_sub(1).and_then(|index| fields.get(index)), fields.get(index + 1))
    {
        (true, Some((_, before)), _) => before.span.end..value.span.end,
        (true, None, Some((next, _))) => key.span.start..next.span.start,
        // The first field of a block map is never removed, because it may be on the line of the
        // list's dash.
        (false, Some(_), _) => line_start(source, key.span.start)..next_line(source, value.span.end),
        _ => return None,
    };
    Some(Splice { at, text: String::new() })
}

fn add_previous(source: &str, item: &Item, entry: &str, is_json: bool) -> Option<Splice> {
    let Some((key, list)) = item.field("previous") else {
        return match is_json {
            true => insert(source, item, &[format!("\"previous\":[{entry}]")], true),
            false if matches!(&item.shape, Shape::Map { is_flow: true, .. }) => {
                insert(source, item, &[format!("previous: [{entry}]")], false)
            }
            false => insert(source, item, &["previous:".to_owned(), format!("  - {entry}")], false),
        };
    };
    match &list.shape {
        Shape::List { is_flow: true, items } => match items.last() {
            Some(last) => {
                let comma = if is_json { "," } else { ", " };
                Some(Splice { at: last.span.end..last.span.end, text: format!("{comma}{entry}") })
            }
            None => Some(Splice { at: list.span.clone(), text: format!("[{entry}]") }),
        },
        Shape::List { is_flow: false, items } => {
            let indentation = indentation(source, last_dash(source, key, items)?);
            Some(line_behind(source, items.last()?.span.end, &format!("{indentation}- {entry}")))
        }
        _ => None,
    }
}

/// Makes the splice that inserts lines of new fields at the end of a block map, or one field into a
/// flow map.
fn insert(source: &str, item: &Item, lines: &[String], is_json: bool) -> Option<Splice> {
    let Shape::Map { is_flow, fields } = &item.shape else { return None };
    let (first, last) = (fields.first()?, fields.last()?);
    let end = last.1.span.end.max(last.0.span.end);
    if *is_flow {
        // The parser reports the position before the colon for an absent value. The new field must
        // be inserted after the colon.
        let end =
            if last.1.span.is_empty() { end + source.get(end..)?.find([':', ',', '}'])? + 1 } else { end };
        let comma = if is_json { "," } else { ", " };
        return Some(Splice { at: end..end, text: format!("{comma}{}", lines.join("")) });
    }
    let column = first.0.span.start - line_start(source, first.0.span.start);
    let newline = newline_of(source);
    let indented: Vec<String> = lines.iter().map(|line| format!("{}{line}", " ".repeat(column))).collect();
    Some(line_behind(source, end, &indented.join(newline)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::entry_text;
    use super::super::yaml_list::{add, delete};
    use super::*;
    use crate::key_store::{jsonl, yaml};
    use crate::keys::{KeyHash, Secret};

    fn hash(secret: &str) -> String {
        KeyHash::of(secret.as_bytes()).to_stored()
    }

    /// Returns the text of a file, with `HASH_A` and similar words replaced by hashes.
    fn file(text: &str) -> String {
        let text = text.replace("HASH_A", &hash("a")).replace("HASH_B", &hash("b"));
        text.replace("HASH_C", &hash("c")).replace("HASH_O", &hash("o"))
    }

    fn records(text: &str) -> Vec<KeyRecord> {
        yaml::parse_any(Path::new("k.yaml"), text).unwrap_or_else(|faults| panic!("{faults}\n{text}"))
    }

    /// Returns the lines that are only in the old text, and the lines that are only in the new
    /// text.
    fn difference(old: &str, new: &str) -> (Vec<String>, Vec<String>) {
        let mut gone: Vec<String> = old.lines().map(str::to_owned).collect();
        let mut added = Vec::new();
        for line in new.lines() {
            match gone.iter().position(|old| old == line) {
                Some(index) => drop(gone.remove(index)),
                None => added.push(line.to_owned()),
            }
        }
        (gone, added)
    }

    fn rotated(before: &KeyRecord) -> KeyRecord {
        let end = "2026-12-01T00:00:00Z".parse().unwrap();
        let mut after = KeyRecord { hash: KeyHash::of(b"new"), created_at: Some(end), ..before.clone() };
        after.terms.previous.push(Secret { hash: before.hash, expires_at: end });
        after
    }

    const ODD: &str = "# Ask Ann first.\n\nkeys:   # all\n# the checkout\n- id: key_a   # trailing\n  name: \"checkout\"\n  hash: 'HASH_A'  # keep\n  permissions: &rw\n     - read\n     - write\n  # its old secrets\n  previous:\n  -   hash: HASH_O\n      expires_at: 2026-12-01T00:00:00Z   # soon\n    # disabled: true\n\n# for the laptop\n-   # odd\n    {id: key_b, hash: \"HASH_B\",\n     permissions: *rw, }    # flow\n\n-\n    id:   key_c\n    hash: >-\n      HASH_C\n    permissions: *rw\n    created_at:\n    disabled: false\n# the end\n";

    const PLAIN: &str = "keys:\n  - id: key_a\n    hash: HASH_A\n    permissions: [read]\n  - id: key_b\n    hash: HASH_B\n    permissions: [read]\n    previous: []\n  - id: key_c\n    hash: HASH_C\n    permissions: [read]\n    previous: []";

    const FLOW: &str = "{keys: [{id: key_a, hash: HASH_A, permissions: [read]},\n  {id: key_b, hash: HASH_B, permissions: [read], created_at:},\n  {\"id\": \"key_c\", \"hash\": \"HASH_C\", \"permissions\": [\"read\"], \"previous\": [{\"hash\": \"HASH_O\", \"expires_at\": \"2026-12-01T00:00:00Z\"}]}]}\n";

    const MERGED: &str = "keys:\n- &a\n  id: key_a\n  hash: HASH_A\n  permissions: [read]\n  max_concurrent: 3\n- <<: *a\n  id: key_b\n  hash: HASH_B\n- {<<: *a, id: key_c, hash: HASH_C}\n";

    #[test]
    fn every_change_is_proved_and_touches_only_its_own_lines() {
        for source in [ODD, PLAIN, FLOW, MERGED, &PLAIN.replace('\n', "\r\n")] {
            let source = file(source);
            let before = records(&source);
            for (index, record) in before.iter().enumerate() {
                let revoked = KeyRecord { disabled: true, ..record.clone() };
                // A change of a map that is merged into other keys would change these keys as well,
                // so the check of the new text refuses it.
                let is_shared = source.contains("<<: *a") && index == 0;
                let mut ended = KeyRecord { hash: KeyHash::of(b"new"), ..record.clone() };
                ended.terms.previous.clear();
                for after in [rotated(record), revoked, ended].into_iter().filter(|_| !is_shared) {
                    let text = change(&source, record, &after, false).unwrap();
                    let mut expected = before.clone();
                    expected[index] = after;
                    assert_eq!(records(&text), expected, "{text}");
                    let (gone, added) = difference(&source, &text);
                    assert!(gone.len() <= 4 && added.len() <= 6, "{gone:?}\n{added:?}\n{text}");
                    assert!(!text.contains("\r\n") || !text.replace("\r\n", "").contains('\n'), "{text:?}");
                }
                let text = delete(&source, &record.id).unwrap();
                let mut expected = before.clone();
                expected.remove(index);
                assert_eq!(records(&text), expected, "{text}");
                assert!(difference(&source, &text).1.len() <= 2, "{text}");
            }
            let new = KeyRecord::new("key_n".to_owned(), KeyHash::of(b"n"), before[0].permissions);
            let text = add(&source, &[entry_text::fields(&new)]).unwrap();
            assert_eq!(records(&text), [before, vec![new]].concat(), "{text}");
            assert!(difference(&source, &text).0.len() <= 1, "{text}");
        }
    }

    #[test]
    fn comments_between_others_stay() {
        let flow = "keys: [\n  {id: key_a, hash: HASH_A, permissions: [read]},  # about a: Ann\n  # about b, too\n  {id: key_b, hash: HASH_B, permissions: [read]}   # tail b\n]\n";
        let titled = "keys:\n  # == PRODUCTION (Ann) ==\n  - {id: key_a, hash: HASH_A, permissions: [read]}\n  - {id: key_b, hash: HASH_B, permissions: [read]}\n";
        for source in [flow, titled] {
            let source = file(source);
            for id in ["key_a", "key_b"] {
                let text = delete(&source, id).unwrap();
                assert_eq!(records(&text).len(), 1, "{text}");
                assert_eq!(source.matches('#').count(), text.matches('#').count(), "{text}");
            }
        }
        let new = [vec!["id: key_n".to_owned()]];
        for source in ["keys: [\n  # ask Ann\n]\n", "keys: &all []\n"] {
            assert_eq!(add(source, &new), None, "a comment or an anchor would be lost");
        }
    }

    #[test]
    fn lines_of_other_keys_stay_as_they_were() {
        let source = file(ODD);
        let before = records(&source);
        let revoked = |index: usize| {
            let record: &KeyRecord = &before[index];
            difference(
                &source,
                &change(&source, record, &KeyRecord { disabled: true, ..record.clone() }, false).unwrap(),
            )
        };
        assert_eq!(revoked(0), (vec![], vec!["  disabled: true".to_owned()]));
        assert_eq!(
            revoked(2),
            (vec!["    disabled: false".to_owned()], vec!["    disabled: true".to_owned()])
        );
        let (gone, added) = difference(&source, &delete(&source, "key_a").unwrap());
        assert_eq!(
            added,
            ["     permissions: &rw [read, write], }    # flow"],
            "the anchor goes to its first heir"
        );
        assert!(
            gone.contains(&"# the checkout".to_owned()) && gone.contains(&"    # disabled: true".to_owned())
        );
        assert!(!gone.contains(&"# for the laptop".to_owned()), "{gone:?}");
    }

    #[test]
    fn a_file_without_keys_gets_its_first() {
        let new = records(&format!("keys: [{{id: key_n, hash: {}, permissions: [read]}}]", hash("n")));
        let cases = [
            "",
            "\n",
            "# ours\n",
            "---\n",
            "keys:",
            "keys:\n",
            "keys: # none\n# end\n",
            "keys: ~ # none\n",
            "keys: []  # none\n",
            "keys: [ ]",
            "keys:\n\n# end",
        ];
        for source in cases {
            let text = add(source, &[entry_text::fields(&new[0])]).unwrap();
            assert_eq!(records(&text), new, "{source:?} → {text:?}");
            let comments = |text: &str| text.matches('#').count();
            assert_eq!(comments(source), comments(&text), "{text:?}");
        }
    }

    #[test]
    fn a_line_of_json_stays_one() {
        let line =
            format!("{{\"id\": \"key_a\", \"hash\": \"{}\", \"permissions\": [\"read\"]}}\n", hash("a"));
        let path = Path::new("k.jsonl");
        let before = jsonl::record(path, line.trim().as_bytes()).unwrap();
        let twice = rotated(&before);
        let again = KeyRecord {
            hash: KeyHash::of(b"again"),
            ..rotated(&KeyRecord { hash: KeyHash::of(b"new"), ..twice.clone() })
        };
        let rotated_line = change(&line, &before, &twice, true).unwrap();
        let mut ended = twice.clone();
        ended.terms.previous.clear();
        let text = change(&rotated_line, &twice, &ended, true).unwrap();
        assert_eq!(jsonl::record(path, text.trim().as_bytes()), Some(ended), "{text}");
        for after in [twice, again, KeyRecord { disabled: true, ..before.clone() }] {
            let text = change(&line, &before, &after, true).unwrap();
            assert_eq!(text.matches('\n').count(), 1, "{text}");
            assert_eq!(jsonl::record(path, text.trim().as_bytes()), Some(after), "{text}");
        }
    }

    #[test]
    fn an_entry_reads_back_as_it_was() {
        let source = "keys:\n- {id: key_a, name: 'a: \"b\" #c', hash: HASH_A, permissions: [admin, read], environment: 'no', created_at: 2026-11-23T00:00:00.5Z, not_before: 2026-11-23T00:00:00Z, expires_at: 2027-11-23T00:00:00Z, disabled: true, rate_limits: [{requests: 7, per: 90s, burst: 3}, {requests: 600, per: 1d}], max_concurrent: 2, allow_from: [10.0.0.0/8, '2001:db8::/32', '::1'], routes: ['true', chat], metadata: {a b: 'x, y', n: '1'}, previous: [{hash: HASH_O, expires_at: 2026-12-01T00:00:00Z}]}\n";
        let before = records(&file(source));
        let text = add("", &[entry_text::fields(&before[0])]).unwrap();
        assert_eq!(records(&text), before, "{text}");
        let line = entry_text::line(&before[0]);
        assert_eq!(jsonl::record(Path::new("k.jsonl"), line.as_bytes()).as_ref(), before.first(), "{line}");
    }
}
