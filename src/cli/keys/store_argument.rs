//! The arguments that name the key store of a command.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use crate::cli::config_path::config_path;
use crate::cli::failure::Failure;
use crate::config::{Config, Position, StorePlace};
use crate::key_store::edit::{EditError, Editor};
use crate::key_store::provisions::{Provided, Provisions};
use crate::key_store::{Store, id_secret};
use crate::keys::KeyRecord;
use crate::keys::id_secret::IdSecret;

/// The arguments that name the store.
#[derive(Debug, Args)]
pub(super) struct StoreArgument {
    /// The key store: a .yaml, .jsonl or .txt file, a directory, or the URL of a Redis server
    /// [default: the configuration's keys.path]
    #[arg(long, value_name = "PATH")]
    keys: Option<PathBuf>,
    /// The configuration, which names the key store if --keys is not given
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    access: ServerAccess,
}

/// The access to a store in a Redis server, in place of the configuration's. The password is in the
/// environment variable BEARWARD_REDIS_PASSWORD.
#[derive(Debug, Args)]
pub(super) struct ServerAccess {
    /// The authorities that may have signed the certificate of a `rediss://` server, PEM
    #[arg(long, value_name = "FILE")]
    redis_ca: Option<PathBuf>,
    /// The certificate that is shown to a `rediss://` server, PEM
    #[arg(long, value_name = "FILE", requires = "redis_key")]
    redis_cert: Option<PathBuf>,
    /// The private key of --redis-cert
    #[arg(long, value_name = "FILE", requires = "redis_cert")]
    redis_key: Option<PathBuf>,
    /// The beginning of the store's names in the server [default: the configuration's
    /// shared.prefix, or bw]
    #[arg(long, value_name = "NAME")]
    redis_prefix: Option<String>,
}

/// The environment variable with the password of a Redis server.
const PASSWORD: &str = "BEARWARD_REDIS_PASSWORD";

impl ServerAccess {
    /// Parses an argument that names a store.
    pub(super) fn place(&self, text: &Path, config: Option<&Config>) -> Result<StorePlace, Failure> {
        let mut place = StorePlace::parse(text)?;
        if let Some(config) = config {
            place.reached_as(&config.keys.path, config.shared.as_ref());
        }
        self.reached(place)
    }

    /// Adds what is given to the access.
    fn reached(&self, mut place: StorePlace) -> Result<StorePlace, Failure> {
        let is_plain = |prefix: &String| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
            !prefix.is_empty() && prefix.len() <= 64 && prefix.bytes().all(is_plain)
        };
        if self.redis_prefix.as_ref().is_some_and(|prefix| !is_plain(prefix)) {
            return Err(Failure::Usage(
                "--redis-prefix has 1 to 64 letters, digits or any of `-_.:`".to_owned(),
            ));
        }
        let password = std::env::var(PASSWORD).ok().filter(|password| !password.is_empty());
        let client = self.redis_cert.clone().zip(self.redis_key.clone());
        place.reached_with(password, self.redis_ca.clone(), client, self.redis_prefix.clone());
        Ok(place)
    }
}

impl StoreArgument {
    /// Checks that the configuration, if it is known, has what new keys need.
    pub(super) fn check_needs(&self, records: &[KeyRecord]) -> Result<(), Failure> {
        let Some(config) = self.configuration()? else { return Ok(()) };
        let (provided, path) = (Provided::by(&config), self.path()?);
        let fault = |record| Provisions::Of(&provided).fault(record, &path, Position::default());
        match records.iter().find_map(fault) {
            None => Ok(()),
            Some(fault) => Err(Failure::Failed(match fault.hint {
                Some(hint) => format!("{} ({hint})", fault.message),
                None => fault.message,
            })),
        }
    }

    /// Returns the path that `--config` gives.
    pub(super) fn configuration_path(&self) -> Option<PathBuf> {
        self.config.clone()
    }

    /// Returns the place of the store, with the access to its server.
    pub(super) fn place(&self) -> Result<StorePlace, Failure> {
        let config = self.configuration()?;
        match &self.keys {
            Some(text) => self.access.place(text, config.as_ref()),
            None => {
                let no_store = || Failure::Usage("--keys or --config is needed".to_owned());
                let place = config.map(|config| config.keys.path).ok_or_else(no_store)?;
                self.access.reached(place)
            }
        }
    }

    /// Returns the path of the store, or its URL.
    pub(super) fn path(&self) -> Result<PathBuf, Failure> {
        Ok(self.place()?.path().to_owned())
    }

    /// Returns the secret from which bearward makes an id for a credential that contains no id. A
    /// server with this store uses the same secret.
    pub(super) fn ids(&self) -> Result<Arc<IdSecret>, Failure> {
        let config = self.configuration()?;
        Ok(id_secret::for_command(config.as_ref().map(|config| &config.keys), &self.place()?)?)
    }

    /// Returns the secret from which the ids of the store's keys are made. Only a text store needs
    /// this secret; for any other store, the secret is random.
    pub(super) fn ids_of_store(&self) -> Result<Arc<IdSecret>, Failure> {
        match Store::at(&self.place()?)? {
            Store::Text(_) => self.ids(),
            _ => Ok(Arc::new(IdSecret::random())),
        }
    }

    /// Opens the store for a change.
    pub(super) fn editor(&self) -> Result<Editor, Failure> {
        Ok(Editor::open(&self.place()?, self.ids_of_store()?)?)
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
            EditError::NoSuchKey(message) | EditError::Refused(message) => Failure::Failed(message),
        }
    }
}
