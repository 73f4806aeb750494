//! Metrics of other proxies that ask.

use std::fmt::Error;

use super::sheet::{Sheet, counted};
use crate::observe::tally::{STATUS_CLASSES, Tally};

/// Writes the numbers of questions, if any proxy has asked.
pub(super) fn write(sheet: &mut Sheet<'_>, tally: &Tally) -> Result<(), Error> {
    if tally.doors.is_empty() {
        return Ok(());
    }
    let help = "Questions of other proxies, by proxy and by class of the status that the client gets";
    let mut family = sheet.counter("door_checks", help)?;
    for (asker, classes) in &tally.doors {
        for (class, count) in STATUS_CLASSES.iter().zip(classes).filter(|(_, count)| **count > 0) {
            counted(&mut family, &[("door", asker.name()), ("status", class)], *count)?;
        }
    }
    Ok(())
}
