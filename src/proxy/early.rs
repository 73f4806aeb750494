//! Answers to requests without TLS before their keys are looked at: to a certificate authority, and redirects
//! to https.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::known::Known;
use super::state::{Handled, RequestState};
use crate::acme::HTTP_PATH;
use crate::denial::Denial;
use crate::folding::folded;
use crate::forward::headers::KEY_HEADERS;
use crate::gate;
use crate::guard::{self, Target};
use crate::keys::TOKEN_PREFIX;
use crate::snapshot::Snapshot;

/// Names of parameters in which API clients send keys (RFC 6750, section 2.3, and others like it), and names of
/// headers beside [`KEY_HEADERS`].
const KEY_PARAMETERS: [&str; 8] =
    ["access_token", "api_key", "api-key", "apikey", "auth", "key", "subscription-key", "token"];
const MORE_KEY_HEADERS: [&str; 4] =
    ["anthropic-api-key", "private-token", "proxy-authorization", "x-access-token"];

/// Whether a request may have an answer before its key is looked at: one to a certificate authority, or a
/// redirect.
pub(super) fn may_answer(known: Known<'_>) -> bool {
    !known.peer.is_tls
        && (known.peer.edge.redirects_to.is_some() || known.peer.gateway.acme.are_asked_by_http())
}

/// Answers a request to which [`may_answer`] applies; `None` if it is served like any other.
///
/// # Errors
///
/// A request that would be redirected is ambiguous, or has a credential.
pub(super) async fn answer(
    known: Known<'_>,
    state: &mut RequestState,
    parts: &Parts,
) -> Result<Option<Handled>, Denial> {
    if let Some(answer) = to_authority(known, parts).await {
        return Ok(Some(Handled::Own(answer)));
    }
    let Some(port) = known.peer.edge.redirects_to.filter(|_| !came_over_tls(known, &parts.headers)) else {
        return Ok(None);
    };
    // As for any other request: what is ambiguous is redirected nowhere.
    let target = guard::check(parts, &state.snapshot.limits, true)?;
    state.note_target(&target);
    if carries_credential(parts, &state.snapshot) {
        return Err(Denial::credential_in_clear());
    }
    redirect(&target, port).map(|redirect| Some(Handled::Own(redirect)))
}

/// Answers the request of a certificate authority (RFC 8555, section 8.3). A token that nobody here has asked
/// for is none of ours: an upstream may have asked.
async fn to_authority(known: Known<'_>, parts: &Parts) -> Option<Response<Bytes>> {
    let token = parts.uri.path().strip_prefix(HTTP_PATH)?;
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return None;
    }
    let answer = known.peer.gateway.acme.http_answer(token).await?;
    let mut response = Response::new(Bytes::from(answer));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// Whether a trusted proxy says that the client has sent the request over TLS.
fn came_over_tls(known: Known<'_>, headers: &HeaderMap) -> bool {
    const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    let mut values = headers.get_all(X_FORWARDED_PROTO).iter().peekable();
    known.client.via_trusted
        && values.peek().is_some()
        && values.all(|value| value.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// Whether a request has a credential, in any place where clients put one; or a key of bearward's own anywhere in
/// its head.
fn carries_credential(parts: &Parts, snapshot: &Snapshot) -> bool {
    let is_key = |name: &HeaderName| {
        let folded = folded(name);
        KEY_HEADERS.contains(&folded.as_str())
            || MORE_KEY_HEADERS.contains(&folded.as_str())
            || snapshot.secret_headers.contains(&folded)
    };
    let in_header = parts.headers.iter().any(|(name, value)| {
        is_key(name) && !value.as_bytes().trim_ascii().is_empty() || holds_own_key(value.as_bytes())
    });
    let query = decoded(parts.uri.query().unwrap_or_default());
    let mut parameters = query.split(|byte| matches!(byte, b'&' | b';'));
    let in_query = parameters.any(|parameter| {
        let name = parameter.split(|byte| *byte == b'=').next().unwrap_or_default();
        let has_value = parameter.len() > name.len() + 1;
        has_value && KEY_PARAMETERS.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name))
    });
    let in_target = holds_own_key(&decoded(parts.uri.path())) || holds_own_key(&query);
    in_header || in_query || in_target || gate::has_key_in_protocols(&parts.headers)
}

fn holds_own_key(text: &[u8]) -> bool {
    memchr::memmem::find(text, TOKEN_PREFIX.as_bytes()).is_some()
}

/// Decodes percent-encoded bytes. What is no valid encoding stays.
fn decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits =
            behind.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = behind.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

/// Makes the redirect to https (RFC 9110, section 15.4.9). A Host without a port most likely means that the
/// standard ports are forwarded here, so https has its standard port as well.
///
/// # Errors
///
/// A client of HTTP/1.0 names no host, so nobody knows where to send it.
fn redirect(target: &Target, port: u16) -> Result<Response<Bytes>, Denial> {
    let authority = target.authority.as_ref().map(|authority| authority.as_bytes()).unwrap_or_default();
    let digits = authority.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
    let has_port =
        digits > 0 && authority.get(..authority.len() - digits).is_some_and(|rest| rest.ends_with(b":"));
    let port = if has_port && port != 443 { format!(":{port}") } else { String::new() };
    let location = format!("https://{}{port}{}", target.host(), target.path_and_query);
    let location = HeaderValue::try_from(location).ok().filter(|_| !target.host().is_empty());
    let location = location.ok_or_else(|| Denial::bad_request("The request names no host"))?;
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
    response.headers_mut().insert(LOCATION, location);
    Ok(response)
}
