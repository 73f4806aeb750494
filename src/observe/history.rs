//! Samples of counts in the last five minutes, from which the status page draws curves.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::key_history::{KEY_STEP, KeyHistories};
use super::token_minute::{TokenMinute, TokenSums};

/// Interval between two samples.
pub(crate) const STEP: Duration = Duration::from_secs(5);
/// Number of steps in the history, which together last five minutes.
pub(crate) const STEPS: usize = 60;

/// The counts of all workers at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    /// Number of requests that have ended.
    pub(crate) requests: u64,
    pub(crate) refusals: u64,
    /// Number of input and output tokens of the requests that have ended.
    pub(crate) tokens: u64,
    /// Times that bearward added to requests.
    pub(crate) added: Histogram,
    pub(crate) in_flight: usize,
}

/// The rates of requests, refusals and tokens between two successive samples, and the requests in flight.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) requests_per_second: f64,
    pub(crate) refusals_per_second: f64,
    pub(crate) tokens_per_minute: f64,
    /// 95th percentile of the time that bearward added to a request, in seconds, as the upper bound
    /// of its bucket. `None` if there was no request, or if the percentile is beyond all bounds.
    pub(crate) added_p95: Option<f64>,
    /// Requests in flight at the end of the step.
    pub(crate) in_flight: usize,
}

/// The samples of the last five minutes, oldest first, and those of tokens.
#[derive(Debug, Default)]
pub(crate) struct History {
    samples: Mutex<VecDeque<(Instant, Sums)>>,
    pub(crate) tokens: TokenMinute,
}

impl History {
    /// Adds a sample every [`STEP`] until the process ends. `keys` gets samples at every other step.
    pub(crate) async fn keep(
        &self,
        sums: impl Fn() -> Sums,
        tokens: impl Fn() -> TokenSums,
        keys: &KeyHistories,
    ) {
        let mut tick = tokio::time::interval(STEP);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last_of_keys: Option<Instant> = None;
        loop {
            tick.tick().await;
            let now = Instant::now();
            self.add(now, sums());
            self.tokens.add(now, &tokens);
            if last_of_keys.is_none_or(|last| now.duration_since(last) + STEP / 2 >= KEY_STEP) {
                last_of_keys = Some(now);
                keys.sample(now);
            }
        }
    }

    fn add(&self, at: Instant, sums: Sums) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        // The history has one more sample than steps, because each step lies between two samples.
        if samples.len() > STEPS {
            samples.pop_front();
        }
        samples.push_back((at, sums));
    }

    /// Returns the steps, oldest first. The step still in progress ends at `now`, and is included
    /// once it has lasted for at least a second.
    pub(crate) fn steps(&self, now: (Instant, Sums)) -> Vec<Step> {
        let mut samples: Vec<(Instant, Sums)> =
            self.samples.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect();
        if samples.last().is_none_or(|(last, _)| now.0.duration_since(*last) >= Duration::from_secs(1)) {
            samples.push(now);
        }
        let steps = samples.windows(2).filter_map(|pair| match pair {
            [(from, before), (to, after)] => Some(step(to.duration_since(*from), before, after)),
            _ => None,
        });
        let steps: Vec<Step> = steps.collect();
        steps.get(steps.len().saturating_sub(STEPS)..).unwrap_or_default().to_vec()
    }
}

fn step(took: Duration, before: &Sums, after: &Sums) -> Step {
    let seconds = took.as_secs_f64().max(f64::EPSILON);
    let per_second = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    Step {
        requests_per_second: per_second(before.requests, after.requests),
        refusals_per_second: per_second(before.refusals, after.refusals),
        tokens_per_minute: per_second(before.tokens, after.tokens) * 60.0,
        added_p95: after.added.since(&before.added).quantile(0.95),
        in_flight: after.in_flight,
    }
}

#[cfg(test)]
mod tests {
    use super::super::histogram::OF_OURS;
    use super::*;

    fn sums(requests: u64, refusals: u64, added: &[f64]) -> Sums {
        let mut histogram = Histogram::new(OF_OURS);
        added.iter().for_each(|seconds| histogram.observe(Duration::from_secs_f64(*seconds)));
        Sums { requests, refusals, tokens: requests * 2, added: histogram, in_flight: 3 }
    }

    #[test]
    fn a_step_is_the_difference_of_two_samples() {
        let (history, start) = (History::default(), Instant::now());
        history.add(start, sums(10, 1, &[0.01, 0.01]));
        history.add(start + STEP, sums(60, 11, &[0.01, 0.01, 0.00002]));
        let soon = start + STEP + Duration::from_millis(500);
        let steps = history.steps((soon, sums(1000, 1000, &[])));
        let expected = Step {
            requests_per_second: 10.0,
            refusals_per_second: 2.0,
            tokens_per_minute: 1200.0,
            added_p95: Some(0.000_025),
            in_flight: 3,
        };
        assert_eq!(steps, [expected]);
    }

    #[test]
    fn the_present_is_a_step_of_its_own_after_a_second() {
        let (history, start) = (History::default(), Instant::now());
        history.add(start, sums(10, 0, &[]));
        let steps = history.steps((start + Duration::from_secs(2), sums(30, 0, &[])));
        assert_eq!(steps.len(), 1);
        assert_eq!((steps[0].requests_per_second, steps[0].added_p95), (10.0, None));
    }

    #[test]
    fn five_minutes_are_remembered() {
        let (history, start) = (History::default(), Instant::now());
        for second in 0..200 {
            history.add(start + STEP * second, sums(u64::from(second) * u64::from(second), 0, &[]));
        }
        let last = start + STEP * 200;
        let steps = history.steps((last, sums(40_000, 0, &[])));
        assert_eq!(steps.len(), STEPS);
        assert_eq!(steps.last().unwrap().requests_per_second, (40_000.0 - 199.0 * 199.0) / 5.0);
        assert_eq!(steps[0].requests_per_second, (141.0 * 141.0 - 140.0 * 140.0) / 5.0);
    }
}
