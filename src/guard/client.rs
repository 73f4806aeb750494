//! Whose request it is: the client's address, from the connection or from a proxy that is trusted.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};

use crate::config::TrustedProxies;

/// The client behind a connection, and whether what came before us may be believed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Client {
    /// `None` behind a unix socket whose peer says nothing, and where a trusted proxy names somebody that we cannot read: that
    /// client is at nobody's address, above all not at the proxy's own.
    pub(crate) address: Option<IpAddr>,
    /// Where its guesses and its places count: its address, else that of the last hop before it that is known.
    pub(crate) counted_at: Option<IpAddr>,
    /// Whether the peer is a trusted proxy: only then are its `X-Forwarded-*` believed.
    pub(crate) via_trusted: bool,
}

impl Client {
    /// The peer itself, whoever may stand behind it.
    pub(crate) fn of_peer(peer: Option<IpAddr>) -> Self {
        let address = peer.map(|address| address.to_canonical());
        Client { address, counted_at: address, via_trusted: false }
    }
}

/// Reads `X-Forwarded-For` from right to left, past every trusted proxy: what stands left of the first
/// address that is not one was written by somebody unknown.
pub(crate) fn client(headers: &HeaderMap, peer: Option<IpAddr>, trusted: &TrustedProxies) -> Client {
    let mut client = Client::of_peer(peer);
    if !trusted.trusts(client.address) {
        return client;
    }
    client.via_trusted = true;
    let hops = headers.get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
    let hops: Vec<&[u8]> = hops.flat_map(|value| value.split(|byte| *byte == b',')).collect();
    // An empty element of a list says nothing (RFC 9110, section 5.6.1).
    for hop in hops.into_iter().map(<[u8]>::trim_ascii).filter(|hop| !hop.is_empty()).rev() {
        // Something unreadable, of any bytes: nothing to the left of it can be believed.
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
    fn what_a_client_wrote_itself_is_not_believed() {
        assert_eq!(address("10.0.0.1", "1.1.1.1, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
        assert_eq!(address("10.0.0.1", "1.1.1.1, nonsense, 10.0.0.2"), "nobody, counted at 10.0.0.2");
        // As nginx names the client of a unix socket, and squid one that it hides.
        assert_eq!(address("10.0.0.1", "1.1.1.1, unix:"), "nobody, counted at 10.0.0.1");
        assert_eq!(address("10.0.0.1", "unknown"), "nobody, counted at 10.0.0.1");
        assert_eq!(address("10.0.0.1", "203.0.113.9, "), "203.0.113.9");
        assert_eq!(address("10.0.0.1", "[2001:db8::1]:443"), "2001:db8::1");
        // A byte that is no ASCII spoils its own hop alone.
        assert_eq!(address("10.0.0.1", "café, 203.0.113.9"), "203.0.113.9");
        assert_eq!(address("10.0.0.1", "\u{fe}\u{ff}, 203.0.113.9, 10.0.0.2"), "203.0.113.9");
        assert_eq!(address("10.0.0.1", ""), "10.0.0.1");
    }
}
