//! State that all requests to the admin listener share.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use jiff::Timestamp;

use super::outlook::CachedOutlook;
use super::page::looked_at::LookedAt;
use super::reachable::Reachable;
use crate::config;
use crate::net::local::Local;
use crate::net::tls::Swappable;
use crate::observe::history::History;
use crate::observe::observer::Observer;
use crate::proxy::Gateway;
use crate::reload::Handle;

/// The shared state of the admin listener: its configuration, its caches, and the gateway.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(super) gateway: Arc<Gateway>,
    pub(super) reload: Handle,
    pub(super) config: config::Admin,
    pub(super) started: Timestamp,
    pub(super) observer: Arc<Observer>,
    /// The address and the certificates of each listener with TLS.
    pub(super) certificates: Vec<(Local, Swappable)>,
    pub(super) outlook: CachedOutlook,
    pub(super) reachable: Reachable,
    pub(super) history: History,
    /// The cached pages of keys.
    pub(super) looked_at: LookedAt,
    /// The number of open event streams.
    pub(super) streams: AtomicUsize,
}

impl Admin {
    /// Creates the state of the admin listener when the process starts. `certificates`: the address
    /// and the certificates of each listener with TLS.
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        reload: Handle,
        config: config::Admin,
        certificates: Vec<(Local, Swappable)>,
    ) -> Self {
        Admin {
            observer: gateway.observers.apart(),
            gateway,
            reload,
            config,
            started: Timestamp::now(),
            certificates,
            outlook: CachedOutlook::default(),
            reachable: Reachable::default(),
            history: History::default(),
            looked_at: LookedAt::default(),
            streams: AtomicUsize::new(0),
        }
    }
    /// Whether somebody has a credential for changes: the admin token, or a key with the permission `admin`.
    pub(super) fn may_be_changed(&self) -> bool {
        self.config.token_file.is_some() || self.outlook.outlook(&self.gateway).has_admin
    }
}
