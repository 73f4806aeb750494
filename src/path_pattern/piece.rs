//! The parts of a parsed pattern: segments, and the pieces of a segment.

use super::character::{self, Character};

/// The part of a pattern between two slashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// `**`: any number of segments. At the end of a pattern, `**` matches at least one segment,
    /// which may be empty.
    Any,
    Text(Vec<Piece>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Literal(Character),
    /// `?`: one character.
    One,
    /// `[a-c]`: one raw character that is a member. `[!a-c]`: one character that is no member.
    Class {
        members: u128,
        is_negated: bool,
    },
    /// `*`: any characters of a segment, or none.
    Star,
}

impl Segment {
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Segment::Text(pieces) if pieces.iter().all(|piece| matches!(piece, Piece::Literal(_))))
    }
}

impl Piece {
    /// Whether this piece matches `character`.
    pub(super) fn takes(&self, character: Character) -> bool {
        match (self, character) {
            (Piece::Literal(own), _) => *own == character,
            (Piece::One | Piece::Star, _) => true,
            (Piece::Class { members, is_negated }, Character::Raw(byte)) => {
                character::is_member(*members, byte) != *is_negated
            }
            (Piece::Class { is_negated, .. }, Character::Encoded(_)) => *is_negated,
        }
    }
}
