//! How an endpoint fares: the requests in flight to it, and whether it is left out for having failed.
//!
//! Requests tell: an endpoint that can't be connected to is left out for a moment, longer each time, and then one request
//! probes it. Where it is asked how it is as well ([`super::check`]), one that has said that it is not well gets none.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const FIRST_EJECTION: Duration = Duration::from_millis(100);
/// One that is back is in use again after no more than this.
const LONGEST_EJECTION: Duration = Duration::from_secs(2);
/// A probe that was not heard of for this long is given up, and another one goes.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Not left out.
const NOT_EJECTED: u64 = 0;

/// The state of one endpoint, shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Health {
    in_flight: AtomicUsize,
    failures: AtomicU32,
    /// Its checks have failed,
    is_failing_checks: AtomicBool,
    /// … and how.
    check_failure: Mutex<Option<String>>,
    /// Whether anything is known of it.
    is_known: AtomicBool,
    /// Milliseconds of the process's life, or [`NOT_EJECTED`].
    ejected_until: AtomicU64,
}

/// A request at an endpoint; dropping it is its end.
#[derive(Debug)]
pub(crate) struct InFlightGuard(Arc<Health>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Health {
    /// A request goes to the endpoint.
    pub(crate) fn start_request(self: &Arc<Self>) -> InFlightGuard {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(self.clone())
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether it has been asked yet.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    fn mark_known(&self) {
        // All workers write here, once.
        if !self.is_known() {
            self.is_known.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.ejected_until.load(Ordering::Relaxed) == NOT_EJECTED && !self.is_failing_checks()
    }

    /// Whether its checks have failed, so that it gets no requests.
    pub(crate) fn is_failing_checks(&self) -> bool {
        self.is_failing_checks.load(Ordering::Relaxed)
    }

    /// What its checks have found: why it is unfit, or nothing. Says whether that is news.
    pub(crate) fn record_check(&self, check_failure: Option<String>) -> bool {
        self.mark_known();
        let is_failing_checks = check_failure.is_some();
        *self.check_failure.lock().unwrap_or_else(PoisonError::into_inner) = check_failure;
        self.is_failing_checks.swap(is_failing_checks, Ordering::Relaxed) != is_failing_checks
    }

    /// Nobody checks it any more.
    pub(crate) fn clear_check(&self) {
        *self.check_failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.is_failing_checks.store(false, Ordering::Relaxed);
    }

    /// Why it gets no requests at the moment, if it gets none.
    pub(crate) fn fault(&self) -> Option<String> {
        let check_failure = self.check_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_ejected = self.ejected_until.load(Ordering::Relaxed) != NOT_EJECTED;
        check_failure.or_else(|| is_ejected.then(|| "can't be connected to".to_owned()))
    }

    /// Whether the endpoint is due for a probe and the caller is the one to make it.
    pub(crate) fn try_claim_probe(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until == NOT_EJECTED || millis(now) < until {
            return false;
        }
        let next = millis(now + PROBE_TIMEOUT);
        self.ejected_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// It could not be connected to. Says for how long it is left out if it was not so before.
    pub(crate) fn record_failure(&self, now: Instant) -> Option<Duration> {
        self.mark_known();
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let ejection = FIRST_EJECTION.saturating_mul(1 << failures.min(16)).min(LONGEST_EJECTION);
        let before = self.ejected_until.swap(millis(now + ejection), Ordering::Relaxed);
        (before == NOT_EJECTED).then_some(ejection)
    }

    /// It was connected to, or answered. Says whether it was left out before.
    pub(crate) fn record_success(&self) -> bool {
        self.mark_known();
        if self.ejected_until.load(Ordering::Relaxed) == NOT_EJECTED {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.ejected_until.swap(NOT_EJECTED, Ordering::Relaxed) != NOT_EJECTED
    }
}

/// Milliseconds from a moment in the process's early life, never [`NOT_EJECTED`].
fn millis(instant: Instant) -> u64 {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    let epoch = *EPOCH.get_or_init(Instant::now);
    u64::try_from(instant.saturating_duration_since(epoch).as_millis())
        .unwrap_or(u64::MAX)
        .max(NOT_EJECTED + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_that_fails_is_probed_ever_more_rarely_by_one_at_a_time() {
        let health = Health::default();
        let mut now = Instant::now() + Duration::from_secs(1);
        assert!(health.is_healthy() && !health.is_known() && !health.try_claim_probe(now));
        assert_eq!(health.record_failure(now), Some(FIRST_EJECTION));
        assert!(health.is_known());
        for _ in 0..10 {
            assert!(!health.try_claim_probe(now), "not before its time");
            now += LONGEST_EJECTION;
            assert!(health.try_claim_probe(now));
            assert!(!health.try_claim_probe(now), "one probe at a time");
            assert_eq!(health.record_failure(now), None, "told once");
        }
        now += LONGEST_EJECTION;
        assert!(health.try_claim_probe(now));
        // The one that claimed it was never heard of again.
        assert!(health.try_claim_probe(now + PROBE_TIMEOUT));
        assert!(health.record_success() && health.is_healthy());
        assert!(!health.record_success());
        assert_eq!(health.record_failure(now), Some(FIRST_EJECTION), "it starts anew");
    }
}
