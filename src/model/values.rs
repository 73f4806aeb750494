//! The values of a body's members that matter: numbers of output tokens, and options of a stream.

use super::member::Member;
use super::spellings::Spellings;
use crate::json::Literal;

/// A number of output tokens, as a member of the body declares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeclaredOutput {
    /// The member's name, as it is known.
    pub(crate) field: &'static str,
    /// Whether the name is in exactly this spelling. Some servers ignore case.
    pub(crate) is_exact: bool,
    /// Number of tokens; `None` for a value that is no limit (null, 0, −1) or no number.
    pub(crate) tokens: Option<u64>,
    /// Whether the value is null, which is as good as no member.
    pub(crate) is_null: bool,
    /// The object that has the member, such as `options` or `sampling_params`; `None` for the body's
    /// object itself.
    pub(crate) wrapper: Option<&'static str>,
    /// Position of the value in the body, from its first byte to behind its last one.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl DeclaredOutput {
    /// Whether a server with these spellings reads the member.
    pub(crate) fn is_read_by(&self, spellings: Spellings) -> bool {
        self.is_exact && self.wrapper == spellings.wrapper && spellings.fields.contains(&self.field)
    }
}

/// A value that may be left out, or be given more than once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Given<T> {
    #[default]
    Never,
    Once(T),
    /// More than once, or in a form that is not known.
    Unclear,
}

impl<T> Given<T> {
    pub(super) fn give(&mut self, value: Option<T>) {
        *self = match (&self, value) {
            (Given::Never, Some(value)) => Given::Once(value),
            _ => Given::Unclear,
        };
    }
}

/// The options of a stream, as the body gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamOptions {
    /// The value is null, at this position.
    Null(u64),
    /// An object that says nothing of the usage: the position behind its opening bracket, and whether it has other
    /// members.
    Silent(u64, bool),
    /// An object that has `"include_usage": false` or null: the position of that value and its length.
    Declined(u64, u64),
    /// An object that has `"include_usage": true`.
    Asked,
}

/// What a body says of whether its answer is a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeclaredStream {
    pub(crate) is_on: Given<bool>,
    pub(crate) options: Given<StreamOptions>,
}

impl DeclaredStream {
    /// Servers disagree on both.
    pub(super) const UNCLEAR: DeclaredStream =
        DeclaredStream { is_on: Given::Unclear, options: Given::Unclear };

    /// Whether servers may disagree on whether the answer is a stream, or on whether that has the usage.
    pub(crate) fn is_unclear(self) -> bool {
        match self.is_on {
            Given::Unclear => true,
            Given::Once(true) => self.options == Given::Unclear,
            Given::Once(false) | Given::Never => false,
        }
    }

    /// Notes a member of the options. `literal`: its value with its position and length, if that is a literal.
    pub(super) fn note_option(&mut self, member: Member, literal: Option<(Literal, u64, u64)>) {
        let Given::Once(known) = self.options else { return };
        self.options = match (known, member, literal) {
            (StreamOptions::Silent(..), Member::IncludeUsage, Some((Literal::True, ..))) => {
                Given::Once(StreamOptions::Asked)
            }
            (StreamOptions::Silent(..), Member::IncludeUsage, Some((_, at, length))) => {
                Given::Once(StreamOptions::Declined(at, length))
            }
            (_, Member::IncludeUsage | Member::LikeStream, _) => Given::Unclear,
            (StreamOptions::Silent(at, _), _, _) => Given::Once(StreamOptions::Silent(at, true)),
            (known, _, _) => Given::Once(known),
        };
    }
}

/// Reads a number of tokens or repetitions; `None` for a value that is no limit. A fraction is
/// rounded up.
pub(super) fn number(written: &str) -> Option<u64> {
    let written = written.trim();
    if let Ok(whole) = written.parse::<u64>() {
        return (whole > 0).then_some(whole);
    }
    // Servers that round down read a number below one as none.
    let number = written.parse::<f64>().ok().filter(|number| *number >= 1.0)?.ceil();
    match number {
        number if number >= 1e18 => Some(u64::MAX),
        number if number >= 1.0 => Some(number as u64),
        _ => None,
    }
}
