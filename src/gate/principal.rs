//! The principal: the holder of the valid key of one request.

use std::sync::Arc;

use crate::config::{OutputCap, Priority};
use crate::group::{Group, Groups};
use crate::key_cache::LiveKey;
use crate::keys::KeyHash;
use crate::model::ModelPatterns;

/// The holder of a key that is valid for one request: at its time, from its address and in its
/// environment.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    live: Arc<LiveKey>,
    /// Digest of the secret that the request presented.
    hash: KeyHash,
    /// Whether the presented secret was rotated out and is still in its grace.
    is_rotated_out: bool,
    /// The group of the key.
    group: Option<Arc<Group>>,
}

impl Principal {
    /// Makes the principal of a key that is valid. Returns `None` if the configuration does not have
    /// the group of the key, so that its limits are not known.
    pub(super) fn new(
        live: Arc<LiveKey>,
        hash: KeyHash,
        is_rotated_out: bool,
        groups: &Groups,
    ) -> Option<Self> {
        let group = match live.key.group() {
            Some(name) => Some(groups.get(name)?.clone()),
            None => None,
        };
        Some(Principal { live, hash, is_rotated_out, group })
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

    pub(super) fn hash(&self) -> KeyHash {
        self.hash
    }

    pub(super) fn is_rotated_out(&self) -> bool {
        self.is_rotated_out
    }
}
