//! A request to an upstream, before it is known which protocol its connection speaks.
//!
//! `forward` makes it. HTTP/1.1 (`http1`) writes it as it is here; for HTTP/2 it becomes hyper's request.
//! Invariant: no header that bearward sets is sent as the client sent it, too.

use std::fmt;

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};
use smallvec::SmallVec;

use super::upload::Upload;

/// A request to an upstream.
#[derive(Debug)]
pub(crate) struct UpstreamRequest {
    pub(crate) method: Method,
    /// The canonical path and the query; for HTTP/2, behind the scheme and the authority.
    pub(crate) uri: Uri,
    pub(crate) headers: UpstreamHeaders,
    pub(crate) upload: Upload,
}

/// Names of headers that are not sent.
pub(crate) type Removed = SmallVec<[HeaderName; MOST_REMOVED]>;

/// Greatest number of names that are looked up in a list for each header.
const MOST_REMOVED: usize = 8;

/// The headers of a request: those of the client's request that pass, and those that bearward sets.
///
/// The client's headers are left where they are until they are sent: to remove headers from a map and to
/// insert others costs more than to write them all.
#[derive(Default)]
pub(crate) struct UpstreamHeaders {
    received: HeaderMap,
    removed: Removed,
    set: Vec<(HeaderName, HeaderValue)>,
}

impl UpstreamHeaders {
    /// `received`: the client's headers; `removed`: the names of those that do not pass; `set`: the headers
    /// that bearward sets, each once.
    pub(crate) fn new(
        mut received: HeaderMap,
        mut removed: Removed,
        set: Vec<(HeaderName, HeaderValue)>,
    ) -> Self {
        let is_set = |name: &HeaderName| set.iter().any(|(ours, _)| ours == name);
        let replaced: Removed = received.keys().filter(|name| is_set(name)).cloned().collect();
        removed.extend(replaced);
        // A client may have sent hundreds of names that do not pass.
        if removed.len() > MOST_REMOVED {
            for name in std::mem::take(&mut removed) {
                received.remove(name);
            }
        }
        UpstreamHeaders { received, removed, set }
    }

    /// Returns the headers that are sent.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        let passed = self.received.iter().filter(|(name, _)| !self.removed.contains(name));
        // The Host comes first (RFC 9112, section 3.2).
        self.set.iter().map(|(name, value)| (name, value)).chain(passed)
    }

    /// Sets a header, and removes all others of its name.
    pub(crate) fn set(&mut self, name: HeaderName, value: HeaderValue) {
        self.remove(&name);
        self.set.push((name, value));
    }

    /// Removes all headers of this name.
    pub(crate) fn remove(&mut self, name: &HeaderName) {
        self.set.retain(|(ours, _)| ours != name);
        if self.received.contains_key(name) && !self.removed.contains(name) {
            self.removed.push(name.clone());
        }
    }

    /// Returns the headers that are sent, as a map.
    pub(crate) fn into_map(self) -> HeaderMap {
        let UpstreamHeaders { mut received, removed, set } = self;
        for name in removed {
            received.remove(name);
        }
        received.extend(set);
        received
    }
}

impl fmt::Debug for UpstreamHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What does not pass includes the client's key.
        f.debug_map().entries(self.iter()).finish()
    }
}

impl From<HeaderMap> for UpstreamHeaders {
    fn from(received: HeaderMap) -> Self {
        UpstreamHeaders { received, ..UpstreamHeaders::default() }
    }
}

impl UpstreamRequest {
    /// Makes hyper's request for HTTP/2, which has `:authority` instead of Host, and frames bodies itself.
    pub(super) fn into_http2(self) -> Request<Upload> {
        let UpstreamRequest { method, uri, headers, upload } = self;
        debug_assert!(uri.authority().is_some(), "{uri} is complete");
        let mut request = Request::new(upload);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = headers.into_map();
        for name in [HOST, TRANSFER_ENCODING, CONNECTION] {
            request.headers_mut().remove(name);
        }
        request
    }

    /// Returns a request that was not sent over HTTP/2.
    pub(super) fn from_http2(request: Request<Upload>) -> Self {
        let (parts, upload) = request.into_parts();
        let (method, uri, mut headers) = (parts.method, parts.uri, UpstreamHeaders::from(parts.headers));
        let host = uri.authority().and_then(|authority| HeaderValue::try_from(authority.as_str()).ok());
        debug_assert!(host.is_some(), "{uri} is complete");
        if let Some(host) = host {
            headers.set(HOST, host);
        }
        UpstreamRequest { method, uri, headers, upload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &'static str, value: &'static str) -> (HeaderName, HeaderValue) {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    }

    fn received() -> UpstreamHeaders {
        let of_client = [("a", "1"), ("a", "2"), ("b", "3"), ("host", "client"), ("x-ours", "forged")];
        let received = of_client.map(|(name, value)| header(name, value)).into_iter().collect();
        let set = vec![header("host", "ours"), header("x-ours", "true")];
        UpstreamHeaders::new(received, Removed::from_iter([HeaderName::from_static("b")]), set)
    }

    fn listed<'h>(headers: impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)>) -> Vec<String> {
        let text =
            |(name, value): (&HeaderName, &HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut listed: Vec<_> = headers.map(text).collect();
        listed.sort();
        listed
    }

    #[test]
    fn a_header_that_is_set_takes_the_place_of_the_clients() {
        let mut headers = received();
        assert_eq!(listed(headers.iter()), ["a: 1", "a: 2", "host: ours", "x-ours: true"]);
        for (name, value) in [header("x-ours", "again"), header("a", "3"), header("c", "4")] {
            headers.set(name, value);
        }
        headers.remove(&HOST);
        let all = ["a: 3", "c: 4", "x-ours: again"];
        assert_eq!(listed(headers.iter()), all);
        assert_eq!(listed(headers.into_map().iter()), all);
        let headers = received();
        assert_eq!(listed(headers.iter()), listed(received().into_map().iter()));
    }

    #[test]
    fn a_long_list_of_names_is_not_kept() {
        let names = (0..100).map(|number| HeaderName::try_from(format!("x-{number}")).unwrap());
        let received: HeaderMap = names
            .clone()
            .map(|name| (name, HeaderValue::from_static("1")))
            .chain([header("a", "1")])
            .collect();
        let headers = UpstreamHeaders::new(received, names.collect(), Vec::new());
        assert!(headers.removed.is_empty());
        assert_eq!(listed(headers.iter()), ["a: 1"]);
        assert_eq!(format!("{headers:?}"), r#"{"a": "1"}"#);
    }

    #[test]
    fn a_request_that_was_not_sent_over_http2_is_the_same_as_before() {
        let uri = Uri::from_static("http://ours/a?b");
        let request =
            UpstreamRequest { method: Method::PUT, uri, headers: received(), upload: Upload::empty() };
        let request = request.into_http2();
        assert!(!request.headers().contains_key(HOST));
        let request = UpstreamRequest::from_http2(request);
        assert_eq!((request.method, request.uri.path()), (Method::PUT, "/a"));
        assert_eq!(listed(request.headers.iter()), listed(received().iter()));
    }
}
