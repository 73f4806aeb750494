//! The wall clock and the monotonic clock that decisions use. Tests can set both.
//!
//! Expiry depends on the wall clock. Limits depend on the monotonic clock, so that a jump of the
//! wall clock changes no limit.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A source of wall-clock and monotonic time.
#[derive(Clone, Debug)]
pub struct Clock(TimeSource);

#[derive(Clone, Debug)]
enum TimeSource {
    System { epoch: Instant },
    Manual(Arc<Manual>),
}

/// The handle of a clock that moves only when a test moves it.
#[derive(Debug)]
pub struct Manual {
    wall_seconds: AtomicI64,
    monotonic_nanos: AtomicU64,
}

impl Clock {
    /// Returns a clock that reads the machine's wall clock and monotonic clock.
    pub fn system() -> Self {
        Clock(TimeSource::System { epoch: Instant::now() })
    }

    /// Returns a clock that is stopped at `wall`, and the handle to move it.
    pub fn manual(wall: Timestamp) -> (Self, Arc<Manual>) {
        let hands = Arc::new(Manual {
            wall_seconds: AtomicI64::new(wall.as_second()),
            monotonic_nanos: AtomicU64::new(0),
        });
        (Clock(TimeSource::Manual(hands.clone())), hands)
    }

    /// Returns the wall-clock time, with which `expires_at` and `not_before` are compared.
    pub(crate) fn wall(&self) -> Timestamp {
        match &self.0 {
            TimeSource::System { .. } => Timestamp::now(),
            TimeSource::Manual(hands) => {
                Timestamp::from_second(hands.wall_seconds.load(Ordering::Relaxed)).unwrap_or(Timestamp::MAX)
            }
        }
    }

    /// Returns the nanoseconds since this clock was made. The value never decreases.
    pub(crate) fn monotonic_nanos(&self) -> u64 {
        match &self.0 {
            // 584 years fit into 64 bits of nanoseconds.
            TimeSource::System { epoch } => u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX),
            TimeSource::Manual(hands) => hands.monotonic_nanos.load(Ordering::Relaxed),
        }
    }
}

impl Manual {
    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        self.monotonic_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.wall_seconds.fetch_add(i64::try_from(by.as_secs()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// Sets the wall clock only, as an operator or NTP would.
    pub fn set_wall(&self, to: Timestamp) {
        self.wall_seconds.store(to.as_second(), Ordering::Relaxed);
    }
}
