//! A request that another proxy has, as that proxy tells of it.
//!
//! Invariant: what is decided about is what the proxy forwards. What is told in two ways, or not in its
//! canonical form, is refused.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Uri};

use crate::denial::Denial;
use crate::forward::headers::nominates_reserved;
use crate::guard;
use crate::guard::client::Client;
use crate::proxy::seen_body::{SeenBody, kind_of_body};
use crate::route::Route;

/// What a proxy tells of a request, before any of it is checked.
#[derive(Debug)]
pub(crate) struct Claimed {
    pub(in crate::proxy) method: Bytes,
    /// The path and the query.
    pub(in crate::proxy) target: Bytes,
    pub(in crate::proxy) host: Bytes,
    /// The headers of the request as its client sent them.
    pub(in crate::proxy) headers: HeaderMap,
    pub(in crate::proxy) client: Client,
    /// What was sent of the body, if any of it was.
    pub(in crate::proxy) body: Option<Bytes>,
    /// The protocol of the client's connection, for the log.
    pub(in crate::proxy) protocol: &'static str,
}

/// A request that another proxy has.
#[derive(Debug)]
pub(crate) struct Told {
    /// The head of the request, with its headers as its client sent them.
    pub(crate) parts: Parts,
    pub(crate) client: Client,
    body: ToldBody,
    /// Whether the request has a body that is not empty, as far as is told.
    pub(super) has_body: bool,
}

/// What is told of the body of a request.
#[derive(Debug)]
enum ToldBody {
    /// The body, or its rest, is not sent along.
    Hidden,
    /// Neither is a body sent along, nor does the head announce one.
    Absent,
    /// The whole body.
    Whole(Bytes),
}

impl Claimed {
    /// Returns the method, for the log.
    pub(crate) fn method(&self) -> Method {
        Method::from_bytes(&self.method).unwrap_or_default()
    }

    /// Returns the path, for the log.
    pub(crate) fn path(&self) -> Cow<'_, str> {
        let path = self.target.split(|byte| *byte == b'?').next().unwrap_or_default();
        String::from_utf8_lossy(path)
    }
}

impl Told {
    /// Makes a request of what is told.
    ///
    /// # Errors
    ///
    /// 400 if the request is malformed, or if its path is not in its canonical form.
    pub(crate) fn new(claimed: Claimed) -> Result<Self, Denial> {
        let Claimed { method, target, host, headers, client, body, protocol: _ } = claimed;
        let method =
            Method::from_bytes(&method).map_err(|_| Denial::bad_request("The method is not valid"))?;
        if target.first() != Some(&b'/') {
            return Err(Denial::bad_request("The request target must be a path that begins with `/`"));
        }
        let read = PathAndQuery::try_from(&*target);
        let read = read.map_err(|_| Denial::bad_request("The path is not valid"))?;
        guard::check_canonical(&target, &read)?;
        if nominates_reserved(&headers) {
            return Err(Denial::bad_part("A header must not be nominated", "header", CONNECTION.as_str()));
        }
        let host = HeaderValue::from_maybe_shared(host).ok().filter(|host| !host.is_empty());
        let host = host.ok_or_else(|| Denial::bad_request("The Host is not valid"))?;
        let (mut parts, ()) = Request::new(()).into_parts();
        (parts.method, parts.uri, parts.headers) = (method, Uri::from(read), headers);
        parts.headers.insert(HOST, host);
        let is_sent = body.as_ref().is_some_and(|body| !body.is_empty());
        let has_body = is_sent || announces_body(&parts.headers);
        let body = body_of(&parts, body);
        Ok(Told { parts, client, body, has_body })
    }

    /// Makes a request of a head that is known, and of its whole body. `body`: `None` if bodies are not sent along.
    ///
    /// # Errors
    ///
    /// As [`Self::new`].
    pub(crate) fn of(parts: &Parts, client: Client, body: Option<&[u8]>) -> Result<Self, Denial> {
        let mut headers = parts.headers.clone();
        if let Some(body) = body.filter(|body| !body.is_empty()) {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        }
        let target = parts.uri.path_and_query().map(PathAndQuery::as_str).unwrap_or_default();
        let host = parts.headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
        Told::new(Claimed {
            method: Bytes::copy_from_slice(parts.method.as_str().as_bytes()),
            target: Bytes::copy_from_slice(target.as_bytes()),
            host: Bytes::copy_from_slice(host),
            headers,
            client,
            body: body.map(Bytes::copy_from_slice),
            protocol: "HTTP/1.1",
        })
    }

    /// Returns what the whole body says on this route; `None` if it is not known.
    pub(super) fn seen(&self, route: &Route) -> Option<SeenBody> {
        let ToldBody::Whole(body) = &self.body else { return None };
        let kind = kind_of_body(route, &self.parts.method)?;
        Some(SeenBody::of_whole(kind, &self.parts.headers, body))
    }

    /// Whether all that matters of the body on this route is seen.
    pub(super) fn sees_body(&self, route: &Route) -> bool {
        match &self.body {
            ToldBody::Hidden => false,
            ToldBody::Absent => !route.takes_body(&self.parts.method),
            ToldBody::Whole(_) => true,
        }
    }

    /// Returns the length of the body that the head announces, in bytes.
    pub(super) fn announced_length(&self) -> Option<u64> {
        announced_length(&self.parts.headers)
    }

    /// Whether the head asks for a protocol that the route does not allow. The proxy may then open a tunnel.
    pub(super) fn asks_for_other_protocol(&self, route: &Route) -> bool {
        self.parts.headers.get_all(UPGRADE).iter().any(|value| {
            let asked = value.to_str().unwrap_or_default().trim().to_ascii_lowercase();
            !route.upgrades.contains(&asked)
        })
    }

    pub(super) fn asks_for_upgrade(&self) -> bool {
        self.parts.headers.contains_key(UPGRADE)
    }
}

/// Returns what is known of a body of which `sent` was sent along. It is whole if it has the length that its
/// head announces. Without such a length it is never taken for the whole one, because nobody knows how much had
/// not arrived yet.
fn body_of(parts: &Parts, sent: Option<Bytes>) -> ToldBody {
    let Some(sent) = sent else { return ToldBody::Hidden };
    match announced_length(&parts.headers) {
        Some(length) if length == sent.len() as u64 => ToldBody::Whole(sent),
        None if sent.is_empty() && !announces_body(&parts.headers) => ToldBody::Absent,
        _ => ToldBody::Hidden,
    }
}

fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || announced_length(headers).is_some_and(|length| length > 0)
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}
