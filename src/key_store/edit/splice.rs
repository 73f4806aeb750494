//! Finds positions in a text (lines, indentation, comments), and replaces pieces of the text.

use std::ops::Range;

/// A change of a text: `text` replaces the bytes in the range `at`.
pub(super) struct Splice {
    pub(super) at: Range<usize>,
    pub(super) text: String,
}

impl Splice {
    pub(super) fn apply(&self, source: &str) -> Option<String> {
        Some([source.get(..self.at.start)?, &self.text, source.get(self.at.end..)?].concat())
    }
}

/// Makes the splice that inserts a new line after the line that contains `offset`.
pub(super) fn line_behind(source: &str, offset: usize, line: &str) -> Splice {
    let end = line_end(source, offset);
    Splice { at: end..end, text: format!("{}{line}", newline_of(source)) }
}

pub(super) fn newline_of(source: &str) -> &'static str {
    if source.contains("\r\n") { "\r\n" } else { "\n" }
}

pub(super) fn line_start(source: &str, offset: usize) -> usize {
    source.get(..offset).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1)
}

/// Returns the end of the line that contains `offset`, before its line break.
pub(super) fn line_end(source: &str, offset: usize) -> usize {
    let rest = source.get(offset..).unwrap_or_default();
    let line = rest.split('\n').next().unwrap_or_default();
    offset + line.strip_suffix('\r').unwrap_or(line).len()
}

/// Returns the start of the line after the one that contains `offset`.
pub(super) fn next_line(source: &str, offset: usize) -> usize {
    let rest = source.get(offset..).unwrap_or_default();
    rest.find('\n').map_or(source.len(), |newline| offset + newline + 1)
}

pub(super) fn line_at(source: &str, start: usize) -> &str {
    source.get(start..line_end(source, start)).unwrap_or_default()
}

/// Returns the white space at the start of the line that contains `offset`.
pub(super) fn indentation(source: &str, offset: usize) -> &str {
    let line = line_at(source, line_start(source, offset));
    line.get(..line.len() - line.trim_start().len()).unwrap_or_default()
}

/// Returns the start of the line with the dash of a list item. `item` is the position of the item,
/// and `after` is the end of the previous item.
pub(super) fn dash_line(source: &str, after: usize, item: usize) -> Option<usize> {
    let mut start = next_line(source, after);
    while start <= item && start < source.len() {
        let line = line_at(source, start).trim_start();
        if line == "-" || line.starts_with("- ") || line.starts_with("-\t") {
            return Some(start);
        }
        start = next_line(source, start);
    }
    None
}

/// Returns the end of an item's lines, including comments after the item that are indented deeper
/// than its dash.
pub(super) fn end_with_comments(source: &str, item_end: usize, dash: &str) -> usize {
    let mut end = next_line(source, item_end);
    let mut next = end;
    while next < source.len() {
        let line = line_at(source, next);
        let is_own = line.trim_start().starts_with('#') && line.len() - line.trim_start().len() > dash.len();
        if !is_own {
            break;
        }
        next = next_line(source, next);
        end = next;
    }
    end
}

/// Returns the start of the comment lines directly above `line` that have the indentation of
/// `line`; `line` itself if there are none.
pub(super) fn comments_above(source: &str, line: usize) -> usize {
    let own = indentation(source, line);
    let mut start = line;
    while start > 0 {
        let above = line_start(source, start - 1);
        let text = line_at(source, above);
        if !text.trim_start().starts_with('#') || indentation(source, above) != own {
            break;
        }
        start = above;
    }
    start
}

/// Returns the position after the colon of a field's name.
pub(super) fn behind_colon(source: &str, name_end: usize) -> Option<usize> {
    Some(name_end + source.get(name_end..)?.find(':')? + 1)
}
