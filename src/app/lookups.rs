//! DNS lookups of the names of upstream endpoints.
//!
//! The system's resolver blocks, for a long time if its DNS servers are unreachable. Each lookup
//! therefore has a thread of its own, so that no worker blocks. The process ends without waiting
//! for a lookup.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::proxy::Gateway;
use crate::thread_supervisor::{Duty, Ended};
use crate::upstream::Upstream;
use crate::upstream::endpoints::EndpointSet;
use crate::upstream::endpoints::LookUp;

/// Pause before the next lookup of a name that has no address yet, or whose addresses refuse
/// connections.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two passes over the configured names.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// The lookups of one endpoint name: when the next lookup is due, and the lookup that is running.
struct Watched {
    set: Arc<EndpointSet>,
    due: Instant,
    ended: Option<Instant>,
    looking: Option<oneshot::Receiver<io::Result<Vec<IpAddr>>>>,
}

/// Looks up the names of endpoints until the process ends.
pub(super) async fn run(gateway: Arc<Gateway>) {
    let mut all: HashMap<usize, Watched> = HashMap::new();
    loop {
        let snapshot = gateway.snapshot.load_full();
        let mut next = Instant::now() + IDLE_LOOK;
        let mut current = Vec::new();
        for upstream in &snapshot.upstreams {
            for set in upstream.sets.iter().filter(|set| set.named().is_some()) {
                // The address of the `EndpointSet` in memory serves as its id. No other set can
                // have the same address, because the entry in `all` keeps this set alive.
                let id = Arc::as_ptr(set).addr();
                current.push(id);
                let watched = all.entry(id).or_insert_with(|| Watched::new(set.clone()));
                watched.go_on(upstream, &gateway);
                next = next.min(watched.due);
            }
        }
        drop(snapshot);
        all.retain(|id, _| current.contains(id));
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            () = gateway.endpoints.wake.notified() => {}
        }
    }
}

impl Watched {
    fn new(set: Arc<EndpointSet>) -> Self {
        Watched { set, due: Instant::now(), ended: None, looking: None }
    }

    /// Applies the result of a finished lookup, and starts the next one if it is due.
    fn go_on(&mut self, upstream: &Upstream, gateway: &Gateway) {
        let Some(named) = self.set.named() else { return };
        let now = Instant::now();
        if let Some(looking) = &mut self.looking {
            let found = match looking.try_recv() {
                Ok(found) => found,
                Err(oneshot::error::TryRecvError::Closed) => Err(io::Error::other("the lookup broke off")),
                Err(oneshot::error::TryRecvError::Empty) => {
                    // The lookup is still running. When it ends, its thread wakes the loop in
                    // `run`.
                    self.due = now + IDLE_LOOK;
                    return;
                }
            };
            (self.looking, self.ended) = (None, Some(now));
            take(upstream, &self.set, found);
            self.due = now + upstream.resolve;
            if !named.has_addresses() {
                self.due = now + upstream.resolve.min(SHORT_PAUSE);
            }
        }
        if named.take_look_up_request() {
            let earliest = self.ended.map_or(now, |ended| ended + SHORT_PAUSE);
            self.due = self.due.min(earliest);
        }
        if self.due <= now {
            self.due = now + IDLE_LOOK;
            self.looking = Some(look_up(named.host().to_owned(), gateway));
        }
    }
}

/// Starts a thread that looks up `host`.
fn look_up(host: String, gateway: &Gateway) -> oneshot::Receiver<io::Result<Vec<IpAddr>>> {
    let (found, looking) = oneshot::channel();
    let (hooks, wake) = (gateway.hooks.clone(), gateway.endpoints.wake.clone());
    let spawned = gateway.observers.logs().threads.spawn(Duty::Background, "lookup", move || {
        let _nobody_waits = found.send(hooks.resolve(&host));
        wake.notify_one();
        Ended::Asked
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "a lookup could not be started");
    }
    looking
}

/// Applies the result of a lookup to the endpoints, and logs what changed.
fn take(upstream: &Upstream, set: &EndpointSet, found: io::Result<Vec<IpAddr>>) {
    let Some(named) = set.named() else { return };
    let before = named.look_up();
    let has_changed = set.apply_look_up(found);
    // A first lookup that failed ends the wait of requests, too.
    upstream.note_change();
    let (upstream, name) = (&*upstream.name, named.host());
    match named.look_up() {
        LookUp::Failed(error) if !matches!(before, LookUp::Failed(_)) => match named.has_addresses() {
            true => {
                tracing::warn!(
                    upstream,
                    name,
                    error,
                    "a name can't be looked up; its last known addresses are used"
                );
            }
            false => {
                tracing::error!(upstream, name, error, "a name can't be looked up: it has no address yet")
            }
        },
        LookUp::Found if has_changed => {
            let sockets = set.endpoints().into_iter().filter_map(|endpoint| endpoint.resolved_address());
            let addresses = sockets.map(|socket| socket.ip().to_string()).collect::<Vec<_>>().join(", ");
            tracing::info!(upstream, name, addresses, "a name has these addresses now");
        }
        LookUp::Found if matches!(before, LookUp::Failed(_)) => {
            tracing::info!(upstream, name, "a name can be looked up again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
