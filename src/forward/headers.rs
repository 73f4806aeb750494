//! Headers of requests and answers: which ones are removed, and which ones bearward sets.
//!
//! `forward` uses this module in both directions, and `proxy` for trailers. Reserved names are
//! removed first, in every spelling; then hop-by-hop headers, and the headers that `Connection`
//! nominates.
//! Invariant: bearward's own headers are set last, so no nomination removes one of them.

mod reserved;

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, COOKIE, EXPECT, HOST, HeaderMap,
    HeaderName, HeaderValue, MAX_FORWARDS, SEC_WEBSOCKET_PROTOCOL, TE, TRAILER,
};

use smallvec::SmallVec;

use crate::address;
use crate::config::UpstreamCredential;
use crate::folding::{folded, is_plain};
use crate::gate::{Permit, Principal, harmless_protocols};
use crate::guard::Target;
use crate::guard::client::Client;
use crate::observe::X_REQUEST_ID;
use crate::observe::trace::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::upstream::request::{Removed, UpstreamHeaders};
pub(crate) use reserved::KEY_HEADERS;
use reserved::{Reserved, is_identity, reserved, states_address};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const KEY_ID: HeaderName = HeaderName::from_static("x-bearward-key-id");
const PERMISSIONS: HeaderName = HeaderName::from_static("x-bearward-permissions");
const KEY_NAME: HeaderName = HeaderName::from_static("x-bearward-key-name");
const ENVIRONMENT: HeaderName = HeaderName::from_static("x-bearward-environment");

/// The headers that state who sent a request.
const IDENTITY: [HeaderName; 4] = [KEY_ID, KEY_NAME, ENVIRONMENT, PERMISSIONS];

/// Largest number of headers that bearward sets on a request, without those of a trace and of a credential.
const OUR_REQUEST_HEADERS: usize = 11;

/// Facts about the origin of a request, for the headers that describe it to upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin<'a> {
    /// Address of the connection's peer, as a header value.
    pub(crate) peer: Option<&'a HeaderValue>,
    pub(crate) client: Client,
    pub(crate) is_tls: bool,
    pub(crate) request_id: &'a HeaderValue,
    /// Trace context with the request's span, if traces are configured.
    pub(crate) trace: Option<TraceContext>,
    /// Names of headers that may carry the client's key or the upstream's credential.
    pub(crate) secret_headers: &'a [HeaderName],
}

/// Makes the headers that are sent to upstream from a client's headers.
pub(crate) fn request_headers(
    mut received: HeaderMap,
    target: &Target,
    permit: &Permit,
    origin: &Origin<'_>,
) -> UpstreamHeaders {
    let forwarded = Forwarded::of(&received, target, origin);
    let removes = &permit.route().removes;
    let is_unwanted = |name: &HeaderName, is_trusted: bool| {
        origin.secret_headers.contains(name)
            || match reserved(name.as_str()) {
                Some(Reserved::Ours) => true,
                Some(Reserved::Client) => !is_trusted,
                None => {
                    is_hop_by_hop(name)
                        || matches!(*name, EXPECT | CONTENT_LENGTH | SEC_WEBSOCKET_PROTOCOL)
                        || removes.contains(name)
                }
            }
    };
    let is_dropped = |name: &HeaderName| match is_plain(name.as_str()) {
        true => is_unwanted(name, origin.client.via_trusted),
        // The name is not plain: it has a character such as `_`, which some servers take for `-`.
        // Trusted proxies send plain names only, so this name comes from the client.
        false => origin.secret_headers.contains(name) || is_unwanted(&folded(name), false),
    };
    let unwanted = unwanted(&received, is_dropped);
    let wants_trailers = unwanted.contains(&TE) && accepts_trailers(&received);
    // Browsers send keys as WebSocket protocols, so one of the protocols may be a key on any route.
    let protocols =
        unwanted.contains(&SEC_WEBSOCKET_PROTOCOL).then(|| harmless_protocols(&received)).flatten();
    remove_nominated(&mut received);
    join_cookies(&mut received);

    let mut set = Vec::with_capacity(OUR_REQUEST_HEADERS);
    set.push((HOST, permit.route().upstream.host_for(target.authority.as_ref())));
    set.push((X_REQUEST_ID, origin.request_id.clone()));
    if wants_trailers {
        set.push((TE, HeaderValue::from_static("trailers")));
    }
    set.extend(protocols.map(|protocols| (SEC_WEBSOCKET_PROTOCOL, protocols)));
    forwarded.add_to(&mut set);
    if let Some(principal) = permit.principal() {
        let identity = principal.key().headers();
        set.push((KEY_ID, identity.key_id.clone()));
        set.push((PERMISSIONS, identity.permissions.clone()));
        set.extend(identity.key_name.as_ref().map(|name| (KEY_NAME, name.clone())));
        set.extend(identity.environment.as_ref().map(|environment| (ENVIRONMENT, environment.clone())));
    }
    let mut headers = UpstreamHeaders::new(received, unwanted, set);
    if let Some(trace) = origin.trace {
        if let Some(traceparent) = trace.traceparent() {
            headers.set(TRACEPARENT, traceparent);
        }
        if !trace.is_of_caller() {
            headers.remove(&TRACESTATE);
        }
    }
    if let Some(UpstreamCredential { header, value, .. }) = &permit.route().upstream.requests.credential {
        headers.set(header.clone(), value.clone());
    }
    headers
}

/// Changes upstream's headers into the headers that are sent to the client.
///
/// `keeps_length`: whether Content-Length is kept. It is kept in an answer without a body (to HEAD,
/// or a 304), where Content-Length is the size of the body that was not sent.
pub(super) fn prepare_response(headers: &mut HeaderMap, keeps_length: bool) {
    let is_dropped = |name: &HeaderName| {
        is_hop_by_hop(name) || is_identity(name.as_str()) || (*name == CONTENT_LENGTH && !keeps_length)
    };
    let unwanted = unwanted(headers, is_dropped);
    remove_nominated(headers);
    for name in unwanted {
        headers.remove(name);
    }
}

/// Whether a request's trailer may be forwarded: its name has no meaning in framing, routing,
/// authentication or identification.
pub(crate) fn is_harmless_trailer(name: &HeaderName) -> bool {
    // A trailer whose name is not plain is dropped, because some servers take a character such as
    // `_` for `-` and would read the name as one that bearward drops.
    is_plain(name.as_str()) && is_harmless(name)
}

/// Whether an answer's trailer may be forwarded: its name has no meaning in framing, authentication
/// or identification.
///
/// A name with characters such as `_` is forwarded unless the same name with `-` is dropped,
/// because names of gRPC metadata contain `_`.
pub(crate) fn is_harmless_answer_trailer(name: &HeaderName) -> bool {
    is_harmless(&folded(name))
}

/// Whether a trailer with this name may be forwarded. The name has only letters, digits and `-`.
fn is_harmless(name: &HeaderName) -> bool {
    !is_hop_by_hop(name)
        && reserved(name.as_str()).is_none()
        && !matches!(*name, CONTENT_LENGTH | HOST | AUTHORIZATION | EXPECT | COOKIE | SEC_WEBSOCKET_PROTOCOL)
        && !matches!(*name, CACHE_CONTROL | CONTENT_RANGE | MAX_FORWARDS | TRAILER)
        && *name != HeaderName::from_static("content-encoding")
        && *name != HeaderName::from_static("content-type")
        && *name != HeaderName::from_static("set-cookie")
}

/// The values of the `X-Forwarded-*` headers to send to upstream.
struct Forwarded {
    for_: Option<HeaderValue>,
    proto: HeaderValue,
    /// Value of `X-Forwarded-Host`; `None` if the client sent no Host.
    host: Option<HeaderValue>,
}

impl Forwarded {
    fn of(headers: &HeaderMap, target: &Target, origin: &Origin<'_>) -> Self {
        let trusted = |name: &HeaderName| match origin.client.via_trusted {
            true => headers.get(name).cloned(),
            false => None,
        };
        let own_proto = HeaderValue::from_static(if origin.is_tls { "https" } else { "http" });
        Forwarded {
            for_: hops(headers, origin),
            proto: trusted(&X_FORWARDED_PROTO).unwrap_or(own_proto),
            host: trusted(&X_FORWARDED_HOST).or_else(|| target.authority.clone()),
        }
    }

    fn add_to(self, set: &mut Vec<(HeaderName, HeaderValue)>) {
        set.extend(self.for_.map(|for_| (X_FORWARDED_FOR, for_)));
        set.push((X_FORWARDED_PROTO, self.proto));
        set.extend(self.host.map(|host| (X_FORWARDED_HOST, host)));
    }
}

/// Returns the value of `X-Forwarded-For`: the addresses that a trusted proxy sent, followed by the
/// address of the connection's peer.
fn hops(headers: &HeaderMap, origin: &Origin<'_>) -> Option<HeaderValue> {
    if !origin.client.via_trusted {
        return origin.peer.cloned();
    }
    let named = headers.get_all(&X_FORWARDED_FOR).iter().chain(origin.peer);
    let named: Vec<&[u8]> = named.map(HeaderValue::as_bytes).filter(|value| !value.is_empty()).collect();
    let joined = HeaderValue::from_bytes(&named.join(&b", "[..]));
    debug_assert!(joined.is_ok(), "joined header values are a header value");
    joined.ok().filter(|value| !value.is_empty())
}

/// Returns an IP address as a header value.
pub(crate) fn address_value(address: IpAddr) -> Option<HeaderValue> {
    let mut text = Vec::with_capacity(40);
    address::write_to(&mut text, address.to_canonical());
    let value = HeaderValue::try_from(text);
    debug_assert!(value.is_ok(), "an address is a header value");
    value.ok()
}

/// Whether a proxy that forwards a request itself must not forward a header: some servers take it for another
/// one, or take from it the method, the path, the host or who the client is. `is_own`: whether that proxy sets the
/// header, to describe what it forwards.
///
/// Headers that may carry keys, and those that state an identity by bearward's word, are not among them: each
/// configuration of a proxy removes or sets these.
pub(crate) fn must_not_be_forwarded(
    name: &HeaderName,
    secret_headers: &[HeaderName],
    is_own: impl Fn(&str) -> bool,
) -> bool {
    let is_secret = |name: &HeaderName| secret_headers.contains(name) || KEY_HEADERS.contains(&name.as_str());
    if !is_plain(name.as_str()) {
        let folded = folded(name);
        return reserved(folded.as_str()).is_some() || is_secret(&folded) || is_secret(name);
    }
    if is_secret(name) || IDENTITY.contains(name) {
        return false;
    }
    match reserved(name.as_str()) {
        Some(_) if is_own(name.as_str()) => false,
        Some(Reserved::Ours) => true,
        // Addresses are for proxies to state. A client that states one of its own changes no decision.
        Some(Reserved::Client) => !states_address(name.as_str()),
        None => false,
    }
}

/// Whether only proxies may send a header, which states the address of a client or who the client is.
pub(crate) fn states_client(name: &HeaderName) -> bool {
    match is_plain(name.as_str()) {
        true => {
            reserved(name.as_str()) == Some(Reserved::Client) && name.as_str() != "x-envoy-external-address"
        }
        false => reserved(folded(name).as_str()) == Some(Reserved::Client),
    }
}

/// Whether `Connection` nominates a header that states who sent the request, or one that is reserved. Whoever
/// receives the request next would remove that header (RFC 9110, section 7.6.1).
pub(crate) fn nominates_reserved(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().map(HeaderValue::as_bytes);
    let mut tokens = values.flat_map(|value| value.split(|byte| *byte == b','));
    tokens.any(|token| {
        HeaderName::from_bytes(token.trim_ascii())
            .is_ok_and(|name| IDENTITY.contains(&name) || reserved(folded(&name).as_str()).is_some())
    })
}

/// Returns the four headers that state who sent a request. A header without a value has `-`, so that one of
/// the caller's own is never left in its place.
pub(crate) fn identity(principal: Option<&Principal>) -> [(HeaderName, HeaderValue); 4] {
    const NOTHING: HeaderValue = HeaderValue::from_static("-");
    let Some(principal) = principal else {
        return IDENTITY.map(|name| (name, NOTHING));
    };
    let identity = principal.key().headers();
    let or_nothing =
        |value: &Option<HeaderValue>| value.clone().filter(|value| !value.is_empty()).unwrap_or(NOTHING);
    let permissions = Some(identity.permissions.clone());
    [
        (KEY_ID, identity.key_id.clone()),
        (KEY_NAME, or_nothing(&identity.key_name)),
        (ENVIRONMENT, or_nothing(&identity.environment)),
        (PERMISSIONS, or_nothing(&permissions)),
    ]
}

/// Whether a header applies to a single connection only (RFC 9110, section 7.6.1).
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

/// Collects the names of unwanted headers.
fn unwanted(headers: &HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) -> Removed {
    headers.keys().filter(|name| is_unwanted(name)).cloned().collect()
}

/// Removes the headers that `Connection` nominates (RFC 9110, section 7.6.1). A client may nominate
/// thousands of names, so they are not collected.
fn remove_nominated(headers: &mut HeaderMap) {
    // Nearly all clients send `Connection: keep-alive`. The value is skipped, because `Keep-Alive` is
    // removed as a hop-by-hop header in any case.
    let values = headers.get_all(CONNECTION).iter().filter(|value| value.as_bytes() != b"keep-alive");
    let values: SmallVec<[HeaderValue; 1]> = values.cloned().collect();
    // The value of `Connection` is split as bytes, so that a token that is not text can't hide the other
    // tokens.
    for token in values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b',')) {
        if let Ok(name) = HeaderName::from_bytes(token.trim_ascii()) {
            headers.remove(name);
        }
    }
}

/// Whether the client accepts trailers (`TE: trailers`).
fn accepts_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(TE).iter().any(|value| {
        let mut tokens = value.as_bytes().split(|byte| *byte == b',');
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    })
}

/// Joins the cookie fields of an HTTP/2 client into one field (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let names_are_unique = headers.keys_len() == headers.len();
    if names_are_unique || headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let joined = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]));
    debug_assert!(joined.is_ok(), "joined header values are a header value");
    if let Ok(joined) = joined {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_names_are_found_in_every_spelling() {
        for name in ["x-bearward-key-id", "x_bearward_key_id", "x-bearward_key-id", "x.bearward~anything"] {
            assert!(is_identity(name), "{name}");
        }
        assert!(!is_identity("x-bearwar") && !is_identity("x-bearwards") && !is_identity("xabearwardakey"));
        for name in [
            "x_forwarded_for",
            "x-real.ip",
            "x~api_key",
            "api_key",
            "forwarded",
            "x-forwarded-port",
            "x|http|method",
        ] {
            let name = folded(&HeaderName::from_static(name));
            assert_eq!(reserved(name.as_str()), Some(Reserved::Ours), "{name}");
        }
        assert_eq!(reserved("x-custom"), None);
        assert_eq!(reserved("cf-connecting-ip"), Some(Reserved::Client));
    }

    #[test]
    fn harmful_trailers_are_dropped() {
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
            "x-original-url",
            "true-client-ip",
            "grpc.status",
        ] {
            assert!(!is_harmless_trailer(&HeaderName::from_static(name)), "{name}");
        }
        assert!(is_harmless_trailer(&HeaderName::from_static("grpc-status")));
        assert!(is_harmless_answer_trailer(&HeaderName::from_static("cost_in_tokens")));
        assert!(!is_harmless_answer_trailer(&HeaderName::from_static("content_length")));
    }

    #[test]
    fn headers_that_connection_nominates_are_removed() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_bytes(b"close, X-Hop , bad name, \xe9").unwrap());
        headers.insert("x-hop", HeaderValue::from_static("1"));
        headers.insert("x-end", HeaderValue::from_static("1"));
        prepare_response(&mut headers, false);
        assert_eq!(headers.len(), 1);
    }
}
