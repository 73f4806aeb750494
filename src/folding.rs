//! Names of headers that servers take for each other.
//!
//! CGI and its successors make variables of names, in which every byte but a letter or a digit is
//! `_`; some gateways change it to `-` again. Two names fold to the same if they are equal once
//! each such byte is a `-`.

use http::HeaderName;

/// Whether a name has only letters, digits and `-`, as nearly all have: it folds to itself.
#[allow(clippy::indexing_slicing, reason = "a byte is less than the table is long")]
pub(crate) fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| PLAIN[usize::from(byte)])
}

/// The plain bytes. Each name of each request is checked, and a table takes a third of the time of
/// comparisons.
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

/// The folded name.
pub(crate) fn folded(name: &HeaderName) -> HeaderName {
    if is_plain(name.as_str()) {
        return name.clone();
    }
    let fold = |byte: u8| if byte.is_ascii_alphanumeric() { byte } else { b'-' };
    let text: Vec<u8> = name.as_str().bytes().map(fold).collect();
    // Letters, digits and `-` always make a name.
    HeaderName::from_bytes(&text).unwrap_or_else(|_| name.clone())
}
