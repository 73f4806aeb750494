//! Where an endpoint is, by what is written of it.

use std::net::IpAddr;

use super::{Address, EndpointAddress};

impl EndpointAddress {
    /// Host and port as written; `None` for a unix socket.
    pub(crate) fn authority(&self) -> Option<&str> {
        match self {
            EndpointAddress::Http(authority)
            | EndpointAddress::Https(authority)
            | EndpointAddress::H2c(authority) => Some(authority),
            EndpointAddress::Unix(_) => None,
        }
    }

    /// The host, an IPv6 address without its brackets, and the port, its scheme's where none is written; `None` for a
    /// unix socket.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        let authority = self.authority()?;
        let default = if matches!(self, EndpointAddress::Https(_)) { 443 } else { 80 };
        let (host, port) = match authority.rsplit_once(':').map(|(host, port)| (host, port.parse())) {
            Some((host, Ok(port))) => (host, port),
            // An empty port is the scheme's own (RFC 3986, section 6.2.3).
            Some((host, Err(_))) if authority.ends_with(':') => (host, default),
            _ => (authority, default),
        };
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        Some((bare.unwrap_or(host), port))
    }

    /// Whether it is an address that we listen on ourselves, as far as its letters tell.
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
            // Another machine's address has nothing to do with our wildcard.
            own.is_same_place(&address) || (is_here && own.takes_own(port))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
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
