//! The byte order mark (U+FEFF) that some editors put before UTF-8. It is no part of a file's text.

/// The mark in UTF-8.
pub(crate) const MARK: &[u8] = "\u{feff}".as_bytes();

/// The text without the mark.
pub(crate) fn without(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// As [`without`], for bytes.
pub(crate) fn without_in(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}
