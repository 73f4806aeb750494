//! Parts of paths that servers read in different ways.

/// A part of a path that servers read in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ambiguity {
    /// An encoded slash, `%2F`.
    EncodedSlash,
    /// An encoded backslash, `%5C`.
    EncodedBackslash,
    /// A semicolon, `;`.
    Semicolon,
}

impl Ambiguity {
    pub(crate) const ALL: [(&'static str, Ambiguity); 3] = [
        ("encoded-slash", Ambiguity::EncodedSlash),
        ("encoded-backslash", Ambiguity::EncodedBackslash),
        ("semicolon", Ambiguity::Semicolon),
    ];

    /// Returns the text of this ambiguous part in a canonical path.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Ambiguity::EncodedSlash => "%2F",
            Ambiguity::EncodedBackslash => "%5C",
            Ambiguity::Semicolon => ";",
        }
    }
}
