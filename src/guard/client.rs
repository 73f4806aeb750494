//! The address of a request's client: the connection's, or the one that a trusted proxy names.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use crate::config::TrustedProxies;

/// The client of a request, and whether its proxy is trusted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// `None` behind a unix socket whose peer names no client, and where a trusted proxy names a
    /// client in a form that we cannot read. Such a client has no address, and above all not the
    /// proxy's.
    pub(crate) address: Option<IpAddr>,
    /// The address that its failed attempts and its requests in flight count for: its own,
    /// otherwise that of the last known hop before it.
    pub(crate) counted_at: Option<IpAddr>,
    /// Whether the peer is a trusted proxy. Only then are its `X-Forwarded-*` headers used.
    pub(crate) via_trusted: bool,
}

impl Client {
    /// The peer of the connection, as the client.
    pub(crate) fn of_peer(peer: Option<IpAddr>) -> Self {
        let address = peer.map(|address| address.to_canonical());
        Client { address, counted_at: address, via_trusted: false }
    }
}

/// The client of a request, by `X-Forwarded-For` where the peer is a trusted proxy.
///
/// The header is read from right to left, past every trusted proxy. Any client may have written
/// what is left of the first address that is no trusted proxy.
pub(crate) fn client(headers: &HeaderMap, peer: Option<IpAddr>, trusted: &TrustedProxies) -> Client {
    let mut client = Client::of_peer(peer);
    if !trusted.trusts(client.address) {
        return client;
    }
    client.via_trusted = true;
    let hops = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
    let hops: Vec<&[u8]> = hops.flat_map(|value| value.split(|byte| *byte == b',')).collect();
    // An empty element of a list has no meaning (RFC 9110, section 5.6.1).
    for hop in hops.into_iter().map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty()).rev() {
        // An element that can't be read: nothing to the left of it is trusted.
        client.address = std::str::from_utf8(hop).ok().and_then(parse_hop);
        client.counted_at = client.address.or(client.counted_at);
        if client.address.is_none() || !trusted.trusts(client.address) {
            break;
        }
    }
    client
}

/// An address, perhaps with a port.
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
        let trusted = TrustedProxies { networks: vec!["10.0.0.0/8".parse().unwrap()], unix: false };
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
        // nginx names the client of a unix socket so, and squid a client that it hides.
        assert_eq!(address("10.0.0.1", "1.1.1.1, unix:"), "nobody, counted at 10.0.0.1");
        assert_eq!(address("10.0.0.1", "unknown"), "nobody, counted at 10.0.0.1");
        assert_eq!(address("10.0.0.1", "203.0.113.9, "), "203.0.113.9");
        assert_eq!(address("10.0.0.1", "[2001:db8::1]:443"), "2001:db8::1");
        // A byte that is not ASCII spoils its own element alone.
        assert_eq!(address("10.0.0.1", "café, 203.0.113.9"), "203.0.113.9");
        assert_eq!(address("10.0.0.1", "\u{fe}\u{ff}, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
        assert_eq!(address("10.0.0.1", ""), "10.0.0.1");
    }
}
