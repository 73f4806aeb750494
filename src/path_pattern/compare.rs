//! Patterns against patterns: whether one takes all that another one does, or some of it.

use std::collections::HashSet;

use super::PathPattern;
use super::character::all;
use super::piece::{Piece, Segment};

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

/// What follows where one pattern is at its `i`th part, and the other one at its `j`th.
enum Step {
    Yes,
    No,
    /// Both go on.
    Both,
    /// Either goes on: one of them has what stands for any number of the other's.
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

/// Whether some way through two patterns of these lengths ends with yes. Each pair of places is left but once, so the work
/// grows with the product of the lengths, however many stars there are.
fn has_way<T>(one: &[T], other: &[T], step: impl Fn(&[T], &[T]) -> Step) -> bool {
    let (mut waiting, mut left) = (Vec::new(), HashSet::new());
    let mut place = Some((0, 0));
    while let Some((i, j)) = place {
        // Behind the end there is nothing to go on to.
        let (Some(ours), Some(theirs)) = (one.get(i..), other.get(j..)) else {
            place = waiting.pop();
            continue;
        };
        place = match step(ours, theirs) {
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
    has_way(wide, narrow, |wide, narrow| match (wide, narrow) {
        ([Segment::Any], [_, ..]) => Step::Yes,
        ([Segment::Any, ..], [_, ..]) => Step::Either,
        // What may be many segments is covered by the same alone.
        (_, [Segment::Any, ..]) => Step::No,
        ([Segment::Text(first), ..], [Segment::Text(other), ..]) => Step::both_if(covers_text(first, other)),
        (wide, narrow) => Step::yes_if(wide.is_empty() && narrow.is_empty()),
    })
}

/// A `*` of the narrow text is covered by a `*` alone.
fn covers_text(wide: &[Piece], narrow: &[Piece]) -> bool {
    has_way(wide, narrow, |wide, narrow| match (wide, narrow) {
        ([Piece::Star, ..], _) => Step::Either,
        (_, [Piece::Star, ..]) => Step::No,
        ([first, ..], [other, ..]) => Step::both_if(first.covers(other)),
        (wide, narrow) => Step::yes_if(wide.is_empty() && narrow.is_empty()),
    })
}

fn meet_segments(one: &[Segment], other: &[Segment]) -> bool {
    has_way(one, other, |one, other| match (one, other) {
        // At the end, it stands for one at least.
        ([Segment::Any], rest) | (rest, [Segment::Any]) => Step::yes_if(!rest.is_empty()),
        ([Segment::Any, ..], _) | (_, [Segment::Any, ..]) => Step::Either,
        ([Segment::Text(first), ..], [Segment::Text(second), ..]) => Step::both_if(meet_text(first, second)),
        (one, other) => Step::yes_if(one.is_empty() && other.is_empty()),
    })
}

fn meet_text(one: &[Piece], other: &[Piece]) -> bool {
    has_way(one, other, |one, other| match (one, other) {
        ([Piece::Star, ..], _) | (_, [Piece::Star, ..]) => Step::Either,
        ([first, ..], [second, ..]) => Step::both_if(first.meets(second)),
        (one, other) => Step::yes_if(one.is_empty() && other.is_empty()),
    })
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
