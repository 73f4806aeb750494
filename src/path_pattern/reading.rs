//! How an upstream reads paths: what it takes for the same path as another one.

use super::character::{push, stands_raw};
use super::{PathPattern, Piece, Segment, parse};

/// What an upstream does not tell apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PathReading {
    /// `/ADMIN` and `/admin`.
    pub(crate) ignore_case: bool,
    /// `/admin/` and `/admin`.
    pub(crate) ignore_trailing_slash: bool,
}

impl PathReading {
    /// Every path is one of its own.
    pub(crate) const EXACT: PathReading = PathReading { ignore_case: false, ignore_trailing_slash: false };

    /// What this reading or the other one does not tell apart.
    pub(crate) fn and(self, other: PathReading) -> PathReading {
        PathReading {
            ignore_case: self.ignore_case || other.ignore_case,
            ignore_trailing_slash: self.ignore_trailing_slash || other.ignore_trailing_slash,
        }
    }

    /// The patterns that together match what the upstream takes for a path of this one; where case is ignored, those of a
    /// path that is folded ([`fold`]).
    pub(crate) fn prepare(self, pattern: &PathPattern) -> impl Iterator<Item = PathPattern> + use<> {
        let pattern = if self.ignore_case { pattern.folded() } else { pattern.clone() };
        let others = if self.ignore_trailing_slash { pattern.other_slash() } else { Vec::new() };
        std::iter::once(pattern).chain(others)
    }
}

impl PathPattern {
    /// This pattern for paths that are folded.
    fn folded(&self) -> PathPattern {
        let text = parse::outside_classes(&self.text, fold);
        // Canonical text stays canonical, so nothing is refused here.
        let Ok(mut segments) = parse::segments(&text) else { return self.clone() };
        let pieces = segments.iter_mut().filter_map(|segment| match segment {
            Segment::Any => None,
            Segment::Text(pieces) => Some(pieces),
        });
        for piece in pieces.flatten() {
            if let Piece::Class { members, .. } = piece {
                *members = parse::both_cases(*members);
            }
        }
        PathPattern::of_segments(&text, segments)
    }

    /// Patterns of its paths with a slash at the end where they have none, and without it where they have one.
    fn other_slash(&self) -> Vec<PathPattern> {
        let Some((last, before)) = self.segments.split_last() else { return Vec::new() };
        let is_text = matches!(last, Segment::Text(pieces) if !pieces.is_empty());
        let may_be_empty = match last {
            Segment::Any => true,
            Segment::Text(pieces) => pieces.iter().all(|piece| *piece == Piece::Star),
        };
        let longer = is_text.then(|| format!("{}/", self.text));
        let shorter = self.text.rsplit_once('/').map(|(shorter, _)| shorter.to_owned());
        let shorter = shorter.filter(|_| may_be_empty && !before.is_empty());
        longer.into_iter().chain(shorter).filter_map(|text| Self::without_braces(&text).ok()).collect()
    }

    /// Other spellings of its paths that many servers read alike: in capitals, and with or without a slash at the end.
    pub(crate) fn lookalikes(&self) -> impl Iterator<Item = (&'static str, PathPattern)> {
        let parsed = |text: String| PathPattern::without_braces(&text).ok().filter(|pattern| pattern != self);
        let capitals = parsed(parse::outside_classes(&self.text, capitals));
        let slash =
            self.other_slash().into_iter().map(|pattern| ("with a slash at the end, or without it", pattern));
        capitals.map(|pattern| ("in capital letters", pattern)).into_iter().chain(slash)
    }
}

/// A path with the letters that differ in their case alone made one. Letters beyond ASCII stand encoded as UTF-8.
pub(crate) fn fold(path: &str) -> String {
    if !path.contains('%') {
        return path.to_ascii_lowercase();
    }
    // Up and down again: `ſ` is an `s` for whoever compares capitals.
    let bytes = parse::decoded(path);
    let Ok(text) = std::str::from_utf8(&bytes) else { return lowered(path) };
    // What would be a slash, a dot segment or a pattern if it stood raw stays encoded, as it was.
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    for c in text.chars() {
        let is_encoded = rest.starts_with('%');
        let length = if is_encoded { 3 * c.len_utf8() } else { c.len_utf8() };
        let written = rest.get(..length).unwrap_or(rest);
        rest = rest.get(length..).unwrap_or_default();
        match c.is_ascii() {
            true => out.push_str(&lowered(written)),
            false => {
                let folded = c.to_uppercase().flat_map(char::to_lowercase);
                let mut buffer = [0; 4];
                folded.for_each(|c| c.encode_utf8(&mut buffer).bytes().for_each(|byte| push(&mut out, byte)));
            }
        }
    }
    out
}

/// In lower case, but for the digits of what is encoded.
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
