//! Numbers as hex digits: ids of requests, traces and spans.

/// Returns the 32 hex digits of a number.
pub(super) fn hex(number: u128) -> [u8; 32] {
    let mut digits = [0; 32];
    for (pair, byte) in digits.chunks_exact_mut(2).zip(number.to_be_bytes()) {
        if let [high, low] = pair {
            (*high, *low) = (hex_digit(byte >> 4), hex_digit(byte & 15));
        }
    }
    digits
}

fn hex_digit(nibble: u8) -> u8 {
    nibble + if nibble < 10 { b'0' } else { b'a' - 10 }
}

/// Returns the 16 hex digits of a span's id.
pub(super) fn span_hex(span: u64) -> String {
    format!("{span:016x}")
}

/// Returns hex digits as text.
pub(super) fn text(digits: &[u8]) -> &str {
    debug_assert!(digits.iter().all(u8::is_ascii_hexdigit), "{digits:?}");
    std::str::from_utf8(digits).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_32_digits() {
        assert_eq!(&hex(0x0123_4567_89ab_cdef_0000_0000_0000_00ff), b"0123456789abcdef00000000000000ff");
    }
}
