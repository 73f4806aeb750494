//! State that all workers share, and facts about a connection that its requests use.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::HeaderValue;
use jiff::Timestamp;

use super::edge::Edge;
use crate::acme::Registry;
use crate::activity::ConnectionActivity;
use crate::activity::unauthenticated::UnauthenticatedConnections;
use crate::clock::Clock;
use crate::config::Door;
use crate::denial::Denial;
use crate::forward::tunnel::OpenTunnel;
use crate::gate::Context;
use crate::hooks::Hooks;
use crate::identity::{ClientCertificate, Identities};
use crate::key_cache::KeyCache;
use crate::key_store::redis::RedisStore;
use crate::limit::Limiter;
use crate::observe::observer::{Observer, Observers};
use crate::observe::reloads::Reloads;
use crate::observe::usage::UsageBook;
use crate::shared::{Replica, Sharing};
use crate::snapshot::Snapshot;
use crate::state::Keeping;
use crate::tokens::Learned;
use crate::upstream::Endpoints;
use crate::upstream::pool::WorkerPool;
use crate::upstream::queue::Queues;
use crate::upstream::request_body::PreludeMemory;

/// State that all workers share, and that outlives a reload.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) keys: Arc<KeyCache>,
    /// The holders of tokens and certificates.
    pub(crate) identities: Arc<Identities>,
    pub(crate) limiter: Arc<Limiter>,
    /// The limits of all replicas together, if they are shared.
    pub(crate) sharing: Option<Arc<Sharing>>,
    /// What earlier answers have shown of each model.
    pub(crate) learned: Arc<Learned>,
    /// The memory for the parts of bodies that are held back.
    pub(crate) prelude_memory: Arc<PreludeMemory>,
    pub(crate) endpoints: Endpoints,
    pub(crate) queues: Queues,
    /// Listeners at which other proxies ask, with their addresses.
    pub(crate) doors: Vec<(String, Door)>,
    /// The certificates that bearward gets by itself.
    pub(crate) acme: Arc<Registry>,
    /// Whether the process is ending. Answers on HTTP/1 then close their connections.
    pub(crate) is_draining: AtomicBool,
    pub(crate) clock: Clock,
    pub(crate) usage: UsageBook,
    /// The thread that writes what survives a restart; `None` if nothing does.
    pub(crate) keeping: Option<Arc<Keeping>>,
    pub(crate) observers: Observers,
    pub(crate) reloads: Reloads,
    /// The key store that is followed, if it is in a Redis server.
    pub(crate) followed_store: ArcSwapOption<RedisStore>,
    /// Connections on which no valid key has been presented yet.
    pub(crate) unauthenticated: Arc<UnauthenticatedConnections>,
    pub(crate) hooks: Hooks,
}

impl Gateway {
    /// Notes that the process ends. Who waits for a slot of an upstream would be served too late, or not at
    /// all, and another replica may serve it now.
    pub(crate) fn begin_draining(&self) {
        self.is_draining.store(true, Ordering::Relaxed);
        self.queues.close();
    }

    /// Returns what this replica says of itself to the others.
    pub(crate) fn replica(&self) -> Replica {
        let id = self.sharing.as_ref().map(|sharing| sharing.id.clone()).unwrap_or_default();
        let configuration = self.snapshot.load().fingerprint.clone();
        Replica { id, generation: self.reloads.state().generation, configuration }
    }

    /// Returns the context in which a request is decided: snapshot, keys, limiter, and the
    /// wall-clock time `now`.
    pub(crate) fn context<'a>(&'a self, snapshot: &'a Snapshot, now: Timestamp) -> Context<'a> {
        Context {
            snapshot,
            keys: &self.keys,
            identities: &self.identities,
            limiter: &self.limiter,
            now,
            has_waited: false,
        }
    }
}

/// Facts about a connection that each of its requests uses.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) pool: Arc<WorkerPool>,
    pub(crate) observer: Arc<Observer>,
    /// IP address of the connection's peer; `None` behind a unix socket.
    pub(crate) address: Option<IpAddr>,
    /// IP address of the connection's peer, as a header value.
    pub(crate) address_value: Option<HeaderValue>,
    pub(crate) is_tls: bool,
    /// The certificate that the client has presented, if the listener asks for one.
    pub(crate) certificate: Option<Arc<ClientCertificate>>,
    /// Whether the peer is another proxy that asks, and which; `None` for a client.
    pub(crate) door: Option<Door>,
    /// What the listener does beside serving requests.
    pub(crate) edge: Arc<Edge>,
    /// The requests in service on the connection.
    pub(crate) activity: Arc<ConnectionActivity>,
    /// The tunnel on the connection, if an upgrade has ended HTTP on the connection.
    pub(crate) tunnel: Arc<Mutex<Option<OpenTunnel>>>,
    /// The limit of connections per client address, if the client's address exceeds the limit.
    /// Every request on this connection is then refused.
    pub(crate) over_limit: Option<usize>,
    /// Whether the peer is a trusted proxy. Misbehaviour of one client of the proxy then has no
    /// consequence for the connection, because other clients share the connection.
    pub(crate) is_trusted: bool,
}

impl Peer {
    /// Refuses the request if its client has too many connections.
    pub(super) fn refuse_over_limit(&self) -> Result<(), Denial> {
        match self.over_limit {
            Some(limit) => Err(Denial::too_many_connections(limit)),
            None => Ok(()),
        }
    }
}
