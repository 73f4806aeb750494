//! Refuses requests that two servers could read differently, and makes one canonical target of
//! every other request.
//!
//! Called by `gate` before any other decision. The returned target is matched, authorized and
//! forwarded; the raw target is not used again.
//! Invariant: a route is found by method, path and host alone. No other header influences the
//! choice.

pub(crate) mod client;
mod path;

use std::net::Ipv6Addr;

use http::Method;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;

use crate::config::{Ambiguity, LONGEST_METHOD, Limits};
use crate::denial::Denial;
use crate::host_pattern;
use crate::protocol::Protocol;

/// The target of a request, in its one canonical form.
#[derive(Debug)]
pub(crate) struct Target {
    /// The authority as the client wrote it, without user info; `None` if an HTTP/1.0 client sent
    /// no authority.
    pub(crate) authority: Option<HeaderValue>,
    host: Host,
    /// The canonical path, and the query exactly as the client sent it.
    pub(crate) path_and_query: PathAndQuery,
    /// The ambiguous parts of the path, which only some upstreams accept.
    pub(crate) ambiguities: Vec<Ambiguity>,
}

/// The host of an authority, in lower case.
#[derive(Debug)]
enum Host {
    /// The host is the beginning of the authority: this number of bytes.
    AsNamed(usize),
    Lowered(String),
}

impl Target {
    /// Returns the host in lower case, without its port; empty if the client sent no authority.
    pub(crate) fn host(&self) -> &str {
        match &self.host {
            Host::AsNamed(length) => {
                let named = self.authority.as_ref().and_then(|named| named.to_str().ok());
                let host = named.and_then(|named| named.get(..*length));
                debug_assert!(host.is_some() || *length == 0, "the host was read from the authority");
                host.unwrap_or_default()
            }
            Host::Lowered(host) => host,
        }
    }

    pub(crate) fn path(&self) -> &str {
        self.path_and_query.path()
    }
}

/// Checks the head of a request, and makes its target. `is_plain`: whether the connection has no
/// TLS, and its peer is not a proxy that is trusted to have terminated TLS.
///
/// # Errors
///
/// 400 if the request is ambiguous or malformed, 405 for CONNECT and TRACE, 414 if the target is
/// too long, 431 if the headers are too large or too many.
pub(crate) fn check(parts: &Parts, limits: &Limits, is_plain: bool) -> Result<Target, Denial> {
    let Scanned { bytes, framing } = scan(&parts.headers);
    check_sizes(parts, bytes, limits)?;
    check_names(parts, limits)?;
    let method = parts.method.as_str();
    // Methods are case-sensitive (RFC 9110, section 9.1), but some servers read `delete` as DELETE.
    if method.len() > LONGEST_METHOD || method.bytes().any(|byte| byte.is_ascii_lowercase()) {
        return Err(Denial::bad_request("The method is not valid"));
    }
    if matches!(parts.method, Method::CONNECT | Method::TRACE) {
        return Err(Denial::method_not_allowed(parts.method.as_str()));
    }
    framing.map_err(Denial::bad_request)?;
    let authority = authority(parts, is_plain)?;
    let host = match &authority {
        Some(authority) => host_of(text_of(authority)?)?,
        None => Host::AsNamed(0),
    };
    // `http://a?x` in absolute form has the path `/` (RFC 9112, section 3.2.2); a `:path` of `?x`
    // has no path.
    let protocol = Protocol::from(parts.version);
    let has_path = |raw: &&PathAndQuery| match protocol {
        Protocol::Http2 => raw.as_str().starts_with('/'),
        Protocol::Http10 | Protocol::Http11 => raw.path().starts_with('/'),
    };
    let Some(raw) = parts.uri.path_and_query().filter(has_path) else {
        // Refused are, for example, `GET *`, `OPTIONS *`, `GET admin`, and an HTTP/2 `:path` that
        // does not begin with a slash.
        return Err(Denial::bad_request("The request target must be a path that begins with `/`"));
    };
    let canonical = path::canonical(raw)?;
    Ok(Target {
        authority,
        host,
        path_and_query: canonical.path_and_query,
        ambiguities: canonical.ambiguities,
    })
}

/// Checks that a target is in its canonical form, because it is forwarded as it is. `told` is the target as
/// it was told; `read`, how it was parsed.
///
/// # Errors
///
/// 400 if the target is not canonical.
pub(crate) fn check_canonical(told: &[u8], read: &PathAndQuery) -> Result<(), Denial> {
    let path::Canonical { path_and_query, .. } = path::canonical(read)?;
    match path_and_query.as_str().as_bytes() == told {
        true => Ok(()),
        false => Err(Denial::not_canonical(path_and_query.path())),
    }
}

/// Returns the canonical form of a path, with its query unchanged, and the ambiguous parts of the
/// path; `None` if the path is refused.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn canonical(raw: &PathAndQuery) -> Option<(PathAndQuery, Vec<Ambiguity>)> {
    let path::Canonical { path_and_query, ambiguities } = path::canonical(raw).ok()?;
    Some((path_and_query, ambiguities))
}

fn check_sizes(parts: &Parts, header_bytes: u64, limits: &Limits) -> Result<(), Denial> {
    let uri = &parts.uri;
    let authority_length = uri.authority().map_or(0, |authority| authority.as_str().len());
    let path_length = uri.path_and_query().map_or(0, |path| path.as_str().len());
    if (authority_length + path_length) as u64 > limits.uri_bytes {
        return Err(Denial::uri_too_long(limits.uri_bytes));
    }
    if header_bytes > limits.header_bytes || parts.headers.len() > limits.header_count {
        return Err(Denial::headers_too_large(limits.header_bytes, limits.header_count as u64));
    }
    Ok(())
}

/// Checks the size of the headers of a request without a key. Such headers have a limit of their
/// own: on HTTP/2, they may cost the client only a few bytes, but they occupy their whole length in
/// bearward's memory until upstream answers.
///
/// # Errors
///
/// 431 if the headers are too large.
pub(crate) fn check_public_sizes(headers: &HeaderMap, limits: &Limits) -> Result<(), Denial> {
    let most = limits.public.header_bytes.min(limits.header_bytes);
    match header_bytes(headers) > most {
        true => Err(Denial::headers_too_large(most, limits.header_count as u64)),
        false => Ok(()),
    }
}

/// Returns the size of the headers in bytes: name, value, and 4 bytes per header for ": " and CRLF.
/// RFC 9113, section 6.5.2 would add 32 bytes instead of 4.
fn header_bytes(headers: &HeaderMap) -> u64 {
    headers.iter().map(|(name, value)| field_bytes(name, value)).sum()
}

fn field_bytes(name: &HeaderName, value: &HeaderValue) -> u64 {
    (name.as_str().len() + value.len() + 4) as u64
}

/// Checks that the names of headers are tokens (RFC 9110, section 5.6.2). On HTTP/2, the HTTP
/// library accepts `"` in names. Depending on `limits.underscores_in_headers`, `_` is refused, too,
/// because servers that turn names into variables read `-` and `_` alike.
fn check_names(parts: &Parts, limits: &Limits) -> Result<(), Denial> {
    let has_any = |byte: u8| parts.headers.keys().any(|name| name.as_str().as_bytes().contains(&byte));
    if Protocol::from(parts.version) == Protocol::Http2 && has_any(b'"') {
        return Err(Denial::bad_request("A header's name is not valid"));
    }
    if limits.refuses_underscores && has_any(b'_') {
        return Err(Denial::bad_request("A header's name has an underscore"));
    }
    Ok(())
}

/// The results of one pass over the headers.
struct Scanned {
    /// The size of the headers, as [`header_bytes`] computes it.
    bytes: u64,
    /// The first fault of Transfer-Encoding or Content-Length that hyper would accept, as a
    /// sentence for the client.
    framing: Result<(), &'static str>,
}

/// Scans the headers in one pass, because every request pays for each pass.
fn scan(headers: &HeaderMap) -> Scanned {
    let (mut bytes, mut encodings, mut framing) = (0, 0, Ok(()));
    let mut length: Option<&HeaderValue> = None;
    for (name, value) in headers {
        bytes += field_bytes(name, value);
        if *name == TRANSFER_ENCODING {
            encodings += 1;
            if encodings > 1 || !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
                framing = framing.and(Err("The only transfer coding taken is `chunked`, once"));
            }
        } else if *name == CONTENT_LENGTH {
            let is_number = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
            if !is_number || length.is_some_and(|other| other != value) {
                framing = framing.and(Err("Content-Length must be one number"));
            }
            length = Some(value);
        }
    }
    Scanned { bytes, framing }
}

/// Returns the authority of a request, from an absolute target, from `:authority`, or else from
/// Host.
fn authority(parts: &Parts, is_plain: bool) -> Result<Option<HeaderValue>, Denial> {
    let mut hosts = parts.headers.get_all(HOST).iter();
    let host = hosts.next();
    let protocol = Protocol::from(parts.version);
    if hosts.next().is_some() {
        return Err(Denial::bad_request("More than one Host"));
    }
    // HTTP/1.0 requires no Host (RFC 9112, section 3.2). Health probes of load balancers use
    // HTTP/1.0.
    if protocol.needs_host_header() && host.is_none() {
        return Err(Denial::bad_request("The Host header is missing"));
    }
    let Some(authority) = parts.uri.authority() else {
        return match host {
            None if protocol == Protocol::Http2 => Err(Denial::bad_request("The authority is missing")),
            named => Ok(named.cloned()),
        };
    };
    // The authority of an absolute target replaces Host (RFC 9112, section 3.2.2).
    if !matches!(parts.uri.scheme_str(), Some("http" | "https")) {
        return Err(Denial::bad_request("The request target must be a path or an http URL"));
    }
    // An `https` target on a connection without TLS is refused (RFC 9110, section 7.4). On HTTP/2
    // it is accepted, because a gateway may forward the scheme of its own client.
    if protocol != Protocol::Http2 && is_plain && parts.uri.scheme_str() == Some("https") {
        return Err(Denial::bad_request("The request target is https, and its connection is not"));
    }
    // A Host that is replaced must be valid even so, because a proxy in front of bearward may have
    // used it.
    if let Some(host) = host {
        host_of(text_of(host)?)?;
    }
    HeaderValue::try_from(authority.as_str()).map(Some).map_err(|_| invalid_host())
}

fn text_of(host: &HeaderValue) -> Result<&str, Denial> {
    host.to_str().map_err(|_| invalid_host())
}

fn invalid_host() -> Denial {
    Denial::bad_request("The Host is not valid")
}

/// Returns the host of an authority, without its port.
fn host_of(authority: &str) -> Result<Host, Denial> {
    if authority.starts_with('[') {
        return ipv6_host(authority);
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (authority, None),
    };
    check_port(port)?;
    // A trailing dot does not change which host a name means (RFC 1034, section 3.1). A name with
    // an empty label means no host.
    let host = host.strip_suffix('.').unwrap_or(host);
    if !host_pattern::is_name(host) {
        return Err(invalid_host());
    }
    match host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        true => Ok(Host::Lowered(host.to_ascii_lowercase())),
        false => Ok(Host::AsNamed(host.len())),
    }
}

/// Returns the host of an IPv6 address in brackets. Such an address has many spellings, and one
/// canonical spelling (RFC 5952).
fn ipv6_host(authority: &str) -> Result<Host, Denial> {
    let (address, behind) =
        authority.strip_prefix('[').and_then(|rest| rest.split_once(']')).ok_or_else(invalid_host)?;
    let address: Ipv6Addr = address.parse().map_err(|_| invalid_host())?;
    let port = match behind {
        "" => None,
        _ => Some(behind.strip_prefix(':').ok_or_else(invalid_host)?),
    };
    check_port(port)?;
    Ok(Host::Lowered(format!("[{address}]")))
}

fn check_port(port: Option<&str>) -> Result<(), Denial> {
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    if port.is_none_or(is_port) { Ok(()) } else { Err(invalid_host()) }
}

#[cfg(test)]
mod tests {
    use http::{Request, Version};

    use super::*;

    fn checked(builder: http::request::Builder) -> Result<Target, u16> {
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        check(&parts, &Limits::default(), true).map_err(|denial| denial.code().status().as_u16())
    }

    #[test]
    fn invalid_hosts_are_refused() {
        for bad in [
            "", "a b", "a/b", "user@a", "a:b", "a:99999", "a:", "[::1", "[x]", "a,b", "a\u{7f}", "[::1]x",
            ":80", "a..", "a..b", ".a", ".", "..",
        ] {
            assert!(host_of(bad).is_err(), "{bad:?}");
        }
        for (good, host) in [
            ("A.example:80", "a.example"),
            ("[::1]:8080", "[::1]"),
            ("127.0.0.1", "127.0.0.1"),
            ("a.", "a"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
            ("[0:0:0:0:0:0:0:1]:80", "[::1]"),
        ] {
            let authority = HeaderValue::from_static(good);
            let target = Target {
                authority: Some(authority),
                host: host_of(good).unwrap(),
                path_and_query: PathAndQuery::from_static("/"),
                ambiguities: Vec::new(),
            };
            assert_eq!(target.host(), host);
        }
    }

    #[test]
    fn an_absolute_targets_authority_replaces_host() {
        let target = checked(Request::get("http://a.example:81/x").header("host", "b.example")).unwrap();
        assert_eq!(target.host(), "a.example");
        assert_eq!(target.authority.unwrap(), "a.example:81");
    }

    #[test]
    fn a_client_of_http_1_0_may_name_no_host() {
        let target = checked(Request::get("/").version(Version::HTTP_10)).unwrap();
        assert_eq!((target.authority.as_ref(), target.host()), (None, ""));
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        let get = |uri: &str| Request::get(uri).header("host", "a");
        assert_eq!(checked(Request::get("/")).unwrap_err(), 400, "no Host");
        assert_eq!(checked(get("/").header("host", "a")).unwrap_err(), 400, "two Hosts");
        assert_eq!(checked(get("ftp://a/")).unwrap_err(), 400);
        assert_eq!(checked(get("https://a/")).unwrap_err(), 400);
        assert_eq!(checked(get("/").method("X".repeat(65).as_str())).unwrap_err(), 400);
        assert_eq!(checked(get("http://u@a/")).unwrap_err(), 400);
        assert_eq!(checked(get("*")).unwrap_err(), 400);
        assert_eq!(checked(get("admin")).unwrap_err(), 400);
        assert_eq!(checked(get("/").header("transfer-encoding", "gzip, chunked")).unwrap_err(), 400);
        assert_eq!(checked(get("/").header("transfer-encoding", ",chunked")).unwrap_err(), 400);
        assert_eq!(checked(get("/").method("TRACE")).unwrap_err(), 405);
        assert_eq!(checked(get(&format!("/{}", "x".repeat(9000)))).unwrap_err(), 414);
        assert_eq!(checked(get("/").header("x", "y".repeat(33_000))).unwrap_err(), 431);
    }
}
