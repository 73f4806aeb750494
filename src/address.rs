//! IP addresses: the host that an address identifies (an IPv4 address, a /64 of IPv6), and
//! addresses as text.

use std::io::Write;
use std::net::{IpAddr, Ipv6Addr};

/// Returns the part of an address that identifies its host. An IPv6 address is cut to its /64,
/// because one host may use any of the 2^64 addresses in it. An IPv4 address stays whole, also when
/// it is given in its IPv6 form (`::ffff:192.0.2.1`).
pub(crate) fn host_part(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

/// Writes an address as text. An IPv4 address is written without `format!` for speed, because an
/// address is written for each request and each connection.
pub(crate) fn write_to(out: &mut Vec<u8>, address: IpAddr) {
    let IpAddr::V4(address) = address else {
        // Writing to a Vec does not fail.
        let _written = write!(out, "{address}");
        return;
    };
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            out.push(b'.');
        }
        out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
    }
}
