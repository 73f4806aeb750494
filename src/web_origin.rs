//! Web origins (RFC 6454): the scheme, host and port of a web page.
//!
//! `config` parses the origins that `cors` lists; `cors` compares them with the `Origin` header of
//! requests, byte for byte.
//! Invariant: an origin is written exactly as browsers write it in `Origin`, so that each origin
//! can match some request.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::host_pattern;
use crate::pattern_fault::PatternFault;

/// An origin, as browsers write it: `https://app.example.com`, `http://localhost:3000`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WebOrigin(String);

/// Schemes of URLs whose pages have no origin of their own, or that no page has.
const WITHOUT_ORIGIN: [&str; 6] = ["about", "blob", "data", "file", "ftp", "javascript"];

impl WebOrigin {
    /// Parses an origin.
    ///
    /// # Errors
    ///
    /// Fails if no browser sends this text as an origin. The hint has the origin that was most
    /// likely meant.
    pub(crate) fn parse(text: &str) -> Result<WebOrigin, PatternFault> {
        let fault = |message: String, hint: &str| Err(PatternFault { message, hint: Some(hint.to_owned()) });
        if text == "null" {
            return fault(
                "`null` is the origin of every sandboxed page, whoever made the page".to_owned(),
                "the origins of the pages, as in https://app.example.com",
            );
        }
        if text.contains('*') {
            return fault(
                format!("`{text}` is not an origin: patterns are not supported here"),
                "each origin by itself; or [\"*\"] for the pages of all origins",
            );
        }
        match browser_form(text) {
            Some(right) if right == text => Ok(WebOrigin(right)),
            Some(right) => fault(
                format!("`{text}` is not in the form that browsers send"),
                &format!("{right} is meant?"),
            ),
            None => fault(
                format!("`{text}` is not the origin of a web page"),
                "scheme, host and port if it is not the default, as in https://app.example.com",
            ),
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether the value of an `Origin` header has the form of an origin, or is `null`.
pub(crate) fn is_origin(value: &str) -> bool {
    let is_authority = |rest: &str| {
        let is_of_authority =
            |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'\\' | b'?' | b'#' | b'@' | b',');
        !rest.is_empty() && rest.bytes().all(is_of_authority)
    };
    value == "null"
        || value.split_once("://").is_some_and(|(scheme, rest)| is_scheme(scheme) && is_authority(rest))
}

/// Whether a text is the scheme of a URL in lower case (RFC 3986, section 3.1).
fn is_scheme(text: &str) -> bool {
    let is_of_scheme =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.');
    text.starts_with(|first: char| first.is_ascii_lowercase()) && text.bytes().all(is_of_scheme)
}

/// Returns the origin that browsers send for pages with this URL; `None` if they send none.
fn browser_form(url: &str) -> Option<String> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let scheme = page_scheme(&scheme.to_ascii_lowercase())?;
    let authority = rest.split(['/', '\\', '?', '#']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
    let behind_address = authority.rfind(']').map_or(0, |end| end + 1);
    let (host, port) = match authority.get(behind_address..)?.rfind(':') {
        Some(at) => (authority.get(..behind_address + at)?, authority.get(behind_address + at + 1..)?),
        None => (authority, ""),
    };
    let host = page_host(host)?;
    let port: Option<u16> = match port {
        "" => None,
        digits if digits.bytes().all(|byte| byte.is_ascii_digit()) => Some(digits.parse().ok()?),
        _ => return None,
    };
    match (scheme.as_str(), port) {
        (_, Some(0)) => None,
        (_, None) | ("http", Some(80)) | ("https", Some(443)) => Some(format!("{scheme}://{host}")),
        (_, Some(port)) => Some(format!("{scheme}://{host}:{port}")),
    }
}

/// Returns the scheme of a page. Apps and browser extensions have schemes of their own, so any
/// scheme is accepted except a likely typing error of `http` or `https`.
fn page_scheme(scheme: &str) -> Option<String> {
    const TYPING_ERROR: usize = 2;
    if !is_scheme(scheme) || WITHOUT_ORIGIN.contains(&scheme) {
        return None;
    }
    let right = match scheme {
        "ws" => "http",
        "wss" => "https",
        "http" | "https" => scheme,
        _ => {
            let distance = |known: &&str| strsim::damerau_levenshtein(scheme, known);
            ["https", "http"]
                .into_iter()
                .filter(|known| distance(known) <= TYPING_ERROR)
                .min_by_key(distance)
                .unwrap_or(scheme)
        }
    };
    Some(right.to_owned())
}

/// Returns a host as browsers write it in an origin.
fn page_host(host: &str) -> Option<String> {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        let address: Ipv6Addr = address.parse().ok()?;
        // Browsers write an IPv4 address in IPv6 in hexadecimal digits (URL Standard, "host
        // serializing").
        return Some(match (address.to_ipv4_mapped(), address.segments()) {
            (Some(_), [.., high, low]) => format!("[::ffff:{high:x}:{low:x}]"),
            (None, _) => format!("[{address}]"),
        });
    }
    let host = host_pattern::respelled(host)?.to_ascii_lowercase();
    if !host_pattern::is_name(&host) {
        return None;
    }
    // A host whose last label is a number is an IPv4 address (URL Standard, "ends in a number").
    let last = host.rsplit('.').next()?;
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x");
    match is_number {
        true => host.parse::<Ipv4Addr>().ok().map(|address| address.to_string()),
        false => Some(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_in_the_form_of_browsers_are_accepted() {
        for text in [
            "https://app.example.com",
            "http://localhost:3000",
            "http://127.0.0.1:8080",
            "http://[::1]:3000",
            "https://[::ffff:7f00:1]",
            "https://xn--bcher-kva.example",
            "https://a_b.example:8443",
            "chrome-extension://abcdefghijklmnopabcdefghijklmnop",
            "tauri://localhost",
            "app://obsidian.md",
            "capacitor://localhost",
            "http://app.example:443",
            "https://app.example:80",
        ] {
            assert_eq!(WebOrigin::parse(text).map(|origin| origin.0), Ok(text.to_owned()));
            assert!(is_origin(text), "{text}");
        }
    }

    #[test]
    fn a_text_that_no_browser_sends_is_refused_with_the_origin_that_is_meant() {
        for (text, right) in [
            ("https://app.example.com/", "https://app.example.com"),
            ("https://app.example.com/login?x#y", "https://app.example.com"),
            ("HTTPS://App.Example.com", "https://app.example.com"),
            ("https://app.example.com:443", "https://app.example.com"),
            ("http://app.example.com:80", "http://app.example.com"),
            ("https://app.example.com:08443", "https://app.example.com:8443"),
            ("https://app.example.com:", "https://app.example.com"),
            ("https://app.example.com.", "https://app.example.com"),
            ("https://user@app.example.com", "https://app.example.com"),
            ("https://Bücher.example", "https://xn--bcher-kva.example"),
            ("http://[0:0:0:0:0:0:0:1]:80", "http://[::1]"),
            ("http://[::FFFF:127.0.0.1]", "http://[::ffff:7f00:1]"),
            ("wss://app.example.com", "https://app.example.com"),
            ("htpps://app.example.com", "https://app.example.com"),
            (" https://app.example.com", "https://app.example.com"),
        ] {
            let fault = WebOrigin::parse(text).unwrap_err();
            assert_eq!(fault.hint, Some(format!("{right} is meant?")), "{text}");
            assert!(WebOrigin::parse(right).is_ok(), "{right}");
        }
        for text in [
            "",
            "null",
            "*",
            "https://*.example.com",
            "app.example.com",
            "//app.example.com",
            "https://",
            "https:///x",
            "https:app.example.com",
            "file://",
            "file:///tmp/x.html",
            "data://x",
            "https://a b",
            "https://a..b",
            "https://app.example.com:x",
            "https://app.example.com:0",
            "https://app.example.com:65536",
            "https://127.1",
            "https://256.1.1.1",
            "https://1.2.3.4.5",
            "https://0x7f000001",
            "https://[::1",
            "https://[x]",
            "https://a, https://b",
            "1https://a",
            "https://a|b",
        ] {
            let fault = WebOrigin::parse(text);
            assert!(
                fault.as_ref().is_err_and(|fault| !format!("{fault:?}").contains("meant")),
                "{text}: {fault:?}"
            );
        }
    }

    #[test]
    fn the_form_of_an_origin_is_known() {
        for bad in [
            "",
            "*",
            "NULL",
            "https://",
            "https://a/",
            "https://a, https://b",
            "HTTPS://a",
            "a",
            "https://a b",
        ] {
            assert!(!is_origin(bad), "{bad}");
        }
        assert!(is_origin("null") && is_origin("https://a.example."));
    }
}
