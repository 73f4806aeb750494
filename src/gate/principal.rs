//! The holder of a valid key.

use std::sync::Arc;

use crate::key_cache::LiveKey;
use crate::keys::KeyHash;

/// The holder of a key that is valid here and now.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    live: Arc<LiveKey>,
    /// The digest of the secret that was presented.
    hash: KeyHash,
    /// Whether that secret was rotated out, and is in its grace.
    is_rotated_out: bool,
}

impl Principal {
    pub(super) fn new(live: Arc<LiveKey>, hash: KeyHash, is_rotated_out: bool) -> Self {
        Principal { live, hash, is_rotated_out }
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
