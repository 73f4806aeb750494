//! Lookups of the names of upstreams' endpoints.
//!
//! The system's resolver blocks, for long where its servers are away. Each lookup has a thread of
//! its own, which is no worker, and for which the end of the process does not wait.

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

/// The pause before the next lookup of a name without an address, or whose addresses can't be
/// connected to.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two checks of the configured names.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// A name that is looked up.
struct Watched {
    set: Arc<EndpointSet>,
    due: Instant,
    ended: Option<Instant>,
    looking: Option<oneshot::Receiver<io::Result<Vec<IpAddr>>>>,
}

/// Looks names up for as long as the process lives.
pub(super) async fn run(gateway: Arc<Gateway>) {
    let mut all: HashMap<usize, Watched> = HashMap::new();
    loop {
        let snapshot = gateway.snapshot.load_full();
        let mut next = Instant::now() + IDLE_LOOK;
        let mut current = Vec::new();
        for upstream in &snapshot.upstreams {
            for set in upstream.sets.iter().filter(|set| set.named().is_some()) {
                // The set lives as long as its entry: no other set has its address meanwhile.
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

    /// Takes the result of a finished lookup, and begins the next one when it is due.
    fn go_on(&mut self, upstream: &Upstream, gateway: &Gateway) {
        let Some(named) = self.set.named() else { return };
        let now = Instant::now();
        if let Some(looking) = &mut self.looking {
            let found = match looking.try_recv() {
                Ok(found) => found,
                Err(oneshot::error::TryRecvError::Closed) => Err(io::Error::other("the lookup broke off")),
                Err(oneshot::error::TryRecvError::Empty) => {
                    // The end of the lookup wakes the loop.
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

/// Begins a lookup.
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

/// Applies the result of a lookup, and logs changes.
fn take(upstream: &Upstream, set: &EndpointSet, found: io::Result<Vec<IpAddr>>) {
    let Some(named) = set.named() else { return };
    let before = named.look_up();
    let has_changed = set.apply_look_up(found);
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
