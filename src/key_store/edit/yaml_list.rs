//! Adds entries to the list of a YAML file, and removes entries. The caller checks the new text as
//! described in [`super::change_fields`].

use std::ops::Range;

use super::entry_text;
use super::layout::{self, Item, Shape};
use super::splice::{
    Splice, behind_colon, comments_above, dash_line, end_with_comments, indentation, line_at, line_end,
    line_start, newline_of,
};

/// Returns the text without one key of its list.
pub(super) fn delete(source: &str, id: &str) -> Option<String> {
    let root = layout::of(source)?;
    let (key, list) = root.field("keys")?;
    let Shape::List { is_flow, items } = &list.shape else { return None };
    let index = items.iter().position(|item| item.text("id") == Some(id))?;
    let item = items.get(index)?;
    let before = index.checked_sub(1).and_then(|index| items.get(index)).unwrap_or(key).span.end;
    let mut splices = heirs(source, &root, item);
    let at = match (is_flow, items.get(index + 1)) {
        // Only the entry and one comma are removed: comments between entries may belong to other
        // entries.
        (true, Some(next)) => {
            let comma = comma(source, item.span.end..next.span.start)?;
            splices.push(Splice { at: comma..comma + 1, text: String::new() });
            let is_spaced = source.get(item.span.end..next.span.start)? == ", ";
            item.span.start..if is_spaced { comma } else { item.span.end }
        }
        (true, None) => {
            if index > 0 {
                let comma = comma(source, before..item.span.start)?;
                splices.push(Splice { at: comma..comma + 1, text: String::new() });
            }
            item.span.clone()
        }
        (false, _) => own_lines(source, item, before, index == 0)?,
    };
    // The replacements are applied from the end of the text, so that earlier positions stay valid.
    splices.push(Splice { at, text: String::new() });
    splices.sort_by_key(|splice| std::cmp::Reverse(splice.at.start));
    splices.iter().try_fold(source.to_owned(), |text, splice| splice.apply(&text))
}

/// Returns the range of the lines of an item of a block list. The range includes the item's own
/// comments, and an empty line if it would be superfluous without the item.
fn own_lines(source: &str, item: &Item, before: usize, is_first: bool) -> Option<Range<usize>> {
    let dash = dash_line(source, before, item.span.start)?;
    let end = end_with_comments(source, item.span.end, indentation(source, dash));
    // A comment directly above an entry belongs to the entry, but a comment above the first entry
    // may be a title of the list.
    let above = comments_above(source, dash);
    let comment = source.get(above..dash)?;
    let is_named = |name: &str| item.text(name).is_some_and(|text| comment.contains(text));
    let start = if !is_first || is_named("id") || is_named("name") { above } else { dash };
    let above = line_start(source, start.saturating_sub(1));
    let is_blank = |line: usize| line_at(source, line).trim().is_empty();
    let is_one_too_many = start > 0 && is_blank(above) && is_blank(end);
    Some(if is_one_too_many { above } else { start }..end)
}

/// Finds the comma between two items. Commas in comments are skipped.
fn comma(source: &str, between: Range<usize>) -> Option<usize> {
    let mut offset = between.start;
    for line in source.get(between)?.split_inclusive('\n') {
        let code = line.split('#').next().unwrap_or_default();
        if let Some(comma) = code.find(',') {
            return Some(offset + comma);
        }
        offset += line.len();
    }
    None
}

/// Makes the splices that move each anchored node of an item to the place of its first alias
/// outside the item.
fn heirs(source: &str, root: &Item, item: &Item) -> Vec<Splice> {
    let is_inside = |other: &Item| item.span.start <= other.span.start && other.span.end <= item.span.end;
    let all = root.all();
    let named =
        all.iter().filter(|node| node.anchor > 0 && is_inside(node) && !matches!(node.shape, Shape::Alias));
    let heir = |named: &&Item| {
        let is_alias = |node: &&&Item| matches!(node.shape, Shape::Alias) && node.anchor == named.anchor;
        let alias = all.iter().filter(|node| !is_inside(node)).find(is_alias)?;
        let name = source.get(alias.span.clone())?.strip_prefix('*')?;
        Some(Splice { at: alias.span.clone(), text: format!("&{name} {}", in_one_line(source, named)) })
    };
    named.filter_map(heir).collect()
}

/// Returns a node in flow style, with its scalars as they are in the file.
fn in_one_line(source: &str, item: &Item) -> String {
    let written = source.get(item.span.clone()).unwrap_or_default();
    match &item.shape {
        Shape::Scalar { text, .. } if written.contains('\n') => entry_text::in_yaml(text),
        Shape::Scalar { .. } | Shape::Alias => written.to_owned(),
        Shape::List { items, .. } => {
            let items: Vec<String> = items.iter().map(|item| in_one_line(source, item)).collect();
            format!("[{}]", items.join(", "))
        }
        Shape::Map { fields, .. } => {
            let field = |(key, value): &(Item, Item)| {
                format!("{}: {}", in_one_line(source, key), in_one_line(source, value))
            };
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
    }
}

/// Returns the text with more keys at the end of its list. Each element of `entries` has the lines
/// of a block map, without indentation.
pub(super) fn add(source: &str, entries: &[Vec<String>]) -> Option<String> {
    let newline = newline_of(source);
    let Some(root) = layout::of(source).filter(|root| !root.is_null()) else {
        let keys = format!("keys:{newline}{}", blocks(entries, "  ", newline));
        let is_ended = source.is_empty() || source.ends_with('\n');
        return Some([source, if is_ended { "" } else { newline }, &keys].concat());
    };
    let (key, list) = root.field("keys")?;
    let splice = match &list.shape {
        Shape::List { is_flow: true, items } if !items.is_empty() => {
            let last = items.last()?.span.end;
            let entries: Vec<String> =
                entries.iter().map(|entry| format!("{{{}}}", entry.join(", "))).collect();
            Splice { at: last..last, text: format!(", {}", entries.join(", ")) }
        }
        Shape::List { is_flow: false, items } => after_the_last(source, key, items, entries)?,
        _ => below_the_name(source, key, list, entries)?,
    };
    splice.apply(source)
}

/// Makes the splice that inserts entries at the end of a block list, in the style of the list.
fn after_the_last(source: &str, key: &Item, items: &[Item], entries: &[Vec<String>]) -> Option<Splice> {
    let newline = newline_of(source);
    let dash = last_dash(source, key, items)?;
    let indentation = indentation(source, dash);
    let end = end_with_comments(source, items.last()?.span.end, indentation);
    // If empty lines separate the entries of the list, an empty line is inserted before each new
    // entry, too.
    let above = source.get(..comments_above(source, dash))?;
    let is_spaced = items.len() > 1 && above.ends_with(&newline.repeat(2));
    let mut text = String::new();
    if !source.get(..end)?.ends_with('\n') {
        text.push_str(newline);
    }
    for entry in entries {
        if is_spaced {
            text.push_str(newline);
        }
        text.push_str(&block(entry, indentation, newline));
    }
    Some(Splice { at: end..end, text })
}

/// Makes the splice that inserts the first entries below `keys:`, `keys: ~` or `keys: []`.
fn below_the_name(source: &str, key: &Item, list: &Item, entries: &[Vec<String>]) -> Option<Splice> {
    let newline = newline_of(source);
    let colon = behind_colon(source, key.span.end)?;
    let value_end = list.span.end.max(colon);
    // A list with a comment inside its brackets or with an anchor is refused, because the comment
    // or the anchor would be lost.
    let written: String = source.get(colon..value_end)?.split_whitespace().collect();
    if !matches!(written.as_str(), "" | "[]" | "~" | "null") {
        return None;
    }
    let line_end = line_end(source, value_end);
    let kept = source.get(value_end..line_end)?.trim_end();
    let indentation = format!("{}  ", indentation(source, key.span.start));
    let text = format!("{kept}{newline}{}", blocks(entries, &indentation, newline));
    Some(Splice { at: colon..line_end, text })
}

fn blocks(entries: &[Vec<String>], indentation: &str, newline: &str) -> String {
    entries.iter().map(|entry| block(entry, indentation, newline)).collect()
}

fn block(entry: &[String], indentation: &str, newline: &str) -> String {
    let mark = |index: usize| if index == 0 { "- " } else { "  " };
    let lines = entry.iter().enumerate();
    lines.map(|(index, line)| format!("{indentation}{}{line}{newline}", mark(index))).collect()
}

/// Returns the start of the line with the dash of a list's last item. `key` is the name of the
/// list's field.
pub(super) fn last_dash(source: &str, key: &Item, items: &[Item]) -> Option<usize> {
    let before = items.len().checked_sub(2).and_then(|index| items.get(index));
    dash_line(source, before.unwrap_or(key).span.end, items.last()?.span.start)
}
