//! What is told of requests, and where.

use std::path::PathBuf;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    pub(crate) level: tracing::Level,
    pub(crate) access: bool,
    pub(crate) access_to: LogTarget,
    /// Of the requests that went well, the share that has an access line: 0 to 1.
    pub(crate) access_sample: f64,
    pub(crate) audit: bool,
    pub(crate) audit_to: LogTarget,
}

impl Default for Log {
    fn default() -> Self {
        Log {
            format: LogFormat::Auto,
            level: tracing::Level::INFO,
            access: true,
            access_to: LogTarget::Stderr,
            access_sample: 1.0,
            audit: true,
            audit_to: LogTarget::Stderr,
        }
    }
}

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LogTarget {
    Stderr,
    Stdout,
    /// Appended to, and opened again on SIGUSR1.
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

/// Where spans of requests go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Traces {
    /// A collector's host and port, which takes OTLP over HTTP.
    pub(crate) authority: String,
    /// Of the requests that come without a trace, the share that is recorded: 0 to 1.
    pub(crate) sample: f64,
    /// What the collector knows us by.
    pub(crate) service_name: String,
}

/// What metrics tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metrics {
    /// Keys that have series of their own; the others share one.
    pub(crate) key_ids: usize,
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics { key_ids: 1000 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Pretty on a terminal, else JSON.
    Auto,
    Json,
    Pretty,
}
