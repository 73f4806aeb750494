//! From where a model server can be reached.

use std::net::{IpAddr, SocketAddr};

/// From where a server can be reached, as far as this machine knows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Only from this machine, or from this pod: it listens on loopback.
    Here(SocketAddr),
    /// From other machines: it listens at an address of this machine that is not loopback.
    Network(SocketAddr),
    /// From other machines: this command has reached it over the network.
    Elsewhere(IpAddr),
    /// The system does not show who listens at the port.
    Unknown,
}

impl Reach {
    /// Returns from where the server at one of these addresses can be reached.
    pub(super) fn of(addresses: &[SocketAddr]) -> Self {
        Self::by(addresses, &listening())
    }

    fn by(addresses: &[SocketAddr], listening: &[SocketAddr]) -> Self {
        let is_loopback = |address: &SocketAddr| address.ip().to_canonical().is_loopback();
        let Some(first) = addresses.first() else { return Reach::Unknown };
        let of_port = || listening.iter().filter(|one| one.port() == first.port());
        let is_here = addresses.iter().any(is_loopback)
            || of_port().any(|one| addresses.iter().any(|address| address.ip() == one.ip()));
        if !is_here {
            return Reach::Elsewhere(first.ip());
        }
        match (of_port().find(|one| !is_loopback(one)), of_port().next()) {
            (Some(exposed), _) => Reach::Network(*exposed),
            (None, Some(here)) => Reach::Here(*here),
            (None, None) => Reach::Unknown,
        }
    }

    /// Whether other machines can go around bearward. What is not known counts as reachable.
    pub(super) fn is_exposed(&self) -> bool {
        !matches!(self, Reach::Here(_))
    }

    /// Returns where the server is, as a part of a sentence.
    pub(super) fn place(&self) -> String {
        match self {
            Reach::Here(address) | Reach::Network(address) => format!("it listens at {address}"),
            Reach::Elsewhere(address) => format!("it answers over the network, at {address}"),
            Reach::Unknown => "where it listens is not known here".to_owned(),
        }
    }

    /// Returns how other machines are kept from it.
    pub(super) fn advice(&self) -> &'static str {
        match self {
            Reach::Here(_) => "no other machine reaches it",
            Reach::Network(_) => {
                "let it listen at 127.0.0.1 (`--host 127.0.0.1`, or OLLAMA_HOST=127.0.0.1), or let a firewall or a \
                 NetworkPolicy admit bearward alone"
            }
            Reach::Elsewhere(_) => {
                "let a firewall or a NetworkPolicy admit bearward alone, or run bearward beside it"
            }
            Reach::Unknown => "run this command on the machine or in the pod of the server",
        }
    }
}

/// Returns the TCP addresses at which something listens in this network namespace (proc(5), `/proc/net/tcp`).
fn listening() -> Vec<SocketAddr> {
    let tables = [procfs::net::tcp(), procfs::net::tcp6()];
    let entries = tables.into_iter().filter_map(Result::ok).flatten();
    let listening = entries.filter(|entry| entry.state == procfs::net::TcpState::Listen);
    listening.map(|entry| entry.local_address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(asked: &[&str], listening: &[&str]) -> Reach {
        let parse = |all: &[&str]| all.iter().map(|one| one.parse().unwrap()).collect::<Vec<SocketAddr>>();
        Reach::by(&parse(asked), &parse(listening))
    }

    #[test]
    fn a_server_on_loopback_alone_is_reached_from_here_only() {
        let here = |text: &str| Reach::Here(text.parse().unwrap());
        let network = |text: &str| Reach::Network(text.parse().unwrap());
        assert_eq!(reach(&["127.0.0.1:1"], &["127.0.0.1:1", "0.0.0.0:2"]), here("127.0.0.1:1"));
        assert_eq!(reach(&["[::1]:1", "127.0.0.1:1"], &["[::1]:1"]), here("[::1]:1"));
        assert_eq!(reach(&["127.0.0.1:1"], &["0.0.0.0:1"]), network("0.0.0.0:1"));
        assert_eq!(reach(&["127.0.0.1:1"], &["[::]:1"]), network("[::]:1"));
        assert_eq!(reach(&["127.0.0.1:1"], &["127.0.0.1:1", "192.0.2.1:1"]), network("192.0.2.1:1"));
        assert_eq!(reach(&["192.0.2.1:1"], &["192.0.2.1:1"]), network("192.0.2.1:1"));
        assert_eq!(reach(&["192.0.2.9:1"], &["192.0.2.1:1"]), Reach::Elsewhere("192.0.2.9".parse().unwrap()));
        assert_eq!(reach(&["127.0.0.1:1"], &[]), Reach::Unknown);
        assert!(Reach::Unknown.is_exposed() && !here("127.0.0.1:1").is_exposed());
    }
}
