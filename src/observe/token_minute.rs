//! Tokens of the last minute, by key and model, for the status.
//!
//! Invariant: at most [`KEPT`] samples are kept, each with one entry for every pair of labels in the
//! metrics.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::usage::KeyLabel;

/// Tokens of one key and one model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OfModel {
    pub(crate) input: u64,
    pub(crate) cached: u64,
    pub(crate) output: u64,
}

impl OfModel {
    pub(super) fn add(&mut self, more: OfModel) {
        self.input += more.input;
        self.cached += more.cached;
        self.output += more.output;
    }
}

/// Tokens since the start, by the labels of key and model.
pub(crate) type TokenSums = HashMap<(KeyLabel, Arc<str>), OfModel, RandomState>;

const MINUTE: Duration = Duration::from_secs(60);
/// Interval between two samples.
const APART: Duration = Duration::from_secs(15);
/// The samples of the last minute, and one that is older.
const KEPT: usize = 6;

/// Samples of the tokens since the start, oldest first.
#[derive(Debug, Default)]
pub(crate) struct TokenMinute(Mutex<VecDeque<(Instant, TokenSums)>>);

/// Tokens that one key used of one model in the last minute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MinuteUse {
    pub(crate) key: KeyLabel,
    pub(crate) model: Arc<str>,
    pub(crate) tokens: OfModel,
}

impl TokenMinute {
    /// Adds a sample, unless the last one is younger than [`APART`].
    pub(super) fn add(&self, at: Instant, sums: impl FnOnce() -> TokenSums) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.back().is_some_and(|(last, _)| at.duration_since(*last) < APART) {
            return;
        }
        if samples.len() >= KEPT {
            samples.pop_front();
        }
        samples.push_back((at, sums()));
    }

    /// Returns who used tokens in the last minute, the greatest use first. If the only sample from
    /// before that minute is older, its difference to `sums` is scaled to a minute.
    pub(crate) fn uses(&self, now: Instant, sums: &TokenSums) -> Vec<MinuteUse> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_before = |sample: &&(Instant, TokenSums)| now.duration_since(sample.0) >= MINUTE;
        let base = samples.iter().rev().find(is_before).or(samples.front());
        let scale = base
            .map_or(1.0, |(at, _)| MINUTE.as_secs_f64() / now.duration_since(*at).max(MINUTE).as_secs_f64());
        let part = |now: u64, before: u64| (now.saturating_sub(before) as f64 * scale).round() as u64;
        let mut uses: Vec<MinuteUse> = sums
            .iter()
            .map(|((key, model), after)| {
                let before = base.and_then(|(_, sums)| sums.get(&(*key, model.clone())));
                let before = before.copied().unwrap_or_default();
                let tokens = OfModel {
                    input: part(after.input, before.input),
                    cached: part(after.cached, before.cached),
                    output: part(after.output, before.output),
                };
                MinuteUse { key: *key, model: model.clone(), tokens }
            })
            .filter(|minute| minute.tokens != OfModel::default())
            .collect();
        let total = |minute: &MinuteUse| minute.tokens.input + minute.tokens.output;
        uses.sort_by(|a, b| total(b).cmp(&total(a)).then_with(|| (a.key, &a.model).cmp(&(b.key, &b.model))));
        uses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(of: &[(u32, &str, u64)]) -> TokenSums {
        let entry = |(key, model, output): &(u32, &str, u64)| {
            let tokens = OfModel { input: output / 2, cached: 0, output: *output };
            ((KeyLabel::Id(*key), Arc::from(*model)), tokens)
        };
        of.iter().map(entry).collect()
    }

    fn outputs(uses: &[MinuteUse]) -> Vec<(KeyLabel, &str, u64)> {
        uses.iter().map(|minute| (minute.key, &*minute.model, minute.tokens.output)).collect()
    }

    #[test]
    fn a_minute_is_the_difference_to_the_sample_before_it() {
        let (minute, start) = (TokenMinute::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        for step in 0..40 {
            minute.add(at(step * 5), || sums(&[(0, "a", step * 10), (1, "a", 7)]));
        }
        // The samples are those of every fifteen seconds: the last before the minute is at 135 s.
        let uses = minute.uses(at(195), &sums(&[(0, "a", 390), (1, "a", 7), (1, "b", 900)]));
        let expected = [(KeyLabel::Id(1), "b", 900), (KeyLabel::Id(0), "a", 120)];
        assert_eq!(outputs(&uses), expected);
        let uses = minute.uses(at(205), &sums(&[(0, "a", 410)]));
        assert_eq!(outputs(&uses), [(KeyLabel::Id(0), "a", 120)], "70 seconds are scaled to 60");
        assert_eq!(minute.0.lock().unwrap().len(), KEPT);
    }

    #[test]
    fn the_first_minute_is_not_scaled() {
        let (minute, start) = (TokenMinute::default(), Instant::now());
        minute.add(start, || sums(&[]));
        let uses = minute.uses(start + Duration::from_secs(6), &sums(&[(0, "a", 50)]));
        assert_eq!(outputs(&uses), [(KeyLabel::Id(0), "a", 50)]);
        assert_eq!(minute.uses(start, &sums(&[])), []);
    }
}
