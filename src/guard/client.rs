//! The address of a request's client: the address of the connection's peer, or the one that a
//! trusted proxy names.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use crate::config::TrustedProxies;

/// The client of a request, and whether the request came through a trusted proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// The client's address. `None` behind a unix socket whose peer names no client, and if a
    /// trusted proxy names a client in a form that bearward can't parse. The proxy's address is
    /// never used in place of the client's.
    pub(crate) address: Option<IpAddr>,
    /// The address for which failed attempts and requests in flight are counted: the client's own,
    /// or else that of the last known hop before the client.
    pub(crate) counted_at: Option<IpAddr>,
    /// Whether the connection's peer is a trusted proxy. Its `X-Forwarded-*` headers are used only
    /// in this case.
    pub(crate) via_trusted: bool,
}

impl Client {
    /// Makes a client of the connection's peer.
    pub(crate) fn of_peer(peer: Option<IpAddr>) -> Self {
        let address = peer.map(|address| address.to_canonical());
        Client { address, counted_at: address, via_trusted: false }
    }
}

/// Finds the client of a request, by `X-Forwarded-For` if the peer is a trusted proxy.
///
/// The header is read from right to left, and trusted proxies are skipped. The first address that
/// does not belong to a trusted proxy is the client's address. Elements to the left of this address
/// are ignored, because any client can have written them.
pub(crate) fn client(headers: &HeaderMap, peer: Option<IpAddr>, trusted: &TrustedProxies) -> Client {
    let client = Client::of_peer(peer);
    match trusted.trusts(client.address) {
        true => named_by(client, headers, trusted).0,
        false => client,
    }
}

/// Finds the client of a request that another proxy has, and asks about. That proxy is trusted, and names
/// the client in `X-Forwarded-For`. The client has no address if the proxy names nobody: it is not the proxy.
pub(crate) fn client_asked_for(
    headers: &HeaderMap,
    asker: Option<IpAddr>,
    trusted: &TrustedProxies,
) -> Client {
    let (client, is_named) = named_by(Client::of_peer(asker), headers, trusted);
    Client { address: client.address.filter(|_| is_named), ..client }
}

/// Returns the client that the trusted proxy `client` names, and whether it names any.
fn named_by(mut client: Client, headers: &HeaderMap, trusted: &TrustedProxies) -> (Client, bool) {
    client.via_trusted = true;
    let mut is_named = false;
    let hops = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
    let hops: Vec<&[u8]> = hops.flat_map(|value| value.split(|byte| *byte == b',')).collect();
    // Empty elements of a list have no meaning (RFC 9110, section 5.6.1).
    for hop in hops.into_iter().map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty()).rev() {
        is_named = true;
        // If an element can't be parsed, nothing to the left of it is trusted.
        client.address = std::str::from_utf8(hop).ok().and_then(parse_hop);
        client.counted_at = client.address.or(client.counted_at);
        if client.address.is_none() || !trusted.trusts(client.address) {
            break;
        }
    }
    (client, is_named)
}

/// Parses an IP address, with or without a port.
fn parse_hop(text: &str) -> Option<IpAddr> {
    let address = match text.parse::<IpAddr>() {
        Ok(address) => address,
        Err(_) => match text.parse::<std::net::SocketAddr>() {
            Ok(socket) => socket.ip(),
            Err(_) => text.strip_prefix('[')?.strip_suffix(']')?.parse().ok()?,
        },
    };
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(peer: &str, forwarded: &str) -> String {
        let mut headers = HeaderMap::new();
        if !forwarded.is_empty() {
            headers.insert("x-forwarded-for", HeaderValue::from_bytes(forwarded.as_bytes()).unwrap());
        }
        let trusted = TrustedProxies { networks: vec!["10.0.0.0/8".parse().unwrap()], ..Default::default() };
        let client = client(&headers, Some(peer.parse().unwrap()), &trusted);
        match (client.address, client.counted_at.unwrap()) {
            (None, counted) => format!("nobody, counted at {counted}"),
            (Some(address), counted) => {
                assert_eq!(address, counted);
                address.to_string()
            }
        }
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(address("192.0.2.1", "203.0.113.9"), "192.0.2.1");
        assert_eq!(address("10.0.0.1", "203.0.113.9"), "203.0.113.9");
        assert_eq!(address("::ffff:10.0.0.1", "203.0.113.9"), "203.0.113.9");
    }

    #[test]
    fn addresses_that_a_client_wrote_itself_are_not_used() {
        assert_eq!(address("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
        assert_eq!(address("10.0.0.1", "1.1.1.1, nonsense, 10.0.0.2"), "nobody, counted at 10.0.0.2");
        // nginx writes `unix:` for the client of a unix socket, and squid writes `unknown` for a
        // client that it hides.
        assert_eq!(address("10.0.0.1", "1.1.1.1, unix:"), "nobody, counted at 10.0.0.1");
        assert_eq!(address("10.0.0.1", "unknown"), "nobody, counted at 10.0.0.1");
        assert_eq!(address("10.0.0.1", "203.0.113.9, "), "203.0.113.9");
        assert_eq!(address("10.0.0.1", "[2001:db8::1]:443"), "2001:db8::1");
        // A byte that is not ASCII makes only its own element invalid.
        assert_eq!(address("10.0.0.1", "café, 203.0.113.9"), "203.0.113.9");
        assert_eq!(address("10.0.0.1", "\u{fe}\u{ff}, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
        assert_eq!(address("10.0.0.1", ""), "10.0.0.1");
    }
}
