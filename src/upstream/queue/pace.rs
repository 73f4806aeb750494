//! How fast those who wait are served, to tell others how long they would wait.

use std::time::{Duration, Instant};

/// Longest wait that is told.
const LONGEST: Duration = Duration::from_secs(3600);

/// The pace at which those who wait get slots.
#[derive(Debug)]
pub(super) struct Pace {
    /// When the last of them got a slot, or when the first of them began to wait.
    last: Instant,
    /// The mean time between two of them; `None` if there was none yet.
    interval: Option<Duration>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Pace { last: now, interval: None }
    }

    /// Notes that the first request begins to wait.
    pub(super) fn begins(&mut self, now: Instant) {
        self.last = now;
    }

    /// Notes that one who waited got a slot.
    pub(super) fn granted(&mut self, now: Instant) {
        /// The weight of the past, in parts of eight.
        const PAST: u32 = 7;
        let since = now.saturating_duration_since(self.last);
        self.last = now;
        self.interval = Some(match self.interval {
            Some(interval) => (interval * PAST + since) / (PAST + 1),
            None => since,
        });
    }

    /// Returns how long a request with `ahead` others before it will wait, as far as the past tells.
    pub(super) fn wait(&self, ahead: usize, now: Instant) -> Duration {
        // A pause that goes on is longer than the mean already.
        let since = now.saturating_duration_since(self.last);
        let interval = self.interval.unwrap_or_default().max(since);
        let ahead = u32::try_from(ahead).unwrap_or(u32::MAX).saturating_add(1);
        interval.saturating_mul(ahead).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_reckoned_by_the_pace_of_late() {
        let begin = Instant::now();
        let mut pace = Pace::new(begin);
        let mut now = begin;
        pace.begins(now);
        assert_eq!(
            pace.wait(3, now + Duration::from_secs(2)),
            Duration::from_secs(8),
            "nobody was served yet"
        );
        for _ in 0..50 {
            now += Duration::from_millis(500);
            pace.granted(now);
        }
        let wait = pace.wait(19, now).as_secs_f64();
        assert!((9.9..10.1).contains(&wait), "{wait}");
        assert_eq!(
            pace.wait(9, now + Duration::from_secs(30)),
            Duration::from_secs(300),
            "the upstream hangs"
        );
        assert_eq!(pace.wait(usize::MAX, now), LONGEST);
    }
}
