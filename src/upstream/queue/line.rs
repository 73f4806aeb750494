//! The order of those who wait: classes before one another, keys of a class by what they were served,
//! requests of a key as they came.
//!
//! Within a class, the key is next that was served least for its weight (start-time fair queueing: Goyal,
//! Vin and Cheng, "Start-time Fair Queuing", 1996). A key that comes starts level with the least served
//! of those who wait. Of any [`Line::period`] grants in a row while a lower class waits, one is of that
//! class. Nothing here knows time, slots or threads, so a test can call it a million times.
//!
//! Invariant: a request never passes an earlier one of its own key and class.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use crate::config::Priority;

/// What a key was served, divided by its weight, in parts of a unit.
type Served = u64;

/// Parts of a unit of [`Served`], so that the greatest weights still count.
const PARTS: u64 = 1 << 16;

/// Largest number of keys without a waiting request of which is remembered what they were served.
const MOST_REMEMBERED: usize = 4096;

/// Shortest period in which each of three classes gets a slot.
const SHORTEST_PERIOD: u32 = 3;

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
    who: Who,
    /// The number of the arrival, greater than that of each request before.
    number: u64,
}

/// What a request was served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Its tokens.
    Served(u64),
    /// It was sent, and its tokens did not become known.
    Unknown,
    /// It was not sent.
    NotSent,
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

/// All who wait. `T`: what is kept of each.
#[derive(Debug)]
pub(super) struct Line<T> {
    /// Requests that had a slot and need another one: they are next.
    returned: VecDeque<(Standing, T)>,
    classes: [Class<T>; Priority::ALL.len()],
    /// The number of those who wait.
    waiting: usize,
    arrivals: u64,
    /// Of so many grants in a row, at least one is of a class that waits.
    period: u32,
    /// What a request is expected to be served, in units: the mean of late.
    mean: f64,
}

#[derive(Debug)]
struct Class<T> {
    keys: HashMap<usize, Key<T>, RandomState>,
    /// The keys with waiting requests: what they were served, and the number of their first request.
    order: BTreeSet<(Served, u64, usize)>,
    /// The keys with waiting requests, by their number.
    by_length: BTreeSet<(usize, usize)>,
    /// The keys without waiting requests, by what they were served.
    resting: BTreeSet<(Served, usize)>,
    /// What the key was served that was last granted a request, before that.
    level: Served,
    waiting: usize,
    /// Grants to other classes since the last one to this class, while it waited.
    passed: u32,
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

impl Standing {
    pub(super) fn who(self) -> Who {
        self.who
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

    fn push(&mut self, standing: Standing, item: T) {
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

    /// Takes a request out of the line. `charge`: the units that its key is charged.
    fn take(&mut self, key: usize, number: u64, charge: Option<f64>) -> Option<(Standing, T)> {
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
}

/// Returns units divided by a weight. A key always advances, so that no weight starves the others.
fn parts(units: f64, weight: u32) -> Served {
    // The conversion saturates.
    let parts = (units * PARTS as f64 / f64::from(weight.max(1))) as u64;
    parts.max(1)
}

impl<T> Line<T> {
    /// Makes an empty line. `period`: of so many grants in a row, one is of a class that waits.
    pub(super) fn new(period: u32) -> Self {
        Line {
            returned: VecDeque::new(),
            classes: std::array::from_fn(|_| Class::default()),
            waiting: 0,
            arrivals: 0,
            period: period.max(SHORTEST_PERIOD),
            mean: 1.0,
        }
    }

    pub(super) fn set_period(&mut self, period: u32) {
        self.period = period.max(SHORTEST_PERIOD);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Returns the number of those who wait in a class.
    pub(super) fn of_class(&self, class: Priority) -> usize {
        let returned = self.returned.iter().filter(|(standing, _)| standing.who.class == class).count();
        self.classes.get(class.index()).map_or(0, |class| class.waiting) + returned
    }

    /// Returns the number of those who are served before a request that comes to this class now.
    pub(super) fn ahead_of(&self, class: Priority) -> usize {
        let before = self.classes.iter().take(class.index() + 1).map(|class| class.waiting);
        self.returned.len() + before.sum::<usize>()
    }

    /// Adds a request. `returns`: whether it has had a slot, so that it is next.
    pub(super) fn push(&mut self, who: Who, returns: bool, item: T) -> Standing {
        self.waiting += 1;
        self.arrivals += 1;
        let standing = Standing { who, number: self.arrivals };
        if returns {
            self.returned.push_back((standing, item));
        } else if let Some(class) = self.class(who.class) {
            class.push(standing, item);
        }
        standing
    }

    /// Removes a request that does not wait any longer; `None` if it is not in the line.
    pub(super) fn remove(&mut self, standing: Standing) -> Option<T> {
        let Standing { who, number } = standing;
        let returned = self.returned.iter().position(|(known, _)| *known == standing);
        let (_, item) = match returned {
            Some(index) => self.returned.remove(index),
            None => self.class(who.class)?.take(who.key, number, None),
        }?;
        self.left();
        Some(item)
    }

    /// Makes room for a request of `who`, where another one waits that has less right to wait: the last
    /// one of a lower class, or else of a key of the same class with more waiting requests. Of the lowest
    /// class, and of the key with most requests, the last one goes. Returns it.
    pub(super) fn displace(&mut self, who: Who) -> Option<(Standing, T)> {
        let lowest = self.classes.iter().rposition(|class| class.waiting > 0)?;
        let class = self.classes.get_mut(lowest)?;
        let (most, key) = *class.by_length.last()?;
        let own = class.keys.get(&who.key).map_or(0, |key| key.waiting.len());
        let has_less_right = lowest > who.class.index() || (lowest == who.class.index() && most > own + 1);
        if !has_less_right {
            return None;
        }
        let last = *class.keys.get(&key)?.waiting.last_key_value()?.0;
        let displaced = class.take(key, last, None)?;
        self.left();
        Some(displaced)
    }

    /// Takes the request out that is next, if a slot is free for it. `offer` offers a slot to a request.
    pub(super) fn next<S>(&mut self, mut offer: impl FnMut(&T) -> Offer<S>) -> Option<(Standing, T, S, f64)> {
        for index in 0..self.returned.len() {
            let Some((_, item)) = self.returned.get(index) else { break };
            match offer(item) {
                Offer::Taken(slot) => {
                    let (standing, item) = self.returned.remove(index)?;
                    self.left();
                    // It was charged when it got its first slot.
                    return Some((standing, item, slot, 0.0));
                }
                Offer::NotThisOne => {}
                Offer::NothingFree => return None,
            }
        }
        for index in self.order_of_classes() {
            let Some(class) = self.classes.get(index) else { continue };
            let mut found = None;
            for (_, first, key) in &class.order {
                let Some((_, item)) = class.keys.get(key).and_then(|key| key.waiting.get(first)) else {
                    continue;
                };
                match offer(item) {
                    Offer::Taken(slot) => {
                        found = Some((*key, *first, slot));
                        break;
                    }
                    Offer::NotThisOne => {}
                    Offer::NothingFree => return None,
                }
            }
            if let Some((key, first, slot)) = found {
                let charge = self.mean;
                let (standing, item) = self.class_at(index)?.take(key, first, Some(charge))?;
                self.note_grant(index);
                self.left();
                return Some((standing, item, slot, charge));
            }
        }
        None
    }

    /// Returns the indices of the classes with waiting requests, the one first whose turn it is.
    fn order_of_classes(&self) -> impl Iterator<Item = usize> + use<T> {
        let waits = |index: &usize| self.classes.get(*index).is_some_and(|class| class.waiting > 0);
        let highest = (0..self.classes.len()).find(waits);
        let passed = |index: usize| self.classes.get(index).map_or(0, |class| class.passed);
        let lower = |index: &usize| Some(*index) != highest && waits(index);
        let due = (0..self.classes.len())
            .filter(lower)
            .filter(|index| passed(*index) + 1 >= self.period)
            .max_by_key(|index| passed(*index));
        let rest: SmallVec<[usize; Priority::ALL.len()]> =
            (0..self.classes.len()).filter(waits).filter(|index| Some(*index) != due).collect();
        due.into_iter().chain(rest)
    }

    fn note_grant(&mut self, granted: usize) {
        for (index, class) in self.classes.iter_mut().enumerate() {
            class.passed = match index == granted || class.waiting == 0 {
                true => 0,
                false => class.passed.saturating_add(1),
            };
        }
    }

    /// Corrects what a key was charged, when it is known what its request was served.
    pub(super) fn settle(&mut self, who: Who, charged: f64, outcome: Outcome) {
        /// The weight of one request in the mean of all.
        const SHARE: f64 = 1.0 / 32.0;
        let units = match outcome {
            Outcome::Served(units) => {
                self.mean += (units as f64 - self.mean) * SHARE;
                units as f64
            }
            // What is not known counts as what was charged, or as the mean of what is known.
            Outcome::Unknown if charged > 0.0 => charged,
            Outcome::Unknown => self.mean,
            Outcome::NotSent => 0.0,
        };
        let Some(class) = self.class(who.class).filter(|class| class.waiting > 0) else { return };
        class.change(who.key, |key| {
            if units > charged {
                key.served = key.served.saturating_add(parts(units - charged, who.weight));
            } else if units < charged {
                key.served = key.served.saturating_sub(parts(charged - units, who.weight)).max(key.base);
            }
        });
    }

    /// Takes all out.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let mut all: Vec<T> = self.returned.drain(..).map(|(_, item)| item).collect();
        for class in &mut self.classes {
            let keys = std::mem::take(class).keys.into_values();
            all.extend(keys.flat_map(|key| key.waiting.into_values().map(|(_, item)| item)));
        }
        self.waiting = 0;
        all
    }

    /// Notes that a request has left the line. Nobody is ahead of anybody in an empty line, so all keys are
    /// forgotten.
    fn left(&mut self) {
        self.waiting -= 1;
        if self.waiting == 0 {
            self.classes = std::array::from_fn(|_| Class::default());
        }
    }

    fn class(&mut self, class: Priority) -> Option<&mut Class<T>> {
        self.class_at(class.index())
    }

    fn class_at(&mut self, index: usize) -> Option<&mut Class<T>> {
        self.classes.get_mut(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(class: Priority, key: usize, weight: u32) -> Who {
        Who { class, key, weight }
    }

    fn granted(line: &mut Line<usize>) -> Option<usize> {
        line.next(|_| Offer::Taken(())).map(|(_, item, ..)| item)
    }

    #[test]
    fn a_key_with_one_request_is_before_the_flood_of_another_and_requests_of_a_key_stay_in_order() {
        let mut line = Line::new(20);
        for item in 0..100 {
            line.push(who(Priority::Standard, 1, 1), false, item);
        }
        assert_eq!((granted(&mut line), granted(&mut line)), (Some(0), Some(1)));
        line.push(who(Priority::Standard, 2, 1), false, 1000);
        // The newcomer starts level with the flood, whose first request came before.
        assert_eq!((granted(&mut line), granted(&mut line)), (Some(2), Some(1000)));
        assert_eq!(
            (3..100).map(Some).collect::<Vec<_>>(),
            (3..100).map(|_| granted(&mut line)).collect::<Vec<_>>()
        );
        assert_eq!((granted(&mut line), line.len()), (None, 0));
    }

    #[test]
    fn keys_share_by_weight_in_units_that_they_were_served() {
        // Key 1 has three times the weight of key 2, whose requests are four times as large.
        let mut line = Line::new(20);
        let (heavy, light) = (who(Priority::Standard, 1, 3), who(Priority::Standard, 2, 1));
        let mut served = [0.0; 2];
        for _ in 0..4 {
            line.push(heavy, false, 0);
            line.push(light, false, 1);
        }
        for _ in 0..20_000 {
            let (_, item, (), charged) = line.next(|_| Offer::Taken(())).unwrap();
            let (who, units) = if item == 0 { (heavy, 100) } else { (light, 400) };
            line.push(who, false, item);
            line.settle(who, charged, Outcome::Served(units));
            served[item] += units as f64;
        }
        let ratio = served[0] / served[1];
        assert!((ratio - 3.0).abs() < 0.06, "{ratio}");
    }

    #[test]
    fn a_lower_class_waits_for_the_higher_ones_and_has_a_share_that_is_its_own() {
        let mut line = Line::new(20);
        for item in 0..1000 {
            line.push(who(Priority::Interactive, item % 7, 1), false, 0);
            line.push(who(Priority::Standard, 1, 1), false, 1);
            line.push(who(Priority::Batch, 2, 1), false, 2);
        }
        let mut counts = [0; 3];
        let mut since = [0; 3];
        for _ in 0..1000 {
            let class = granted(&mut line).unwrap();
            counts[class] += 1;
            since.iter_mut().for_each(|since| *since += 1);
            since[class] = 0;
            assert!(since.iter().all(|since| *since <= 21), "{since:?}");
        }
        assert!(counts[0] >= 890 && counts[1] >= 47 && counts[2] >= 47, "{counts:?}");
    }

    #[test]
    fn no_share_of_the_lower_classes_keeps_the_highest_out() {
        let mut line = Line::new(1);
        for _ in 0..300 {
            for class in Priority::ALL {
                line.push(who(class, 1, 1), false, class.index());
            }
        }
        let next: Vec<usize> = (0..300).map(|_| granted(&mut line).unwrap()).collect();
        for class in 0..3 {
            let count = next.iter().filter(|granted| **granted == class).count();
            assert!((99..=101).contains(&count), "{class}: {count}");
        }
    }

    #[test]
    fn what_was_charged_too_much_brings_no_key_below_where_it_began() {
        let mut line = Line::new(20);
        let (idle, busy) = (who(Priority::Standard, 1, 1), who(Priority::Standard, 2, 1));
        for _ in 0..300 {
            line.push(busy, false, 2);
        }
        line.push(idle, false, 1);
        let mut granted_to_idle = 0;
        while granted_to_idle == 0 {
            let (_, item, (), charged) = line.next(|_| Offer::Taken(())).unwrap();
            granted_to_idle += usize::from(item == 1);
            line.settle(if item == 1 { idle } else { busy }, charged, Outcome::Served(1));
        }
        for _ in 0..100 {
            granted(&mut line);
        }
        // Its one request is settled late, many times over: that brings it level, and no further.
        for _ in 0..50 {
            line.settle(idle, 1.0, Outcome::NotSent);
        }
        for _ in 0..50 {
            line.push(idle, false, 1);
        }
        let next: Vec<usize> = (0..20).map(|_| granted(&mut line).unwrap()).collect();
        assert_eq!(next.iter().filter(|key| **key == 1).count(), 10, "{next:?}");
    }

    #[test]
    fn a_full_line_makes_room_at_the_cost_of_the_longest_queue_of_the_lowest_class() {
        let mut line = Line::new(20);
        for item in 0..10 {
            line.push(who(Priority::Batch, item % 2, 1), false, item);
        }
        let mut displaced = |who| line.displace(who).map(|(_, item)| item);
        assert_eq!(displaced(who(Priority::Batch, 0, 1)), None, "its own key has as many");
        assert_eq!(displaced(who(Priority::Interactive, 9, 1)), Some(9));
        assert_eq!(displaced(who(Priority::Batch, 3, 1)), Some(8));
        assert_eq!(line.len(), 8);
        (0..8).for_each(|item| assert_eq!(granted(&mut line), Some(item)));
        line.push(who(Priority::Interactive, 1, 1), false, 1);
        assert!(line.displace(who(Priority::Standard, 2, 1)).is_none());
    }

    #[test]
    fn one_who_returns_is_next_and_one_who_left_is_not_granted() {
        let mut line = Line::new(20);
        let first = line.push(who(Priority::Batch, 1, 1), false, 1);
        line.push(who(Priority::Interactive, 2, 1), false, 2);
        let third = line.push(who(Priority::Interactive, 2, 1), false, 3);
        assert_eq!(line.remove(third), Some(3));
        assert_eq!(line.remove(third), None);
        let (standing, item, (), _) =
            line.next(|item| if *item == 1 { Offer::Taken(()) } else { Offer::NotThisOne }).unwrap();
        assert_eq!((standing, item), (first, 1));
        line.push(standing.who, true, 1);
        assert_eq!((line.ahead_of(Priority::Interactive), line.of_class(Priority::Batch)), (2, 1));
        assert_eq!((granted(&mut line), granted(&mut line), granted(&mut line)), (Some(1), Some(2), None));
    }

    #[test]
    fn a_key_that_pauses_gains_nothing_and_keys_that_left_are_forgotten() {
        let mut line = Line::new(20);
        for key in 0..3 {
            for _ in 0..100 {
                line.push(who(Priority::Standard, key, 1), false, key);
            }
        }
        for _ in 0..150 {
            granted(&mut line);
        }
        // A key that comes now has no claim to the 50 requests that the others were served.
        for _ in 0..50 {
            line.push(who(Priority::Standard, 9, 1), false, 9);
        }
        let next: Vec<usize> = (0..40).map(|_| granted(&mut line).unwrap()).collect();
        let newcomer = next.iter().filter(|key| **key == 9).count();
        assert_eq!(newcomer, 10, "{next:?}");
        for key in 1000..20_000 {
            line.settle(who(Priority::Standard, key, 1), 0.0, Outcome::Served(1));
        }
        assert!(line.classes[1].keys.len() <= MOST_REMEMBERED + 4);
        while granted(&mut line).is_some() {}
        assert!(line.classes.iter().all(|class| class.keys.is_empty() && class.order.is_empty()));
    }
}
