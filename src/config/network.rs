//! Networks in their written form.

use std::net::IpAddr;

use ipnet::IpNet;

/// The reason a text names no network that an address can be in.
pub(crate) enum NetworkFault {
    NoNetwork,
    /// Bits are set behind the prefix; with the network that is meant.
    HostBits(IpNet),
    /// IPv4 written as IPv6. Addresses of clients are compared as IPv4, so it would never match.
    Mapped(IpNet),
}

/// The network, or the single address, that a text names.
pub(crate) fn network_of(text: &str) -> Result<IpNet, NetworkFault> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let network: IpNet = text.parse().or_else(|_| address()).map_err(|_| NetworkFault::NoNetwork)?;
    match unmapped(network) {
        right if right != network => Err(NetworkFault::Mapped(right.trunc())),
        _ if network.trunc() != network => Err(NetworkFault::HostBits(network.trunc())),
        _ => Ok(network),
    }
}

/// The IPv4 network that is written as IPv6; any other network unchanged.
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
