//! Requests that a browser sends for a page of another origin.
//!
//! A browser adds the client certificate of its user to every connection, whichever page asks for it. So a
//! certificate identifies nobody on a request of a foreign page: the page could otherwise use the model in the
//! user's name. Keys and tokens are sent on purpose, and need no such check.

use http::HeaderMap;
use http::header::ORIGIN;

use crate::guard::Target;

/// Says in which relation the page is to the request's target (W3C Fetch Metadata, section 2.3).
const SEC_FETCH_SITE: &str = "sec-fetch-site";

/// Whether a browser says that a page of another origin sends the request. `target`: the request's target on a
/// connection with TLS. Programs that are no browsers send neither header.
pub(super) fn is_from_foreign_page(headers: &HeaderMap, target: &Target) -> bool {
    let mut sites = headers.get_all(SEC_FETCH_SITE).iter().peekable();
    if sites.peek().is_some() {
        // `none`: the user has asked for it, not a page.
        return !sites.all(|site| matches!(site.as_bytes(), b"same-origin" | b"none"));
    }
    // Older browsers name the origin alone (RFC 6454, section 7), and all do when a page opens a WebSocket.
    let own = target.authority.as_ref().map(|authority| authority.as_bytes());
    let is_own = |origin: &[u8]| {
        let authority = origin.strip_prefix(b"https://").unwrap_or_default();
        own.is_some_and(|own| own.eq_ignore_ascii_case(authority))
    };
    !headers.get_all(ORIGIN).iter().all(|origin| is_own(origin.as_bytes()))
}
