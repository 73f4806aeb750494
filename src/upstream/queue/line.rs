//! The order of those who wait: classes before one another, and within each the order of a [`Class`].
//!
//! Of any [`Line::period`] grants in a row while a lower class waits, one is of that
//! class. Nothing here knows time, slots or threads, so a test can call it a million times.
//!
//! Invariant: a request never passes an earlier one of its own key and class.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::class::{Class, Offer, Standing, Who};
use crate::config::Priority;

/// Shortest period in which each of three classes gets a slot.
const SHORTEST_PERIOD: u32 = 3;

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
        let own = class.of_key(who.key);
        let has_less_right =
            |most| lowest > who.class.index() || (lowest == who.class.index() && most > own + 1);
        let displaced = class.take_last_of_most(has_less_right)?;
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
            let Some(class) = self.classes.get_mut(index) else { continue };
            let charge = self.mean;
            match class.next(charge, &mut offer) {
                Offer::Taken((standing, item, slot)) => {
                    self.note_grant(index);
                    self.left();
                    return Some((standing, item, slot, charge));
                }
                Offer::NotThisOne => {}
                Offer::NothingFree => return None,
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
        class.correct(who, charged, units);
    }

    /// Takes all out.
    pub(super) fn drain(&mut self) -> Vec<T> {
        let mut all: Vec<T> = self.returned.drain(..).map(|(_, item)| item).collect();
        all.extend(self.classes.iter_mut().flat_map(Class::drain));
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
        self.classes.get_mut(class.index())
    }
}

#[cfg(test)]
mod tests;
