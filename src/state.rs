//! State that survives a restart, in the directory `state.path`: budgets, windows of an hour and more,
//! usage, and when keys were last used.
//!
//! The directory has a journal (`crate::journal`) of budgets, windows and last uses, and one journal of
//! usage for each day, in `usage/DAY`. Journals of old days are removed. A thread, the [`Keeper`],
//! writes what has changed, once a second. No request waits for it.

mod directory;
mod entries;
mod fleet;
mod keeper;
mod report;
mod usage;

pub(crate) use directory::State;
pub(crate) use fleet::Fleet;
pub(crate) use keeper::{Health, Keeper, Keeping};
pub(crate) use report::{By, COUNTS, Report, first_day, parts};
pub(crate) use usage::last_uses;
