//! What the thread of the state directory does for the server of shared limits: it keeps what that server
//! was not told yet.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use jiff::ToSpan;
use jiff::civil::Date;

use super::entries::{Entry, Records, settlement_key};
use super::usage::{days, directory_of, rows_of};
use crate::limit::{Unsettled, UnsettledChanges};
use crate::observe::untold::Untold;

/// What the server was not told, and what of it is on disk.
pub(crate) struct Fleet {
    pub(super) untold: Arc<Untold>,
    unsettled: Arc<Unsettled>,
    /// Days of which the server may not know all.
    open_days: BTreeSet<Date>,
    /// A day before yesterday that is being told as a whole.
    offered: Option<Date>,
    /// A day that was told, which is being written to the journal.
    closing: Option<Date>,
}

impl Fleet {
    pub(crate) fn new(untold: Arc<Untold>, unsettled: Arc<Unsettled>) -> Self {
        Fleet { untold, unsettled, open_days: BTreeSet::new(), offered: None, closing: None }
    }

    /// Finds the days of the directory that were not told as a whole. `written`: the entries of its journal.
    pub(super) fn find_open_days(&mut self, state: &Path, written: &Records) {
        let is_open = |day: &Date| !written.contains_key(&Entry::Told { day: *day }.encode().0);
        let days = days(state).unwrap_or_default();
        self.open_days = days.into_iter().map(|(day, _)| day).filter(is_open).collect();
    }

    /// Notes that a day has new rows.
    pub(super) fn note_day(&mut self, day: Date) {
        self.open_days.insert(day);
    }

    /// Returns the records of settlements that have begun to wait, and empty ones of those that have ended.
    pub(super) fn settlements(&self) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> + use<> {
        let UnsettledChanges { new, over } = self.unsettled.changes();
        let new = new.into_iter().map(|report| Entry::Settlement { report: (*report).clone() }.encode());
        new.chain(over.into_iter().map(|id| (settlement_key(&id), Vec::new())))
    }

    /// Goes on to tell the days before yesterday, one after another, each as a whole. Returns the record of a
    /// day that was told.
    pub(super) fn tell_old_days(&mut self, state: &Path, today: Date) -> Option<(Vec<u8>, Vec<u8>)> {
        if !self.untold.is_empty() || self.closing.is_some() {
            return None;
        }
        if let Some(day) = self.offered.take() {
            self.open_days.remove(&day);
            self.closing = Some(day);
            return Some(Entry::Told { day }.encode());
        }
        let yesterday = today.saturating_sub(1.day());
        let day = self.open_days.first().copied().filter(|day| *day < yesterday)?;
        match rows_of(&directory_of(state, day)) {
            Ok(rows) => {
                self.untold.add_rows(rows);
                self.offered = Some(day);
            }
            Err(error) => {
                tracing::error!(%day, %error, "the usage of a day can't be read, and the server is not told of it");
                self.open_days.remove(&day);
            }
        }
        None
    }

    /// Notes that the record of [`Fleet::tell_old_days`] is durable.
    pub(super) fn note_written(&mut self) {
        if let Some(day) = self.closing.take() {
            self.untold.close(day);
        }
    }
}
