//! The headers of both directions: what is removed, what is set, and in which order.
//!
//! First go the names that only we may say, in every spelling; then what belongs to one connection alone and
//! what `Connection` nominates; only then are our own set. So no nomination removes what we set.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    SEC_WEBSOCKET_PROTOCOL, TE, TRANSFER_ENCODING,
};

use smallvec::SmallVec;

use crate::address;
use crate::config::UpstreamCredential;
use crate::gate::{Permit, harmless_protocols};
use crate::guard::Target;
use crate::guard::client::Client;
use crate::observe::X_REQUEST_ID;
use crate::observe::trace::TraceContext;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEY_ID: HeaderName = HeaderName::from_static("x-bearward-key-id");
const PERMISSIONS: HeaderName = HeaderName::from_static("x-bearward-permissions");
const KEY_NAME: HeaderName = HeaderName::from_static("x-bearward-key-name");
const ENVIRONMENT: HeaderName = HeaderName::from_static("x-bearward-environment");

/// Room for the headers that we set on a request.
const OUR_REQUEST_HEADERS: usize = 11;

/// Where a request came from, for the headers that say so.
#[derive(Debug)]
pub(crate) struct Origin<'a> {
    /// The address that the connection comes from.
    pub(crate) peer: Option<&'a HeaderValue>,
    pub(crate) client: Client,
    pub(crate) is_tls: bool,
    pub(crate) request_id: &'a HeaderValue,
    /// The request's place in a trace, where traces are told of.
    pub(crate) trace: Option<TraceContext>,
    /// Headers that a key may stand in, a caller's or ours.
    pub(crate) secret_headers: &'a [HeaderName],
}

/// Turns a caller's headers into those that upstream gets.
pub(crate) fn prepare_request(
    headers: &mut HeaderMap,
    target: &Target,
    permit: &Permit,
    origin: &Origin<'_>,
) {
    let forwarded = Forwarded::of(headers, target, origin);
    let is_secret = |name: &HeaderName| origin.secret_headers.contains(name);
    let is_dropped = |name: &HeaderName| {
        is_secret(name)
            || is_reserved_to_us(name)
            || match has_underscore(name.as_str()) {
                true => is_alias(name, is_secret),
                false => {
                    is_hop_by_hop(name) || matches!(*name, EXPECT | CONTENT_LENGTH | SEC_WEBSOCKET_PROTOCOL)
                }
            }
    };
    let unwanted = unwanted(headers, is_dropped);
    let wants_trailers = unwanted.contains(&TE) && accepts_trailers(headers);
    // A browser's key may stand among them, whether it was asked for there or not.
    let protocols = unwanted.contains(&SEC_WEBSOCKET_PROTOCOL).then(|| harmless_protocols(headers)).flatten();
    remove(headers, unwanted);
    join_cookies(headers);

    // One growth for all that is ours.
    headers.reserve(OUR_REQUEST_HEADERS);
    headers.insert(HOST, permit.route().upstream.host.as_ref().unwrap_or(&target.authority).clone());
    headers.insert(X_REQUEST_ID, origin.request_id.clone());
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocols) = protocols {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols);
    }
    forwarded.write_to(headers);
    if let Some(trace) = origin.trace {
        trace.write_to(headers);
    }
    if let Some(principal) = permit.principal() {
        let identity = principal.key().headers();
        headers.insert(KEY_ID, identity.key_id.clone());
        headers.insert(PERMISSIONS, identity.permissions.clone());
        if let Some(name) = &identity.key_name {
            headers.insert(KEY_NAME, name.clone());
        }
        if let Some(environment) = &identity.environment {
            headers.insert(ENVIRONMENT, environment.clone());
        }
    }
    if let Some(UpstreamCredential { header, value, .. }) = &permit.route().upstream.credential {
        headers.insert(header, value.clone());
    }
}

/// Turns upstream's headers into those that the caller gets. `keeps_length`: on answers without a body
/// (HEAD, 304), where Content-Length frames nothing and tells the size of what was not sent.
pub(super) fn prepare_response(headers: &mut HeaderMap, keeps_length: bool) {
    let is_dropped = |name: &HeaderName| {
        is_hop_by_hop(name) || is_identity(name.as_str()) || (*name == CONTENT_LENGTH && !keeps_length)
    };
    let unwanted = unwanted(headers, is_dropped);
    remove(headers, unwanted);
}

/// Whether a trailer may pass: none that frames, routes, authenticates or identifies.
pub(crate) fn is_harmless_trailer(name: &HeaderName) -> bool {
    // With `_` a name may read as any of those that are dropped.
    !name.as_str().contains('_')
        && !is_hop_by_hop(name)
        && !is_reserved_to_us(name)
        && !matches!(*name, CONTENT_LENGTH | HOST | AUTHORIZATION | EXPECT | COOKIE | SEC_WEBSOCKET_PROTOCOL)
        && *name != HeaderName::from_static("content-encoding")
        && *name != HeaderName::from_static("content-type")
        && *name != HeaderName::from_static("set-cookie")
}

/// Whether a trailer of an answer may pass: none that frames, authenticates or identifies. A `_` is no harm there:
/// gRPC metadata has it.
pub(crate) fn is_harmless_answer_trailer(name: &HeaderName) -> bool {
    match name.as_str().contains('_') {
        true => {
            HeaderName::try_from(name.as_str().replace('_', "-")).is_ok_and(|name| is_harmless_trailer(&name))
        }
        false => is_harmless_trailer(name),
    }
}

/// What the caller's `X-Forwarded-*` become.
struct Forwarded {
    for_: Option<HeaderValue>,
    proto: HeaderValue,
    host: HeaderValue,
}

impl Forwarded {
    fn of(headers: &HeaderMap, target: &Target, origin: &Origin<'_>) -> Self {
        let believed = |name: &HeaderName| match origin.client.via_trusted {
            true => headers.get(name).cloned(),
            false => None,
        };
        let own_proto = HeaderValue::from_static(if origin.is_tls { "https" } else { "http" });
        Forwarded {
            for_: hops(headers, origin),
            proto: believed(&X_FORWARDED_PROTO).unwrap_or(own_proto),
            host: believed(&X_FORWARDED_HOST).unwrap_or_else(|| target.authority.clone()),
        }
    }

    fn write_to(self, headers: &mut HeaderMap) {
        if let Some(for_) = self.for_ {
            headers.insert(X_FORWARDED_FOR, for_);
        }
        headers.insert(X_FORWARDED_PROTO, self.proto);
        headers.insert(X_FORWARDED_HOST, self.host);
    }
}

/// The addresses that the request has come by: those that a trusted proxy names, and the connection's own.
fn hops(headers: &HeaderMap, origin: &Origin<'_>) -> Option<HeaderValue> {
    if !origin.client.via_trusted {
        return origin.peer.cloned();
    }
    let named = headers.get_all(&X_FORWARDED_FOR).iter().chain(origin.peer);
    let named: Vec<&str> =
        named.filter_map(|value| value.to_str().ok()).filter(|value| !value.is_empty()).collect();
    HeaderValue::try_from(named.join(", ")).ok().filter(|value| !value.is_empty())
}

/// An address as headers have it.
pub(crate) fn address_value(address: IpAddr) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(40);
    address::write_to(&mut text, address.to_canonical());
    HeaderValue::try_from(text).ok()
}

/// Headers that API clients send their keys in. None of them passes, whether `auth.headers` names it or not: a key that a
/// client sends in several must not reach the upstream in one of them.
const CREDENTIALS: [&str; 6] =
    ["authorization", "x-api-key", "api-key", "x-goog-api-key", "x-litellm-api-key", "x-auth-token"];

/// Names that only we may say to upstream, in their `-` and `_` spellings.
fn is_reserved_to_us(name: &HeaderName) -> bool {
    let is_ours = |name: &str| {
        is_identity(name)
            || name.starts_with("x-forwarded-")
            || CREDENTIALS.contains(&name)
            || matches!(name, "forwarded" | "x-real-ip" | "x-request-id")
    };
    let name = name.as_str();
    // Most names are told apart by their first letter, and few have an underscore.
    match name.as_bytes().first() {
        Some(b'a' | b'f' | b'x') if has_underscore(name) => is_ours(&name.replace('_', "-")),
        Some(b'a' | b'f' | b'x') => is_ours(name),
        _ => false,
    }
}

fn has_underscore(name: &str) -> bool {
    name.as_bytes().contains(&b'_')
}

fn is_identity(name: &str) -> bool {
    let prefix = "x-bearward-";
    name.len() >= prefix.len()
        && name
            .bytes()
            .zip(prefix.bytes())
            .all(|(byte, expected)| byte == expected || (byte == b'_' && expected == b'-'))
}

/// Whether a name with `_` reads as one that `is_protected`, in servers that map both to one variable.
fn is_alias(name: &HeaderName, is_protected: impl Fn(&HeaderName) -> bool) -> bool {
    if !has_underscore(name.as_str()) {
        return false;
    }
    let spelled = name.as_str().replace('_', "-");
    let standard = [HOST, CONTENT_LENGTH, TRANSFER_ENCODING, CONNECTION, SEC_WEBSOCKET_PROTOCOL];
    HeaderName::try_from(spelled).is_ok_and(|name| is_protected(&name) || standard.contains(&name))
}

/// Headers that concern one connection alone (RFC 9110, section 7.6.1).
fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "http2-settings"
    )
}

/// Names that are to be removed.
type Unwanted = SmallVec<[HeaderName; 8]>;

/// What is unwanted, and what `Connection` nominates.
fn unwanted(headers: &HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) -> Unwanted {
    let mut unwanted: Unwanted = headers.keys().filter(|name| is_unwanted(name)).cloned().collect();
    if unwanted.contains(&CONNECTION) {
        let nominated = headers
            .get_all(CONNECTION)
            .iter()
            // What nearly all say; it goes by itself.
            .filter(|value| value.as_bytes() != b"keep-alive")
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|token| HeaderName::try_from(token.trim()).ok());
        unwanted.extend(nominated);
    }
    unwanted
}

fn remove(headers: &mut HeaderMap, unwanted: Unwanted) {
    for name in unwanted {
        headers.remove(name);
    }
}

fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|value| {
        let tokens = value.to_str().unwrap_or_default().split(',');
        tokens.into_iter().any(|token| token.trim().eq_ignore_ascii_case("trailers"))
    })
}

/// HTTP/2 clients may split a cookie into crumbs; HTTP/1.1 has one field (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let no_name_stands_twice = headers.keys_len() == headers.len();
    if no_name_stands_twice || headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_names_are_known_in_every_spelling() {
        for name in ["x-bearward-key-id", "x_bearward_key_id", "x-bearward_key-id", "x_bearward-anything"] {
            assert!(is_identity(name), "{name}");
        }
        assert!(!is_identity("x-bearwar"));
        for name in ["x_forwarded_for", "x-real_ip", "x_api_key", "api_key", "forwarded", "x-forwarded-port"]
        {
            assert!(is_reserved_to_us(&HeaderName::from_static(name)), "{name}");
        }
        assert!(!is_reserved_to_us(&HeaderName::from_static("x_custom")));
    }

    #[test]
    fn trailers_that_lie_are_dropped() {
        for name in [
            "authorization",
            "content-length",
            "transfer-encoding",
            "host",
            "x-bearward-key-id",
            "cookie",
            "content_length",
            "api-key",
            "x-litellm-api-key",
            "sec-websocket-protocol",
        ] {
            assert!(!is_harmless_trailer(&HeaderName::from_static(name)), "{name}");
        }
        assert!(is_harmless_trailer(&HeaderName::from_static("grpc-status")));
        assert!(is_harmless_answer_trailer(&HeaderName::from_static("cost_in_tokens")));
        assert!(!is_harmless_answer_trailer(&HeaderName::from_static("content_length")));
    }

    #[test]
    fn what_connection_nominates_goes_too() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("close, X-Hop , bad name"));
        headers.insert("x-hop", HeaderValue::from_static("1"));
        headers.insert("x-end", HeaderValue::from_static("1"));
        let found = unwanted(&headers, is_hop_by_hop);
        remove(&mut headers, found);
        assert_eq!(headers.len(), 1);
    }
}
