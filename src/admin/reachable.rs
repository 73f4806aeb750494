//! Checks whether upstreams accept connections, and caches the result.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::Mutex;

use crate::snapshot::Snapshot;
use crate::upstream::connect::is_reachable;

/// An endpoint is unreachable if it accepts no connection within this time.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Shortest time between two checks of the upstreams. Readiness probes cause these checks and need
/// no credential, so anybody may send any number of probes.
const LOOK_AGE: Duration = Duration::from_secs(1);

/// The result of the last check of the upstreams, with the time of the check.
#[derive(Debug, Default)]
pub(crate) struct Reachable(Mutex<Option<(Instant, bool)>>);

impl Reachable {
    /// Whether each upstream has a reachable endpoint. Checks the upstreams, or returns the last
    /// result if that result is recent.
    pub(super) async fn check(&self, snapshot: &Snapshot) -> bool {
        let mut last = self.0.lock().await;
        if let Some((at, is_reachable)) = *last
            && at.elapsed() < LOOK_AGE
        {
            return is_reachable;
        }
        let of_all = snapshot.upstreams.iter().map(|upstream| async {
            let endpoints = upstream.endpoints();
            let fit = endpoints.iter().filter(|endpoint| !endpoint.health.is_failing_checks());
            join_all(fit.map(|endpoint| is_reachable(endpoint, CONNECT_LIMIT))).await.contains(&true)
        });
        let are_reachable = !join_all(of_all).await.contains(&false);
        *last = Some((Instant::now(), are_reachable));
        are_reachable
    }

    /// Returns the result of the last check of the upstreams; `true` before the first check has
    /// ended, and during any check.
    pub(super) fn last(&self) -> bool {
        self.0.try_lock().map_or(true, |last| last.is_none_or(|(_, is_reachable)| is_reachable))
    }
}
