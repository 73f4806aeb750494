//! The encodings in which a client accepts an answer whose usage is read.

use http::HeaderMap;
use http::header::{ACCEPT_ENCODING, HeaderValue};

/// Reduces the encodings that a client accepts to those in which the usage of an answer can be read.
/// A client that accepts gzip gets gzip (RFC 9110, section 12.5.3).
pub(crate) fn accept_readable_encodings(headers: &mut HeaderMap) {
    let (mut has_other, mut takes_gzip) = (false, false);
    for value in headers.get_all(ACCEPT_ENCODING) {
        for item in value.as_bytes().split(|byte| *byte == b',') {
            let item = String::from_utf8_lossy(item).to_ascii_lowercase();
            let (name, weight) = item.split_once(';').unwrap_or((&item, ""));
            // Only a weight of zero refuses an encoding.
            let weight =
                weight.trim().strip_prefix("q=").and_then(|weight| weight.trim().parse::<f32>().ok());
            if weight == Some(0.0) {
                continue;
            }
            match name.trim() {
                "gzip" | "x-gzip" => takes_gzip = true,
                "deflate" | "identity" | "" => {}
                _ => has_other = true,
            }
        }
    }
    if has_other {
        let readable = if takes_gzip { "gzip" } else { "identity" };
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(readable));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readable_encodings_are_left() {
        for (accepted, left) in [
            ("gzip, deflate", "gzip, deflate"),
            ("gzip, deflate, br, zstd", "gzip"),
            ("br", "identity"),
            ("*", "identity"),
            ("br;q=0, gzip;q=0.5", "br;q=0, gzip;q=0.5"),
            ("GZIP; q=0.000, zstd", "identity"),
            ("identity", "identity"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static(accepted));
            accept_readable_encodings(&mut headers);
            assert_eq!(headers.get_all(ACCEPT_ENCODING).iter().collect::<Vec<_>>(), [left], "{accepted}");
        }
    }
}
