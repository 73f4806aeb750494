//! Spans of time as people tell them.

use std::time::Duration;

use jiff::Timestamp;

/// How far away `then` is, as in `in 3d` and `5m ago`.
pub(crate) fn ahead_or_ago(now: Timestamp, then: Timestamp) -> String {
    match Duration::try_from(then.duration_since(now)) {
        Ok(ahead) => format!("in {}", span(ahead)),
        Err(_) => format!("{} ago", span(Duration::try_from(now.duration_since(then)).unwrap_or_default())),
    }
}

/// In its largest unit.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}
