//! Addresses of listeners, and comparisons of two addresses.

use std::net::IpAddr;
use std::path::PathBuf;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// A TCP address, `host:port`; the host may be a name.
    Tcp(String),
    /// A unix socket, `unix:/path`.
    Unix(PathBuf),
}

impl Address {
    /// Whether listeners on the addresses `self` and `other` would conflict.
    ///
    /// Host names are compared as text. A wildcard address overlaps only addresses of its own
    /// family: whether a listener on `[::]` also accepts IPv4 depends on an option of its socket,
    /// and a service manager may have opened this socket.
    pub(crate) fn overlaps(&self, other: &Address) -> bool {
        let takes =
            |wildcard: IpAddr, ip: IpAddr| wildcard.is_unspecified() && wildcard.is_ipv4() == ip.is_ipv4();
        self.is_same(other)
            || match (self.ip_and_port(), other.ip_and_port()) {
                (Some((one, port)), Some((other, other_port))) => {
                    port == other_port && port != 0 && (takes(one, other) || takes(other, one))
                }
                _ => false,
            }
    }

    /// Whether `self` and `other` are the same address and port, or the same unix socket. Addresses
    /// with port 0 are never the same, because the system replaces port 0 by a free one.
    pub(crate) fn is_same(&self, other: &Address) -> bool {
        match (self.ip_and_port(), other.ip_and_port()) {
            (Some(one), Some(other)) => one == other && one.1 != 0,
            _ => match (self, other) {
                (Address::Tcp(one), Address::Tcp(other)) => {
                    one.eq_ignore_ascii_case(other) && !one.ends_with(":0")
                }
                _ => self == other,
            },
        }
    }

    /// Whether `self` is a wildcard address with the port `port`. A listener on such an address
    /// also accepts connections to a loopback address.
    pub(crate) fn takes_local(&self, port: u16) -> bool {
        self.ip_and_port().is_some_and(|(ip, own)| ip.is_unspecified() && own == port && port != 0)
    }

    /// Whether the address is a wildcard, of all interfaces.
    pub(crate) fn is_of_all(&self) -> bool {
        self.ip_and_port().is_some_and(|(ip, _)| ip.is_unspecified())
    }

    /// Whether only this machine can connect to a listener on the address: loopback, or a unix socket.
    pub(crate) fn is_local(&self) -> bool {
        match (self, self.ip_and_port()) {
            (Address::Unix(_), _) => true,
            (_, Some((ip, _))) => ip.is_loopback(),
            (Address::Tcp(text), None) => {
                text.rsplit_once(':').is_some_and(|(host, _)| host.eq_ignore_ascii_case("localhost"))
            }
        }
    }

    /// Returns the IP address and the port; `None` for a host name or a unix socket.
    fn ip_and_port(&self) -> Option<(IpAddr, u16)> {
        let Address::Tcp(text) = self else { return None };
        let (host, port) = text.rsplit_once(':')?;
        let ip: IpAddr = host.trim_matches(['[', ']']).parse().ok()?;
        Some((ip.to_canonical(), port.parse().ok()?))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Tcp(address) => f.write_str(address),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
