//! Questions and answers over HTTP: nginx's `auth_request`, Caddy's `forward_auth`, Traefik's `ForwardAuth`
//! and Envoy's `ext_authz` with an `http_service`.
//!
//! Each of them tells of the request in headers of its own. Which ones these are is configured, never guessed:
//! the proxy passes all other headers on as its client wrote them.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, Entry, HOST, SEC_WEBSOCKET_PROTOCOL, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use super::answered::Granted;
use super::told::Claimed;
use crate::config::Asker;
use crate::denial::Denial;
use crate::folding::folded;
use crate::forward::headers::must_not_be_forwarded;
use crate::gate;
use crate::guard::client;
use crate::proxy::gateway::Peer;
use crate::route::Route;
use crate::snapshot::Snapshot;

/// The headers in which a proxy tells of the original request.
struct Profile {
    method: HeaderName,
    uri: HeaderName,
    host: HeaderName,
}

static ORIGINAL: Profile = Profile {
    method: HeaderName::from_static("x-original-method"),
    uri: HeaderName::from_static("x-original-uri"),
    host: HeaderName::from_static("x-original-host"),
};
static FORWARDED: Profile = Profile {
    method: HeaderName::from_static("x-forwarded-method"),
    uri: HeaderName::from_static("x-forwarded-uri"),
    host: HeaderName::from_static("x-forwarded-host"),
};

/// Largest body of a refusal that nginx gets in a header, in bytes. Its buffer for the head of an answer is
/// `proxy_buffer_size`, 4 or 8 KiB by default.
const MOST_IN_HEADER: usize = 2048;
const STATUS: HeaderName = HeaderName::from_static("x-bearward-status");
const BODY: HeaderName = HeaderName::from_static("x-bearward-body");

/// Returns the profile of a proxy; `None` if it sends the head of the request itself.
fn profile(asker: Asker) -> Option<&'static Profile> {
    match asker {
        Asker::Nginx => Some(&ORIGINAL),
        Asker::Caddy | Asker::Traefik => Some(&FORWARDED),
        Asker::Envoy | Asker::ExtAuthz => None,
    }
}

/// Reads what a proxy tells of a request.
///
/// # Errors
///
/// 400 if a header that must tell of the request is missing or stands twice.
pub(super) fn claimed(
    peer: &Peer,
    asker: Asker,
    asked: &mut Parts,
    snapshot: &Snapshot,
) -> Result<Claimed, Denial> {
    let mut headers = std::mem::take(&mut asked.headers);
    let (method, target, host) = match profile(asker) {
        Some(Profile { method, uri, host }) => {
            (only(&mut headers, method)?, only(&mut headers, uri)?, only(&mut headers, host)?)
        }
        None => {
            let target = asked.uri.path_and_query().map(PathAndQuery::as_str).unwrap_or_default();
            let method = Bytes::copy_from_slice(asked.method.as_str().as_bytes());
            (method, Bytes::copy_from_slice(target.as_bytes()), own_host(asked, &mut headers)?)
        }
    };
    let client = client::client_asked_for(&headers, peer.address, &snapshot.trusted_proxies);
    // These are about the body of the question, not about that of the request.
    headers.remove(CONTENT_LENGTH);
    headers.remove(TRANSFER_ENCODING);
    Ok(Claimed { method, target, host, headers, client, body: None, protocol: "HTTP/1.1" })
}

/// Returns the host of a question that is the request itself.
fn own_host(asked: &Parts, headers: &mut HeaderMap) -> Result<Bytes, Denial> {
    let Some(authority) = asked.uri.authority() else { return only(headers, &HOST) };
    match headers.get_all(HOST).iter().all(|host| host.as_bytes() == authority.as_str().as_bytes()) {
        true => Ok(Bytes::copy_from_slice(authority.as_str().as_bytes())),
        false => Err(Denial::bad_part("The proxy tells of the request twice", "header", HOST.as_str())),
    }
}

/// Refuses a request with headers that bearward would remove, since the proxy can't be told to.
///
/// # Errors
///
/// 400 if such a header is there.
pub(super) fn refuse_what_would_pass(
    asker: Asker,
    headers: &HeaderMap,
    snapshot: &Snapshot,
) -> Result<(), Denial> {
    let is_own = |name: &str| is_sent_by(asker, name);
    let must_go = |name: &&HeaderName| must_not_be_forwarded(name, &snapshot.secret_headers, is_own);
    if let Some(name) = headers.keys().find(must_go) {
        return Err(must_not_pass(name));
    }
    match gate::has_key_in_protocols(headers) {
        true => Err(must_not_pass(&SEC_WEBSOCKET_PROTOCOL)),
        false => Ok(()),
    }
}

/// Refuses a request with a header that its route removes.
///
/// # Errors
///
/// 400 if such a header is there.
pub(super) fn refuse_removed(headers: &HeaderMap, route: &Route) -> Result<(), Denial> {
    if route.removes.is_empty() {
        return Ok(());
    }
    let is_removed = |name: &&HeaderName| route.removes.contains(&folded(name));
    headers.keys().find(is_removed).map_or(Ok(()), |name| Err(must_not_pass(name)))
}

fn must_not_pass(name: &HeaderName) -> Denial {
    Denial::bad_part("A header must not be forwarded", "header", name.as_str())
}

/// Whether a proxy sends a header of its own with a question, to describe the request.
fn is_sent_by(asker: Asker, name: &str) -> bool {
    match name {
        "x-forwarded-for" | "x-forwarded-proto" | "x-request-id" | "x-real-ip" => true,
        "x-forwarded-host" => asker != Asker::Envoy,
        "x-envoy-external-address" => asker == Asker::Envoy,
        "x-forwarded-port" | "x-forwarded-server" => asker == Asker::Traefik,
        _ => false,
    }
}

/// Takes out the only header with this name.
fn only(headers: &mut HeaderMap, name: &HeaderName) -> Result<Bytes, Denial> {
    let Entry::Occupied(entry) = headers.entry(name) else { return Err(missing(name)) };
    let (_, mut values) = entry.remove_entry_mult();
    match (values.next(), values.next()) {
        (Some(value), None) if !value.is_empty() => Ok(Bytes::copy_from_slice(value.as_bytes())),
        (_, None) => Err(missing(name)),
        _ => Err(Denial::bad_part("The proxy tells of the request twice", "header", name.as_str())),
    }
}

fn missing(name: &HeaderName) -> Denial {
    Denial::bad_part("The proxy does not tell of the request", "header", name.as_str())
}

/// Makes the answer to a proxy. `answer`: the answer that the client of the request would get, or one without
/// a body if the request may pass.
pub(super) fn shaped(asker: Asker, granted: Option<Granted>, mut answer: Response<Bytes>) -> Response<Bytes> {
    match granted {
        Some(granted) => {
            answer.headers_mut().extend(granted.identity);
            answer
        }
        // nginx takes no other status than 401 and 403 from a question, and no body.
        None if asker == Asker::Nginx => {
            let (mut head, body) = answer.into_parts();
            head.headers.remove(CONTENT_TYPE);
            head.headers.insert(STATUS, HeaderValue::from(head.status.as_u16()));
            head.headers.extend(HeaderValue::try_from(in_ascii(&body)).map(|body| (BODY, body)));
            head.status = StatusCode::FORBIDDEN;
            Response::from_parts(head, Bytes::new())
        }
        // Each status of success would let the request pass.
        None if answer.status().is_success() => {
            debug_assert!(false, "a request that may not pass is answered {}", answer.status());
            *answer.status_mut() = StatusCode::FORBIDDEN;
            answer
        }
        None => answer,
    }
}

/// Makes a refusal short enough for the proxy.
pub(super) fn shortened(asker: Asker, denial: Denial) -> Denial {
    match asker == Asker::Nginx && in_ascii(&denial.body()).len() > MOST_IN_HEADER {
        true => denial.without_details(),
        false => denial,
    }
}

/// Writes JSON in ASCII (RFC 8259, section 7).
fn in_ascii(json: &[u8]) -> String {
    let text = String::from_utf8_lossy(json);
    let mut ascii = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            ' '..='~' => ascii.push(character),
            _ => {
                let mut units = [0; 2];
                for unit in character.encode_utf16(&mut units) {
                    ascii.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_a_header_is_ascii() {
        assert_eq!(
            in_ascii("{\"a\":\"é\u{1f43b}\u{7f}\"}".as_bytes()),
            r#"{"a":"\u00e9\ud83d\udc3b\u007f"}"#
        );
    }
}
