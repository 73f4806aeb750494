//! The servers behind bearward: where they are, and the connections to them.
//!
//! An [`Upstream`] is shared by all workers; its connections are each worker's own ([`pool`]), so that no
//! request ever changes thread.

pub(crate) mod pool;
pub(crate) mod stall;
pub(crate) mod upload;

use std::sync::atomic::{AtomicU64, Ordering};

use crate::config::{self, Ambiguity, Pool, Timeouts, UpstreamCredential};

/// A named upstream, compiled.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) endpoint: Endpoint,
    pub(crate) credential: Option<UpstreamCredential>,
    pub(crate) timeouts: Timeouts,
    pub(crate) pool: Pool,
    pub(crate) accept_in_path: Vec<Ambiguity>,
}

/// One address of an upstream.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Tells pools apart; never used twice in a process.
    id: u64,
    address: config::Endpoint,
}

impl Upstream {
    pub(crate) fn new(config: &config::Upstream) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Upstream {
            name: config.name.clone(),
            endpoint: Endpoint {
                id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
                address: config.endpoint.clone(),
            },
            credential: config.credential.clone(),
            timeouts: config.timeouts,
            pool: config.pool,
            accept_in_path: config.accept_in_path.clone(),
        }
    }
}
