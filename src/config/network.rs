//! Networks as they are written.

use std::net::IpAddr;

use ipnet::IpNet;

/// Why a text names no network that an address can be of.
pub(crate) enum NetworkFault {
    NoNetwork,
    /// With the network that is meant.
    HostBits(IpNet),
    /// IPv4 in the form of IPv6. Addresses of clients are compared as IPv4, so it would never match.
    Mapped(IpNet),
}

/// The network, or the one address, that a text names.
pub(crate) fn network_of(text: &str) -> Result<IpNet, NetworkFault> {
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    let network: IpNet = text.parse().or_else(|_| address()).map_err(|_| NetworkFault::NoNetwork)?;
    match unmapped(network) {
        right if right != network => Err(NetworkFault::Mapped(right.trunc())),
        _ if network.trunc() != network => Err(NetworkFault::HostBits(network.trunc())),
        _ => Ok(network),
    }
}

/// The network of IPv4 that stands in the form of IPv6; any other as it is.
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
