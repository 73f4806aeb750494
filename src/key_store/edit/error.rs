//! The reasons why a store was not changed.

use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::config::fault::{Fault, Faults};
use crate::keys::record::KeyRecord;

/// The reason why a store was not changed.
#[derive(Debug)]
pub(crate) enum EditError {
    /// The store has faults, so it was not changed.
    Faults(Faults),
    /// This host or user can't change the store.
    Unwritable { reason: String, hint: String },
    /// The store has no such key.
    NoSuchKey(String),
    /// Another reason, such as a name that another key has, or a full disk.
    Refused(String),
}

impl From<Faults> for EditError {
    fn from(faults: Faults) -> Self {
        EditError::Faults(faults)
    }
}

impl From<Fault> for EditError {
    fn from(fault: Fault) -> Self {
        EditError::Faults(fault.into())
    }
}

pub(super) fn refused<T>(message: impl Into<String>) -> Result<T, EditError> {
    Err(EditError::Refused(message.into()))
}

pub(super) fn last<T>(record: &KeyRecord) -> Result<T, EditError> {
    refused(format!(
        "{} is the last key, and a store without keys admits no client; `bearward keys revoke {0}` turns it off and keeps \
         its record; to empty the store, edit it by hand (`keys: []`)",
        record.id
    ))
}

/// Removes files of keys after a fault that keeps others from being added. Returns the fault, with the files that
/// can't be removed.
pub(super) fn taken_back(fault: EditError, added: &[PathBuf]) -> EditError {
    let left: Vec<String> = added
        .iter()
        .filter(|file| fs::remove_file(file).is_err())
        .map(|file| file.display().to_string())
        .collect();
    if left.is_empty() {
        return fault;
    }
    let left = left.join(", ");
    match fault {
        EditError::Unwritable { reason, hint } => {
            EditError::Unwritable { reason: format!("{reason}; {left} can't be removed again"), hint }
        }
        EditError::Refused(message) | EditError::NoSuchKey(message) => {
            EditError::Refused(format!("{message}; {left} can't be removed again"))
        }
        EditError::Faults(faults) => EditError::Refused(format!("{faults}; {left} can't be removed again")),
    }
}

/// Makes a message from the error of a failed system call.
pub(super) fn in_words(doing: &str, path: &Path, error: &io::Error) -> EditError {
    EditError::Refused(format!("can't {doing} {}: {error}; nothing was changed", path.display()))
}
