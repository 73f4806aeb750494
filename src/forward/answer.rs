//! Checks of the head of an upstream's answer, before any of it reaches the client.
//!
//! `forward` calls this module for every answer of an upstream except a 101.

use http::StatusCode;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::response::Parts;

use crate::denial::Denial;
use crate::upstream::Upstream;

/// Refuses an answer with ambiguous framing.
///
/// # Errors
///
/// 502 if the answer has several lengths, an unknown transfer coding, or both a length and a
/// coding.
pub(super) fn check(head: &Parts, upstream: &Upstream) -> Result<(), Denial> {
    let refuse = |reason: &'static str| {
        Err(Denial::upstream_protocol(&upstream.name).not_to_be_retried().caused_by(reason))
    };
    let (mut lengths, mut encodings) = (0, 0);
    for (name, value) in &head.headers {
        if *name == CONTENT_LENGTH {
            lengths += 1;
            if lengths > 1 || !value.as_bytes().iter().all(u8::is_ascii_digit) {
                return refuse("Content-Length is not one number");
            }
        } else if *name == TRANSFER_ENCODING {
            encodings += 1;
            if encodings > 1 || !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return refuse("a transfer coding other than chunked");
            }
        }
    }
    if lengths > 0 && encodings > 0 {
        return refuse("both Content-Length and Transfer-Encoding");
    }
    Ok(())
}

/// Whether a 204 or 304 answer declares a body, which it can't have (RFC 9110, section 8.6; RFC
/// 9112, section 6.1). If upstream sent the body all the same, bearward would read the body as the
/// answer to the next request on the connection.
pub(super) fn may_be_followed_by_a_body(head: &Parts) -> bool {
    let has_none = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    has_none
        && (head.headers.contains_key(TRANSFER_ENCODING)
            || head.headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0"))
}
