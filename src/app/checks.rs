//! Has the endpoints of upstreams with a health check asked how they are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::config::HealthCheck;
use crate::proxy::Gateway;
use crate::upstream::check::{Unfit, check};
use crate::upstream::{Endpoint, Upstream};

/// Who is due is looked for so often,
const LOOK: Duration = Duration::from_millis(100);
/// … and where nobody is to be checked, whether that has changed.
const IDLE_LOOK: Duration = Duration::from_secs(1);

/// What is known of an endpoint that is checked.
struct Checked {
    endpoint: Arc<Endpoint>,
    due: Instant,
    asking: Option<JoinHandle<Result<(), Unfit>>>,
    failures: u32,
    successes: u32,
}

/// Checks for as long as the process lives.
pub(super) async fn run(gateway: Arc<Gateway>) {
    let mut all: HashMap<u64, Checked> = HashMap::new();
    loop {
        let snapshot = gateway.snapshot.load_full();
        let checked = |upstream: &Arc<Upstream>| Some((upstream.clone(), upstream.check.clone()?));
        let upstreams: Vec<(Arc<Upstream>, HealthCheck)> =
            snapshot.upstreams.iter().filter_map(checked).collect();
        drop(snapshot);
        all.retain(|id, checked| {
            let stays =
                upstreams.iter().any(|(upstream, _)| upstream.endpoints.iter().any(|one| one.id == *id));
            if !stays {
                checked.endpoint.health.is_unchecked();
            }
            stays
        });
        for (upstream, settings) in &upstreams {
            for endpoint in &upstream.endpoints {
                let checked = all.entry(endpoint.id).or_insert_with(|| Checked::new(endpoint.clone()));
                checked.go_on(upstream, settings).await;
            }
        }
        tokio::time::sleep(if upstreams.is_empty() { IDLE_LOOK } else { LOOK }).await;
    }
}

impl Checked {
    fn new(endpoint: Arc<Endpoint>) -> Self {
        Checked { endpoint, due: Instant::now(), asking: None, failures: 0, successes: 0 }
    }

    /// Takes an answer that is there, and asks anew where that is due.
    async fn go_on(&mut self, upstream: &Upstream, settings: &HealthCheck) {
        if let Some(asking) = self.asking.take_if(|asking| asking.is_finished()) {
            let found = asking.await.unwrap_or(Err(Unfit::TookTooLong));
            self.note(upstream, settings, found);
        }
        if self.asking.is_some() || Instant::now() < self.due {
            return;
        }
        self.due = Instant::now() + settings.interval;
        let (endpoint, settings, host) = (self.endpoint.clone(), settings.clone(), upstream.host.clone());
        self.asking = Some(tokio::spawn(async move {
            check(&endpoint, &settings.path, host.as_ref(), settings.timeout).await
        }));
    }

    fn note(&mut self, upstream: &Upstream, settings: &HealthCheck, found: Result<(), Unfit>) {
        let (name, address, health) = (&*upstream.name, &self.endpoint.address, &self.endpoint.health);
        match found {
            Ok(()) => {
                (self.failures, self.successes) = (0, self.successes.saturating_add(1));
                if self.successes >= settings.successes && health.found(false) {
                    tracing::info!(upstream = name, endpoint = %address, "an endpoint is well again");
                }
            }
            Err(why) => {
                (self.failures, self.successes) = (self.failures.saturating_add(1), 0);
                if self.failures >= settings.failures && health.found(true) {
                    tracing::warn!(upstream = name, endpoint = %address, error = %why, "an endpoint is not well, and gets no requests");
                }
            }
        }
    }
}
