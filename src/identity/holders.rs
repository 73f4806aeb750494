//! The holders of tokens and certificates that have come so far, each as a key in service.
//!
//! Invariants: their number is bounded; a holder is forgotten only when none of its limits holds anything back, so
//! that nobody gains by being forgotten; those that were used longest ago go first.

use std::borrow::Borrow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashSet;
use foldhash::quality::RandomState;
use jiff::Timestamp;

use super::rules::Rule;
use crate::key_cache::LiveKey;
use crate::keys::{ApiKey, Draft};
use crate::limit::Limiter;
use crate::observe::usage::{KeyLabel, Usage, UsageBook};

/// Time after which an unused holder is forgotten, as a key that was removed.
const KEPT: Duration = Duration::from_secs(3600);

/// A holder, found by its id.
#[derive(Debug)]
struct ById(Arc<LiveKey>);

impl Borrow<str> for ById {
    fn borrow(&self) -> &str {
        self.0.key.id()
    }
}

impl Hash for ById {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.id().hash(state);
    }
}

impl PartialEq for ById {
    fn eq(&self, other: &Self) -> bool {
        self.0.key.id() == other.0.key.id()
    }
}

impl Eq for ById {}

/// Makes a holder as a key in service.
pub(super) fn made(id: &str, name: Option<&str>, rule: &Rule) -> LiveKey {
    LiveKey::of_identity(ApiKey::from(Draft {
        id,
        name,
        disabled: false,
        permissions: rule.permissions,
        created_at: None,
        expires_at: None,
        terms: Some(rule.terms.clone()),
    }))
}

/// The holders that have come so far, by their ids.
#[derive(Debug)]
pub(super) struct Holders {
    by_id: DashSet<ById, RandomState>,
    number: AtomicUsize,
    most: usize,
}

impl Holders {
    pub(super) fn with_room(most: usize) -> Self {
        Holders { by_id: DashSet::default(), number: AtomicUsize::new(0), most }
    }

    /// Returns a holder as a key in service, which is made if there is none, or if the configuration says
    /// something else of it now. Returns `None` if there are too many holders.
    pub(super) fn get(&self, id: &str, name: Option<&str>, rule: &Rule) -> Option<Arc<LiveKey>> {
        let is_same = |live: &LiveKey| live.key.shares_terms(&rule.terms) && live.key.name() == name;
        if let Some(known) = self.by_id.get(id).filter(|known| is_same(&known.0)) {
            return Some(known.0.clone());
        }
        let takes_place = self.by_id.remove(id).is_some();
        if !takes_place && self.number.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.number.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let live = Arc::new(made(id, name, rule));
        if !self.by_id.insert(ById(live.clone())) {
            // Another request was faster. Both keys have the same limits, which go by the id.
            self.number.fetch_sub(1, Ordering::Relaxed);
        }
        Some(live)
    }

    pub(super) fn len(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    /// Returns the holders that were used last, at most `most`, with their usage.
    pub(super) fn latest(&self, usage: &UsageBook, most: usize) -> Vec<(Arc<LiveKey>, Arc<Usage>)> {
        let mut latest: BinaryHeap<Reverse<(Timestamp, Box<str>)>> = BinaryHeap::new();
        for holder in self.by_id.iter() {
            let id = holder.0.key.id();
            let used = usage.find(id).and_then(|usage| usage.last_used());
            latest.extend(used.map(|used| Reverse((used, id.into()))));
            if latest.len() > most {
                latest.pop();
            }
        }
        let in_order = latest.into_sorted_vec().into_iter().map(|Reverse((_, id))| id);
        in_order.filter_map(|id| Some((self.by_id.get(&*id)?.0.clone(), usage.find(&id)?))).collect()
    }

    /// Whether so many holders are known that some should go.
    pub(super) fn is_crowded(&self) -> bool {
        self.len() > self.most / 8 * 7
    }

    /// Forgets holders that were not used for an hour, and more of them if they are many. Returns their labels
    /// in metrics.
    pub(super) fn sweep(&self, limiter: &Limiter, usage: &UsageBook, now: Timestamp) -> Vec<KeyLabel> {
        // A holder to which a token or a request refers is in use.
        let is_idle = |live: &Arc<LiveKey>| Arc::strong_count(live) == 1 && live.holds_nothing_back(limiter);
        let last_used = |live: &LiveKey| usage.last_used(live.key.id()).unwrap_or(Timestamp::UNIX_EPOCH);
        let idle = self.by_id.iter().filter(|holder| is_idle(&holder.0));
        let mut idle: Vec<(Timestamp, Box<str>)> =
            idle.map(|holder| (last_used(&holder.0), holder.0.key.id().into())).collect();
        idle.sort_unstable();
        let surplus = if self.is_crowded() { self.len().saturating_sub(self.most / 4 * 3) } else { 0 };
        let old =
            idle.iter().take_while(|(used, _)| now.duration_since(*used).unsigned_abs() >= KEPT).count();
        let mut labels = Vec::new();
        for (_, id) in idle.into_iter().take(old.max(surplus)) {
            let Some(ById(live)) = self.by_id.remove_if(&*id, |holder| is_idle(&holder.0)) else { continue };
            self.number.fetch_sub(1, Ordering::Relaxed);
            // The state of its limits goes when nothing refers to it.
            drop(live);
            if limiter.forget(&id) {
                labels.extend(usage.forget(&id));
            }
        }
        labels
    }
}
