//! A configuration made to run: everything that can fail at the start fails in [`App::bind`], before the first
//! connection is accepted.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, watch};

use crate::admin;
use crate::clock::Clock;
use crate::config::fault::{Fault, Faults};
use crate::config::{Config, Limits};
use crate::hooks::Hooks;
use crate::keys::cache::KeyCache;
use crate::keys::{KeyRecord, Store};
use crate::limit::Limiter;
use crate::net::listen::{self, Bound, Local};
use crate::net::tls;
use crate::observe::AccessLog;
use crate::proxy::Gateway;
use crate::snapshot::Snapshot;
use crate::worker::Workers;

/// Descriptors kept back for reloads, logs and the admin listener.
const RESERVED_DESCRIPTORS: u64 = 64;

/// A server that is ready to run: keys read, certificates loaded, sockets bound.
#[derive(Debug)]
pub struct App {
    gateway: Arc<Gateway>,
    listeners: Vec<Bound>,
    admin: Option<Bound>,
    workers: usize,
    limits: Limits,
}

/// Why a server could not start.
#[derive(Debug)]
pub enum StartError {
    /// Files that are wrong: configuration, keys, certificates.
    Faults(Faults),
    /// What the system refused.
    System {
        /// What was being done.
        doing: String,
        /// What the system said.
        error: io::Error,
    },
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Faults(faults) => faults.fmt(f),
            StartError::System { doing, error } => write!(f, "{doing}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<Faults> for StartError {
    fn from(faults: Faults) -> Self {
        StartError::Faults(faults)
    }
}

fn while_doing<T>(doing: impl FnOnce() -> String, result: io::Result<T>) -> Result<T, StartError> {
    result.map_err(|error| StartError::System { doing: doing(), error })
}

impl App {
    /// Reads keys and certificates and binds all sockets.
    ///
    /// # Errors
    ///
    /// All faults of the files at once, or what the system refused.
    pub fn bind(config: &Config, clock: Clock, hooks: Hooks) -> Result<Self, StartError> {
        Self::bind_logging(config, clock, hooks, AccessLog(None))
    }

    pub(crate) fn bind_logging(
        config: &Config,
        clock: Clock,
        hooks: Hooks,
        access_log: AccessLog,
    ) -> Result<Self, StartError> {
        let prepared = Prepared::new(config, &clock)?;
        for warning in &prepared.warnings {
            tracing::warn!("{warning}");
        }
        let limits =
            Limits { connections: affordable_connections(config.limits.connections), ..config.limits };
        let mut listeners = Vec::with_capacity(config.listeners.len());
        for (listener, tls) in config.listeners.iter().zip(prepared.tls) {
            let bound = Bound::bind(&listener.address, tls);
            listeners.push(while_doing(|| format!("can't listen on {}", listener.address), bound)?);
        }
        let admin = match &config.admin {
            Some(address) => {
                let bound = Bound::bind(address, None);
                Some(while_doing(|| format!("can't listen on {address} (the admin listener)"), bound)?)
            }
            None => None,
        };
        let gateway = Gateway {
            snapshot: ArcSwap::from_pointee(prepared.snapshot),
            keys: prepared.keys,
            limiter: prepared.limiter,
            clock,
            access_log,
            hooks,
        };
        let workers = config.workers.unwrap_or_else(available_workers);
        Ok(App { gateway: Arc::new(gateway), listeners, admin, workers, limits })
    }

    /// Where the server listens, in the order of the configuration.
    pub fn addresses(&self) -> Vec<Local> {
        self.listeners.iter().map(|bound| bound.local().clone()).collect()
    }

    /// Where the admin listener is, unless it is off.
    pub fn admin_address(&self) -> Option<Local> {
        self.admin.as_ref().map(|bound| bound.local().clone())
    }

    /// Serves until `stop` is ready; then accepts no more and finishes what is in flight, for at most
    /// `limits.drain_timeout`. Says whether all of it was finished.
    ///
    /// # Errors
    ///
    /// A thread could not be started.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<bool> {
        let (shutdown, stopping) = watch::channel(false);
        let workers = Arc::new(Workers::start(self.workers, &self.gateway, &stopping)?);
        let permits = Arc::new(Semaphore::new(self.limits.connections));
        self.announce();
        let mut accepting = tokio::task::JoinSet::new();
        for bound in self.listeners {
            let workers = workers.clone();
            let assign = move |accepted| workers.assign(accepted);
            accepting.spawn(listen::accept_loop(bound, permits.clone(), assign, stopping.clone()));
        }
        if let Some(admin) = self.admin {
            tokio::spawn(admin::serve(admin, stopping.clone()));
        }
        stop.await;
        tracing::info!("stopping: no new connections; finishing what is in flight");
        let _nobody_listens = shutdown.send(true);
        while accepting.join_next().await.is_some() {}
        Ok(finish(workers, self.limits.drain_timeout).await)
    }

    fn announce(&self) {
        for bound in &self.listeners {
            tracing::info!(address = %bound.local(), tls = bound.is_tls(), "listening");
        }
        if let Some(admin) = &self.admin {
            tracing::info!(address = %admin.local(), "admin listening");
        }
        let snapshot = self.gateway.snapshot.load();
        let routes = snapshot.routes.names().count();
        tracing::info!(keys = self.gateway.keys.len(), routes, workers = self.workers, "ready");
    }
}

/// Waits for the workers' last connections.
async fn finish(workers: Arc<Workers>, limit: Duration) -> bool {
    // The accept loops are over, and with them the other owners.
    let Some(workers) = Arc::into_inner(workers) else { return false };
    let joining = tokio::task::spawn_blocking(move || workers.join());
    let finished = tokio::time::timeout(limit, joining).await.is_ok();
    if !finished {
        tracing::warn!("the drain timeout is over; what is still in flight is cut");
    }
    finished
}

/// What a configuration needs before anything is bound. `check` makes one, too.
pub(crate) struct Prepared {
    snapshot: Snapshot,
    keys: KeyCache,
    limiter: Limiter,
    tls: Vec<Option<Arc<rustls::ServerConfig>>>,
    /// What is allowed, and most likely not meant.
    pub(crate) warnings: Vec<String>,
}

impl Prepared {
    /// Reads all files that the configuration names, and tells all that is wrong with them.
    pub(crate) fn new(config: &Config, clock: &Clock) -> Result<Self, Faults> {
        let mut faults = Vec::new();
        let records = match Store::at(&config.keys.path).map_err(Faults::from).and_then(|store| store.load())
        {
            Ok(records) => records,
            Err(of_keys) => {
                faults.extend(of_keys.0);
                Vec::new()
            }
        };
        let mut tls = Vec::with_capacity(config.listeners.len());
        for listener in &config.listeners {
            match listener.tls.as_ref().map(tls::server_config).transpose() {
                Ok(config) => tls.push(config),
                Err(of_tls) => faults.extend(of_tls.0),
            }
        }
        let limiter = Limiter::new(clock.clone());
        let snapshot = Snapshot::new(config, &limiter);
        match snapshot {
            Ok(snapshot) if faults.is_empty() => {
                let warnings = warnings(&records, &snapshot);
                let keys = KeyCache::default();
                keys.replace(records);
                Ok(Prepared { snapshot, keys, limiter, tls, warnings })
            }
            Ok(_) => Err(Faults(faults)),
            Err(error) => {
                faults.push(Fault::of_file(Path::new("routes"), error.to_string()));
                Err(Faults(faults))
            }
        }
    }

    /// How many secrets open something.
    pub(crate) fn secrets(&self) -> usize {
        self.keys.len()
    }
}

fn warnings(records: &[KeyRecord], snapshot: &Snapshot) -> Vec<String> {
    let mut warnings = Vec::new();
    for KeyRecord { key, .. } in records {
        for narrowed_to in key.routes.iter().flatten() {
            if !snapshot.routes.names().any(|known| known == narrowed_to) {
                warnings
                    .push(format!("{} is narrowed to the route {narrowed_to}, which does not exist", key.id));
            }
        }
    }
    warnings
}

/// What the cgroup and the affinity mask give.
fn available_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Raises the soft limit of descriptors to the hard one, and clamps the connections to what it carries: a
/// proxied connection needs two.
fn affordable_connections(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    let Some(descriptors) = current else { return wanted };
    let carried =
        usize::try_from(descriptors.saturating_sub(RESERVED_DESCRIPTORS) / 2).unwrap_or(usize::MAX).max(1);
    if carried < wanted {
        tracing::warn!(
            descriptors,
            connections = carried,
            "limits.connections is more than the descriptors carry; raise `nofile`"
        );
    }
    wanted.min(carried)
}
