//! The kinds of store, and how the path of a store decides its kind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::fault::{Fault, Faults};
use crate::config::{KeyServer, StorePlace};
use crate::key_store::build_set::{BuildSet, Built, Findings, KeysInService, SetOf};
use crate::key_store::file::read;
use crate::key_store::provisions::Provisions;
use crate::key_store::reading::{AtFault, Reading};
use crate::key_store::redis::RedisStore;
use crate::key_store::{directory, jsonl, settle, text, yaml};
use crate::keys::KeyRecord;
use crate::keys::id_secret::IdSecret;
use crate::shell_word::shell_word;

/// The path of a store of keys, by the kind of the store.
#[derive(Clone, Debug)]
pub(crate) enum Store {
    /// A YAML key file, which people edit.
    Yaml(PathBuf),
    /// A file with one key on each line as JSON, for many keys.
    JsonLines(PathBuf),
    /// A file with one raw token on each line, for migrations.
    Text(PathBuf),
    /// A directory of key files, such as a mounted Secret or ConfigMap.
    Directory(PathBuf),
    /// A Redis or Valkey server, for many replicas.
    Redis(Arc<RedisStore>),
}

impl Store {
    /// Returns the store at a place.
    pub(crate) fn at(place: &StorePlace) -> Result<Self, Fault> {
        match place {
            StorePlace::Path(path) => Store::at_path(path),
            StorePlace::Redis(server) => {
                Ok(Store::Redis(Arc::new(RedisStore::new(KeyServer::clone(server)))))
            }
        }
    }

    /// Returns the store at `path`: a directory, or a file whose extension names its kind.
    pub(crate) fn at_path(path: &Path) -> Result<Self, Fault> {
        if path.is_dir() {
            return Ok(Store::Directory(path.to_owned()));
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("yaml" | "yml") => Ok(Store::Yaml(path.to_owned())),
            Some("jsonl" | "ndjson") => Ok(Store::JsonLines(path.to_owned())),
            Some("txt") => Ok(Store::Text(path.to_owned())),
            // A directory that can't be looked at is none that exists.
            _ if let Err(error) = path.metadata()
                && error.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                Err(Fault::unreadable(path, "the key store", &error))
            }
            _ => Err(Fault::of_file(path, "not a known kind of key store")
                .hint("a file whose name ends in .yaml, .jsonl or .txt, or an existing directory")),
        }
    }

    /// Returns the store at a place if the configuration allows its kind. A plain list of tokens
    /// needs `allow_plaintext`.
    pub(crate) fn allowed_at(place: &StorePlace, allow_plaintext: bool) -> Result<Self, Fault> {
        let store = Store::at(place)?;
        match store {
            Store::Text(path) if !allow_plaintext => {
                let hint = format!(
                    "`keys: {{allow_plaintext: true}}` or `run --allow-plaintext` allows it; better, `bearward keys import {} --keys keys.yaml` \
                     makes a file of hashes of it",
                    shell_word(&path)
                );
                Err(Fault::of_file(
                    &path,
                    "this file would hold plain tokens, which anybody who reads it can use",
                )
                .hint(hint))
            }
            store => Ok(store),
        }
    }

    /// Says, where replicas are waited for, that this process will have the store in service.
    pub(crate) fn announce(&self) {
        if let Store::Redis(store) = self {
            store.announce();
        }
    }

    /// Reads the store for a server that starts and has no keys yet. A store without keys is a
    /// fault, because most likely something is missing; but not a store in a Redis server, which
    /// somebody has begun.
    pub(crate) fn load_first<'k, K: KeysInService>(
        &self,
        reading: Reading<'k, K>,
    ) -> Result<SetOf<'k, K>, Faults> {
        let built = self.build(reading)?;
        let may_be_empty = matches!(self, Store::Redis(_));
        if built.builder.keys() == 0 && !may_be_empty {
            Err(self.without_keys().into())
        } else {
            Ok(built.finish())
        }
    }

    fn without_keys(&self) -> Fault {
        let (path, what) = match self {
            Store::Directory(path) => (path, "the key directory has no keys"),
            Store::Yaml(path) | Store::JsonLines(path) | Store::Text(path) => {
                (path, "the key file has no keys")
            }
            Store::Redis(store) => (&store.server().url, "the key store has no keys"),
        };
        let position = match self {
            Store::Yaml(path) => read(path).ok().and_then(|source| yaml::position_of_list(path, &source)),
            _ => None,
        };
        let fault = match position {
            Some(at) => Fault::at(path, at, what),
            None => Fault::of_file(path, what),
        };
        fault.hint("`bearward keys create --permissions read` makes one")
    }

    /// Reads the store for service, or returns all its faults.
    pub(crate) fn load<'k, K: KeysInService>(&self, reading: Reading<'k, K>) -> Result<SetOf<'k, K>, Faults> {
        Ok(self.build(reading)?.finish())
    }

    fn build<'k, K: KeysInService>(&self, reading: Reading<'k, K>) -> Result<Built<K::Builder<'k>>, Faults> {
        match self {
            Store::JsonLines(path) => jsonl::load(path, reading),
            Store::Redis(store) => store.load(reading),
            Store::Directory(path) => directory::load(path, reading),
            Store::Yaml(path) if reading.at_fault == AtFault::Held => {
                let (mut entries, beside) = yaml::entries(path, &read(path)?)?;
                settle::check_provisions(path, &mut entries, reading.provisions);
                settle::of_file(path, reading.known, entries, beside)
            }
            Store::Text(path) => {
                let entries = text::entries(path, &read(path)?, reading.ids);
                let is_blank = entries.is_empty();
                let mut built = match reading.at_fault {
                    AtFault::Held => settle::of_file(path, reading.known, entries, Vec::new())?,
                    AtFault::Refused => self.good(reading)?,
                };
                built.findings.is_blank = is_blank;
                Ok(built)
            }
            Store::Yaml(_) => self.good(reading),
        }
    }

    /// Builds the set of all keys, or returns the faults if any part of the store has one.
    fn good<'k, K: KeysInService>(&self, reading: Reading<'k, K>) -> Result<Built<K::Builder<'k>>, Faults> {
        let records = self.records(reading.ids)?;
        if !records.iter().all(|record| reading.provisions.admit(record)) {
            return Err(self.faults_of_needs(reading.provisions)?);
        }
        let builder = reading.known.begin().add_all(&records);
        Ok(Built { builder, findings: Findings::default() })
    }

    /// Returns the faults of the entries of a YAML file that need what the configuration does
    /// not have.
    fn faults_of_needs(&self, provisions: Provisions<'_>) -> Result<Faults, Faults> {
        let path = self.path();
        let (mut entries, _) = yaml::entries(path, &read(path)?)?;
        settle::check_provisions(path, &mut entries, provisions);
        Ok(Faults(settle::faults_of(entries).collect()))
    }

    /// Returns the records of all keys, or all faults. `ids` is the secret that makes the ids of
    /// the keys of a plain list.
    pub(crate) fn records(&self, ids: &IdSecret) -> Result<Vec<KeyRecord>, Faults> {
        match self {
            Store::Yaml(path) => yaml::parse(path, &read(path)?),
            Store::JsonLines(path) => jsonl::records(path),
            Store::Text(path) => text::parse(path, &read(path)?, ids),
            Store::Directory(path) => directory::records(path, ids),
            Store::Redis(store) => store.records()?.ok_or_else(|| store.no_store()),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Store::Yaml(path) | Store::JsonLines(path) | Store::Text(path) | Store::Directory(path) => path,
            Store::Redis(store) => &store.server().url,
        }
    }
}
