//! Checks whether upstreams accept connections, caches the result, and logs its changes.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::snapshot::Snapshot;
use crate::upstream::Upstream;
use crate::upstream::connect::try_connection;

/// An endpoint is unreachable if it accepts no connection within this time.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// Shortest time between two checks of the upstreams. Readiness probes cause these checks and need
/// no credential, so anybody may send any number of probes.
const LOOK_AGE: Duration = Duration::from_secs(1);

/// An endpoint of an upstream without a reachable endpoint.
#[derive(Clone, Debug)]
pub(super) struct Unreachable {
    upstream: String,
    /// The endpoint; `None` if the upstream has none, because its name has no address.
    endpoint: Option<String>,
    reason: String,
}

impl Unreachable {
    pub(super) fn json(&self) -> Value {
        json!({"upstream": self.upstream, "endpoint": self.endpoint, "reason": self.reason})
    }
}

/// The result of the last check of the upstreams, with the time of the check.
#[derive(Debug, Default)]
pub(crate) struct Reachable(Mutex<Option<(Instant, Vec<Unreachable>)>>);

impl Reachable {
    /// Returns the endpoints of each upstream that has no reachable one. Checks the upstreams, or returns the last
    /// result if that result is recent. Logs if the first upstream gets unreachable, and if all are reachable again.
    pub(super) async fn check(&self, snapshot: &Snapshot) -> Vec<Unreachable> {
        let mut last = self.0.lock().await;
        if let Some((at, unreachable)) = &*last
            && at.elapsed() < LOOK_AGE
        {
            return unreachable.clone();
        }
        let of_all = snapshot.upstreams.iter().map(|upstream| unreachable(upstream));
        let unreachable = join_all(of_all).await.concat();
        let was_reachable = last.as_ref().is_none_or(|(_, before)| before.is_empty());
        match unreachable.first() {
            Some(Unreachable { upstream, endpoint, reason }) if was_reachable => {
                let endpoints = unreachable.len();
                tracing::warn!(
                    upstream,
                    endpoint,
                    error = reason,
                    endpoints,
                    "not ready: no endpoint of an upstream can be connected to"
                );
            }
            None if !was_reachable => {
                tracing::info!("ready again: an endpoint of each upstream can be connected to");
            }
            _ => {}
        }
        *last = Some((Instant::now(), unreachable.clone()));
        unreachable
    }

    /// Whether the last check of the upstreams found each of them reachable; `true` before the first check has
    /// ended, and during any check.
    pub(super) fn last(&self) -> bool {
        self.0
            .try_lock()
            .map_or(true, |last| last.as_ref().is_none_or(|(_, unreachable)| unreachable.is_empty()))
    }
}

/// Returns the endpoints of an upstream with the reasons why each can't be connected to; none if one of them can.
async fn unreachable(upstream: &Upstream) -> Vec<Unreachable> {
    let name = upstream.name.to_string();
    let endpoints = upstream.endpoints();
    if endpoints.is_empty() {
        let reason = "its name has no address".to_owned();
        return vec![Unreachable { upstream: name, endpoint: None, reason }];
    }
    let tried = endpoints.iter().map(|endpoint| async {
        let reason = match endpoint.health.is_failing_checks() {
            true => "it fails its health checks".to_owned(),
            false => try_connection(endpoint, CONNECT_LIMIT).await.err()?.to_string(),
        };
        Some(Unreachable { upstream: name.clone(), endpoint: Some(endpoint.to_string()), reason })
    });
    let tried: Option<Vec<Unreachable>> = join_all(tried).await.into_iter().collect();
    tried.unwrap_or_default()
}
