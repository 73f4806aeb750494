//! Why a store was not changed.

use std::io;
use std::path::Path;

use crate::config::fault::{Fault, Faults};
use crate::keys::record::KeyRecord;

/// Why a store was not changed.
#[derive(Debug)]
pub(crate) enum EditError {
    /// It is not good as it is.
    Faults(Faults),
    /// It can't be changed from here: why, and what to do.
    Unwritable { why: String, advice: String },
    /// Something else: no such key, a name that is taken, no space left.
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
        "{} is the last key, and a store without keys lets nobody in; `bearward keys revoke {0}` turns it off and keeps \
         its record; to empty the store, edit it by hand (`keys: []`)",
        record.id
    ))
}

/// What the system refused, in words.
pub(super) fn in_words(doing: &str, path: &Path, error: &io::Error) -> EditError {
    EditError::Refused(format!("can't {doing} {}: {error}; nothing was changed", path.display()))
}
