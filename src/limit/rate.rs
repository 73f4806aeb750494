//! A rate of late, for forecasts.

/// Time after which what was counted is added to the rate, in nanoseconds.
const STEP: u64 = 100_000_000;

/// Time in which the weight of what was counted falls to a third, in seconds.
const MEMORY: f64 = 0.5;

/// Units for each second, weighted by how late they came.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rate {
    per_second: f64,
    counted: u64,
    since: u64,
}

impl Rate {
    /// Counts units at a time, in nanoseconds of the clock.
    pub(super) fn note(&mut self, units: u32, now: u64) {
        if self.since == 0 {
            self.since = now;
        }
        self.counted += u64::from(units);
        let passed = now.saturating_sub(self.since);
        if passed >= STEP {
            let seconds = passed as f64 / 1e9;
            let share = (-seconds / MEMORY).exp();
            self.per_second = share * self.per_second + (1.0 - share) * self.counted as f64 / seconds;
            (self.counted, self.since) = (0, now);
        }
    }

    pub(super) fn per_second(&self) -> f64 {
        self.per_second
    }
}
