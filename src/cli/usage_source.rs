//! Where commands read usage: from the server of shared limits, or from a state directory.

use std::path::PathBuf;

use jiff::Timestamp;

use super::config_path::config_path;
use super::failure::Failure;
use crate::config::Config;
use crate::observe::ledger::{LastUses, day_of};
use crate::shared::{self, Settings};
use crate::state::{self, By, Report, first_day};

/// Where usage is kept.
pub(super) enum UsageSource {
    Directory(PathBuf),
    /// The usage of all replicas.
    Server(Box<Settings>),
}

impl UsageSource {
    /// Returns where usage is kept. `named`: the directory of the argument `--state`.
    ///
    /// # Errors
    ///
    /// The configuration can't be read, or keeps no usage.
    pub(super) fn of(named: Option<&PathBuf>, config: Option<PathBuf>) -> Result<Self, Failure> {
        if let Some(named) = named {
            return Ok(UsageSource::Directory(named.clone()));
        }
        let path = config_path(config)?;
        let config = Config::load(&path).map_err(|faults| Failure::InConfig(faults, path.clone()))?;
        if let Some(shared) = &config.shared {
            let settings = Settings::of(shared)
                .map_err(|faults| Failure::InConfig(config.named_files.placed(faults), path.clone()))?;
            return Ok(UsageSource::Server(Box::new(settings)));
        }
        let nothing_kept = || {
            let path = path.display();
            Failure::Failed(format!("{path} has neither `state` nor `shared`: no usage is kept"))
        };
        Ok(UsageSource::Directory(config.state.ok_or_else(nothing_kept)?.path))
    }

    /// Returns the usage of the last time span of this length.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub(super) fn report(&self, span: std::time::Duration, by: Vec<By>) -> Result<Report, Failure> {
        let now = Timestamp::now();
        let since = first_day(now, span);
        match self {
            UsageSource::Directory(path) => {
                Report::read(path, since, by).map_err(|error| Failure::Failed(error.to_string()))
            }
            UsageSource::Server(settings) => {
                let mut report = Report::new(by);
                let add = |key, counts| report.add(key, counts);
                wait_for(shared::each_row(settings, (since, day_of(now)), add))?;
                Ok(report)
            }
        }
    }

    /// Returns when keys were last used.
    ///
    /// # Errors
    ///
    /// It can't be read.
    pub(super) fn last_uses(&self) -> Result<LastUses, Failure> {
        match self {
            UsageSource::Directory(path) => {
                state::last_uses(path).map_err(|error| Failure::Failed(error.to_string()))
            }
            UsageSource::Server(settings) => wait_for(shared::last_uses(settings)),
        }
    }
}

/// Waits for what a server is asked.
fn wait_for<T>(answer: impl Future<Output = Result<T, String>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::Failed(error.to_string()))?;
    runtime.block_on(answer).map_err(Failure::Failed)
}
