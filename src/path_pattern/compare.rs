//! Comparison of two patterns: whether one covers the other, and whether both match a path.

use std::collections::HashSet;

use super::PathPattern;
use super::character::all;
use super::piece::{Piece, Segment};

impl PathPattern {
    /// Whether this pattern matches every path that `narrow` matches. Returns `false` if that is
    /// uncertain.
    pub(crate) fn covers(&self, narrow: &PathPattern) -> bool {
        covers_segments(&self.segments, &narrow.segments)
    }

    /// Whether there is a path that both patterns match.
    pub(crate) fn meets(&self, other: &PathPattern) -> bool {
        meet_segments(&self.segments, &other.segments)
    }
}

/// The next step of a comparison, which has arrived at one part of each pattern.
enum Step {
    Yes,
    No,
    /// Both patterns advance by one part.
    Both,
    /// Either pattern may advance by one part, and both ways are tried: the current part of one
    /// pattern, such as `**`, matches any number of parts of the other pattern.
    Either,
}

impl Step {
    fn both_if(is_right: bool) -> Self {
        if is_right { Step::Both } else { Step::No }
    }

    fn yes_if(is_right: bool) -> Self {
        if is_right { Step::Yes } else { Step::No }
    }
}

/// Whether some sequence of steps through two patterns ends with [`Step::Yes`]. Each pair of
/// positions is visited once, so the work is bounded by the product of the lengths, however many
/// stars there are.
fn reaches_yes<T>(one: &[T], other: &[T], step: impl Fn(&[T], &[T]) -> Step) -> bool {
    let (mut waiting, mut left) = (Vec::new(), HashSet::new());
    let mut position = Some((0, 0));
    while let Some((i, j)) = position {
        // A position beyond the end of a pattern leads to no further step.
        let (Some(ours), Some(theirs)) = (one.get(i..), other.get(j..)) else {
            position = waiting.pop();
            continue;
        };
        position = match step(ours, theirs) {
            Step::Yes => return true,
            Step::Both => Some((i + 1, j + 1)),
            Step::Either if left.insert((i, j)) => {
                waiting.push((i, j + 1));
                Some((i + 1, j))
            }
            Step::Either | Step::No => waiting.pop(),
        };
    }
    false
}

fn covers_segments(wide: &[Segment], narrow: &[Segment]) -> bool {
    reaches_yes(wide, narrow, |wide, narrow| match (wide, narrow) {
        ([Segment::Any], [_, ..]) => Step::Yes,
        ([Segment::Any, ..], [_, ..]) => Step::Either,
        // Only a `**` covers a `**`.
        (_, [Segment::Any, ..]) => Step::No,
        ([Segment::Text(first), ..], [Segment::Text(other), ..]) => Step::both_if(covers_text(first, other)),
        (wide, narrow) => Step::yes_if(wide.is_empty() && narrow.is_empty()),
    })
}

/// Whether `wide` matches every text that `narrow` matches. Only a `*` of `wide` covers a `*` of
/// `narrow`.
fn covers_text(wide: &[Piece], narrow: &[Piece]) -> bool {
    reaches_yes(wide, narrow, |wide, narrow| match (wide, narrow) {
        ([Piece::Star, ..], _) => Step::Either,
        (_, [Piece::Star, ..]) => Step::No,
        ([first, ..], [other, ..]) => Step::both_if(first.covers(other)),
        (wide, narrow) => Step::yes_if(wide.is_empty() && narrow.is_empty()),
    })
}

fn meet_segments(one: &[Segment], other: &[Segment]) -> bool {
    reaches_yes(one, other, |one, other| match (one, other) {
        // At the end of a pattern, `**` matches at least one segment.
        ([Segment::Any], rest) | (rest, [Segment::Any]) => Step::yes_if(!rest.is_empty()),
        ([Segment::Any, ..], _) | (_, [Segment::Any, ..]) => Step::Either,
        ([Segment::Text(first), ..], [Segment::Text(second), ..]) => Step::both_if(meet_text(first, second)),
        (one, other) => Step::yes_if(one.is_empty() && other.is_empty()),
    })
}

fn meet_text(one: &[Piece], other: &[Piece]) -> bool {
    reaches_yes(one, other, |one, other| match (one, other) {
        ([Piece::Star, ..], _) | (_, [Piece::Star, ..]) => Step::Either,
        ([first, ..], [second, ..]) => Step::both_if(first.meets(second)),
        (one, other) => Step::yes_if(one.is_empty() && other.is_empty()),
    })
}

/// Comparison of pieces that match one character each. Literals are compared fast, without trying
/// all characters: there may be many routes, and nearly all of their pieces are literals.
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
