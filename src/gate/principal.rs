//! The principal: the holder of the valid key of one request.

use std::sync::Arc;

use crate::key_cache::LiveKey;
use crate::keys::KeyHash;

/// The holder of a key that is valid for one request: at its time, from its address and in its
/// environment.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    live: Arc<LiveKey>,
    /// Digest of the secret that the request presented.
    hash: KeyHash,
    /// Whether the presented secret was rotated out and is still in its grace.
    is_rotated_out: bool,
}

impl Principal {
    pub(super) fn new(live: Arc<LiveKey>, hash: KeyHash, is_rotated_out: bool) -> Self {
        Principal { live, hash, is_rotated_out }
    }

    pub(crate) fn shared_key(&self) -> &Arc<LiveKey> {
        &self.live
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
