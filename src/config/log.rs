//! `log` and `metrics`: the destinations of log lines, and the labels of metrics.

use std::path::PathBuf;

use tracing::Level;

use crate::config::decode::Decoder;
use crate::config::form::{boolean, number, one_of, share, text};
use crate::config::section::section;
use crate::config::tree::Node;

section! {
    /// The logs, and their destinations.
    #[derive(Clone, Debug, PartialEq)]
    pub(crate) struct Log: Default in "log" {
        /// The format of log lines; auto is pretty on a terminal, and json elsewhere.
        format: LogFormat = one_of(&FORMATS).or(LogFormat::Auto);
        /// The lowest level of events that are logged.
        level: Level = one_of(&LEVELS).or(Level::INFO);
        /// Whether an access line is logged for each request.
        access: bool = boolean().or(true);
        /// The destination of access lines: stderr, stdout or a file.
        access_to: LogTarget = text(log_target).shown().or(LogTarget::Stderr);
        /// The share of successful requests for which an access line is written. Every other request
        /// has a line.
        access_sample: f64 = share().or(1.0);
        /// Whether an audit line is logged for each refusal and each suspicious event.
        audit: bool = boolean().or(true);
        /// The destination of audit lines: stderr, stdout or a file.
        audit_to: LogTarget = text(log_target).shown().or(LogTarget::Stderr);
    }
}

section! {
    /// The labels of metrics.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Metrics: Default in "metrics" {
        /// The number of keys with metric series of their own; all other keys share one.
        key_ids: usize = number(0).or(1000);
        /// The number of models with metric series of their own; all other models share one.
        models: usize = number(0).or(100);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// The pretty format on a terminal, and JSON everywhere else.
    Auto,
    Json,
    Pretty,
}

const FORMATS: [(&str, LogFormat); 3] =
    [("auto", LogFormat::Auto), ("json", LogFormat::Json), ("pretty", LogFormat::Pretty)];

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];

/// The destination of log lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogTarget {
    Stderr,
    Stdout,
    /// A file. Log lines are appended to the file. After the signal SIGUSR1, bearward opens the
    /// file again.
    File(PathBuf),
}

impl std::fmt::Display for LogTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LogTarget::Stderr => f.write_str("stderr"),
            LogTarget::Stdout => f.write_str("stdout"),
            LogTarget::File(path) => path.display().fmt(f),
        }
    }
}

fn log_target(d: &mut Decoder<'_>, node: &Node) -> Option<LogTarget> {
    match d.word(node)?.as_str() {
        "stderr" => Some(LogTarget::Stderr),
        "stdout" => Some(LogTarget::Stdout),
        path if path.starts_with('/') || path.starts_with('.') => d.written_path(node).map(LogTarget::File),
        other => d.hinted(
            node.at,
            format!("`{other}` is no destination of a log"),
            "stderr, stdout, or a file's path, as in /var/log/bearward/access.log",
        ),
    }
}
