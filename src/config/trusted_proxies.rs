//! `trusted_proxies`: proxies whose X-Forwarded-* headers are trusted.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::json;

use crate::config::decode::Decoder;
use crate::config::form::Form;
use crate::config::tree::Node;

/// Proxies whose X-Forwarded-* headers are trusted.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies {
    pub(crate) networks: Vec<IpNet>,
    /// Whether the networks together include all addresses of IPv4 or of IPv6.
    pub(crate) includes_all: bool,
    /// Whether each client of a unix listener is trusted.
    pub(crate) unix: bool,
}

impl TrustedProxies {
    /// Whether a peer is trusted. `None` stands for the peer of a unix socket.
    pub(crate) fn trusts(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            Some(address) => self.networks.iter().any(|network| network.contains(&address)),
            None => self.unix,
        }
    }
}

impl TrustedProxies {
    /// Whether a peer may ask at a listener for proxies that ask: a peer on this machine, or a trusted proxy.
    /// `None` stands for the peer of a unix socket. Networks that include all addresses name nobody.
    pub(crate) fn may_ask(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|address| address.is_loopback()) || (self.names_askers() && self.trusts(peer))
    }

    /// Whether the networks are named, and do not include all addresses together.
    pub(crate) fn names_askers(&self) -> bool {
        !self.networks.is_empty() && !self.includes_all
    }
}

pub(super) fn trusted_proxies() -> Form<TrustedProxies> {
    let schema = || json!({"type": "array", "items": {"type": "string"}});
    Form::new(decode, schema).written_as(|proxies| {
        let networks = proxies.networks.iter().map(ToString::to_string);
        networks.chain(proxies.unix.then(|| "unix".to_owned())).collect()
    })
}

fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<TrustedProxies> {
    let mut trusted = TrustedProxies::default();
    d.list(node, |d, node| {
        match node.is_scalar("unix") {
            true => trusted.unix = true,
            false => trusted.networks.push(d.network(node)?),
        }
        Some(())
    })?;
    trusted.includes_all =
        IpNet::aggregate(&trusted.networks).iter().any(|network| network.prefix_len() == 0);
    Some(trusted)
}
