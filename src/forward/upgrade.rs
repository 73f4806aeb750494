//! Requests for an upgrade (RFC 9110, section 7.8; RFC 6455): which ones are allowed, and their
//! headers.
//!
//! `proxy` calls [`asked`]; `forward` writes and reads the headers.
//! Invariant: no byte is tunnelled before upstream has answered 101 to a permitted request.

use http::Method;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;

use crate::denial::Denial;
use crate::protocol::Protocol;
use crate::route::Route;
use crate::upstream::request::UpstreamHeaders;
use crate::upstream::upgrade::PendingUpgrade;

/// An upgrade that a client requests and the route allows.
#[derive(Debug)]
pub(crate) struct Upgrade {
    /// Value of the client's `Upgrade` header.
    value: HeaderValue,
    /// The client's connection, as a future that is ready when the connection is upgraded.
    pub(super) client: PendingUpgrade,
}

/// Returns the upgrade that a request asks for, if the route allows it. If not, the request is
/// forwarded without its `Upgrade` header.
///
/// # Errors
///
/// 400 if the request has a body, because servers disagree on where HTTP ends in such a request.
pub(crate) fn asked(parts: &mut Parts, route: &Route, has_body: bool) -> Result<Option<Upgrade>, Denial> {
    let Some(client) = PendingUpgrade::take_from(&mut parts.extensions) else { return Ok(None) };
    let Some(value) = only_value(&parts.headers) else { return Ok(None) };
    let Some(name) = protocol(value) else { return Ok(None) };
    let is_meant = Protocol::from(parts.version).has_upgrades() && nominates_upgrade(&parts.headers);
    if !is_meant || !route.upgrades.contains(&name) || !route.upstream.supports_upgrades() {
        return Ok(None);
    }
    if name == "websocket" && parts.method != Method::GET {
        return Ok(None);
    }
    if has_body {
        return Err(Denial::bad_request("A request for an upgrade takes no body"));
    }
    Ok(Some(Upgrade { value: value.clone(), client }))
}

impl Upgrade {
    /// Writes the headers of the upgrade into the request to upstream.
    pub(super) fn write_to(&self, headers: &mut UpstreamHeaders) {
        headers.set(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.set(UPGRADE, self.value.clone());
    }

    /// Whether upstream's 101 answer is for the requested protocol.
    pub(super) fn is_granted_by(&self, headers: &HeaderMap) -> bool {
        only_value(headers).is_some_and(|value| protocol(value) == protocol(&self.value))
            && nominates_upgrade(headers)
    }

    /// Writes the upgrade headers of the 101 answer to the client, and removes framing headers.
    pub(super) fn confirm(headers: &mut HeaderMap, granted: HeaderValue) {
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, granted);
    }
}

fn only_value(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(UPGRADE).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Returns the name of the only protocol in an `Upgrade` header, in lower case and without its
/// version; `None` if the header lists several.
fn protocol(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim();
    let (name, version) = text.split_once('/').unwrap_or((text, ""));
    let is_one = !name.is_empty() && !text.contains([',', ' ', '\t']) && !version.contains('/');
    let name = name.to_ascii_lowercase();
    // The version of WebSocket is in another header (RFC 6455, section 4.1), so a version in the
    // `Upgrade` header is not accepted.
    let is_known = is_one && (name != "websocket" || !text.contains('/'));
    is_known.then_some(name)
}

fn nominates_upgrade(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    values.any(|value| {
        let mut tokens = value.split(|byte| *byte == b',');
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_names_one_protocol() {
        let name = |value: &'static str| protocol(&HeaderValue::from_static(value));
        assert_eq!(name("WebSocket").as_deref(), Some("websocket"));
        assert_eq!(name("SPDY/3.1").as_deref(), Some("spdy"));
        for bad in
            ["websocket/13", "websocket/", "", "websocket, h2c", "h2c,websocket", "web socket", "a/b/c", "/1"]
        {
            assert_eq!(name(bad), None, "{bad}");
        }
    }
}
