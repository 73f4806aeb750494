//! The arguments that name the key store of a command.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use crate::cli::config_path::config_path;
use crate::cli::failure::Failure;
use crate::config::Config;
use crate::key_store::edit::{EditError, Editor};
use crate::key_store::{Store, id_secret};
use crate::keys::id_secret::IdSecret;

/// The arguments that name the store.
#[derive(Debug, Args)]
pub(super) struct StoreArgument {
    /// The key store: a .yaml, .jsonl or .txt file, or a directory [default: the configuration's keys.path]
    #[arg(long, value_name = "PATH")]
    keys: Option<PathBuf>,
    /// The configuration, which names the key store if --keys is not given
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl StoreArgument {
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        match &self.keys {
            Some(path) => Ok(path.clone()),
            None => Ok(Config::load(&config_path(self.config.clone())?)?.keys.path),
        }
    }

    /// Returns the secret from which bearward makes an id for a credential that contains no id. A
    /// server with this store uses the same secret.
    pub(super) fn ids(&self) -> Result<Arc<IdSecret>, Failure> {
        let config = self.configuration()?;
        Ok(id_secret::for_command(config.as_ref().map(|config| &config.keys), &self.path()?)?)
    }

    /// Returns the secret from which the ids of the store's keys are made. Only a text store needs
    /// this secret; for any other store, the secret is random.
    pub(super) fn ids_of_store(&self) -> Result<Arc<IdSecret>, Failure> {
        match Store::at(&self.path()?)? {
            Store::Text(_) => self.ids(),
            _ => Ok(Arc::new(IdSecret::random())),
        }
    }

    /// Opens the store for a change.
    pub(super) fn editor(&self) -> Result<Editor, Failure> {
        Ok(Editor::open(&self.path()?, self.ids_of_store()?)?)
    }

    /// Loads the configuration, if `--config` is given or `--keys` is not.
    pub(super) fn configuration(&self) -> Result<Option<Config>, Failure> {
        match (&self.keys, &self.config) {
            (Some(_), None) => Ok(None),
            (_, config) => Ok(Some(Config::load(&config_path(config.clone())?)?)),
        }
    }
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Faults(faults) => Failure::Faults(faults),
            EditError::Unwritable { reason, hint } => Failure::Failed(format!("{reason}; {hint}")),
            EditError::Refused(message) => Failure::Failed(message),
        }
    }
}
