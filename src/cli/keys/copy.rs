//! `bearward keys copy`: copies all keys of a store to another store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::store_argument::ServerAccess;
use crate::cli::failure::Failure;
use crate::cli::terminal::say;
use crate::config::{Config, StorePlace};
use crate::key_store::edit::{Editor, write_all};
use crate::key_store::{Store, id_secret};
use crate::keys::id_secret::IdSecret;
use crate::plural::plural;

#[derive(Debug, Args)]
pub(super) struct Copy {
    /// The store to copy: a .yaml, .jsonl or .txt file, a directory, or the URL of a Redis server
    #[arg(long, value_name = "STORE")]
    from: PathBuf,
    /// The store to make: a .yaml or .jsonl file, a directory, or the URL of a Redis server
    #[arg(long, value_name = "STORE")]
    to: PathBuf,
    /// Replace all keys that the store at --to has; a directory must be empty
    #[arg(long)]
    overwrite: bool,
    /// The configuration with the access to a Redis server
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    access: ServerAccess,
}

impl Copy {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let config = self.config.as_deref().map(Config::load).transpose()?;
        let place = |text: &Path| self.access.place(text, config.as_ref());
        let (from, to) = (place(&self.from)?, place(&self.to)?);
        if from == to {
            return Err(Failure::Usage("--from and --to are the same store".to_owned()));
        }
        let source = Store::at(&from)?;
        let ids = match &source {
            // The ids of a plain list are made with the secret that is kept beside it.
            Store::Text(_) => id_secret::for_command(config.as_ref().map(|config| &config.keys), &from)?,
            _ => Arc::new(IdSecret::random()),
        };
        let records = source.records(&ids)?;
        if records.is_empty() {
            return Err(Failure::Failed(format!("{} has no keys", self.from.display())));
        }
        write_all(&to, &records, self.overwrite)?;
        self.verify(&to, &records)?;
        say(&format!(
            "bearward: {} copied from {} to {}",
            plural(records.len(), "key", "keys"),
            self.from.display(),
            self.to.display()
        ));
        Ok(())
    }

    /// Reads the new store, and compares it with what was copied.
    fn verify(&self, to: &StorePlace, records: &[crate::keys::KeyRecord]) -> Result<(), Failure> {
        let mut written = Editor::open(to, Arc::new(IdSecret::random()))?.records()?;
        let mut expected = records.to_vec();
        written.sort_by(|a, b| a.id.cmp(&b.id));
        expected.sort_by(|a, b| a.id.cmp(&b.id));
        match written == expected {
            true => Ok(()),
            false => Err(Failure::Failed(format!("{} was changed at the same time", self.to.display()))),
        }
    }
}
