//! The holders of tokens and certificates that have come so far, each as a key in service.
//!
//! Invariants: their number is bounded; a holder is forgotten only when none of its limits holds anything back, so
//! that nobody gains by being forgotten; those that were used longest ago go first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use jiff::Timestamp;

use super::rules::Rule;
use crate::key_cache::LiveKey;
use crate::keys::{ApiKey, Draft};
use crate::limit::Limiter;
use crate::observe::usage::{KeyLabel, Usage, UsageBook};

/// Time after which an unused holder is forgotten, as a key that was removed.
const KEPT: Duration = Duration::from_secs(3600);

/// The holders that have come so far, by their ids.
#[derive(Debug)]
pub(super) struct Holders {
    by_id: DashMap<Box<str>, Arc<LiveKey>, foldhash::quality::RandomState>,
    number: AtomicUsize,
    most: usize,
}

impl Holders {
    pub(super) fn with_room(most: usize) -> Self {
        Holders { by_id: DashMap::default(), number: AtomicUsize::new(0), most }
    }

    /// Returns a holder as a key in service, which is made if there is none, or if the configuration says
    /// something else of it now. Returns `None` if there are too many holders.
    pub(super) fn get(&self, id: &str, name: Option<&str>, rule: &Rule) -> Option<Arc<LiveKey>> {
        let is_same = |live: &LiveKey| live.key.shares_terms(&rule.terms) && live.key.name() == name;
        if let Some(known) = self.by_id.get(id).filter(|known| is_same(known)) {
            return Some(known.value().clone());
        }
        let make = || {
            let draft = Draft {
                id,
                name,
                disabled: false,
                permissions: rule.permissions,
                created_at: None,
                expires_at: None,
                terms: Some(rule.terms.clone()),
            };
            Arc::new(LiveKey::of_identity(ApiKey::from(draft)))
        };
        match self.by_id.entry(id.into()) {
            Entry::Occupied(mut known) => {
                if !is_same(known.get()) {
                    known.insert(make());
                }
                Some(known.get().clone())
            }
            Entry::Vacant(free) => {
                let is_room = self.number.fetch_add(1, Ordering::Relaxed) < self.most;
                if !is_room {
                    self.number.fetch_sub(1, Ordering::Relaxed);
                    return None;
                }
                Some(free.insert(make()).clone())
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.number.load(Ordering::Relaxed)
    }

    /// Returns the holders that were used last, at most `most`, with their usage.
    pub(super) fn latest(&self, usage: &UsageBook, most: usize) -> Vec<(Arc<LiveKey>, Arc<Usage>)> {
        let mut latest: BinaryHeap<Reverse<(Timestamp, Box<str>)>> = BinaryHeap::new();
        for entry in &self.by_id {
            let used = usage.find(entry.key()).and_then(|usage| usage.last_used());
            latest.extend(used.map(|used| Reverse((used, entry.key().clone()))));
            if latest.len() > most {
                latest.pop();
            }
        }
        let in_order = latest.into_sorted_vec().into_iter().map(|Reverse((_, id))| id);
        in_order.filter_map(|id| Some((self.by_id.get(&id)?.value().clone(), usage.find(&id)?))).collect()
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
        let idle = self.by_id.iter().filter(|entry| is_idle(entry.value()));
        let mut idle: Vec<(Timestamp, Box<str>)> =
            idle.map(|entry| (last_used(entry.value()), entry.key().clone())).collect();
        idle.sort_unstable();
        let surplus = if self.is_crowded() { self.len().saturating_sub(self.most / 4 * 3) } else { 0 };
        let old =
            idle.iter().take_while(|(used, _)| now.duration_since(*used).unsigned_abs() >= KEPT).count();
        let mut labels = Vec::new();
        for (_, id) in idle.into_iter().take(old.max(surplus)) {
            let Some((_, live)) = self.by_id.remove_if(&id, |_, live| is_idle(live)) else { continue };
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
