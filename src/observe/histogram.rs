//! A histogram of durations.

use std::time::Duration;

/// Upper bounds of buckets for the times of requests to model servers, in seconds.
pub(crate) const OF_REQUESTS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0,
];
/// Upper bounds of buckets for the time that bearward adds to a request, in seconds.
pub(crate) const OF_OURS: &[f64] =
    &[0.000_01, 0.000_025, 0.000_05, 0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1];

/// A histogram of durations: the number of durations in each bucket, and their sum.
#[derive(Clone, Debug)]
pub(crate) struct Histogram {
    bounds: &'static [f64],
    /// The number of durations in each bucket. The last number is of the durations beyond all
    /// bounds.
    counts: Box<[u64]>,
    sum: f64,
}

impl Histogram {
    /// Creates an empty histogram. `bounds`: upper bounds of the buckets, inclusive and ascending,
    /// in seconds.
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        Histogram { bounds, counts: vec![0; bounds.len() + 1].into(), sum: 0.0 }
    }

    pub(crate) fn observe(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        if let Some(count) = self.counts.get_mut(bucket) {
            *count += 1;
        }
        self.sum += seconds;
    }

    /// Returns the histogram with so many more durations of zero.
    pub(crate) fn with_zeros(&self, more: u64) -> Histogram {
        let mut all = self.clone();
        all.counts.first_mut().into_iter().for_each(|count| *count += more);
        all
    }

    /// Adds the counts of a histogram with the same bounds.
    pub(crate) fn add(&mut self, other: &Histogram) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum += other.sum;
    }

    /// Returns the histogram of the durations that were added after `before`, an earlier copy of
    /// this histogram.
    pub(crate) fn since(&self, before: &Histogram) -> Histogram {
        let counts = self.counts.iter().zip(&before.counts).map(|(now, then)| now.saturating_sub(*then));
        Histogram { bounds: self.bounds, counts: counts.collect(), sum: self.sum - before.sum }
    }

    /// Returns the sum of all durations, in seconds.
    pub(crate) fn sum(&self) -> f64 {
        self.sum
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the upper bound, in seconds, of the bucket that contains a quantile of the durations.
    /// `share`: the quantile, from 0 to 1. Returns `None` if there are no durations, or if the
    /// quantile is beyond all bounds.
    pub(crate) fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (self.count() as f64 * share).ceil() as u64;
        let mut seen = 0;
        let reached = self.buckets().into_iter().find(|(_, count)| {
            seen += count;
            seen >= wanted
        });
        reached.map(|(bound, _)| bound).filter(|bound| wanted > 0 && bound.is_finite())
    }

    /// Returns the upper bound of each bucket, in seconds, with the bucket's count. The last bound
    /// is infinite.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().copied()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_longer_durations_are_counted() {
        let mut histogram = Histogram::new(&[0.001, 0.01]);
        for micros in [500, 1000, 1001, 10_000, 10_001, 9_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        assert_eq!(histogram.buckets(), [(0.001, 2), (0.01, 2), (f64::INFINITY, 2)]);
        assert_eq!([0.3, 0.5, 0.9].map(|share| histogram.quantile(share)), [Some(0.001), Some(0.01), None]);
        let mut twice = histogram.clone();
        twice.add(&histogram);
        assert_eq!(twice.count(), 12);
        assert!((twice.sum() - 2.0 * histogram.sum()).abs() < 1e-9);
    }
}
