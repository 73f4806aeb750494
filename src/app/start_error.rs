//! The reasons why a server can't start.

use std::fmt;
use std::io;

use crate::config::fault::Faults;

/// The reason why a server could not start.
#[derive(Debug)]
pub enum StartError {
    /// Faults in files: the configuration, keys or certificates.
    Faults(Faults),
    /// A failed call to the operating system.
    System {
        /// The step that failed, as a phrase such as "can't listen on 127.0.0.1:80".
        doing: String,
        /// The error of the operating system.
        error: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Faults(faults) => faults.fmt(f),
            StartError::System { doing, error } => write!(f, "{doing}: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl From<Faults> for StartError {
    fn from(faults: Faults) -> Self {
        StartError::Faults(faults)
    }
}
