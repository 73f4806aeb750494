//! Addresses to listen on, and whether two of them are the same.

use std::net::IpAddr;
use std::path::PathBuf;

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Address {
    /// `host:port`; the host may be a name.
    Tcp(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

impl Address {
    /// Whether nothing could listen on both.
    ///
    /// Names are compared as text. A wildcard covers its own family only: whether that of IPv6 takes
    /// IPv4 as well depends on the socket, which may be handed down.
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

    /// Whether both are the same address and port, or the same socket. The system replaces port 0.
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

    /// Whether a connection from this machine to itself, at this port, may arrive here.
    pub(crate) fn takes_local(&self, port: u16) -> bool {
        self.ip_and_port().is_some_and(|(ip, own)| ip.is_unspecified() && own == port && port != 0)
    }

    /// The IP address and the port; `None` for a name or a unix socket.
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
