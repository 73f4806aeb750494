//! Formats spans of time for people.

use std::time::Duration;

use jiff::Timestamp;

/// Formats the distance of `then` from `now`, such as `in 3d` or `5m ago`.
pub(crate) fn ahead_or_ago(now: Timestamp, then: Timestamp) -> String {
    match Duration::try_from(then.duration_since(now)) {
        Ok(ahead) => format!("in {}", span(ahead)),
        Err(_) => format!("{} ago", span(Duration::try_from(now.duration_since(then)).unwrap_or_default())),
    }
}

/// Formats a duration in its largest unit, such as `3d`.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
