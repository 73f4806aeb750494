//! The error type of all commands.

use std::path::PathBuf;

use crate::app::StartError;
use crate::config::fault::{Fault, Faults};

/// The failure of a command. Each kind has an exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command failed, with this message; exit code 1.
    Failed(String),
    /// The arguments are wrong in a way that clap does not check; exit code 2.
    Usage(String),
    /// Faults in files; exit code 78.
    Faults(Faults),
    /// Faults of the configuration at this path, or of files that it names; exit code 78.
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
