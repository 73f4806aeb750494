//! Chooses the endpoint to which a request is sent.
//!
//! `forward` calls this module for each attempt, and the pool calls it for the addresses of a host
//! name.
//! Where endpoints have slots, one with a free slot is chosen.
//! Invariant: an endpoint that fails its health checks is never picked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use smallvec::SmallVec;

use super::compiled::Upstream;
use super::endpoints::Endpoint;
use super::queue::{Destination, Free, Place, Tried};
use crate::config::Balance;

impl Upstream {
    /// Picks the endpoint for a request. Never picks an endpoint that fails its health checks, or
    /// that the request was already sent to (`tried`); `None` if no other endpoint remains.
    ///
    /// When the ejection of an endpoint is over, one request is sent to the endpoint as a probe. If
    /// no endpoint is healthy, an ejected endpoint is picked, because it may accept connections
    /// again.
    pub(crate) fn pick(&self, tried: &[Arc<Endpoint>]) -> Option<Arc<Endpoint>> {
        if let [set] = self.sets.as_slice()
            && let Some(only) = set.fixed()
        {
            return (tried.is_empty() && !only.health.is_failing_checks()).then(|| only.clone());
        }
        // Each endpoint's health is read once. Two reads could disagree, and the endpoint would
        // then be in neither list.
        let (mut healthy, mut others) = (Candidates::new(), Candidates::new());
        let (now, mut due) = (Instant::now(), None);
        self.visit(|endpoint| {
            if is_untried(endpoint, tried) {
                if endpoint.health.try_claim_probe(now) {
                    due = Some(endpoint.clone());
                } else if endpoint.health.is_healthy() {
                    healthy.push(endpoint.clone());
                } else {
                    others.push(endpoint.clone());
                }
            }
            due.is_none()
        });
        due.or_else(|| self.choose(if healthy.is_empty() { others } else { healthy }))
    }

    /// Whether the upstream has an endpoint that passes its health checks and that the request was
    /// not yet sent to (`tried`).
    pub(crate) fn has_untried(&self, tried: &[Arc<Endpoint>]) -> bool {
        !self.visit(|endpoint| !is_untried(endpoint, tried))
    }

    /// Whether a request that was already retried `retries` times may be retried once more.
    pub(crate) fn allows_retry(&self, retries: usize) -> bool {
        retries < self.selection.retries
    }

    fn choose(&self, mut candidates: Candidates) -> Option<Arc<Endpoint>> {
        let index = match (candidates.len(), self.selection.balance) {
            (0, _) => return None,
            (1, _) => 0,
            (count, Balance::RoundRobin) => self.selection.rounds.fetch_add(1, Ordering::Relaxed) % count,
            // The power of two choices is nearly as even as comparing all endpoints. It also keeps
            // concurrent requests from all choosing the same idle endpoint (Mitzenmacher, "The
            // Power of Two Choices in Randomized Load Balancing", 2001).
            (count, Balance::LeastRequests) => {
                let first = fastrand::usize(..count);
                let second = (first + fastrand::usize(1..count)) % count;
                let in_flight = |index: usize| candidates.get(index).map(|one| one.health.in_flight());
                if in_flight(second) < in_flight(first) { second } else { first }
            }
        };
        Some(candidates.swap_remove(index))
    }

    /// Returns the other addresses of the endpoint's host name without those in `tried`, healthy
    /// addresses first. The pool may connect to one of these addresses instead of the endpoint.
    pub(super) fn alternatives(
        &self,
        endpoint: &Arc<Endpoint>,
        tried: &[Arc<Endpoint>],
    ) -> Vec<Arc<Endpoint>> {
        if endpoint.resolved_address().is_none() {
            return Vec::new();
        }
        // A lookup may have removed the endpoint from its set after the endpoint was picked.
        let mut others = self.set_of(endpoint).map(|set| set.endpoints()).unwrap_or_default();
        others.retain(|other| !Arc::ptr_eq(other, endpoint) && is_untried(other, tried));
        // The sort is stable, so equally healthy addresses keep the resolver's order.
        others.sort_by_key(|other| !other.health.is_healthy());
        others
    }
}

impl Destination for Upstream {
    fn id(&self) -> u64 {
        // All endpoints have the same slots, unless they have slots of their own.
        self.queue.as_ref().filter(|queue| queue.of_sets.is_some()).map_or(0, |queue| queue.id)
    }

    fn take(&self, tried: &[Tried]) -> Free {
        let Some(queue) = &self.queue else {
            debug_assert!(false, "{} has no queue", self.name);
            return Free::Nowhere;
        };
        if queue.of_sets.is_some() {
            return self.take_at_endpoint(tried);
        }
        match queue.shared.whole().take() {
            Some(slot) => Free::Taken(Place { _slot: slot, endpoint: None }),
            None if self.has_addresses() && !self.has_untried(&[]) => Free::Nowhere,
            None => Free::Busy,
        }
    }
}

impl Upstream {
    /// Takes a slot of an endpoint that `tried` does not rule out. A healthy endpoint goes before an ejected one,
    /// whether it has a free slot or not.
    fn take_at_endpoint(&self, tried: &[Tried]) -> Free {
        loop {
            let (mut free, mut free_others) = (Candidates::new(), Candidates::new());
            let (now, mut due, mut has_healthy, mut has_others) = (Instant::now(), None, false, false);
            for set in &self.sets {
                let has_room = set.slots.has_room();
                set.visit(|endpoint| {
                    let is_ruled_out = tried.iter().any(|tried| tried.rules_out(endpoint));
                    if is_ruled_out || endpoint.health.is_failing_checks() {
                        return true;
                    }
                    let is_healthy = endpoint.health.is_healthy();
                    (has_healthy, has_others) = (has_healthy | is_healthy, has_others | !is_healthy);
                    match is_healthy {
                        _ if !has_room => {}
                        true => free.push(endpoint.clone()),
                        false if endpoint.health.try_claim_probe(now) => due = Some(endpoint.clone()),
                        false => free_others.push(endpoint.clone()),
                    }
                    due.is_none()
                });
                if due.is_some() {
                    break;
                }
            }
            let chosen = due.or_else(|| self.choose(if has_healthy { free } else { free_others }));
            let Some(endpoint) = chosen else {
                let may_come = has_healthy || has_others || self.awaits_look_up();
                return if may_come { Free::Busy } else { Free::Nowhere };
            };
            // Another thread may have taken the last slot meanwhile.
            if let Some(slot) = self.set_of(&endpoint).and_then(|set| set.slots.take()) {
                return Free::Taken(Place { _slot: slot, endpoint: Some(endpoint) });
            }
        }
    }
}

/// Endpoints among which one is chosen for a request.
type Candidates = SmallVec<[Arc<Endpoint>; 8]>;

/// Whether the endpoint passes its health checks and is not in `tried`.
fn is_untried(endpoint: &Arc<Endpoint>, tried: &[Arc<Endpoint>]) -> bool {
    !endpoint.health.is_failing_checks() && !tried.iter().any(|tried| Arc::ptr_eq(tried, endpoint))
}
