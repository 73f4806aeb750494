//! Looks up the names of upstreams' endpoints, again and again.
//!
//! The system's resolver blocks, for long where its servers are away: each look-up has a thread of its own, which is no
//! worker and which nothing waits for at the end of the process.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::proxy::Gateway;
use crate::threads::{Duty, Ended};
use crate::upstream::Upstream;
use crate::upstream::endpoints::EndpointSet;
use crate::upstream::endpoints::Looked;

/// The pause before a name is looked up again that has no address, or whose addresses can't be connected to.
const SHORT_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two looks at which names there are.
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
                // The set lives as long as its entry: no other one has its address meanwhile.
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

    /// Takes a result that is there, and looks the name up where that is due.
    fn go_on(&mut self, upstream: &Upstream, gateway: &Gateway) {
        let Some(named) = self.set.named() else { return };
        let now = Instant::now();
        if let Some(looking) = &mut self.looking {
            let found = match looking.try_recv() {
                Ok(found) => found,
                Err(oneshot::error::TryRecvError::Closed) => Err(io::Error::other("the look-up broke off")),
                Err(oneshot::error::TryRecvError::Empty) => {
                    // Its end wakes the loop.
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
        if named.take_suspicion() {
            let earliest = self.ended.map_or(now, |ended| ended + SHORT_PAUSE);
            self.due = self.due.min(earliest);
        }
        if self.due <= now {
            self.due = now + IDLE_LOOK;
            self.looking = Some(look_up(named.host().to_owned(), gateway));
        }
    }
}

/// Begins a look-up.
fn look_up(host: String, gateway: &Gateway) -> oneshot::Receiver<io::Result<Vec<IpAddr>>> {
    let (found, looking) = oneshot::channel();
    let (hooks, wake) = (gateway.hooks.clone(), gateway.endpoints.wake.clone());
    let spawned = gateway.observers.logs().threads.spawn(Duty::Background, "look-up", move || {
        let _nobody_waits = found.send(hooks.resolve(&host));
        wake.notify_one();
        Ended::Asked
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "a look-up could not be started");
    }
    looking
}

/// Takes over what a look-up found, and logs what is new of it.
fn take(upstream: &Upstream, set: &EndpointSet, found: io::Result<Vec<IpAddr>>) {
    let Some(named) = set.named() else { return };
    let before = named.ended();
    let has_changed = set.looked_up(found);
    let (upstream, name) = (&*upstream.name, named.host());
    match named.ended() {
        Looked::Failed(error) if !matches!(before, Looked::Failed(_)) => match named.has_addresses() {
            true => {
                tracing::warn!(
                    upstream,
                    name,
                    error,
                    "a name can't be looked up; its last known addresses serve"
                );
            }
            false => {
                tracing::error!(upstream, name, error, "a name can't be looked up: it has no address yet")
            }
        },
        Looked::Found if has_changed => {
            let sockets = set.endpoints().into_iter().filter_map(|endpoint| endpoint.looked_up());
            let addresses = sockets.map(|socket| socket.ip().to_string()).collect::<Vec<_>>().join(", ");
            tracing::info!(upstream, name, addresses, "a name has these addresses now");
        }
        Looked::Found if matches!(before, Looked::Failed(_)) => {
            tracing::info!(upstream, name, "a name can be looked up again");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
