//! Parses values of arguments of several commands.

use jiff::Timestamp;

use super::failure::Failure;
use crate::config::decode::parse_duration;
use crate::config::presets::Preset;

/// Parses the name of a preset.
pub(super) fn preset(text: &str) -> Result<Preset, String> {
    let known = Preset::ALL.iter().find(|(name, _)| *name == text);
    known.map(|(_, preset)| *preset).ok_or_else(|| {
        let names: Vec<&str> = Preset::ALL.iter().map(|(name, _)| *name).collect();
        format!("one of {}", names.join(", "))
    })
}

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
