//! The byte order mark (U+FEFF) that some editors write at the beginning of a UTF-8 file. The mark
//! is no part of the file's text.

/// The byte order mark in UTF-8.
pub(crate) const MARK: &[u8] = "\u{feff}".as_bytes();

/// Returns a text without the byte order mark.
pub(crate) fn without(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Returns bytes without the byte order mark, as [`without`] does for a text.
pub(crate) fn without_in(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(MARK).unwrap_or(bytes)
}
