//! Parses and formats values for several commands.

pub(super) use crate::cli::values::{ahead, now};
use crate::keys::record::is_label;
use crate::keys::{KeyRecord, Permission};

pub(super) fn permission(text: &str) -> Result<Permission, String> {
    Permission::named(text).ok_or_else(|| "one of read, write, admin, webhook".to_owned())
}

/// Returns the id of a key, and its name if it has one: `key_… (name)`.
pub(super) fn named(record: &KeyRecord) -> String {
    match &record.name {
        Some(name) => format!("{} ({name})", record.id),
        None => record.id.clone(),
    }
}

/// Returns `text` if `text` is a valid name for a key.
pub(super) fn label(text: &str) -> Result<String, String> {
    match is_label(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("must not be empty, hold control characters, nor begin or end with white space".to_owned())
        }
    }
}
