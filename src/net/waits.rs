//! Waits that connections of HTTP/1.1 and of HTTP/2 share.

use std::time::Duration;

use tokio::time::Instant;

use crate::activity::ConnectionActivity;

/// A client that is refused whatever it asks gets this long to ask.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// Ends when the connection has been idle, as `is_idle` has it, and no request has come for `limit`.
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
        // Looked at once a limit: an idle connection lives for up to twice as long, and a busy one costs nothing.
        seen = activity.begun();
        since = Instant::now();
    }
}
