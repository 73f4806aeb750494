//! A route's path pattern: `*` matches within a segment, `**` matches whole segments.
//!
//! `config` parses patterns, and `route` matches canonical paths against them.
//!
//! Invariants: a pattern is written in the canonical form of paths (`guard::path`), so that each
//! pattern can match some path, and a plain path matches itself. Only `**` matches a slash.

pub(crate) mod character;
mod compare;
mod parse;
mod piece;
pub(crate) mod reading;

use crate::pattern_fault::PatternFault;
use character::first_character;
use piece::{Piece, Segment};

/// A parsed pattern without braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathPattern {
    text: String,
    segments: Vec<Segment>,
    shortcut: Shortcut,
    /// The position of the segment for which `{model}` stands, counted from the first slash.
    model: Option<usize>,
}

/// The text that stands for the segment with a model's name.
const MODEL: &str = "{model}";

/// How to match paths by a fast comparison of text, which is possible for most patterns.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shortcut {
    /// A plain path, such as `/v1/models`.
    Exact,
    /// Everything under a path, such as `/v1/files/**`; contains the length of `/v1/files/`.
    Under(usize),
    None,
}

impl PathPattern {
    /// Parses a pattern. Braces such as `{a,b}` yield one pattern for each alternative. `{model}` in
    /// place of a segment matches any segment, which is the name of a model.
    ///
    /// # Errors
    ///
    /// Fails if the text is no pattern, or could match no canonical path.
    pub(crate) fn parse(text: &str) -> Result<Vec<PathPattern>, PatternFault> {
        let Some((before, behind)) = text.split_once(MODEL) else {
            return parse::alternatives(text)?.iter().map(|text| Self::without_braces(text)).collect();
        };
        let is_segment = before.ends_with('/') && (behind.is_empty() || behind.starts_with('/'));
        if !is_segment || before.contains(['{', '}']) || before.contains("**") || behind.contains(MODEL) {
            return Err(PatternFault {
                message: format!(
                    "`{MODEL}` stands for one whole segment, once, and not behind `**` or braces"
                ),
                hint: Some("as in /v2/models/{model}/infer".to_owned()),
            });
        }
        let model = Some(before.matches('/').count());
        let patterns = Self::parse(&format!("{before}*{behind}"))?;
        Ok(patterns.into_iter().map(|pattern| PathPattern { model, ..pattern }).collect())
    }

    /// Whether the pattern has a segment `{model}`.
    pub(crate) fn names_model(&self) -> bool {
        self.model.is_some()
    }

    /// Returns the segment of a path that names a model; `None` if the pattern has no `{model}`, or
    /// does not match the path.
    pub(crate) fn model_in<'p>(&self, path: &'p str) -> Option<&'p str> {
        let position = self.model?;
        self.matches(path).then(|| path.split('/').nth(position))?
    }

    /// Returns the rest of a path behind the fixed beginning of a pattern such as `/v1/models/**`;
    /// `None` for other patterns, or if the pattern does not match the path.
    pub(crate) fn rest_of<'p>(&self, path: &'p str) -> Option<&'p str> {
        match self.shortcut {
            Shortcut::Under(length) if self.matches(path) => path.get(length..),
            _ => None,
        }
    }

    /// Parses a plain path, without the special characters of patterns.
    ///
    /// # Errors
    ///
    /// Fails if [`PathPattern::parse`] refuses the text, or if the text is not one plain path.
    pub(crate) fn parse_plain(text: &str) -> Result<PathPattern, PatternFault> {
        let mut patterns = Self::parse(text)?;
        match (patterns.pop(), patterns.is_empty()) {
            (Some(pattern), true) if pattern.exact().is_some() => Ok(pattern),
            _ => {
                Err(PatternFault { message: "no pattern can stand here, only a path".to_owned(), hint: None })
            }
        }
    }

    fn without_braces(text: &str) -> Result<PathPattern, PatternFault> {
        Ok(Self::of_segments(text, parse::segments(text)?))
    }

    fn of_segments(text: &str, segments: Vec<Segment>) -> PathPattern {
        let shortcut = match segments.split_last() {
            Some((Segment::Any, before)) if before.iter().all(Segment::is_plain) => {
                Shortcut::Under(text.len() - 2)
            }
            _ if segments.iter().all(Segment::is_plain) => Shortcut::Exact,
            _ => Shortcut::None,
        };
        // `[*]` stands for a literal `*`. A pattern with `[*]` may match one path only, but can't
        // be compared as text, because paths have no brackets.
        let shortcut = if text.contains('[') { Shortcut::None } else { shortcut };
        PathPattern { text: text.to_owned(), segments, shortcut, model: None }
    }

    /// Returns the pattern as it is written.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns the one path that a plain pattern matches; `None` for other patterns.
    pub(crate) fn exact(&self) -> Option<&str> {
        (self.shortcut == Shortcut::Exact).then_some(&self.text)
    }

    /// Returns the common beginning of all paths that the pattern matches, up to and including a
    /// slash.
    pub(crate) fn beginning(&self) -> &str {
        let plain = self.text.find(['*', '?', '[']).unwrap_or(self.text.len());
        let slash = self.text.get(..plain).and_then(|plain| plain.rfind('/'));
        self.text.get(..slash.map_or(0, |slash| slash + 1)).unwrap_or_default()
    }

    /// Whether the pattern matches a canonical path.
    pub(crate) fn matches(&self, path: &str) -> bool {
        match self.shortcut {
            Shortcut::Exact => path == self.text,
            Shortcut::Under(length) => {
                path.len() >= length && path.as_bytes().get(..length) == self.text.as_bytes().get(..length)
            }
            Shortcut::None => matches_segments(&self.segments, path),
        }
    }
}

impl std::fmt::Display for PathPattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (position, segment) in self.text.split('/').enumerate() {
            let segment = if self.model == Some(position) { MODEL } else { segment };
            f.write_str(if position > 0 { "/" } else { "" })?;
            f.write_str(segment)?;
        }
        Ok(())
    }
}

/// Matches a path segment by segment. After a mismatch, the last `**` is extended by one segment.
/// The segments before that `**` have matched as early as they can, so an earlier `**` need not be
/// tried again.
fn matches_segments(segments: &[Segment], path: &str) -> bool {
    let (mut segments, mut rest) = (segments, path.strip_prefix('/'));
    let mut retry: Option<(&[Segment], &str)> = None;
    loop {
        match (segments, rest) {
            ([], None) => return true,
            ([Segment::Any], _) => return rest.is_some(),
            ([Segment::Any, behind @ ..], Some(text)) => {
                retry = Some((behind, text));
                segments = behind;
                continue;
            }
            ([Segment::Text(pieces), behind @ ..], Some(text)) => {
                let (segment, next) = next_segment(text);
                if matches_text(pieces, segment) {
                    (segments, rest) = (behind, next);
                    continue;
                }
            }
            _ => {}
        }
        let Some((behind, text)) = retry else { return false };
        let Some(next) = next_segment(text).1 else { return false };
        retry = Some((behind, next));
        (segments, rest) = (behind, Some(next));
    }
}

/// Returns the first segment, and the text after the slash that ends it.
fn next_segment(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((segment, rest)) => (segment, Some(rest)),
        None => (text, None),
    }
}

/// Matches the characters of a segment as [`matches_segments`] matches the segments of a path, with
/// `*` in place of `**`.
fn matches_text(pieces: &[Piece], text: &str) -> bool {
    let (mut pieces, mut rest) = (pieces, text.as_bytes());
    let mut retry: Option<(&[Piece], &[u8])> = None;
    loop {
        match (pieces, first_character(rest)) {
            ([], None) => return true,
            ([Piece::Star], _) => return true,
            ([Piece::Star, behind @ ..], _) => {
                retry = Some((behind, rest));
                pieces = behind;
                continue;
            }
            ([piece, behind @ ..], Some((character, next))) if piece.takes(character) => {
                (pieces, rest) = (behind, next);
                continue;
            }
            _ => {}
        }
        let Some((behind, text)) = retry else { return false };
        let Some((_, next)) = first_character(text) else { return false };
        retry = Some((behind, next));
        (pieces, rest) = (behind, next);
    }
}

#[cfg(test)]
mod tests;
