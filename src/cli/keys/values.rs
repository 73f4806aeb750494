//! Parses and formats values for several commands.

use jiff::Timestamp;

use crate::cli::failure::Failure;
use crate::config::decode::parse_duration;
use crate::keys::record::is_label;
use crate::keys::{KeyRecord, Permission};

/// Returns the current time, rounded down to the second because people read the files.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    // A timestamp without its fraction of a second is always valid.
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Returns the time that is the duration `text` after now. `flag` is named in the error.
pub(super) fn ahead(flag: &str, text: &str) -> Result<Timestamp, Failure> {
    let usage = || Failure::Usage(format!("{flag} {text}: a duration is needed, as in 90d"));
    let duration = parse_duration(text).ok_or_else(usage)?;
    now().checked_add(duration).map_err(|_| usage())
}

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
