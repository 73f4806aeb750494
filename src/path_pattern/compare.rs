//! Patterns against patterns: whether one takes all that another one does, or some of it.

use super::character::all;
use super::{PathPattern, Piece, Segment};

impl PathPattern {
    /// Whether every path that `narrow` matches is matched by this one, too. Says so only where it is sure.
    pub(crate) fn covers(&self, narrow: &PathPattern) -> bool {
        covers_segments(&self.segments, &narrow.segments)
    }

    /// Whether some path is matched by both.
    pub(crate) fn meets(&self, other: &PathPattern) -> bool {
        meet_segments(&self.segments, &other.segments)
    }
}

fn covers_segments(wide: &[Segment], narrow: &[Segment]) -> bool {
    match (wide, narrow) {
        ([Segment::Any], [_, ..]) => true,
        ([Segment::Any, rest @ ..], [_, behind @ ..]) => {
            covers_segments(rest, narrow) || covers_segments(wide, behind)
        }
        // What may be many segments is covered by the same alone.
        (_, [Segment::Any, ..]) => false,
        ([Segment::Text(first), rest @ ..], [Segment::Text(other), behind @ ..]) => {
            covers_text(first, other) && covers_segments(rest, behind)
        }
        (wide, narrow) => wide.is_empty() && narrow.is_empty(),
    }
}

/// A `*` of the narrow text is covered by a `*` alone.
fn covers_text(wide: &[Piece], narrow: &[Piece]) -> bool {
    match (wide, narrow) {
        ([Piece::Star, rest @ ..], _) => {
            covers_text(rest, narrow)
                || narrow.split_first().is_some_and(|(_, behind)| covers_text(wide, behind))
        }
        (_, [Piece::Star, ..]) => false,
        ([first, rest @ ..], [other, behind @ ..]) => first.covers(other) && covers_text(rest, behind),
        (wide, narrow) => wide.is_empty() && narrow.is_empty(),
    }
}

fn meet_segments(one: &[Segment], other: &[Segment]) -> bool {
    match (one, other) {
        // At the end, it stands for one at least.
        ([Segment::Any], _) => !other.is_empty(),
        ([Segment::Any, rest @ ..], _) => {
            meet_segments(rest, other)
                || other.split_first().is_some_and(|(_, behind)| meet_segments(one, behind))
        }
        (_, [Segment::Any, ..]) => meet_segments(other, one),
        ([Segment::Text(first), rest @ ..], [Segment::Text(second), behind @ ..]) => {
            meet_text(first, second) && meet_segments(rest, behind)
        }
        (one, other) => one.is_empty() && other.is_empty(),
    }
}

fn meet_text(one: &[Piece], other: &[Piece]) -> bool {
    match (one, other) {
        ([Piece::Star, rest @ ..], _) => {
            meet_text(rest, other) || other.split_first().is_some_and(|(_, behind)| meet_text(one, behind))
        }
        (_, [Piece::Star, ..]) => meet_text(other, one),
        ([first, rest @ ..], [second, behind @ ..]) => first.meets(second) && meet_text(rest, behind),
        (one, other) => one.is_empty() && other.is_empty(),
    }
}

/// Pieces for one character each. There may be many routes to compare, nearly all of them in literals.
impl Piece {
    fn covers(&self, narrow: &Piece) -> bool {
        match (self, narrow) {
            (Piece::One, _) => true,
            (_, Piece::Literal(character)) => self.takes(*character),
            _ => all().all(|character| !narrow.takes(character) || self.takes(character)),
        }
    }

    fn meets(&self, other: &Piece) -> bool {
        match (self, other) {
            (piece, Piece::Literal(character)) | (Piece::Literal(character), piece) => {
                piece.takes(*character)
            }
            _ => all().any(|character| self.takes(character) && other.takes(character)),
        }
    }
}
