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
    /// There is no configuration; exit code 78.
    NoConfiguration,
    /// Faults in files; exit code 78.
    Faults(Faults),
    /// Faults of the configuration at this path, or of files that it names; exit code 78.
    InConfig(Faults, PathBuf),
}

/// What to type where there is no configuration.
pub(crate) const NO_CONFIGURATION: &str = "\
no configuration: neither ./bearward.yaml nor /etc/bearward/config.yaml exists
  bearward init                      writes one, and a first key
  bearward COMMAND --config FILE     reads yours, as $BEARWARD_CONFIG does
  bearward keys list --keys FILE     reads a key store without one, as all `keys` commands do
  bearward run --upstream http://127.0.0.1:8000 --keys keys.yaml     needs none
  bearward demo                      shows what bearward does";

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
