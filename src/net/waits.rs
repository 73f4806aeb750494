//! Waits that connections of HTTP/1.1 and of HTTP/2 share.

use std::time::Duration;

use tokio::time::Instant;

use crate::activity::ConnectionActivity;

/// Time for a client that is refused whatever it asks to send its request.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(2);

/// Ready when the connection has been idle, by `is_idle`, and no request has come for `limit`.
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
        // Checked once in each `limit`: an idle connection lives for up to twice as long, and a
        // busy one costs nothing.
        seen = activity.begun();
        since = Instant::now();
    }
}
