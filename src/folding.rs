//! Folds names of headers that servers treat as the same name.
//!
//! CGI and its successors turn names of headers into names of variables, in which every byte that
//! is no letter or digit is `_`; some gateways change `_` to `-` again. Two names fold to the same
//! name if they are equal after each byte that is no letter or digit is replaced by `-`.

use http::HeaderName;

/// Whether a header's name has only letters, digits and `-`, as nearly all names have. Such a name
/// folds to itself.
#[allow(clippy::indexing_slicing, reason = "a byte is less than the table is long")]
pub(crate) fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| PLAIN[usize::from(byte)])
}

/// The bytes of plain names: letters, digits and `-`. Each name of each request is checked, and a
/// table takes a third of the time of comparisons.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < table.len() {
        #[allow(clippy::indexing_slicing, clippy::cast_possible_truncation, reason = "the loop ends before")]
        {
            table[byte] = (byte as u8).is_ascii_alphanumeric() || byte as u8 == b'-';
        }
        byte += 1;
    }
    table
};

/// Returns the folded name of a header.
pub(crate) fn folded(name: &HeaderName) -> HeaderName {
    if is_plain(name.as_str()) {
        return name.clone();
    }
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    let text: Vec<u8> = name.as_str().bytes().map(fold).collect();
    // Letters, digits and `-` always form a valid name.
    HeaderName::from_bytes(&text).unwrap_or_else(|_| name.clone())
}
