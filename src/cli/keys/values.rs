//! Values that several commands read or print.

use jiff::Timestamp;

use crate::cli::failure::Failure;
use crate::config::decode::parse_duration;
use crate::keys::record::is_label;
use crate::keys::{KeyRecord, Permission};

/// The current time to the second, since people read the files.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    // Every second of a timestamp is one itself.
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// The instant after the duration `text` from now.
pub(super) fn ahead(flag: &str, text: &str) -> Result<Timestamp, Failure> {
    let usage = || Failure::Usage(format!("{flag} {text}: a duration is needed, as in 90d"));
    let duration = parse_duration(text).ok_or_else(usage)?;
    now().checked_add(duration).map_err(|_| usage())
}

pub(super) fn permission(text: &str) -> Result<Permission, String> {
    Permission::named(text).ok_or_else(|| "one of read, write, admin, webhook".to_owned())
}

/// `key_… (name)`.
pub(super) fn named(record: &KeyRecord) -> String {
    match &record.name {
        Some(name) => format!("{} ({name})", record.id),
        None => record.id.clone(),
    }
}

/// Text that may be a name.
pub(super) fn label(text: &str) -> Result<String, String> {
    match is_label(text) {
        true => Ok(text.to_owned()),
        false => {
            Err("must not be empty, hold control characters, nor begin or end with white space".to_owned())
        }
    }
}
