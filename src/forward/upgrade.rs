//! Requests that ask for another protocol (RFC 9110, section 7.8; RFC 6455): which of them may have it, and the
//! heads that are exchanged before it is spoken.
//!
//! Invariant: no byte goes either way before upstream has said 101 to a request that was permitted.

use http::Method;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;

use crate::denial::Denial;
use crate::protocol::Protocol;
use crate::route::Route;
use crate::upstream::upgrade::PendingUpgrade;

/// A protocol that a client asks for and may have.
#[derive(Debug)]
pub(crate) struct Upgrade {
    /// The header's value, as the client wrote it.
    value: HeaderValue,
    /// The client's connection, once it is free of HTTP.
    pub(super) client: PendingUpgrade,
}

/// The upgrade that a request asks for, if the route allows it. Any other is no upgrade: the request goes on
/// without it, as if the header were not there.
///
/// # Errors
///
/// 400 where a body comes with it: two servers could place the end of HTTP differently.
pub(crate) fn asked(parts: &mut Parts, route: &Route, has_body: bool) -> Result<Option<Upgrade>, Denial> {
    let Some(client) = PendingUpgrade::take_from(&mut parts.extensions) else { return Ok(None) };
    let Some(value) = only_value(&parts.headers) else { return Ok(None) };
    let Some(name) = protocol(value) else { return Ok(None) };
    let is_meant = Protocol::from(parts.version).has_upgrades() && nominates_upgrade(&parts.headers);
    if !is_meant || !route.upgrades.contains(&name) || !route.upstream.takes_upgrades() {
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
    /// Asks upstream for it.
    pub(super) fn write_to(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.value.clone());
    }

    /// Whether upstream's 101 is for what was asked.
    pub(super) fn is_granted_by(&self, headers: &HeaderMap) -> bool {
        only_value(headers).is_some_and(|value| protocol(value) == protocol(&self.value))
            && nominates_upgrade(headers)
    }

    /// What frames nothing in a 101 goes; what makes it one is said to the client.
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

/// The one protocol's name in lower case, without its version; `None` for a list.
fn protocol(value: &HeaderValue) -> Option<String> {
    let text = value.to_str().ok()?.trim();
    let (name, version) = text.split_once('/').unwrap_or((text, ""));
    let is_one = !name.is_empty() && !text.contains([',', ' ', '\t']) && !version.contains('/');
    let name = name.to_ascii_lowercase();
    // WebSocket says its version in a header of its own (RFC 6455, section 4.1).
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
    fn one_protocol_and_no_list() {
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
