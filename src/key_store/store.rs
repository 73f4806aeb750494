//! Where keys come from. Stores are told apart here, and nowhere else.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::id_secret::IdSecret;
use super::{directory, jsonl, settle, text, yaml};
use crate::bom;
use crate::config::fault::{Fault, Faults};
use crate::key_cache::builder::SetBuilder;
use crate::key_cache::set::{AtFault, KeySet, Reading};
use crate::keys::KeyRecord;
use crate::regular_file;

/// No honest file that is read whole is larger; a million keys belong into JSON Lines.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// A place that holds keys, and the form that they have there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// A YAML key file, for people.
    Yaml(PathBuf),
    /// A key a line as JSON, for many.
    JsonLines(PathBuf),
    /// A raw token a line, for moving over.
    Text(PathBuf),
    /// A file a key: a mounted Secret or ConfigMap.
    Directory(PathBuf),
}

impl Store {
    /// The store at `path`, which is a directory or has a name that says what it is.
    pub(crate) fn at(path: &Path) -> Result<Self, Fault> {
        if path.is_dir() {
            return Ok(Store::Directory(path.to_owned()));
        }
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension {
            Some("yaml" | "yml") => Ok(Store::Yaml(path.to_owned())),
            Some("jsonl" | "ndjson") => Ok(Store::JsonLines(path.to_owned())),
            Some("txt") => Ok(Store::Text(path.to_owned())),
            _ => Err(Fault::of_file(path, "not a kind of key store that is known").hint(
                "a file whose name ends in .yaml, .jsonl or .txt, or a directory that is there already",
            )),
        }
    }

    /// The same, of those that the configuration allows: a store of plain tokens has to be asked for.
    pub(crate) fn allowed_at(path: &Path, allow_plaintext: bool) -> Result<Self, Fault> {
        let store = Store::at(path)?;
        match store {
            Store::Text(path) if !allow_plaintext => {
                let hint = format!(
                    "`keys: {{allow_plaintext: true}}` or `run --allow-plaintext` allows it; better, `bearward keys import {} --keys keys.yaml` \
                     makes a file of hashes of it",
                    path.display()
                );
                Err(Fault::of_file(
                    &path,
                    "this file would hold keys as they are, readable to whoever reads it",
                )
                .hint(hint))
            }
            store => Ok(store),
        }
    }

    /// As [`Store::load`], of a store of which nothing is in service yet. One without keys is a fault: nobody has taken keys
    /// away from a server that had none, so most likely something is missing.
    pub(crate) fn load_first(&self, reading: Reading<'_>) -> Result<KeySet, Faults> {
        let set = self.load(reading)?;
        if set.keys == 0 { Err(self.without_keys().into()) } else { Ok(set) }
    }

    fn without_keys(&self) -> Fault {
        let (path, what) = match self {
            Store::Directory(path) => (path, "the key directory has no keys"),
            Store::Yaml(path) | Store::JsonLines(path) | Store::Text(path) => {
                (path, "the key file has no keys")
            }
        };
        let place = match self {
            Store::Yaml(path) => read(path).ok().and_then(|source| yaml::place_of_list(path, &source)),
            _ => None,
        };
        let fault = match place {
            Some(at) => Fault::at(path, at, what),
            None => Fault::of_file(path, what),
        };
        fault.hint("`bearward keys create --permissions read` makes one")
    }

    /// Reads the whole store for service, or says all that is wrong with it.
    pub(crate) fn load(&self, reading: Reading<'_>) -> Result<KeySet, Faults> {
        match self {
            Store::JsonLines(path) => jsonl::load(path, reading),
            Store::Directory(path) => directory::load(path, reading),
            Store::Yaml(path) if reading.at_fault == AtFault::Held => {
                let (entries, beside) = yaml::entries(path, &read(path)?)?;
                settle::of_file(path, reading.known, entries, beside)
            }
            Store::Text(path) => {
                let entries = text::entries(path, &read(path)?, reading.ids);
                let is_blank = entries.is_empty();
                let set = match reading.at_fault {
                    AtFault::Held => settle::of_file(path, reading.known, entries, Vec::new())?,
                    AtFault::Refused => self.good(reading)?,
                };
                Ok(KeySet { is_blank, ..set })
            }
            Store::Yaml(_) => self.good(reading),
        }
    }

    /// All keys, where all of the store is good.
    fn good(&self, reading: Reading<'_>) -> Result<KeySet, Faults> {
        Ok(SetBuilder::new(reading.known).add_all(&self.records(reading.ids)?).finish())
    }

    /// Every key as the store describes it, or all that is wrong. `ids`: what names the keys of a plain list.
    pub(crate) fn records(&self, ids: &IdSecret) -> Result<Vec<KeyRecord>, Faults> {
        match self {
            Store::Yaml(path) => yaml::parse(path, &read(path)?),
            Store::JsonLines(path) => jsonl::records(path),
            Store::Text(path) => text::parse(path, &read(path)?, ids),
            Store::Directory(path) => directory::records(path, ids),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Store::Yaml(path) | Store::JsonLines(path) | Store::Text(path) | Store::Directory(path) => path,
        }
    }
}

/// A file of keys that can't be read, with what makes one where there is none.
pub(in crate::key_store) fn unreadable(path: &Path, error: &std::io::Error) -> Fault {
    let fault = Fault::of_file(path, format!("the key file can't be read: {error}"));
    match error.kind() {
        std::io::ErrorKind::NotFound => fault
            .hint(format!("`bearward keys create --keys {} --permissions read` makes it", path.display())),
        _ => fault,
    }
}

/// Opens a file of keys, and nothing else: a pipe would be waited for, a device has no end.
pub(in crate::key_store) fn open(path: &Path) -> Result<fs::File, Fault> {
    regular_file::open(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidInput => Fault::of_file(path, "is not a regular file"),
        _ => unreadable(path, &error),
    })
}

/// The text of a file of keys.
pub(crate) fn read(path: &Path) -> Result<String, Fault> {
    let file = open(path)?;
    let too_large = || {
        let fault = Fault::of_file(path, "the key file is larger than 256 MiB");
        Err(fault.hint("keys.jsonl holds a million keys"))
    };
    if file.metadata().is_ok_and(|metadata| metadata.len() > MAX_BYTES) {
        return too_large();
    }
    let mut source = String::new();
    match file.take(MAX_BYTES + 1).read_to_string(&mut source) {
        Ok(length) if length as u64 > MAX_BYTES => too_large(),
        Ok(_) => Ok(bom::without(&source).to_owned()),
        Err(error) => Err(unreadable(path, &error)),
    }
}
