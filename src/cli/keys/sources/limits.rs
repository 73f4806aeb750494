//! Converts the limits of other programs to limits of bearward.

use std::time::Duration;

use ipnet::IpNet;

use super::tree::{items, scalar};
use crate::config::network::unmapped;
use crate::config::tree::Node;
use crate::config::{Quota, Unit};

/// Returns a quota of `requests` in `seconds` with the default burst; `None` if bearward can't
/// count such a quota.
pub(super) fn quota(requests: u32, seconds: u64) -> Option<Quota> {
    checked(Quota::new(Unit::Requests, requests, Duration::from_secs(seconds), None))
}

pub(super) fn quota_with(requests: u32, seconds: u64, burst: u32) -> Option<Quota> {
    checked(Quota::new(Unit::Requests, requests, Duration::from_secs(seconds), Some(burst)))
}

fn checked(quota: Quota) -> Option<Quota> {
    (!quota.per.is_zero() && quota.is_countable()).then_some(quota)
}

/// Adds `quota` to `quotas`. If `quotas` already has a quota of the same unit with the same length
/// of time, the smaller number and the smaller burst are used.
pub(crate) fn add(quotas: &mut Vec<Quota>, quota: Quota) {
    match quotas.iter_mut().find(|known| (known.unit, known.per) == (quota.unit, quota.per)) {
        Some(known) => {
            known.amount = known.amount.min(quota.amount);
            known.burst = known.burst.min(quota.burst);
        }
        None => quotas.push(quota),
    }
}

/// Parses a list of networks and addresses. Returns `None` if the list is empty, or if an item is
/// neither a network nor an address.
pub(super) fn networks(node: &Node) -> Option<Vec<IpNet>> {
    let network = |node: &Node| {
        let text = scalar(node)?;
        let network =
            text.parse().ok().or_else(|| text.parse().ok().map(|address: std::net::IpAddr| address.into()));
        network.map(|network: IpNet| unmapped(network).trunc())
    };
    let networks = items(node).iter().map(network).collect::<Option<Vec<_>>>()?;
    (!networks.is_empty()).then_some(networks)
}

/// Returns the networks that are in both lists.
pub(crate) fn in_both(one: &[IpNet], other: &[IpNet]) -> Vec<IpNet> {
    let pairs = one.iter().flat_map(|a| other.iter().map(move |b| (a, b)));
    let common = pairs.filter_map(|(a, b)| match () {
        () if a.contains(b) => Some(*b),
        () if b.contains(a) => Some(*a),
        () => None,
    });
    let mut common: Vec<IpNet> = common.collect();
    common.sort();
    common.dedup();
    common
}
