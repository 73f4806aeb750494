//! The failure of a command.

use std::path::PathBuf;

use crate::app::StartError;
use crate::config::fault::{Fault, Faults};

/// The failure of a command, with its exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A message; exit 1.
    Failed(String),
    /// Wrong usage that clap can't see; exit 2.
    Usage(String),
    /// Faults in files; exit 78.
    Faults(Faults),
    /// Faults of a configuration, or of the files that it names; exit 78.
    InConfig(Faults, PathBuf),
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Failure::Faults(faults)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Failure::Faults(fault.into())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Faults(faults) => Failure::Faults(faults),
            StartError::System { .. } => Failure::Failed(error.to_string()),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Failed(error.to_string())
    }
}
