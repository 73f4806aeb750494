//! The principal: the holder of the valid key, token or certificate of one request.

use std::sync::Arc;

use jiff::Timestamp;

use super::proof::Proof;
use crate::config::{OutputCap, Priority};
use crate::group::{Group, Groups};
use crate::key_cache::LiveKey;
use crate::model::ModelPatterns;

/// The holder of a key that is valid for one request: at its time, from its address and in its
/// environment. The holder of a token or certificate has a key in service that is in no store.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    live: Arc<LiveKey>,
    proof: Proof,
    /// The group of the key.
    group: Option<Arc<Group>>,
}

impl Principal {
    /// Makes the principal of a key that is valid. Returns `None` if the configuration does not have
    /// the group of the key, so that its limits are not known.
    pub(super) fn new(live: Arc<LiveKey>, proof: Proof, groups: &Groups) -> Option<Self> {
        let group = match live.key.group() {
            Some(name) => Some(groups.get(name)?.clone()),
            None => None,
        };
        Some(Principal { live, proof, group })
    }

    pub(crate) fn group(&self) -> Option<&Arc<Group>> {
        self.group.as_ref()
    }

    /// Returns the patterns of models to which the principal is restricted: those of the key, and those
    /// of its group. A model must be allowed by all of them.
    pub(crate) fn models(&self) -> impl Iterator<Item = &ModelPatterns> + Clone {
        let of_group = self.group.as_ref().and_then(|group| group.models.as_ref());
        self.live.key.models().into_iter().chain(of_group)
    }

    /// Returns the caps on the output of a request: that of the key, and that of its group.
    pub(crate) fn output_caps(&self) -> [Option<OutputCap>; 2] {
        [self.live.key.output_cap(), self.group.as_ref().and_then(|group| group.output_cap)]
    }

    /// Returns the class of the principal in a queue: the lower of those of its key and its group.
    pub(crate) fn priority(&self) -> Priority {
        match (self.live.key.priority(), self.group.as_ref().and_then(|group| group.priority)) {
            (Some(own), Some(of_group)) => own.lowered_to(of_group),
            (own, of_group) => own.or(of_group).unwrap_or_default(),
        }
    }

    /// Returns the share of the principal within its class.
    pub(crate) fn weight(&self) -> u32 {
        let of_group = || self.group.as_ref().and_then(|group| group.weight);
        self.live.key.weight().or_else(of_group).unwrap_or(1)
    }

    pub(crate) fn key(&self) -> &LiveKey {
        &self.live
    }

    /// Returns when the key, the token or the certificate ends; `None` if it never does.
    pub(crate) fn ends_at(&self) -> Option<Timestamp> {
        match &self.proof {
            Proof::Key { .. } => self.live.key.expires_at(),
            Proof::Token(presented) => Some(presented.expires_at),
            Proof::Certificate(certificate) => Some(certificate.ends()),
        }
    }

    pub(super) fn proof(&self) -> &Proof {
        &self.proof
    }

    /// Whether the request presented a secret that was rotated out and is still in its grace.
    pub(super) fn is_rotated_out(&self) -> bool {
        matches!(self.proof, Proof::Key { is_rotated_out: true, .. })
    }
}
