//! Forgets what is remembered of keys and limits that are no more, so that no map grows with every key there ever was.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use crate::proxy::Gateway;

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(300);

/// Looks for as long as the process lives.
pub(super) async fn run(gateway: Arc<Gateway>) {
    loop {
        tokio::time::sleep(INTERVAL).await;
        let gateway = gateway.clone();
        // With a million keys it takes a moment.
        let _panicked = tokio::task::spawn_blocking(move || tidy(&gateway)).await;
    }
}

/// Forgets what nobody can ask for any more.
fn tidy(gateway: &Gateway) {
    let Gateway { keys, limiter, usage, clock, .. } = gateway;
    limiter.forget_unused();
    // Nearly always there is nobody, and no key is looked at.
    let mut gone: HashSet<String> = usage.unheld().collect();
    if !gone.is_empty() {
        keys.for_each(|live| {
            gone.remove(live.key.id());
        });
    }
    usage.forget(&gone, clock.monotonic_nanos());
}
