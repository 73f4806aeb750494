//! Turns a configuration into a running server. [`App::bind`] finds all faults of the files, and
//! binds all sockets, before the first connection is accepted.

mod checks;
mod departures;
mod descriptors;
mod door_warnings;
mod first_keys;
mod identities;
mod listening;
mod lookups;
mod prepared;
mod start_error;
mod warnings;
mod weakness;

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, timeout_at};

use crate::acme::{Registry, Renewer, Tools};
use crate::admin;
use crate::clock::Clock;
use crate::config::{Address, Admin, Config, Door, Limits};
use crate::hooks::Hooks;
use crate::key_store::id_secret;
use crate::limit::Passed;
use crate::net::authority_client;
use crate::net::connections_by_address::ConnectionsByAddress;
use crate::net::inherited::Inherited;
use crate::net::listen::{self, Bound, Intake, Service};
use crate::net::local::Local;
use crate::net::tls::{Swappable, crypto_provider};
use crate::observe::Logs;
use crate::observe::audit::{BudgetPassed, budget_passed};
use crate::observe::observer::Observers;
use crate::observe::reloads::Reloads;
use crate::observe::usage::UsageBook;
use crate::proxy::{Edge, Gateway};
use crate::reload::{Baseline, Handle, Part, Reloader, Stood};
use crate::shared::Asker;
use crate::state::Keeper;
use crate::thread_supervisor::{Duty, Threads};
use crate::worker::Workers;
use descriptors::carried_by_descriptors;
use first_keys::Purpose;
use listening::while_listening;
pub(crate) use prepared::Prepared;
pub use start_error::StartError;

/// Time that workers get after the drain timeout to cut all requests in flight and to write the
/// access log line of each.
const CUT_TIME: Duration = Duration::from_secs(1);

/// A server that is ready to run: its keys are read, its certificates are loaded, and its sockets
/// are bound.
pub struct App {
    gateway: Arc<Gateway>,
    listeners: Vec<Bound>,
    admin: Option<Bound>,
    admin_config: Admin,
    certificates: Vec<(Local, Swappable)>,
    workers: usize,
    connections: usize,
    reloader: Reloader,
    reload: Handle,
    asker: Option<Asker>,
    keeper: Option<Keeper>,
}

impl fmt::Debug for App {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("App")
            .field("listeners", &self.listeners)
            .field("admin", &self.admin)
            .finish_non_exhaustive()
    }
}

/// The parts of a server that come from outside its configuration.
#[derive(Debug)]
pub(crate) struct Surroundings {
    pub(crate) logs: Logs,
    /// Listening sockets that the service manager passed to this process.
    pub(crate) inherited: Inherited,
}

impl App {
    /// Reads keys and certificates and binds all sockets.
    ///
    /// # Errors
    ///
    /// All faults of the files at once, or the failure of a system call.
    pub fn bind(config: &Config, clock: Clock, hooks: Hooks) -> Result<Self, StartError> {
        let alone = Surroundings { logs: Logs::default(), inherited: Inherited::default() };
        Self::bind_within(config, clock, hooks, alone)
    }

    pub(crate) fn bind_within(
        config: &Config,
        clock: Clock,
        hooks: Hooks,
        surroundings: Surroundings,
    ) -> Result<Self, StartError> {
        let Surroundings { logs, mut inherited } = surroundings;
        // The secret for key ids may be written to a new file in the directory of the store. This
        // happens before the baseline is recorded, so that the new file does not count as a change
        // of the store.
        let ids = id_secret::for_service(&config.keys);
        // The baseline is recorded before any file is read, so that the first check for changes
        // finds every later change.
        let baseline = Baseline::of(config);
        let prepared = Prepared::new(config, ids, &clock, Purpose::Service)?;
        prepared.alarms.iter().for_each(|alarm| tracing::error!("{alarm}"));
        prepared.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
        let certificates: Vec<Option<Swappable>> =
            prepared.tls.into_iter().map(|tls| tls.map(|tls| Arc::new(ArcSwap::new(tls)))).collect();
        let listeners = bind_listeners(config, &certificates, &mut inherited)?;
        let admin =
            config.admin.as_ref().map(|admin| bind_admin(&admin.address, &mut inherited)).transpose()?;
        let left = inherited.left();
        if !left.is_empty() {
            // The start fails, because clients would connect to a socket that no listener serves,
            // and wait for ever.
            let doing =
                format!("sockets were handed down that no listener is configured for: {}", left.join(", "));
            return Err(StartError::System { doing, error: io::ErrorKind::AddrNotAvailable.into() });
        }
        let gateway = Arc::new(Gateway {
            snapshot: ArcSwap::from_pointee(prepared.snapshot),
            keys: Arc::new(prepared.keys),
            identities: Arc::new(prepared.identities),
            limiter: Arc::new(prepared.limiter),
            sharing: prepared.sharing,
            learned: Arc::default(),
            prelude_memory: Arc::default(),
            endpoints: prepared.endpoints,
            queues: prepared.queues,
            doors: doors_of(&listeners),
            acme: Arc::new(Registry::of(config)),
            is_draining: AtomicBool::new(false),
            clock,
            usage: UsageBook::new(config.metrics.key_ids).keeping(prepared.kept.ledger),
            keeping: prepared.kept.keeping,
            observers: Observers::new(logs, config.metrics.models),
            reloads: Reloads::new(Part::ALL.into_iter().map(Part::name)),
            followed_store: ArcSwapOption::empty(),
            unauthenticated: Arc::default(),
            hooks,
        });
        let stood = Stood { tls: certificates.clone(), keys: prepared.stood_keys, alarms: prepared.alarms };
        let (reloader, reload) = Reloader::new(gateway.clone(), config.clone(), baseline, stood);
        let secured = listeners.iter().zip(certificates);
        let certificates = secured.filter_map(|(bound, tls)| Some((bound.local().clone(), tls?)));
        let certificates = certificates.collect();
        Ok(App {
            gateway,
            listeners,
            admin,
            admin_config: config.admin.clone().unwrap_or_default(),
            certificates,
            workers: config.workers.unwrap_or_else(available_workers),
            connections: affordable_connections(&config.limits),
            reloader,
            reload,
            asker: prepared.asker,
            keeper: prepared.kept.keeper,
        })
    }

    /// Returns the gateway, so that a test or fuzzer can serve connections that no listener
    /// accepted.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn gateway(&self) -> Arc<Gateway> {
        self.gateway.clone()
    }

    /// Returns the logs that this server writes.
    pub(crate) fn logs(&self) -> Logs {
        self.gateway.observers.logs().clone()
    }

    /// Returns the handle that requests a reload of the running server.
    pub(crate) fn reload_handle(&self) -> Handle {
        self.reload.clone()
    }

    /// Returns the addresses of the listeners, in the order of the configuration.
    pub fn addresses(&self) -> Vec<Local> {
        self.listeners.iter().map(|bound| bound.local().clone()).collect()
    }

    /// Returns the address of the admin listener; `None` if it is off.
    pub fn admin_address(&self) -> Option<Local> {
        self.admin.as_ref().map(|bound| bound.local().clone())
    }

    /// Serves until `stop` is ready. Then the server accepts no more connections, and waits at most
    /// `limits.drain_timeout` for the requests in flight. Returns whether all requests were
    /// finished in time.
    ///
    /// # Errors
    ///
    /// A thread could not be started, or a worker, the reload thread or a listener ended too early.
    pub async fn run(self, stop: impl Future<Output = ()>) -> io::Result<bool> {
        let (shutdown, stopping) = watch::channel(false);
        let workers = Arc::new(Workers::start(self.workers, &self.gateway, &stopping)?);
        self.announce();
        let App {
            gateway,
            listeners,
            admin,
            admin_config: listener,
            certificates,
            connections,
            reloader,
            reload,
            asker,
            keeper,
            ..
        } = self;
        let threads = gateway.observers.logs().threads.clone();
        threads.spawn(Duty::Reload, "reload", move || reloader.run())?;
        if let Some(asker) = asker {
            let of_asker = gateway.clone();
            let logs = gateway.observers.logs().clone();
            let asker = asker.described_by(move || of_asker.replica());
            let asker = asker.telling(move |holder, passed| tell_of_budget(&logs, holder, passed));
            threads.spawn(Duty::Shared, "shared", move || asker.run_thread())?;
        }
        if let Some(keeper) = keeper {
            start_keeper(keeper, gateway.observers.logs().clone())?;
        }
        start_tasks(&gateway)?;
        if let Some(bound) = admin {
            let admin = admin::state::Admin::new(gateway.clone(), reload.clone(), listener, certificates);
            threads.spawn_task("admin", admin::serve(bound, admin));
        }
        let (permits, crowd) =
            (Arc::new(Semaphore::new(connections)), Arc::new(ConnectionsByAddress::default()));
        let mut accepting = JoinSet::new();
        for bound in listeners {
            let of_loop = workers.clone();
            let assign = move |accepted| of_loop.assign(accepted);
            let (gateway, permits, crowd) = (gateway.clone(), permits.clone(), crowd.clone());
            let intake = Intake { gateway, permits, crowd, assign };
            accepting.spawn_on(listen::accept_loop(bound, intake, stopping.clone()), &workers.acceptor());
        }
        let _no_manager = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let broken = stopped(stop, &threads, &mut accepting).await;
        if let Some(reason) = &broken {
            tracing::error!(reason, "the process can't go on, and ends");
        }
        tracing::info!("stopping: no new connections; finishing what is in flight");
        let _no_manager = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        gateway.begin_draining();
        let _nobody_listens = shutdown.send(true);
        // The reload thread may be reading a large file. The shutdown does not wait for that.
        tokio::spawn(async move { reload.stop().await });
        let until = Instant::now() + gateway.snapshot.load().limits.drain_timeout;
        let is_finished = finish(accepting, workers, until).await;
        leave(&gateway).await;
        gateway.observers.logs().report_left_out_at_the_end();
        broken.map_or(Ok(is_finished), |reason| Err(io::Error::other(reason)))
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

/// Lets the thread start that gets certificates, as soon as one is wanted.
fn start_acme(gateway: &Arc<Gateway>) -> io::Result<()> {
    let logs = gateway.observers.logs().clone();
    let sharing = gateway.sharing.clone();
    let of_server = move || sharing.as_ref().map(|sharing| sharing.settings());
    let (clock, logs_of_thread) = (gateway.clock.clone(), logs.clone());
    let tools =
        Tools::new(clock, authority_client::connect, Box::new(of_server), logs_of_thread, crypto_provider());
    let renewer = Renewer::new(gateway.acme.clone(), tools);
    gateway.acme.start_with(move |runtime| {
        logs.threads.clone().spawn(Duty::Acme, "acme", move || renewer.run(&runtime)).map(drop)
    })
}

/// Starts the thread that writes what survives a restart.
fn start_keeper(keeper: Keeper, logs: Logs) -> io::Result<()> {
    let threads = logs.threads.clone();
    let keeper = keeper.telling(Box::new(move |holder, passed| tell_of_budget(&logs, holder, passed)));
    threads.spawn(Duty::State, "state", move || keeper.run())?;
    Ok(())
}

/// Gives back what this process holds of limits of all replicas, and writes what the last requests have
/// used.
async fn leave(gateway: &Gateway) {
    let keeping = || gateway.keeping.clone();
    if let Some(sharing) = &gateway.sharing {
        // What was counted is told when it is durable.
        if let Some(keeping) = keeping() {
            let _written = spawn_blocking(move || keeping.write()).await;
        }
        sharing.leave(gateway.limiter.states()).await;
    }
    if let Some(keeping) = keeping() {
        let _ended = spawn_blocking(move || keeping.end()).await;
    }
}

/// Starts the tasks that run until the process ends, except the admin listener, and what gets certificates.
fn start_tasks(gateway: &Arc<Gateway>) -> io::Result<()> {
    start_acme(gateway)?;
    identities::start(gateway)?;
    let logs = gateway.observers.logs().clone();
    let threads = logs.threads.clone();
    threads.spawn_task("health checks", checks::run(gateway.clone()));
    threads.spawn_task("lookups", lookups::run(gateway.clone()));
    threads.spawn_task("departures", departures::run(gateway.clone()));
    threads.spawn_task("left-out lines", async move { logs.keep_reporting_left_out().await });
    Ok(())
}

/// Waits until the server should stop, or can't continue. Returns the reason if it can't continue.
async fn stopped(
    stop: impl Future<Output = ()>,
    threads: &Threads,
    accepting: &mut JoinSet<()>,
) -> Option<String> {
    tokio::select! {
        () = stop => None,
        thread = threads.vital_ended() => Some(format!("the thread {thread} has ended")),
        Some(_ended) = accepting.join_next() => Some("a listener has ended".to_owned()),
    }
}

/// Waits until all accept loops and the last connection of each worker have ended. Returns whether
/// they ended before `until`.
async fn finish(mut accepting: JoinSet<()>, workers: Arc<Workers>, until: Instant) -> bool {
    let served_out = async { while accepting.join_next().await.is_some() {} };
    let is_served_out = timeout_at(until, served_out).await.is_ok();
    // An accept loop may run on a worker that is stuck, so the wait for the accept loops has a time
    // limit.
    let _aborted = timeout_at(until + CUT_TIME, accepting.shutdown()).await;
    let cutter = workers.cutter();
    // The accept loops had the other references to `workers`. Unless an accept loop is stuck, this
    // reference is the last.
    let joining = Arc::into_inner(workers).map(|workers| spawn_blocking(move || workers.join()));
    let Some(mut joining) = joining else {
        cutter.cut();
        return false;
    };
    let is_finished = timeout_at(until, &mut joining).await.is_ok() && is_served_out;
    if !is_finished {
        tracing::warn!("the drain timeout is over; what is still in flight is cut");
        cutter.cut();
        let _joined = timeout_at(Instant::now() + CUT_TIME, joining).await;
    }
    is_finished
}

/// Writes an audit line for a budget that has passed a share of its amount. `holder`: the id of the key;
/// `group:` and the name of a group.
fn tell_of_budget(logs: &Logs, holder: &str, passed: &Passed) {
    let Some(writer) = &logs.audit else { return };
    let Passed { policy, percent, used, limit, resets_at } = passed;
    let (percent, used, limit, resets_at) = (*percent, *used, *limit, resets_at.to_string());
    let group = holder.strip_prefix("group:");
    let key_id = Some(holder).filter(|_| group.is_none());
    budget_passed(writer, BudgetPassed { policy, percent, used, limit, resets_at, key_id, group });
}

/// Binds the listeners, each with the certificates of the same position.
fn bind_listeners(
    config: &Config,
    certificates: &[Option<Swappable>],
    inherited: &mut Inherited,
) -> Result<Vec<Bound>, StartError> {
    let mut listeners = Vec::with_capacity(config.listeners.len());
    for (listener, tls) in config.listeners.iter().zip(certificates) {
        let balancers = listener.proxy_protocol.iter().flatten().copied().collect();
        let service = Service { tls: tls.clone(), door: listener.door, balancers, ..Service::default() };
        let bound = Bound::bind(&listener.address, service, inherited);
        let doing = || format!("can't listen on {}", listener.address);
        listeners.push(while_listening(doing, &listener.address, bound)?);
    }
    let https_port = https_port(&listeners);
    for (bound, listener) in listeners.iter_mut().zip(&config.listeners) {
        bound.set_edge(Edge::new(
            listener.address.to_string(),
            listener.hsts,
            listener.redirect_to_https.then_some(https_port),
        ));
    }
    Ok(listeners)
}

/// Returns the listeners at which other proxies ask, with their addresses.
fn doors_of(listeners: &[Bound]) -> Vec<(String, Door)> {
    listeners.iter().filter_map(|bound| Some((bound.local().to_string(), bound.door()?))).collect()
}

/// Returns the port of the first listener of clients that has TLS; 443 if a proxy before bearward ends TLS.
fn https_port(listeners: &[Bound]) -> u16 {
    let with_tls = listeners.iter().filter(|bound| bound.is_tls() && bound.door().is_none());
    let mut ports = with_tls.filter_map(|bound| match bound.local() {
        Local::Tcp(address) => Some(address.port()),
        Local::Unix(_) => None,
    });
    ports.next().unwrap_or(443)
}

/// Binds the admin listener.
fn bind_admin(address: &Address, inherited: &mut Inherited) -> Result<Bound, StartError> {
    let doing =
        || format!("can't listen on {address} (the admin listener; admin.address, or --admin, moves it)");
    while_listening(doing, address, Bound::bind(address, Service::default(), inherited))
}

/// Returns the number of processors that the cgroup and the affinity mask allow.
fn available_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Returns the largest number of open client connections. The limiter applies the same bound to
/// requests in flight. If the file descriptors allow fewer connections than configured, `bearward
/// check` and the start print a warning.
fn affordable_connections(limits: &Limits) -> usize {
    limits.connections.min(carried_by_descriptors())
}

#[cfg(test)]
mod tests;
