//! Readings of paths: which different paths an upstream treats as the same path.

use super::character::{push, stands_raw};
use super::piece::{Piece, Segment};
use super::{PathPattern, parse};

/// Differences between paths that an upstream ignores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathReading {
    /// Whether the upstream treats `/ADMIN` and `/admin` as the same path.
    pub(crate) ignore_case: bool,
    /// Whether the upstream treats `/admin/` and `/admin` as the same path.
    pub(crate) ignore_trailing_slash: bool,
}

impl PathReading {
    /// The reading that ignores no differences.
    pub(crate) const EXACT: PathReading = PathReading { ignore_case: false, ignore_trailing_slash: false };

    /// Returns the reading that ignores every difference that this reading or `other` ignores.
    pub(crate) fn and(self, other: PathReading) -> PathReading {
        PathReading {
            ignore_case: self.ignore_case || other.ignore_case,
            ignore_trailing_slash: self.ignore_trailing_slash || other.ignore_trailing_slash,
        }
    }

    /// Returns patterns that together match every path that the upstream treats as a path of
    /// `pattern`. If case is ignored, these patterns match paths that were folded by [`fold`].
    pub(crate) fn prepare(self, pattern: &PathPattern) -> impl Iterator<Item = PathPattern> + use<> {
        let pattern = if self.ignore_case { pattern.folded() } else { pattern.clone() };
        let others = if self.ignore_trailing_slash { pattern.other_slash() } else { Vec::new() };
        std::iter::once(pattern).chain(others)
    }
}

impl PathPattern {
    /// Returns the pattern that matches the folded forms of this pattern's paths.
    fn folded(&self) -> PathPattern {
        let text = parse::outside_classes(&self.text, fold);
        // Folding keeps the text canonical, so the parser does not refuse it.
        let Ok(mut segments) = parse::segments(&text) else { return self.clone() };
        let pieces = segments.iter_mut().filter_map(|segment| match segment {
            Segment::Any => None,
            Segment::Text(pieces) => Some(pieces),
        });
        for piece in pieces.flatten() {
            if let Piece::Class { members, is_negated } = piece {
                *members = parse::folded_members(*members, *is_negated);
            }
        }
        PathPattern::of_segments(&text, segments)
    }

    /// Returns patterns that match this pattern's paths with a slash added at their end, or with
    /// the slash at their end removed.
    fn other_slash(&self) -> Vec<PathPattern> {
        let mut others = Vec::new();
        let Some((last, before)) = self.segments.split_last() else { return others };
        if matches!(last, Segment::Text(pieces) if !pieces.is_empty()) {
            let longer = [&*self.segments, &[Segment::Text(Vec::new())]].concat();
            others.push(Self::of_segments(&format!("{}/", self.text), longer));
        }
        let may_be_empty = match last {
            Segment::Any => true,
            Segment::Text(pieces) => pieces.iter().all(|piece| *piece == Piece::Star),
        };
        let (mut text, mut segments) = (self.text.as_str(), before);
        while may_be_empty
            && !segments.is_empty()
            && let Some((shorter, _)) = text.rsplit_once('/')
        {
            others.push(Self::ending_in_text(shorter, segments));
            // Before the end of a pattern, `**` may match no segment; at the end it matches at
            // least one.
            let Some((Segment::Any, before)) = segments.split_last() else { break };
            (text, segments) = (shorter, before);
        }
        others
    }

    /// Returns a pattern of these segments that matches only paths whose last segment is not empty,
    /// because no canonical path ends with two slashes.
    fn ending_in_text(text: &str, segments: &[Segment]) -> PathPattern {
        let some_text = Segment::Text(vec![Piece::One, Piece::Star]);
        match segments.split_last() {
            Some((Segment::Any, _)) => {
                Self::of_segments(&format!("{text}/?*"), [segments, &[some_text]].concat())
            }
            Some((Segment::Text(pieces), before)) if pieces.iter().all(|piece| *piece == Piece::Star) => {
                let above = text.rsplit_once('/').map_or("", |(above, _)| above);
                Self::of_segments(&format!("{above}/?*"), [before, &[some_text]].concat())
            }
            _ => Self::of_segments(text, segments.to_vec()),
        }
    }

    /// Returns patterns of other spellings of this pattern's paths that many servers treat as the
    /// same paths: in capitals, and with or without a slash at the end.
    pub(crate) fn lookalikes(&self) -> impl Iterator<Item = (&'static str, PathPattern)> {
        let parsed = |text: String| PathPattern::without_braces(&text).ok().filter(|pattern| pattern != self);
        let capitals = parsed(parse::outside_classes(&self.text, capitals));
        let slash =
            self.other_slash().into_iter().map(|pattern| ("with a slash at the end, or without it", pattern));
        capitals.map(|pattern| ("in capital letters", pattern)).into_iter().chain(slash)
    }
}

/// Returns a path with the case of its letters folded. Letters beyond ASCII are percent-encoded
/// UTF-8 in paths.
pub(crate) fn fold(path: &str) -> String {
    if !path.contains('%') {
        return path.to_ascii_lowercase();
    }
    // Encoded ASCII stays encoded in the result: decoded, it could be a slash, a dot segment or a
    // pattern.
    let bytes = parse::decoded(path);
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    let mut written = |bytes: usize| {
        let length = if rest.starts_with('%') { 3 * bytes } else { bytes };
        let (written, behind) = rest.split_at_checked(length).unwrap_or((rest, ""));
        rest = behind;
        written
    };
    // Bytes that are not UTF-8 stay as they are; the characters around them are folded.
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            let written = written(c.len_utf8());
            match (c.is_ascii(), written.as_bytes()) {
                (true, [byte]) => out.push(char::from(byte.to_ascii_lowercase())),
                (true, _) => out.push_str(&lowered(written)),
                (false, _) => push_folded(&mut out, c),
            }
        }
        chunk.invalid().iter().for_each(|_| out.push_str(written(1)));
    }
    out
}

/// Appends a character beyond ASCII, folded by both its lower and its upper case: `ſ` becomes `s`,
/// and `ẞ` becomes `ss`, as `ß` does.
fn push_folded(out: &mut String, c: char) {
    let folded = c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase);
    let mut buffer = [0; 4];
    folded.for_each(|c| c.encode_utf8(&mut buffer).bytes().for_each(|byte| push(out, byte)));
}

/// Returns the text in lower case, except for the digits of percent codes.
fn lowered(text: &str) -> String {
    with_raw(text, |byte| byte.to_ascii_lowercase())
}

fn capitals(text: &str) -> String {
    with_raw(text, |byte| byte.to_ascii_uppercase())
}

fn with_raw(text: &str, change: impl Fn(u8) -> u8) -> String {
    let mut out = String::with_capacity(text.len());
    let mut encoded = 0;
    for byte in text.bytes() {
        match byte {
            b'%' => encoded = 3,
            _ if encoded > 0 => {}
            _ if stands_raw(byte) => {
                out.push(char::from(change(byte)));
                continue;
            }
            _ => {}
        }
        encoded = usize::saturating_sub(encoded, 1);
        out.push(char::from(byte));
    }
    out
}
