//! A class of those who wait: its keys by what they were served, and the requests of each as they came.
//!
//! The key is next that was served least for its weight (start-time fair queueing: Goyal, Vin and Cheng,
//! "Start-time Fair Queuing", 1996). A key that comes starts level with the least served of those who wait.
//!
//! Invariant: a request never passes an earlier one of its own key.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use foldhash::fast::RandomState;

use crate::config::Priority;

/// What a key was served, divided by its weight, in parts of a unit.
type Served = u64;

/// Parts of a unit of [`Served`], so that the greatest weights still count.
const PARTS: u64 = 1 << 16;

/// Largest number of keys without a waiting request of which is remembered what they were served.
pub(super) const MOST_REMEMBERED: usize = 4096;

/// Who waits: its class, its key, and the share of the key within the class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) class: Priority,
    /// A number of the key, which no other key has at the same time. Requests without a key have 0 together.
    pub(crate) key: usize,
    pub(crate) weight: u32,
}

/// Where a request stands in the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(super) who: Who,
    /// The number of the arrival, greater than that of each request before.
    pub(super) number: u64,
}

/// The answer of a slot to the request that is next.
#[derive(Debug)]
pub(super) enum Offer<S> {
    Taken(S),
    /// This request can't use what is free; another one may.
    NotThisOne,
    /// Nothing is free for anybody.
    NothingFree,
}

/// Those of a class who wait. `T`: what is kept of each.
#[derive(Debug)]
pub(super) struct Class<T> {
    keys: HashMap<usize, Key<T>, RandomState>,
    /// The keys with waiting requests: what they were served, and the number of their first request.
    order: BTreeSet<(Served, u64, usize)>,
    /// The keys with waiting requests, by how many requests they have.
    by_length: BTreeSet<(usize, usize)>,
    /// The keys without waiting requests, by what they were served.
    resting: BTreeSet<(Served, usize)>,
    /// What the key was served that was last granted a request, before that.
    level: Served,
    /// The number of those who wait.
    pub(super) waiting: usize,
    /// Grants to other classes since the last one to this class, while it waited.
    pub(super) passed: u32,
}

#[derive(Debug)]
struct Key<T> {
    served: Served,
    /// What it began with. What is given back brings it no further down.
    base: Served,
    waiting: BTreeMap<u64, (Who, T)>,
}

impl<T> Default for Class<T> {
    fn default() -> Self {
        Class {
            keys: HashMap::default(),
            order: BTreeSet::new(),
            by_length: BTreeSet::new(),
            resting: BTreeSet::new(),
            level: 0,
            waiting: 0,
            passed: 0,
        }
    }
}

impl<T> Class<T> {
    /// Calls `change` with a key, and puts it to its new place in the order.
    fn change<R>(&mut self, id: usize, change: impl FnOnce(&mut Key<T>) -> R) -> R {
        let floor = self.floor();
        let key = self.keys.entry(id).or_insert_with(|| Key {
            served: floor,
            base: floor,
            waiting: BTreeMap::new(),
        });
        match key.waiting.first_key_value() {
            Some((first, _)) => {
                self.order.remove(&(key.served, *first, id));
                self.by_length.remove(&(key.waiting.len(), id));
            }
            None => {
                self.resting.remove(&(key.served, id));
            }
        }
        let changed = change(key);
        match key.waiting.first_key_value() {
            Some((first, _)) => {
                self.order.insert((key.served, *first, id));
                self.by_length.insert((key.waiting.len(), id));
            }
            None => {
                self.resting.insert((key.served, id));
                self.forget();
            }
        }
        changed
    }

    /// Returns what a key that comes was served: as much as the least served key that waits.
    fn floor(&self) -> Served {
        self.order.first().map_or(self.level, |(served, ..)| *served)
    }

    /// Forgets keys that would come back as newcomers.
    fn forget(&mut self) {
        let floor = self.floor();
        while let Some((served, id)) = self.resting.first().copied()
            && (served <= floor || self.resting.len() > MOST_REMEMBERED)
        {
            self.resting.remove(&(served, id));
            self.keys.remove(&id);
        }
    }

    /// Adds a request.
    pub(super) fn push(&mut self, standing: Standing, item: T) {
        let Standing { who, number } = standing;
        let floor = self.floor();
        self.change(who.key, |key| {
            if key.waiting.is_empty() && key.served < floor {
                (key.served, key.base) = (floor, floor);
            }
            key.waiting.insert(number, (who, item));
        });
        self.waiting += 1;
    }

    /// Takes a request out. `charge`: the units that its key is charged.
    pub(super) fn take(&mut self, key: usize, number: u64, charge: Option<f64>) -> Option<(Standing, T)> {
        if !self.keys.contains_key(&key) {
            return None;
        }
        let (taken, level) = self.change(key, |key| {
            let level = key.served;
            let taken = key.waiting.remove(&number);
            if let (Some((who, _)), Some(units)) = (&taken, charge) {
                key.served = level.saturating_add(parts(units, who.weight));
            }
            (taken, level)
        });
        let (who, item) = taken?;
        self.waiting -= 1;
        if charge.is_some() {
            self.level = self.level.max(level);
        }
        Some((Standing { who, number }, item))
    }

    /// Offers a slot to the first request of each key, until one takes it. Takes that request out, and charges
    /// its key `charge` units.
    pub(super) fn next<S>(
        &mut self,
        charge: f64,
        offer: &mut impl FnMut(&T) -> Offer<S>,
    ) -> Offer<(Standing, T, S)> {
        let mut found = None;
        for (_, first, key) in &self.order {
            let Some((_, item)) = self.keys.get(key).and_then(|key| key.waiting.get(first)) else { continue };
            match offer(item) {
                Offer::Taken(slot) => {
                    found = Some((*key, *first, slot));
                    break;
                }
                Offer::NotThisOne => {}
                Offer::NothingFree => return Offer::NothingFree,
            }
        }
        let taken = found.and_then(|(key, first, slot)| {
            let (standing, item) = self.take(key, first, Some(charge))?;
            Some((standing, item, slot))
        });
        taken.map_or(Offer::NotThisOne, Offer::Taken)
    }

    /// Returns the number of waiting requests of a key.
    pub(super) fn of_key(&self, key: usize) -> usize {
        self.keys.get(&key).map_or(0, |key| key.waiting.len())
    }

    /// Takes out the last request of the key that has most waiting requests, and returns it, if `may_go` says so
    /// of their number.
    pub(super) fn take_last_of_most(&mut self, may_go: impl FnOnce(usize) -> bool) -> Option<(Standing, T)> {
        let (most, key) = *self.by_length.last()?;
        if !may_go(most) {
            return None;
        }
        let last = *self.keys.get(&key)?.waiting.last_key_value()?.0;
        self.take(key, last, None)
    }

    /// Charges a key what its request was served in addition to what it was charged, both in units, or gives
    /// it back what it was charged too much.
    pub(super) fn correct(&mut self, who: Who, charged: f64, served: f64) {
        self.change(who.key, |key| {
            if served > charged {
                key.served = key.served.saturating_add(parts(served - charged, who.weight));
            } else if served < charged {
                key.served = key.served.saturating_sub(parts(charged - served, who.weight)).max(key.base);
            }
        });
    }

    /// Returns the number of keys of which is known what they were served.
    #[cfg(test)]
    pub(super) fn known_keys(&self) -> usize {
        self.keys.len()
    }

    /// Takes all out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = T> + use<T> {
        let keys = std::mem::take(self).keys.into_values();
        keys.flat_map(|key| key.waiting.into_values().map(|(_, item)| item))
    }
}

/// Returns units divided by a weight. A key always advances, so that no weight starves the others.
fn parts(units: f64, weight: u32) -> Served {
    // The conversion saturates.
    let parts = (units * PARTS as f64 / f64::from(weight.max(1))) as u64;
    parts.max(1)
}
