//! Workers: threads, each with its own runtime and its own connections to upstream.
//!
//! A connection stays with its worker for life, so that a request never changes thread. Keys,
//! limits and routes are shared.

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

/// Interval of closing idle connections to upstream.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// All workers, as the accepting thread sees them.
#[derive(Debug)]
pub(crate) struct Workers {
    all: Vec<Worker>,
    /// Set once everything in flight is to be cut.
    cut: watch::Sender<bool>,
}

/// Cuts everything that workers have in flight.
#[derive(Debug)]
pub(crate) struct Cutter(watch::Sender<bool>);

impl Cutter {
    /// Cuts all requests. Each has its line in the access log all the same.
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

/// A connection, and its count in its worker's load.
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

    /// The handle that cuts the workers' connections.
    pub(crate) fn cutter(&self) -> Cutter {
        Cutter(self.cut.clone())
    }

    /// Hands a connection to the worker that has the fewest. The inbox is bounded by the permits,
    /// one of which each connection holds.
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

    /// The runtime that accepts connections. A single worker accepts itself, so that no connection
    /// crosses threads. Of several workers, none has this work on top of its own.
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
            // A panic was logged when it happened.
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
        // Made here, so that the caller reports a failure.
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
            // Connections that are still open end here, with the runtime: those to upstream, and
            // those of clients at the drain's end.
            cut::because(CutReason::Drained, || drop(runtime));
            // The inbox is closed when the process ends, and not before.
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
            activity: accepted.activity.clone(),
            tunnel: Arc::default(),
            over_limit: accepted.over_limit,
            is_trusted: accepted.is_trusted,
        };
        let (activity, shutdown) = (peer.activity.clone(), shutdown.clone());
        if accepted.is_trusted {
            // A trusted proxy's connection is shared by clients that are not responsible for each
            // other.
            activity.unauthenticated_use.note_authenticated();
        }
        connections.spawn(async move {
            conn::serve(accepted, peer, shutdown).await;
            activity.unauthenticated_use.end_connection();
            drop(share);
        });
        // Removes ended connections from the set.
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
