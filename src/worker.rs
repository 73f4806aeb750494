//! Worker threads, which serve connections. Each has its own runtime and its own connections to
//! upstreams.
//!
//! A client connection stays with one worker, so that a request never changes threads. All workers
//! share keys, limits and routes.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use crate::activity::cut::{self, CutReason};
use crate::forward::headers::address_value;
use crate::net::conn;
use crate::net::listen::Accepted;
use crate::observe::observer::Observer;
use crate::proxy::{Gateway, Peer};
use crate::thread_supervisor::{Duty, Ended};
use crate::upstream::pool::WorkerPool;

/// Interval at which expired idle connections to upstreams are closed.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// All workers, with the functions that an accept loop calls.
#[derive(Debug)]
pub(crate) struct Workers {
    all: Vec<Worker>,
    /// Becomes true when all requests in flight must be cut.
    cut: watch::Sender<bool>,
}

/// The handle that cuts all requests in flight on all workers.
#[derive(Debug)]
pub(crate) struct Cutter(watch::Sender<bool>);

impl Cutter {
    /// Cuts all requests in flight. Each cut request still gets its line in the access log.
    pub(crate) fn cut(&self) {
        self.0.send_replace(true);
    }
}

#[derive(Debug)]
struct Worker {
    inbox: mpsc::UnboundedSender<Assigned>,
    observer: Arc<Observer>,
    runtime: tokio::runtime::Handle,
    thread: JoinHandle<()>,
}

/// A connection that is assigned to a worker, and its share in the worker's connection count.
struct Assigned {
    accepted: Accepted,
    share: Share,
}

struct Share(Arc<Observer>);

impl Drop for Share {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}

impl Workers {
    /// Starts `count` workers.
    pub(crate) fn start(
        count: usize,
        gateway: &Arc<Gateway>,
        shutdown: &watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let mut all = Vec::with_capacity(count);
        let (cut, cutting) = watch::channel(false);
        for number in 0..count {
            all.push(Worker::start(number, gateway.clone(), shutdown.clone(), cutting.clone())?);
        }
        Ok(Workers { all, cut })
    }

    /// Returns a handle that cuts all requests in flight.
    pub(crate) fn cutter(&self) -> Cutter {
        Cutter(self.cut.clone())
    }

    /// Assigns a connection to the worker with the fewest connections. The inbox of a worker needs
    /// no bound of its own: each connection has a permit, and the number of permits is limited.
    pub(crate) fn assign(&self, accepted: Accepted) {
        let Some(worker) = self.all.iter().min_by_key(|worker| worker.observer.connections()) else {
            debug_assert!(false, "there is no worker");
            return;
        };
        worker.observer.connected();
        let share = Share(worker.observer.clone());
        if worker.inbox.send(Assigned { accepted, share }).is_err() {
            tracing::error!("a worker has ended, and a connection with it");
        }
    }

    /// Returns the runtime for the accept loops. A single worker accepts its connections itself, so
    /// that no connection moves to another thread. With several workers, the main runtime accepts
    /// the connections, so that no worker has this extra work.
    pub(crate) fn acceptor(&self) -> tokio::runtime::Handle {
        match self.all.as_slice() {
            [alone] => alone.runtime.clone(),
            _ => tokio::runtime::Handle::current(),
        }
    }

    /// Waits until every connection of every worker has ended.
    pub(crate) fn join(self) {
        for Worker { inbox, thread, .. } in self.all {
            drop(inbox);
            // A panic of the worker was logged when it happened.
            let _told = thread.join();
        }
    }
}

impl Worker {
    fn start(
        number: usize,
        gateway: Arc<Gateway>,
        shutdown: watch::Receiver<bool>,
        mut cut: watch::Receiver<bool>,
    ) -> io::Result<Self> {
        let (inbox, incoming) = mpsc::unbounded_channel();
        // The observer and the runtime are made on the caller's thread, so that the caller can
        // return the error.
        let observer = gateway.observers.join();
        let of_thread = observer.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let threads = gateway.observers.logs().threads.clone();
        let name = format!("worker-{number}");
        let of_loop = name.clone();
        let thread = threads.spawn(Duty::Worker, &name, move || {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = serve(&of_loop, incoming, gateway, of_thread, shutdown) => {}
                    Ok(_cut) = cut.wait_for(|cut| *cut) => {}
                }
            });
            // Dropping the runtime ends the connections that are still open: to upstreams, and to
            // clients after the drain timeout.
            cut::because(CutReason::Drained, || drop(runtime));
            // The loop ends only when the inbox is closed, which happens when the process stops.
            Ended::Asked
        })?;
        Ok(Worker { inbox, observer, runtime: handle, thread })
    }
}

/// Serves connections until the inbox is closed and the last connection has ended.
async fn serve(
    name: &str,
    mut incoming: mpsc::UnboundedReceiver<Assigned>,
    gateway: Arc<Gateway>,
    observer: Arc<Observer>,
    shutdown: watch::Receiver<bool>,
) {
    let pool = Arc::new(WorkerPool::default());
    tokio::spawn(sweep(pool.clone()));
    let mut connections = tokio::task::JoinSet::new();
    while let Some(Assigned { accepted, share }) = incoming.recv().await {
        gateway.hooks.takes_up_work(name);
        let peer = Peer {
            gateway: gateway.clone(),
            pool: pool.clone(),
            observer: observer.clone(),
            address: accepted.peer,
            address_value: accepted.peer.and_then(address_value),
            is_tls: accepted.tls.is_some(),
            certificate: None,
            door: accepted.door,
            edge: accepted.edge.clone(),
            activity: accepted.activity.clone(),
            tunnel: Arc::default(),
            over_limit: accepted.standing.over_limit,
            is_trusted: accepted.standing.is_trusted,
        };
        let (activity, shutdown) = (peer.activity.clone(), shutdown.clone());
        if accepted.standing.is_trusted {
            // Clients that are not responsible for each other share the connection of a trusted
            // proxy. The limits of unauthenticated use do not apply to this connection.
            activity.unauthenticated_use.note_authenticated();
        }
        connections.spawn(async move {
            conn::serve(accepted, peer, shutdown).await;
            activity.unauthenticated_use.end_connection();
            drop(share);
        });
        // Removes the connections that have ended from the set.
        while connections.try_join_next().is_some() {}
    }
    while connections.join_next().await.is_some() {}
}

async fn sweep(pool: Arc<WorkerPool>) {
    let mut tick = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        tick.tick().await;
        pool.sweep();
    }
}
