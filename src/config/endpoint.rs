//! Addresses of endpoints, and their decoder.

use std::net::IpAddr;
use std::path::PathBuf;

use http::Uri;
use serde_json::json;

use crate::config::address::Address;
use crate::config::decode::Decoder;
use crate::config::form::{Form, non_empty, number, text};
use crate::config::section::{nested, section};
use crate::config::tree::{Kind, Node};

/// The address of an endpoint, as written in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EndpointAddress {
    /// The authority of `http://host:port`, for HTTP/1.1.
    Http(String),
    /// The authority of `https://host:port`, for HTTP/2 or HTTP/1.1 by ALPN.
    Https(String),
    /// The authority of `h2c://host:port`, for HTTP/2 with prior knowledge.
    H2c(String),
    /// The path of `unix:/path`, for HTTP/1.1.
    Unix(PathBuf),
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EndpointAddress::Http(authority) => write!(f, "http://{authority}"),
            EndpointAddress::Https(authority) => write!(f, "https://{authority}"),
            EndpointAddress::H2c(authority) => write!(f, "h2c://{authority}"),
            EndpointAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl EndpointAddress {
    /// Parses the text of an endpoint.
    ///
    /// # Errors
    ///
    /// Why it is none.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.starts_with('/') {
                true => Ok(EndpointAddress::Unix(path.into())),
                false => Err("a unix socket needs an absolute path".to_owned()),
            };
        }
        let uri: Uri =
            text.parse().map_err(|_| format!("`{text}` is not an endpoint, as http://127.0.0.1:8000 is"))?;
        let (Some(scheme @ ("http" | "https" | "h2c")), Some(authority)) =
            (uri.scheme_str(), uri.authority())
        else {
            return Err(format!("`{text}` is not an endpoint, as http://127.0.0.1:8000 is"));
        };
        if authority.as_str().contains('@') {
            return Err("an endpoint has no user info: `credential` sets a header".to_owned());
        }
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(format!("`{text}`: an endpoint has no path"));
        }
        if text.contains('#') {
            return Err(format!("`{text}`: an endpoint has no fragment"));
        }
        let host = authority.host();
        let is_of_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
        let is_name = labels.all(|label| !label.is_empty() && label.chars().all(is_of_label));
        if !is_name && !host.starts_with('[') {
            return Err(format!("`{text}`: the host is no name and no address"));
        }
        let port =
            authority.as_str().rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
        let is_port = |port: &str| {
            port.is_empty() || port.ends_with(']') || port.parse::<u16>().is_ok_and(|port| port != 0)
        };
        if !port.is_none_or(is_port) {
            return Err(format!("`{text}`: a port is a number from 1 to 65535"));
        }
        let authority = authority.as_str().to_owned();
        Ok(match scheme {
            "https" => EndpointAddress::Https(authority),
            "h2c" => EndpointAddress::H2c(authority),
            _ => EndpointAddress::Http(authority),
        })
    }

    /// Returns the host and port as written; `None` for a unix socket.
    pub(crate) fn authority(&self) -> Option<&str> {
        match self {
            EndpointAddress::Http(authority)
            | EndpointAddress::Https(authority)
            | EndpointAddress::H2c(authority) => Some(authority),
            EndpointAddress::Unix(_) => None,
        }
    }

    /// Returns the host, without the brackets of an IPv6 address, and the port, which is by default
    /// the port of the scheme; `None` for a unix socket.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        let authority = self.authority()?;
        let default = if matches!(self, EndpointAddress::Https(_)) { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) => (host, port),
            // An empty port means the default port of the scheme (RFC 3986, section 6.2.3).
            Some((host, Err(_))) if authority.ends_with(':') => (host, default),
            _ => (authority, default),
        };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        Some((bare.unwrap_or(host), port))
    }

    /// Whether a connection to this endpoint arrives at the same server as one to `other`. Addresses are
    /// compared as written, without a lookup of host names.
    fn is_same_as(&self, other: &EndpointAddress) -> bool {
        let (Some((host, port)), Some((other_host, other_port))) =
            (self.host_and_port(), other.host_and_port())
        else {
            return self == other;
        };
        let name = |host: &str| host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        let is_same_host = match (host.parse::<IpAddr>(), other_host.parse::<IpAddr>()) {
            (Ok(ip), Ok(other_ip)) => ip == other_ip,
            _ => name(host) == name(other_host),
        };
        is_same_host && port == other_port
    }

    /// Whether a connection to this endpoint arrives at bearward's own listener `own`. Addresses
    /// are compared as written, without a lookup of host names.
    pub(crate) fn leads_to(&self, own: &Address) -> bool {
        let Some((host, port)) = self.host_and_port() else {
            return matches!((self, own), (EndpointAddress::Unix(path), Address::Unix(own)) if path == own);
        };
        let host = host.strip_suffix('.').unwrap_or(host);
        let hosts = match host.eq_ignore_ascii_case("localhost") {
            true => vec!["127.0.0.1", "::1", "localhost"],
            false => vec![host],
        };
        hosts.into_iter().any(|host| {
            let is_here = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified());
            let address = match host.contains(':') {
                true => Address::Tcp(format!("[{host}]:{port}")),
                false => Address::Tcp(format!("{host}:{port}")),
            };
            // A listener on a wildcard address accepts no connection to another machine's address.
            own.is_same(&address) || (is_here && own.takes_local(port))
        })
    }
}

section! {
    /// An endpoint with slots of its own.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct ConfiguredEndpoint in "an endpoint" {
        /// The address of the server: http://, https:// or h2c:// with host and port, or unix:/path.
        url: EndpointAddress = text(endpoint).required();
        /// The number of requests that may be at the endpoint at once. If its host has several addresses, it
        /// is the number of all of them together. Left out: the endpoint has no slots of its own.
        slots: Option<u32> = number(1).optional().narrowing();
    }
}

/// Returns the `Form` of an upstream's list of endpoints. A repeated endpoint is a fault. Either all of them
/// have slots of their own, or none.
pub(super) fn endpoints() -> Form<Vec<ConfiguredEndpoint>> {
    non_empty(configured_endpoint()).checked(|d, node, endpoints| {
        let is_repeated = |(index, endpoint): (usize, &ConfiguredEndpoint)| {
            endpoints.iter().take(index).any(|earlier| earlier.url.is_same_as(&endpoint.url))
        };
        if endpoints.iter().enumerate().any(is_repeated) {
            return d.hinted(node.at, "the same endpoint is given twice", "keep one of them");
        }
        let with_slots = endpoints.iter().filter(|endpoint| endpoint.slots.is_some()).count();
        if with_slots != 0 && with_slots != endpoints.len() {
            let message = "some endpoints have `slots` and others have none, so that nobody would ever wait";
            return d.hinted(node.at, message, "`slots` at each endpoint, or one number in `queue`");
        }
        Some(endpoints)
    })
}

/// Returns the `Form` of an endpoint: its address, or its address and its slots.
fn configured_endpoint() -> Form<ConfiguredEndpoint> {
    let decode = |d: &mut Decoder<'_>, node: &Node| match node.kind {
        Kind::Map(_) => nested().decode(d, node),
        _ => Some(ConfiguredEndpoint { url: endpoint(d, node)?, slots: None }),
    };
    let schema = || json!({"anyOf": [{"type": "string"}, nested::<ConfiguredEndpoint>().schema()]});
    Form::new(decode, schema)
}

/// Decodes `http://host:port`, `https://…`, `h2c://…` or `unix:/path`. The address of one of
/// bearward's own listeners is a fault.
fn endpoint(d: &mut Decoder<'_>, node: &Node) -> Option<EndpointAddress> {
    const EXAMPLES: &str =
        "as in http://127.0.0.1:8000, https://model:8443, h2c://127.0.0.1:8001 or unix:/run/model.sock";
    let text = d.word(node)?;
    let endpoint = match EndpointAddress::parse(&text) {
        Ok(endpoint) => endpoint,
        Err(message) => return d.hinted(node.at, message, EXAMPLES),
    };
    if let Some((own, _)) = d.context.listening.iter().find(|(own, _)| endpoint.leads_to(own)) {
        let message = format!("`{text}` is bearward's own listener `{own}`");
        return d.hinted(node.at, message, "the address of the server behind bearward, on a port of its own");
    }
    Some(endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_the_same_in_all_its_spellings() {
        let all = |texts: &[&str]| {
            texts.iter().map(|text| EndpointAddress::parse(text).unwrap()).collect::<Vec<_>>()
        };
        for same in [
            all(&[
                "http://localhost:81",
                "http://LOCALHOST:81",
                "http://localhost.:81",
                "h2c://localhost:81",
            ]),
            all(&["http://127.0.0.1", "http://127.0.0.1:80", "http://127.0.0.1:"]),
            all(&["http://[::1]:81", "http://[0:0::1]:81"]),
            all(&["https://a", "https://a:443"]),
        ] {
            assert!(same.iter().all(|one| same.iter().all(|other| one.is_same_as(other))), "{same:?}");
        }
        let different = all(&[
            "http://a",
            "http://b",
            "http://a:81",
            "https://a",
            "unix:/a",
            "unix:/b",
            "http://1.1.1.1",
        ]);
        for (index, one) in different.iter().enumerate() {
            assert!(different.iter().skip(index + 1).all(|other| !one.is_same_as(other)), "{one}");
        }
    }

    #[test]
    fn an_authority_is_a_host_and_an_optional_port() {
        let http = |authority: &str| EndpointAddress::Http(authority.to_owned());
        for (authority, host, port) in [
            ("model", "model", 80),
            ("model:8000", "model", 8000),
            ("model:", "model", 80),
            ("[::1]", "::1", 80),
            ("[::1]:81", "::1", 81),
        ] {
            assert_eq!(http(authority).host_and_port(), Some((host, port)), "{authority}");
        }
        assert_eq!(EndpointAddress::Https("model".to_owned()).host_and_port(), Some(("model", 443)));
        assert_eq!(EndpointAddress::Unix("/a".into()).host_and_port(), None);
    }
}
