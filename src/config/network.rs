//! Parser of networks.

use std::net::IpAddr;

use ipnet::IpNet;

/// The reason why a text is refused as a network.
pub(crate) enum NetworkFault {
    NoNetwork,
    /// The network has bits set after its prefix, as in 10.0.0.1/8. The value is the network that
    /// is probably meant.
    HostBits(IpNet),
    /// An IPv4 network in the form of IPv6 (`::ffff:…`). Such a network would never match, because
    /// IPv4 clients are compared as IPv4. The value is the network that is probably meant.
    Mapped(IpNet),
}

/// Parses a network. A single address is parsed as a network of one address.
pub(crate) fn network_of(text: &str) -> Result<IpNet, NetworkFault> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let network: IpNet = text.parse().or_else(|_| address()).map_err(|_| NetworkFault::NoNetwork)?;
    match unmapped(network) {
        right if right != network => Err(NetworkFault::Mapped(right.trunc())),
        _ if network.trunc() != network => Err(NetworkFault::HostBits(network.trunc())),
        _ => Ok(network),
    }
}

/// Returns the IPv4 network of an IPv4-mapped IPv6 network, and any other network unchanged.
pub(crate) fn unmapped(network: IpNet) -> IpNet {
    const MAPPED_BITS: u8 = 96;
    let IpNet::V6(v6) = network else { return network };
    let bits = v6.prefix_len().checked_sub(MAPPED_BITS);
    let v4 = v6
        .addr()
        .to_ipv4_mapped()
        .zip(bits)
        .and_then(|(address, bits)| IpNet::new(address.into(), bits).ok());
    v4.unwrap_or(network)
}
