//! The charges of one window by requests that have not ended, in the order in which they were made.
//!
//! A window regains its charges one after another. What it has regained of a charge must not be given
//! back when the request ends: other requests were granted for it. Invariant: the charges are
//! regained at the times that they are known to be, however many others are given back before.

use std::collections::VecDeque;

/// The open charges of one window. Empty for windows of requests, unless requests may be taken back.
#[derive(Debug, Default)]
pub(super) struct OpenCharges(VecDeque<OpenCharge>);

#[derive(Debug)]
struct OpenCharge {
    id: u64,
    /// Time at which the window has regained the charge, in nanoseconds of the clock.
    regained: u64,
}

impl OpenCharges {
    /// Adds a charge. `id`: greater than that of each charge before; `regained`: the window's arrival
    /// time behind the charge. Forgets the charges of which nothing can be given back any more.
    pub(super) fn add(&mut self, id: u64, regained: u64, now: u64) {
        while self.0.pop_front_if(|first| first.regained <= now).is_some() {}
        debug_assert!(self.0.back().is_none_or(|last| last.id < id), "charges are in order");
        self.0.push_back(OpenCharge { id, regained });
    }

    /// Closes a charge, of which `unused` nanoseconds were not used. Returns how many of them can be
    /// given back: those that were not regained until `now`. Charges behind it are regained earlier
    /// by that time.
    pub(super) fn close(&mut self, id: u64, unused: u64, now: u64) -> u64 {
        let Ok(index) = self.0.binary_search_by_key(&id, |open| open.id) else { return 0 };
        let Some(closed) = self.0.remove(index) else { return 0 };
        let given_back = unused.min(closed.regained.saturating_sub(now));
        for open in self.0.range_mut(index..) {
            open.regained = open.regained.saturating_sub(given_back);
        }
        given_back
    }

    /// Takes the charges over to a window with another quota. `moved`: the time in that window for a
    /// time in this one.
    pub(super) fn moved(mut self, moved: impl Fn(u64) -> u64) -> Self {
        self.0.iter_mut().for_each(|open| open.regained = moved(open.regained));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_regained_is_not_given_back() {
        let mut open = OpenCharges::default();
        (1..=3).for_each(|id| open.add(id, id * 100, 0));
        assert_eq!(open.close(1, 90, 10), 90);
        // The second charge was regained between 10 and 110, the third one is until 210.
        assert_eq!(open.close(2, 100, 110), 0);
        assert_eq!(open.close(3, 80, 150), 60);
        assert_eq!(open.close(3, 80, 150), 0, "a charge is closed once");
        (4..=1000).for_each(|id| open.add(id, id * 100, id * 100 - 10));
        assert_eq!(open.0.len(), 1, "what was regained is forgotten");
    }
}
