//! Questions and answers over gRPC: Envoy's service `envoy.service.auth.v3.Authorization`.
//!
//! A call is one message in, one message out (gRPC over HTTP/2). A decision is always an answer with the gRPC
//! status 0; any other status says that there is no decision, and Envoy then forwards nothing.

use std::net::IpAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, SEC_WEBSOCKET_PROTOCOL, VARY};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response};
use prost::Message;

use super::answered::{Facts, Granted};
use super::encoding::Fields;
use super::messages::{CheckRequest, Header, HttpRequest, RawHeaders, Source};
use super::told::{Claimed, Told};
use crate::config::Limits;
use crate::denial::{AnswerForm, Code, Denial};
use crate::folding::folded;
use crate::forward::headers::{KEY_HEADERS, must_not_be_forwarded, states_client};
use crate::gate;
use crate::guard::client::Client;
use crate::observe::X_REQUEST_ID;
use crate::proxy::caller::Caller;
use crate::proxy::gateway::Peer;
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::upstream::request_body::{Patience, RequestBody, UploadFailure};

/// The path of the only method of the service.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
/// The largest message that is read, in bytes: what gRPC libraries take by default.
const LARGEST_MESSAGE: usize = 4 * 1024 * 1024;
/// The bytes before a message: whether it is compressed, and its length (gRPC over HTTP/2,
/// "Length-Prefixed-Message").
const PREFIX: usize = 5;
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// Headers that are for one connection, and that Envoy passes on (RFC 9110, section 11.7.2; RFC 7540, section 3.2.1).
const OF_ONE_CONNECTION: [&str; 2] = ["proxy-authorization", "http2-settings"];
/// The number of pseudo headers of a request.
const PSEUDO_HEADERS: usize = 4;

/// Returns how long the caller waits for an answer; `None` if it sets no time.
///
/// # Errors
///
/// 400 if the time can't be read.
pub(super) fn deadline(asked: &Parts) -> Result<Option<Duration>, Denial> {
    let mut values = asked.headers.get_all(GRPC_TIMEOUT).iter();
    let (first, second) = (values.next(), values.next());
    let Some(value) = first else { return Ok(None) };
    let timeout = value.to_str().ok().filter(|_| second.is_none()).and_then(parse_timeout);
    timeout.map(Some).ok_or_else(|| Denial::bad_request("The grpc-timeout can't be read"))
}

/// Parses a time of at most 8 digits and a unit (gRPC over HTTP/2, "Timeout").
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
    let count: u64 = digits.parse().ok().filter(|_| is_number)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Reads the question of a call.
///
/// # Errors
///
/// The call is none of this service, is malformed or too large.
pub(super) async fn question(
    peer: &Peer,
    caller: &Caller,
    asked: &Parts,
    body: &RequestBody,
    limits: &Limits,
) -> Result<CheckRequest, Denial> {
    if caller.form != AnswerForm::Grpc {
        return Err(Denial::bad_request("This listener speaks gRPC over HTTP/2"));
    }
    if asked.method != Method::POST || asked.uri.path() != CHECK {
        return Err(Denial::route_not_found(asked.method.as_str(), asked.uri.path()));
    }
    let message = message(peer, body, limits).await?;
    CheckRequest::decode(message).map_err(|_| Denial::bad_request("The message is no CheckRequest"))
}

/// Returns what Envoy tells of a request.
///
/// # Errors
///
/// 400 if it does not tell of the request, or tells of it in two ways; 431 if the request has too many headers.
pub(super) fn claimed(question: CheckRequest, peer: &Peer, limits: &Limits) -> Result<Claimed, Denial> {
    let attributes = question.attributes.unwrap_or_default();
    let client = client(attributes.source, peer.address)?;
    let http = attributes.request.and_then(|request| request.http);
    of_http(http.ok_or_else(|| Denial::bad_request("The message has no request"))?, client, limits)
}

/// Reads the only message of a call.
async fn message(peer: &Peer, body: &RequestBody, limits: &Limits) -> Result<Bytes, Denial> {
    let idle = limits.body_idle_timeout;
    let memory = peer.gateway.prelude_memory.permit(limits.model_memory);
    let most = (LARGEST_MESSAGE + PREFIX + 1) as u64;
    let read = body.prelude(most, Patience::UpTo(idle), Some(memory)).await;
    let read = read.map_err(|failure| match failure {
        UploadFailure::Stalled => Denial::body_stalled(idle),
        _ => Denial::bad_request("The call is malformed"),
    })?;
    if !read.has_room {
        return Err(Denial::too_much_held_back());
    }
    if !read.is_whole || read.data.len() > LARGEST_MESSAGE + PREFIX {
        return Err(Denial::body_too_large(LARGEST_MESSAGE as u64));
    }
    let malformed = || Denial::bad_request("The call has no message, or several");
    let (prefix, message) = read.data.split_at_checked(PREFIX).ok_or_else(malformed)?;
    let [is_compressed, length @ ..] = prefix else { return Err(malformed()) };
    let length = <[u8; 4]>::try_from(length).map(u32::from_be_bytes).map_err(|_| malformed())?;
    match (is_compressed, length as usize == message.len()) {
        (0, true) => Ok(read.data.slice(PREFIX..)),
        (0, false) => Err(malformed()),
        _ => Err(Denial::bad_request("The message is compressed")),
    }
}

/// Returns the client whose address Envoy states.
fn client(source: Option<Source>, asker: Option<IpAddr>) -> Result<Client, Denial> {
    let address = source.and_then(|source| source.address).unwrap_or_default();
    let of_asker = Client { via_trusted: true, ..Client::of_peer(asker) };
    match (address.socket_address, address.pipe) {
        (Some(socket), None) => match socket.address.parse::<IpAddr>() {
            Ok(address) => Ok(Client { via_trusted: true, ..Client::of_peer(Some(address)) }),
            Err(_) => Err(Denial::bad_part("The address can't be read", "attribute", "source.address")),
        },
        (Some(_), Some(_)) => Err(two_ways("source.address")),
        // A client of a unix socket has no address, and neither has one that is not named.
        (None, _) => Ok(Client { address: None, ..of_asker }),
    }
}

/// Returns what Envoy's attributes tell of a request.
fn of_http(http: HttpRequest, client: Client, limits: &Limits) -> Result<Claimed, Denial> {
    let HttpRequest { method, headers, path, mut host, protocol, body, raw_body, header_map } = http;
    let RawHeaders { headers: raw, has_more } = header_map.unwrap_or_default();
    if !raw.is_empty() && !headers.is_empty() {
        return Err(Denial::bad_request("The request has two lists of headers"));
    }
    if has_more || raw.len().max(headers.len()) > limits.header_count + PSEUDO_HEADERS {
        return Err(Denial::headers_too_large(limits.header_bytes, limits.header_count as u64));
    }
    let attributes = [&method, &path, &host];
    let mut sent = HeaderMap::with_capacity(raw.len().max(headers.len()));
    // The attributes that are known byte for byte.
    let mut proven = [false; 3];
    for Header { key, value, raw_value } in raw {
        let value = if raw_value.is_empty() { value } else { raw_value };
        match key.first() {
            Some(b':') => check_pseudo(&key, &value, &mut proven, attributes)?,
            _ => add_header(&mut sent, &key, value)?,
        }
    }
    for (name, value) in headers {
        match name.starts_with(':') {
            true => check_pseudo(name.as_bytes(), value.as_bytes(), &mut [false; 3], attributes)?,
            false => add_header(&mut sent, name.as_bytes(), Bytes::from(value))?,
        }
    }
    // An attribute is text, in which each byte that is no UTF-8 is replaced by `!`.
    let mut unproven = attributes.iter().zip(proven).filter(|(_, is_proven)| !is_proven);
    if unproven.any(|(text, _)| text.contains(&b'!')) {
        return Err(Denial::bad_request(
            "A byte of the request may be hidden; Envoy needs encode_raw_headers",
        ));
    }
    let mut hosts = sent.get_all(HOST).iter();
    if host.is_empty() {
        host = hosts.next().map_or(host, |named| Bytes::copy_from_slice(named.as_bytes()));
    }
    if hosts.any(|named| named.as_bytes() != host) {
        return Err(two_ways("host"));
    }
    let body = match raw_body.is_empty() {
        // Without `pack_as_bytes`, too, a byte that is no UTF-8 came as `!`.
        true if body.contains(&b'!') => None,
        true => Some(body),
        false => Some(raw_body),
    };
    let protocol = protocol_name(&protocol);
    Ok(Claimed { method, target: path, host, headers: sent, client, body, protocol })
}

fn add_header(headers: &mut HeaderMap, name: &[u8], value: Bytes) -> Result<(), Denial> {
    let invalid = || Denial::bad_request("A header is not valid");
    let name = HeaderName::from_bytes(name).map_err(|_| invalid())?;
    let value = HeaderValue::from_maybe_shared(value).map_err(|_| invalid())?;
    headers.try_append(name, value).map(drop).map_err(|_| invalid())
}

/// Checks that a pseudo header says what the attribute of the same meaning says, and notes that it is proven.
fn check_pseudo(
    name: &[u8],
    value: &[u8],
    proven: &mut [bool; 3],
    [method, path, host]: [&Bytes; 3],
) -> Result<(), Denial> {
    let [method_proven, path_proven, host_proven] = proven;
    let (attribute, proven) = match name {
        b":method" => (method, method_proven),
        b":path" => (path, path_proven),
        b":authority" => (host, host_proven),
        b":scheme" => return Ok(()),
        _ => {
            let name = String::from_utf8_lossy(name);
            return Err(Denial::bad_part("A pseudo header is not known", "header", &name));
        }
    };
    *proven = true;
    if attribute == value { Ok(()) } else { Err(two_ways(&String::from_utf8_lossy(name))) }
}

fn two_ways(name: &str) -> Denial {
    Denial::bad_part("The request is told in two ways", "header", name)
}

fn protocol_name(protocol: &str) -> &'static str {
    const NAMES: [&str; 4] = ["HTTP/1.0", "HTTP/1.1", "HTTP/2", "HTTP/3"];
    NAMES.into_iter().find(|name| *name == protocol).unwrap_or("HTTP")
}

/// Returns the names of the headers that Envoy must remove from a request before it forwards it, beside
/// [`KEY_HEADERS`]: those that may carry keys, also if Envoy does not tell of them, and those of the request that
/// must not pass.
pub(super) fn removed(told: &Told, route: Option<&Route>, snapshot: &Snapshot) -> Vec<String> {
    let of_route: &[HeaderName] = route.map_or(&[], |route| &route.removes);
    let always = snapshot.secret_headers.iter().chain(of_route).map(HeaderName::as_str);
    let mut names: Vec<&str> = always.filter(|name| !KEY_HEADERS.contains(name)).collect();
    for name in told.parts.headers.keys() {
        let is_removed = must_not_be_forwarded(name, &snapshot.secret_headers, is_sent_by_envoy)
            || (!of_route.is_empty() && of_route.contains(&folded(name)))
            // Upstream trusts addresses in such headers, which Envoy does not check.
            || states_client(name);
        if is_removed && *name != HOST {
            names.push(name.as_str());
        }
    }
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(str::to_owned).collect()
}

/// Whether Envoy sets a header, to describe the request that it forwards.
fn is_sent_by_envoy(name: &str) -> bool {
    matches!(name, "x-forwarded-for" | "x-forwarded-proto" | "x-request-id" | "x-envoy-external-address")
}

/// Returns the header with WebSocket protocols that Envoy must forward in place of the client's; `None` if
/// no protocol of the client is a key.
pub(super) fn protocols(told: &Told) -> Option<HeaderValue> {
    let headers = &told.parts.headers;
    // An empty list would be no header, and then the client's own would stay.
    let none = HeaderValue::from_static("-");
    gate::has_key_in_protocols(headers).then(|| gate::harmless_protocols(headers).unwrap_or(none))
}

/// Makes the answer to a call. `answer`: the answer that the client of the request would get, or one without a
/// body if the request may pass.
///
/// The tags are those of `envoy.service.auth.v3.CheckResponse` and of the messages in it.
pub(super) fn shaped(granted: Option<Granted>, answer: Response<Bytes>, facts: Facts) -> Response<Bytes> {
    let (head, body) = answer.into_parts();
    let mut response = Fields::with_capacity(1536);
    let Facts { code, grpc, key_id, route } = facts;
    // The status 0, which is not written, lets a request pass, whatever else is said. A preflight is answered,
    // and does not pass.
    let denied = granted.is_none().then(|| grpc.unwrap_or_else(|| Code::InsufficientPermissions.grpc()));
    response.message(1, |status| {
        denied.iter().for_each(|grpc| status.number(1, (*grpc).into()));
        code.iter().for_each(|code| status.text(2, code));
    });
    match granted {
        None => response.message(2, |denied| {
            denied.message(1, |status| status.number(1, head.status.as_u16().into()));
            head.headers.iter().for_each(|(name, value)| set_header(denied, 2, name.as_str(), value));
            denied.text(3, &body);
        }),
        Some(Granted { identity, request_id, removes, protocols }) => response.message(3, |ok| {
            identity.iter().for_each(|(name, value)| set_header(ok, 2, name.as_str(), value));
            set_header(ok, 2, X_REQUEST_ID.as_str(), &request_id);
            protocols.iter().for_each(|value| set_header(ok, 2, SEC_WEBSOCKET_PROTOCOL.as_str(), value));
            KEY_HEADERS.iter().chain(&OF_ONE_CONNECTION).for_each(|name| ok.text(5, name));
            removes.iter().for_each(|name| ok.text(5, name.as_str()));
            head.headers.iter().for_each(|(name, value)| set_header(ok, 6, name.as_str(), value));
        }),
    }
    let facts = [("key_id", key_id.as_deref()), ("route", route.as_deref()), ("code", code)];
    response.message(4, |metadata| {
        for (name, value) in facts.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            metadata.message(1, |field| {
                field.text(1, name);
                field.message(2, |text| text.text(3, value));
            });
        }
    });
    framed(&response.into_bytes())
}

/// Writes an `envoy.config.core.v3.HeaderValueOption`: it replaces a header that is there. `vary` alone is added
/// to it.
fn set_header(fields: &mut Fields, tag: u8, name: &str, value: &HeaderValue) {
    const OVERWRITE_IF_EXISTS_OR_ADD: u64 = 2;
    fields.message(tag, |option| {
        option.message(1, |header| {
            header.text(1, name);
            match value.to_str() {
                Ok(text) => header.text(2, text),
                Err(_) => header.text(3, value),
            }
        });
        if name != VARY.as_str() {
            option.number(3, OVERWRITE_IF_EXISTS_OR_ADD);
        }
    });
}

/// Frames a message (gRPC over HTTP/2, "Length-Prefixed-Message").
fn framed(message: &[u8]) -> Response<Bytes> {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    let mut response = Response::new(frame.freeze());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Returns the trailers of a call that has an answer.
pub(super) fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(GRPC_STATUS, HeaderValue::from_static("0"))])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_has_a_number_and_a_unit() {
        for (text, parsed) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("200m", Some(Duration::from_millis(200))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("100000000n", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("-1S", None),
            ("1 S", None),
            ("1é", None),
        ] {
            assert_eq!(parse_timeout(text), parsed, "{text}");
        }
    }
}
