//! Settlements of shared budgets to which the server has not answered yet. They survive a restart where
//! this replica has a state directory.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::budget::Budget;
use super::budget_ask::BudgetSettlement;
use super::key_state::KeyState;
use crate::random_id::random_id;

/// The age of a settlement that a start finds up to which the server surely remembers its id
/// (`shared/budgets.lua`).
const SURELY_KNOWN: SignedDuration = SignedDuration::from_mins(50);

/// What a request has used of the budgets of one holder.
#[derive(Clone, Debug)]
pub(crate) struct BudgetReport {
    /// The id, by which the server makes the settlement once.
    pub(crate) id: String,
    /// The id of the key or group.
    pub(crate) holder: String,
    /// The holder's state; `None` after a restart.
    pub(crate) state: Option<Arc<KeyState>>,
    pub(crate) at: Timestamp,
    pub(crate) settlements: Vec<BudgetSettlement>,
}

/// The settlements without an answer.
#[derive(Debug, Default)]
pub(crate) struct Unsettled(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    open: HashMap<String, Arc<BudgetReport>>,
    /// The ids of those that are on disk.
    kept: HashSet<String>,
    /// The ids of those that are on disk, and are settled.
    over: Vec<String>,
}

/// What is to be written to the disk.
#[derive(Debug, Default)]
pub(crate) struct UnsettledChanges {
    pub(crate) new: Vec<Arc<BudgetReport>>,
    /// The ids of settlements that are to be forgotten.
    pub(crate) over: Vec<String>,
}

impl BudgetReport {
    pub(crate) fn new(state: Arc<KeyState>, at: Timestamp, settlements: Vec<BudgetSettlement>) -> Self {
        BudgetReport { id: random_id(), holder: state.id().to_owned(), state: Some(state), at, settlements }
    }

    /// Returns the settlement as it is sent after a restart at `now`. A server that may have forgotten it
    /// may make it once more, so an old one only adds: it gives back no reservation that may be
    /// another request's.
    fn sent_again(mut self, now: Timestamp) -> Self {
        if now.duration_since(self.at).abs() > SURELY_KNOWN {
            for settlement in &mut self.settlements {
                settlement.reserved = 0;
                settlement.used = settlement.used.max(0);
            }
        }
        self
    }
}

impl BudgetSettlement {
    /// Returns a settlement that was kept over a restart.
    pub(crate) fn kept(budget: Budget, from: i64, reserved: u64, used: i64) -> Self {
        BudgetSettlement { budget: Arc::new(budget), from, reserved, used }
    }
}

impl Unsettled {
    /// Takes what was kept over a restart, and returns what is to be sent.
    pub(crate) fn restored(reports: Vec<BudgetReport>, now: Timestamp) -> (Self, Vec<Arc<BudgetReport>>) {
        let open: HashMap<_, _> =
            reports.into_iter().map(|report| (report.id.clone(), Arc::new(report.sent_again(now)))).collect();
        let (kept, sent) = (open.keys().cloned().collect(), open.values().cloned().collect());
        (Unsettled(Mutex::new(Inner { open, kept, over: Vec::new() })), sent)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a settlement that is about to be sent.
    pub(crate) fn begin(&self, report: &Arc<BudgetReport>) {
        self.inner().open.insert(report.id.clone(), report.clone());
    }

    /// Notes that the server has made a settlement.
    pub(crate) fn end(&self, id: &str) {
        let mut inner = self.inner();
        inner.open.remove(id);
        if let Some(id) = inner.kept.take(id) {
            inner.over.push(id);
        }
    }

    /// Returns what has changed since the last call.
    pub(crate) fn changes(&self) -> UnsettledChanges {
        let Inner { open, kept, over } = &mut *self.inner();
        let new: Vec<_> = open.values().filter(|report| !kept.contains(&report.id)).cloned().collect();
        kept.extend(new.iter().map(|report| report.id.clone()));
        UnsettledChanges { new, over: std::mem::take(over) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Every, Unit};

    fn report(id: &str, at: Timestamp) -> BudgetReport {
        let budget = Budget::kept("tokens-month".to_owned(), Unit::Tokens, Every::Month, 100);
        let settlements = vec![BudgetSettlement::kept(budget, 0, 7, 5)];
        BudgetReport { id: id.to_owned(), holder: "key_a".to_owned(), state: None, at, settlements }
    }

    #[test]
    fn what_is_settled_in_time_is_never_written() {
        let unsettled = Unsettled::default();
        let [quick, slow] = ["quick", "slow"].map(|id| Arc::new(report(id, Timestamp::UNIX_EPOCH)));
        unsettled.begin(&quick);
        unsettled.begin(&slow);
        unsettled.end("quick");
        let changes = unsettled.changes();
        assert_eq!((changes.new[0].id.as_str(), changes.new.len()), ("slow", 1));
        assert!(unsettled.changes().new.is_empty());
        unsettled.end("slow");
        unsettled.end("slow");
        assert_eq!(unsettled.changes().over, ["slow"]);
        assert!(unsettled.changes().over.is_empty());
    }

    #[test]
    fn a_settlement_that_the_server_may_have_forgotten_gives_nothing_back() {
        let made: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        for (now, reserved) in [("2026-11-29T12:40:00Z", 7), ("2026-11-29T13:00:00Z", 0)] {
            let (unsettled, sent) = Unsettled::restored(vec![report("a", made)], now.parse().unwrap());
            assert_eq!((sent[0].settlements[0].reserved, sent[0].settlements[0].used), (reserved, 5));
            assert!(unsettled.changes().new.is_empty(), "it is on disk");
            unsettled.end("a");
            assert_eq!(unsettled.changes().over, ["a"]);
        }
    }
}
