//! The addresses by which the network knows this machine.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most addresses that a certificate has: a machine with many containers has one for each bridge.
const MOST: usize = 20;

/// Returns the addresses of this machine's interfaces, without loopback and link-local ones.
pub(super) fn of_this_machine() -> Vec<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut addresses: Vec<IpAddr> = of_trie(&read("/proc/net/fib_trie")).map(IpAddr::from).collect();
    addresses.extend(of_interfaces(&read("/proc/net/if_inet6")).map(IpAddr::from));
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into_iter().take(MOST).map(|address| address.to_string()).collect()
}

/// Reads the local addresses of the kernel's routes (`/proc/net/fib_trie`): each is a line with the address, before one
/// with `host LOCAL`.
fn of_trie(text: &str) -> impl Iterator<Item = Ipv4Addr> + '_ {
    let lines = text.lines().zip(text.lines().skip(1));
    let local = lines.filter(|(_, next)| next.contains("host LOCAL"));
    let addresses = local.filter_map(|(line, _)| line.rsplit(' ').next()?.parse::<Ipv4Addr>().ok());
    addresses.filter(|address| !address.is_loopback() && !address.is_link_local())
}

/// Reads the global addresses of `/proc/net/if_inet6`: 32 hexadecimal digits, and in the fourth field the scope 00.
fn of_interfaces(text: &str) -> impl Iterator<Item = Ipv6Addr> + '_ {
    text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace();
        let (address, scope) = (fields.next()?, fields.nth(2)?);
        let bits = u128::from_str_radix(address, 16).ok()?;
        (scope == "00").then(|| Ipv6Addr::from_bits(bits))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_those_of_the_interfaces() {
        let trie = "Local:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.0.0.0/24 2 0 2
        |-- 10.0.0.0
           /24 link UNICAST
        |-- 10.0.0.5
           /32 host LOCAL
     |-- 127.0.0.1
        /32 host LOCAL
     |-- 10.0.0.255
        /32 link BROADCAST
";
        assert_eq!(of_trie(trie).collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 0, 5)]);
        let interfaces = "20010db8000000000000000000000005 02 40 00 80 eth0
fe800000000000000000000000000001 02 40 20 80 eth0
00000000000000000000000000000001 01 80 10 80 lo
";
        assert_eq!(
            of_interfaces(interfaces).collect::<Vec<_>>(),
            ["2001:db8::5".parse::<Ipv6Addr>().unwrap()]
        );
    }
}
