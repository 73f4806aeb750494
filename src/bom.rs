//! The byte order mark (U+FEFF) that some editors put in front of UTF-8. It is no part of a file's text.

/// The mark in UTF-8.
pub(crate) const MARK: &[u8] = "\u{feff}".as_bytes();

/// The text behind the mark, where there is one.
pub(crate) fn without(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// As [`without`], of what may be no text.
pub(crate) fn without_in(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}
