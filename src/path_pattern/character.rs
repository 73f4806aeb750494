//! The characters of canonical paths (RFC 3986, section 3.3): raw ones and encoded ones.
//!
//! `guard::path` writes paths in this canonical form, and patterns must be written in it: both use
//! the functions of this file.

/// One character of a canonical path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Character {
    /// A byte that is not encoded.
    Raw(u8),
    /// A byte that is encoded as `%` and two hex digits.
    Encoded(u8),
}

/// Whether a byte is unreserved: it means the same raw and encoded (RFC 3986, section 2.3).
pub(crate) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Whether a byte is written raw in a segment of a canonical path: `pchar` of RFC 3986, except for
/// `;`, which some servers read as the beginning of a parameter.
#[allow(clippy::indexing_slicing, reason = "a byte is less than the table is long")]
pub(crate) fn stands_raw(byte: u8) -> bool {
    RAW[usize::from(byte)]
}

/// The bytes that are written raw. This is a table for speed, because each byte of each path is
/// checked.
const RAW: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte: u8 = 0;
    loop {
        #[allow(clippy::indexing_slicing, reason = "a byte is less than the table is long")]
        {
            table[byte as usize] = is_unreserved(byte)
                || matches!(
                    byte,
                    b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@'
                );
        }
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

/// Appends a byte to `out`, raw or encoded as in a canonical path.
pub(crate) fn push(out: &mut String, byte: u8) {
    match stands_raw(byte) {
        true => out.push(char::from(byte)),
        false => {
            out.push('%');
            for digit in [byte >> 4, byte & 0xf] {
                out.extend(char::from_digit(u32::from(digit), 16).map(|digit| digit.to_ascii_uppercase()));
            }
        }
    }
}

/// Merges slashes and resolves dot segments (RFC 3986, section 5.2.4). At the root, `..` is
/// dropped.
pub(crate) fn resolve(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_with_slash = false;
    for segment in path.split('/') {
        ends_with_slash = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            _ => segments.push(segment),
        }
    }
    let mut resolved = String::with_capacity(path.len() + 1);
    for segment in &segments {
        resolved.push('/');
        resolved.push_str(segment);
    }
    if ends_with_slash {
        resolved.push('/');
    }
    resolved
}

/// Returns the byte that two hexadecimal digits encode.
pub(crate) fn hex_pair(high: Option<u8>, low: Option<u8>) -> Option<u8> {
    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

/// Returns the first character of a path, and the rest. A `%` that is not followed by two hex
/// digits is a character by itself.
pub(super) fn first_character(text: &[u8]) -> Option<(Character, &[u8])> {
    let (first, rest) = text.split_first()?;
    if let (b'%', [high, low, behind @ ..]) = (first, rest)
        && let Some(byte) = hex_pair(Some(*high), Some(*low))
    {
        return Some((Character::Encoded(byte), behind));
    }
    Some((Character::Raw(*first), rest))
}

/// Returns all characters that segments of canonical paths may contain.
pub(super) fn all() -> impl Iterator<Item = Character> {
    let raw = (0..=u8::MAX).filter(|byte| stands_raw(*byte) || *byte == b';').map(Character::Raw);
    raw.chain((0..=u8::MAX).filter(|byte| !stands_raw(*byte)).map(Character::Encoded))
}

/// Whether a set of ASCII bytes contains this byte.
pub(super) fn is_member(members: u128, byte: u8) -> bool {
    byte.is_ascii() && members & (1 << byte) != 0
}
