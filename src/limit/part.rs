//! A replica's part of a window while the server that has the shared buckets can't be asked.
//!
//! Invariants: the bursts of all parts are the burst of the window, and so are their rates. A part
//! begins empty: what the window had left before was given out as leases, or is left to the replicas
//! that still have the server.

use std::time::Duration;

use super::gcra::Window;

/// Which part a replica has, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartOf {
    /// Number of replicas.
    pub(crate) replicas: u32,
    /// Number of replicas before this one in the order of their ids; `None` if it is not known.
    pub(crate) rank: Option<u32>,
    /// Time since which the server can't be asked, in nanoseconds of the clock.
    pub(crate) since: u64,
}

/// The use of a part: its theoretical arrival time, in nanoseconds of the clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Part {
    arrival: u64,
    /// The time at which the part began.
    since: u64,
    /// Time in which the part regains a unit, in nanoseconds.
    period: u64,
}

impl PartOf {
    /// Returns this replica's share of a number. The shares of all replicas add up to the number.
    pub(crate) fn share_of(self, number: u32) -> u32 {
        let replicas = self.replicas.max(1);
        let has_one_more = self.rank.is_some_and(|rank| rank < number % replicas);
        number / replicas + u32::from(has_one_more)
    }

    /// Returns the burst of the part, and the time in which it regains a unit, in nanoseconds. `None`
    /// if the window has fewer units than there are replicas, and this one has none.
    fn of(self, window: &Window) -> Option<(u32, u64)> {
        let burst = window.quota().burst;
        let part = self.share_of(burst);
        let period = u128::from(window.period()) * u128::from(burst);
        let period = period.div_ceil(u128::from(part.max(1)));
        (part > 0).then(|| (part, u64::try_from(period).unwrap_or(u64::MAX)))
    }
}

impl Part {
    /// Returns the part as it is after a charge.
    ///
    /// # Errors
    ///
    /// How long the request has to wait.
    pub(super) fn charged(self, window: &Window, units: u32, of: PartOf, now: u64) -> Result<Part, Duration> {
        let Some((burst, period)) = of.of(window) else { return Err(window.quota().per) };
        let time_of = |units: u32| period.saturating_mul(u64::from(units));
        let arrival = self.arrival_in(of, (burst, period)).max(now);
        let granted = arrival.saturating_add(time_of(units.min(burst))).saturating_sub(time_of(burst));
        if granted > now {
            return Err(Duration::from_nanos(granted - now));
        }
        Ok(Part { arrival: arrival.saturating_add(time_of(units)), since: of.since, period })
    }

    /// Returns the arrival time in a part, which begins empty.
    fn arrival_in(self, of: PartOf, (burst, period): (u32, u64)) -> u64 {
        match self.since == of.since && self.arrival > 0 {
            true => self.arrival,
            false => of.since.saturating_add(period.saturating_mul(u64::from(burst))),
        }
    }

    /// Returns the number of units that the part would grant at once now, and the time until it would
    /// grant all that it can.
    pub(super) fn status(self, window: &Window, of: PartOf, now: u64) -> (u32, Duration) {
        let Some((burst, period)) = of.of(window) else { return (0, window.quota().per) };
        let ahead = self.arrival_in(of, (burst, period)).saturating_sub(now);
        let used = u32::try_from(ahead.div_ceil(period.max(1))).unwrap_or(u32::MAX);
        (burst.saturating_sub(used), Duration::from_nanos(ahead))
    }

    /// Gives time back of a charge that was not used.
    pub(super) fn give_back(&mut self, time: u64) {
        self.arrival = self.arrival.saturating_sub(time);
    }

    /// Returns the units that the part has not regained.
    pub(super) fn not_regained(&self, now: u64) -> u64 {
        self.arrival.saturating_sub(now).div_ceil(self.period.max(1))
    }

    pub(super) fn arrival(&self) -> u64 {
        self.arrival
    }

    pub(super) fn period(&self) -> u64 {
        self.period
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Quota, Unit};

    const SECOND: u64 = 1_000_000_000;

    fn window(amount: u32, burst: u32) -> Window {
        Window::new(None, Quota::new(Unit::Requests, amount, Duration::from_secs(60), Some(burst)))
    }

    #[test]
    fn all_parts_together_are_the_window() {
        for (burst, replicas) in [(100, 3), (7, 10), (1, 2), (10, 10), (64, 1)] {
            let window = window(600, burst);
            let parts: Vec<_> = (0..replicas)
                .filter_map(|rank| PartOf { replicas, rank: Some(rank), since: 1 }.of(&window))
                .collect();
            assert_eq!(parts.iter().map(|(burst, _)| burst).sum::<u32>(), burst);
            let rate: f64 = parts.iter().map(|(_, period)| 1e9 / *period as f64).sum();
            assert!((9.9..=10.0).contains(&rate), "{rate} a second");
        }
        assert_eq!(PartOf { replicas: 10, rank: None, since: 1 }.of(&window(60, 9)), None);
    }

    #[test]
    fn a_part_begins_empty_and_regains_its_share_of_the_rate() {
        let window = window(600, 60);
        let of = PartOf { replicas: 3, rank: Some(0), since: 5 * SECOND };
        let mut part = Part::default();
        let mut granted = 0;
        for tenth in 0..=100 {
            let now = 5 * SECOND + tenth * SECOND / 10;
            while let Ok(after) = part.charged(&window, 1, of, now) {
                part = after;
                granted += 1;
            }
        }
        assert_eq!(granted, 33, "a third of ten a second in ten seconds");
        let again = PartOf { since: 100 * SECOND, ..of };
        assert!(part.charged(&window, 1, again, 100 * SECOND).is_err(), "each time it begins empty");
    }
}
