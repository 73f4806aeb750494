//! Decoder of header names in a configuration.

use http::HeaderName;

use crate::config::decode::Decoder;
use crate::config::tree::Node;

/// Whether a header must not carry a secret. Such a header routes, delimits or describes a request,
/// or bearward itself writes the header, for example the request's id. Names are compared folded:
/// `x_request_id` is the same as `x-request-id`.
pub(super) fn has_other_meaning(name: &HeaderName) -> bool {
    const OURS: [&str; 2] = ["x-bearward-", "x-forwarded-"];
    const TAKEN: [&str; 21] = [
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "date",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "max-forwards",
        "proxy-connection",
        "te",
        "traceparent",
        "tracestate",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded",
        "x-real-ip",
        "x-request-id",
    ];
    let is_plain = |c: char| c.is_ascii_alphanumeric();
    let folded: String = name.as_str().chars().map(|c| if is_plain(c) { c } else { '-' }).collect();
    TAKEN.contains(&folded.as_str()) || OURS.iter().any(|prefix| folded.starts_with(prefix))
}

/// Whether a token has only letters, digits, `-`, `_` and `.`. Tokens may also contain `*` and `|`
/// (RFC 9110, section 5.6.2), but other programs read these as patterns.
pub(super) fn is_ordinary(token: &str) -> bool {
    token.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

pub(super) fn header_name(d: &mut Decoder<'_>, node: &Node) -> Option<HeaderName> {
    let name: HeaderName = d.parsed(node, "the name of a header", "as in authorization or x-api-key")?;
    if !is_ordinary(name.as_str()) {
        let message = format!("`{name}` is not the name of a header: patterns are not supported here");
        return d.hinted(node.at, message, "each name by itself, as in [x-debug, x-trace]");
    }
    Some(name)
}
