//! What all workers share, and what a connection gives to its requests.

use std::net::IpAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use http::HeaderValue;
use jiff::Timestamp;

use crate::activity::ConnectionActivity;
use crate::activity::unauthenticated::UnauthenticatedConnections;
use crate::clock::Clock;
use crate::forward::tunnel::OpenTunnel;
use crate::gate::Context;
use crate::hooks::Hooks;
use crate::key_cache::KeyCache;
use crate::limit::Limiter;
use crate::observe::observer::{Observer, Observers};
use crate::observe::reloads::Reloads;
use crate::observe::usage::UsageBook;
use crate::snapshot::Snapshot;
use crate::upstream::Endpoints;
use crate::upstream::pool::WorkerPool;

/// What all workers share, and what outlives a reload.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) keys: Arc<KeyCache>,
    pub(crate) limiter: Limiter,
    pub(crate) endpoints: Endpoints,
    /// The process is ending: answers on HTTP/1 close their connections.
    pub(crate) is_draining: AtomicBool,
    pub(crate) clock: Clock,
    pub(crate) usage: UsageBook,
    pub(crate) observers: Observers,
    pub(crate) reloads: Reloads,
    /// Connections on which no valid key was presented yet.
    pub(crate) unauthenticated: Arc<UnauthenticatedConnections>,
    pub(crate) hooks: Hooks,
}

impl Gateway {
    /// What a request is decided with, at `now` by the wall clock.
    pub(crate) fn context<'a>(&'a self, snapshot: &'a Snapshot, now: Timestamp) -> Context<'a> {
        Context { snapshot, keys: &self.keys, limiter: &self.limiter, now }
    }
}

/// What a request inherits from its connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) pool: Arc<WorkerPool>,
    pub(crate) observer: Arc<Observer>,
    /// `None` behind a unix socket.
    pub(crate) address: Option<IpAddr>,
    /// The address as a header's value.
    pub(crate) address_value: Option<HeaderValue>,
    pub(crate) is_tls: bool,
    /// The requests in service on the connection.
    pub(crate) activity: Arc<ConnectionActivity>,
    /// The tunnel that the connection is once HTTP has given it up.
    pub(crate) tunnel: Arc<Mutex<Option<OpenTunnel>>>,
    /// The client's address has more connections than this: nothing is served on this one.
    pub(crate) over_limit: Option<usize>,
    /// It is a trusted proxy's: what one of its clients does is not held against the connection.
    pub(crate) is_trusted: bool,
}
