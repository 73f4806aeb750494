//! The last five minutes of each key in use, from which the page of a key draws its charts.
//!
//! A key is watched from its first request until five minutes have passed without one. Samples of
//! its usage are taken at intervals, so that a request only checks whether its key is watched.
//!
//! Invariant: at most [`MOST`] keys are watched, and none before somebody takes samples.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::usage::{KeySums, Usage};

/// Interval between two samples.
pub(crate) const KEY_STEP: Duration = Duration::from_secs(10);
/// Number of steps in the history of a key, which together last five minutes.
pub(crate) const KEY_STEPS: usize = 30;
/// Maximum number of watched keys. The samples of one key take some kilobytes.
pub(crate) const MOST: usize = 1000;

/// The keys in use, with samples of their usage.
#[derive(Debug, Default)]
pub(crate) struct KeyHistories {
    is_sampled: AtomicBool,
    /// How many more keys can be watched.
    room: AtomicUsize,
    /// Keys that came into use after the last sample. Requests wait for this lock only if their key
    /// comes into use, and nobody holds it for long.
    joining: Mutex<Vec<Watched>>,
    watched: Mutex<Vec<Watched>>,
}

/// A key in use. The usage is not kept alive, so that a removed key can be forgotten.
#[derive(Debug)]
struct Watched {
    usage: Weak<Usage>,
    /// Oldest first.
    samples: VecDeque<(Instant, KeySums)>,
}

/// Use of one key between two successive samples.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct KeyStep {
    pub(crate) took: Duration,
    /// Number of permitted requests.
    pub(crate) requests: u64,
    /// Number of refused requests, by code.
    pub(crate) refusals: BTreeMap<&'static str, u64>,
    /// Number of input and output tokens.
    pub(crate) tokens: u64,
}

impl KeyHistories {
    /// Notes that a request of a key begins, before anything of the request is counted.
    pub(super) fn note(&self, usage: &Arc<Usage>) {
        if usage.is_watched() || self.is_full() {
            return;
        }
        self.join(usage, Instant::now());
    }

    /// Whether no more keys can be watched, because [`MOST`] keys are in use or no samples are
    /// taken.
    pub(crate) fn is_full(&self) -> bool {
        self.room.load(Ordering::Relaxed) == 0
    }

    fn join(&self, usage: &Arc<Usage>, now: Instant) {
        if !usage.watch(true) {
            return;
        }
        let one_less = |room: usize| room.checked_sub(1);
        if self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err() {
            usage.watch(false);
            return;
        }
        let samples = VecDeque::from([(now, usage.sums(None))]);
        let joins = Watched { usage: Arc::downgrade(usage), samples };
        self.joining.lock().unwrap_or_else(PoisonError::into_inner).push(joins);
    }

    /// Takes a sample of each key in use, and stops to watch keys that were not used for five
    /// minutes or were removed.
    pub(crate) fn sample(&self, now: Instant) {
        if !self.is_sampled.swap(true, Ordering::Relaxed) {
            self.room.store(MOST, Ordering::Relaxed);
        }
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.append(&mut self.joining.lock().unwrap_or_else(PoisonError::into_inner));
        let before = watched.len();
        watched.retain_mut(|watched| watched.sample(now));
        self.room.fetch_add(before - watched.len(), Ordering::Relaxed);
    }

    /// Returns the steps of a key, oldest first; `None` if the key is not watched. The step still
    /// in progress ends at `now`, and is included once it has lasted for at least a second.
    pub(crate) fn steps(&self, usage: &Arc<Usage>, now: Instant) -> Option<Vec<KeyStep>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.append(&mut self.joining.lock().unwrap_or_else(PoisonError::into_inner));
        let of_key = watched.iter().find(|watched| watched.usage.as_ptr() == Arc::as_ptr(usage))?;
        let mut samples: Vec<(Instant, KeySums)> = of_key.samples.iter().cloned().collect();
        if samples.last().is_some_and(|(last, _)| now.duration_since(*last) >= Duration::from_secs(1)) {
            samples.push((now, usage.sums(None)));
        }
        let steps = samples.windows(2).filter_map(|pair| match pair {
            [(from, before), (to, after)] => Some(step(to.duration_since(*from), before, after)),
            _ => None,
        });
        let steps: Vec<KeyStep> = steps.collect();
        Some(steps.get(steps.len().saturating_sub(KEY_STEPS)..).unwrap_or_default().to_vec())
    }
}

impl Watched {
    /// Takes a sample. Returns whether the key stays watched.
    fn sample(&mut self, now: Instant) -> bool {
        let Some(usage) = self.usage.upgrade() else { return false };
        let last = self.samples.back().map(|(_, sums)| sums.refusals.clone());
        let sums = usage.sums(last);
        let is_idle =
            self.samples.len() > KEY_STEPS && self.samples.front().is_some_and(|(_, first)| *first == sums);
        if is_idle {
            usage.watch(false);
            return false;
        }
        // There is one more sample than steps, because each step lies between two samples.
        if self.samples.len() > KEY_STEPS {
            self.samples.pop_front();
        }
        self.samples.push_back((now, sums));
        true
    }
}

fn step(took: Duration, before: &KeySums, after: &KeySums) -> KeyStep {
    let earlier = |code: &str| before.refusals.iter().find(|(known, _)| *known == code);
    let refusals = after.refusals.iter().map(|(code, count)| {
        let earlier = earlier(code).map_or(0, |(_, count)| *count);
        (*code, count.saturating_sub(earlier))
    });
    KeyStep {
        took,
        requests: after.requests.saturating_sub(before.requests),
        refusals: refusals.filter(|(_, count)| *count > 0).collect(),
        tokens: after.tokens.saturating_sub(before.tokens),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::usage::UsageBook;
    use super::*;
    use crate::denial::Code;
    use crate::token_report::{Tokens, TokensBy};

    fn used(usage: &Usage, requests: u64) {
        (0..requests).for_each(|_| {
            usage.note(Timestamp::UNIX_EPOCH, None);
        });
    }

    #[test]
    fn a_step_has_the_requests_refusals_and_tokens_between_two_samples() {
        let (histories, book, start) = (KeyHistories::default(), UsageBook::new(1), Instant::now());
        let usage = book.of("key_a");
        used(&usage, 5);
        histories.sample(start);
        histories.join(&usage, start);
        used(&usage, 3);
        usage.refused(Code::RateLimitExceeded);
        histories.sample(start + KEY_STEP);
        let tokens = Tokens { input: 40, cached: None, output: 30, by: TokensBy::Reported };
        usage.ended((Timestamp::UNIX_EPOCH, None, None), Some(tokens));
        usage.refused(Code::RateLimitExceeded);
        usage.refused(Code::ModelNotAllowed);
        assert_eq!(histories.steps(&usage, start + KEY_STEP).unwrap().len(), 1);
        let steps = histories.steps(&usage, start + KEY_STEP + Duration::from_secs(4)).unwrap();
        let one = [("RATE_LIMIT_EXCEEDED", 1)].into();
        let two = [("RATE_LIMIT_EXCEEDED", 1), ("MODEL_NOT_ALLOWED", 1)].into();
        let expected = [
            KeyStep { took: KEY_STEP, requests: 3, refusals: one, tokens: 0 },
            KeyStep { took: Duration::from_secs(4), requests: 0, refusals: two, tokens: 70 },
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn five_minutes_are_remembered_and_then_an_idle_key_makes_room() {
        let (histories, book, start) = (KeyHistories::default(), UsageBook::new(1), Instant::now());
        let (busy, idle) = (book.of("key_busy"), book.of("key_idle"));
        histories.sample(start);
        [&busy, &idle].iter().for_each(|usage| histories.join(usage, start));
        used(&idle, 1);
        for step in 1..=40 {
            used(&busy, step);
            histories.sample(start + KEY_STEP * u32::try_from(step).unwrap());
            if step == 31 {
                assert!(idle.is_watched(), "its only request is in the history");
            }
        }
        let steps = histories.steps(&busy, start + KEY_STEP * 40).unwrap();
        let requests: Vec<u64> = steps.iter().map(|step| step.requests).collect();
        assert_eq!(requests, (11..=40).collect::<Vec<u64>>());
        assert!(!idle.is_watched() && histories.steps(&idle, start).is_none());
        assert_eq!(histories.room.load(Ordering::Relaxed), MOST - 1);
        used(&idle, 1);
        histories.join(&idle, start + KEY_STEP * 40);
        used(&idle, 7);
        let steps = histories.steps(&idle, start + KEY_STEP * 41).unwrap();
        assert_eq!((steps.len(), steps[0].requests), (1, 7), "what was before is not counted again");
    }

    #[test]
    fn the_number_of_watched_keys_is_bounded_and_removed_keys_make_room() {
        let (histories, book, start) = (KeyHistories::default(), UsageBook::new(1), Instant::now());
        let early = book.of("key_early");
        histories.note(&early);
        assert!(!early.is_watched(), "nobody takes samples");
        histories.sample(start);
        let keys: Vec<Arc<Usage>> = (0..=MOST).map(|number| book.of(&format!("key_{number}"))).collect();
        keys.iter().for_each(|usage| histories.note(usage));
        let of_last = &keys[MOST];
        assert!(histories.is_full() && !of_last.is_watched() && histories.steps(of_last, start).is_none());
        assert_eq!(histories.watched.lock().unwrap().len(), MOST);
        let removed: Vec<String> = (0..10).map(|number| format!("key_{number}")).collect();
        let stay = keys[10..].to_vec();
        drop(keys);
        removed.iter().for_each(|id| assert!(book.forget(id).is_some() || book.find(id).is_none()));
        histories.sample(start + KEY_STEP);
        assert_eq!(histories.room.load(Ordering::Relaxed), 10);
        histories.note(&stay[MOST - 10]);
        assert!(stay[MOST - 10].is_watched());
    }
}
