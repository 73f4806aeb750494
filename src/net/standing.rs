//! What a connection is to its listener, by the address of its peer: trusted or not, and counted or not.

use std::net::IpAddr;
use std::sync::Arc;

use super::connections_by_address::{ConnectionsByAddress, Member};
use crate::activity::ConnectionActivity;
use crate::config::Door;
use crate::proxy::Gateway;

/// What a connection is to its listener.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Whether the peer is a trusted proxy. Many clients share such a connection, so it is never
    /// closed to make room for another one.
    pub(crate) is_trusted: bool,
    /// The connection's entry in the count of its address, if connections per address are limited.
    pub(crate) member: Option<Member>,
    /// The limit of connections per address, if the address exceeds it: every request on the
    /// connection is then refused.
    pub(crate) over_limit: Option<usize>,
}

impl Standing {
    /// Finds out what a connection is, and lists it with those that may be closed to make room. Returns
    /// `None` if its address has so many connections that this one is closed at once.
    pub(crate) fn of(
        peer: Option<IpAddr>,
        door: Option<Door>,
        gateway: &Gateway,
        crowd: &Arc<ConnectionsByAddress>,
        activity: &Arc<ConnectionActivity>,
    ) -> Option<Self> {
        let snapshot = gateway.snapshot.load();
        // Connections of a trusted proxy are not counted: all of its clients have the proxy's
        // address.
        let (proxies, address) = (&snapshot.trusted_proxies, peer.map(|peer| peer.to_canonical()));
        let is_trusted = match door {
            Some(_) => proxies.may_ask(address),
            None => proxies.trusts(address),
        };
        let counted = peer.filter(|_| !is_trusted);
        let limit = snapshot.limits.connections_per_address.filter(|_| counted.is_some());
        let member = counted.filter(|_| limit.is_some()).map(|peer| crowd.enter(peer));
        let count = member.as_ref().map_or(0, |member| member.count);
        let over_limit = limit.filter(|limit| count > *limit);
        // A connection beyond the limit is accepted, and its requests are refused. A connection
        // beyond twice the limit is closed at once, so that refusals do not use up the permits.
        if over_limit.is_some_and(|limit| count > limit.saturating_mul(2)) {
            return None;
        }
        if !is_trusted {
            gateway.unauthenticated.enter(peer, activity);
        }
        Some(Standing { is_trusted, member, over_limit })
    }
}
