//! Waits and their time limits that HTTP/1.1 and HTTP/2 connections share.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::activity::ConnectionActivity;

/// Time to send a request, on a connection beyond the limit of connections per address. All
/// requests on such a connection are refused.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// Time, after the process began to stop, in which a client that has not sent a request yet may
/// send its first request.
pub(super) const FRESH_GRACE: Duration = Duration::from_secs(1);

/// Completes `FRESH_GRACE` after the process began to stop.
pub(super) async fn grace_is_over(mut shutdown: watch::Receiver<bool>) {
    drop(shutdown.wait_for(|stop| *stop).await);
    tokio::time::sleep(FRESH_GRACE).await;
}

/// Completes when `is_idle` is true and no request has begun for `limit`.
pub(super) async fn watch_idle(
    activity: &ConnectionActivity,
    limit: Duration,
    is_idle: fn(&ConnectionActivity) -> bool,
) {
    let mut seen = activity.begun();
    let mut since = Instant::now();
    loop {
        tokio::time::sleep_until(since + limit).await;
        if is_idle(activity) && activity.begun() == seen {
            return;
        }
        // The connection is checked once per `limit`. An idle connection may therefore last for up
        // to twice `limit`, and a busy one causes no work.
        seen = activity.begun();
        since = Instant::now();
    }
}
