//! Watches the health of the endpoints of upstreams: runs health checks, and tells queues when an ejection
//! may be over.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::config::HealthCheck;
use crate::proxy::Gateway;
use crate::upstream::check::{CheckFailure, check};
use crate::upstream::{Endpoint, Upstream};

/// How often bearward looks for endpoints whose next health check is due or whose ejection is over.
const LOOK: Duration = Duration::from_millis(100);
/// How often bearward looks for configured health checks and queues while no upstream has any.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// An endpoint that has health checks, and the outcomes of its last checks.
struct Checked {
    endpoint: Arc<Endpoint>,
    /// The field `health` of the upstream.
    settings: HealthCheck,
    due: Instant,
    asking: Option<JoinHandle<Result<(), CheckFailure>>>,
    failures: u32,
    successes: u32,
}

/// Watches the health of all endpoints until the process ends.
pub(super) async fn run(gateway: Arc<Gateway>) {
    let mut all: HashMap<u64, Checked> = HashMap::new();
    loop {
        let snapshot = gateway.snapshot.load_full();
        let checked = |upstream: &Arc<Upstream>| Some((upstream.clone(), upstream.check.clone()?));
        let upstreams: Vec<(Arc<Upstream>, HealthCheck)> =
            snapshot.upstreams.iter().filter_map(checked).collect();
        let is_idle = snapshot.upstreams.iter().all(|one| one.check.is_none() && one.queue.is_none());
        drop(snapshot);
        let current: Vec<_> = upstreams.iter().flat_map(|(upstream, _)| upstream.endpoints()).collect();
        all.retain(|id, checked| {
            let stays = current.iter().any(|one| one.id == *id);
            let health = &checked.endpoint.health;
            // If the TLS settings of an upstream change, the new endpoint shares the health of the
            // old one.
            let is_shared = || current.iter().any(|one| Arc::ptr_eq(&one.health, health));
            if !stays && !is_shared() {
                health.clear_check();
            }
            stays
        });
        for (upstream, settings) in &upstreams {
            for endpoint in &upstream.endpoints() {
                let new = || Checked::new(endpoint.clone(), settings.clone());
                let checked = all.entry(endpoint.id).or_insert_with(new);
                if checked.settings != *settings {
                    // If the settings of the upstream change, the outcome of a check with the old
                    // settings is ignored.
                    *checked = new();
                }
                checked.go_on(upstream).await;
            }
        }
        gateway.queues.hand_out_awaited();
        tokio::time::sleep(if is_idle { IDLE_LOOK } else { LOOK }).await;
    }
}

impl Checked {
    fn new(endpoint: Arc<Endpoint>, settings: HealthCheck) -> Self {
        Checked { endpoint, settings, due: Instant::now(), asking: None, failures: 0, successes: 0 }
    }

    /// Records the outcome of a finished check, and starts the next one if it is due.
    async fn go_on(&mut self, upstream: &Arc<Upstream>) {
        if let Some(asking) = self.asking.take_if(|asking| asking.is_finished()) {
            let found = asking.await.unwrap_or(Err(CheckFailure::Timeout));
            self.note(upstream, found);
        }
        if self.asking.is_some() || Instant::now() < self.due {
            return;
        }
        self.due = Instant::now() + self.settings.interval;
        let (endpoint, settings, upstream) = (self.endpoint.clone(), self.settings.clone(), upstream.clone());
        self.asking =
            Some(tokio::spawn(
                async move { check(&endpoint, &settings.path, &upstream, settings.timeout).await },
            ));
    }

    fn note(&mut self, upstream: &Upstream, found: Result<(), CheckFailure>) {
        let (name, endpoint, health) = (&*upstream.name, &self.endpoint, &self.endpoint.health);
        match found {
            Ok(()) => {
                (self.failures, self.successes) = (0, self.successes.saturating_add(1));
                if self.successes >= self.settings.successes && health.record_check(None) {
                    tracing::info!(upstream = name, %endpoint, "an endpoint is healthy again");
                }
            }
            Err(why) => {
                (self.failures, self.successes) = (self.failures.saturating_add(1), 0);
                if self.failures >= self.settings.failures && health.record_check(Some(why.to_string())) {
                    tracing::warn!(upstream = name, %endpoint, error = %why, "an endpoint fails its health checks, and gets no requests");
                }
            }
        }
    }
}
