//! Health of an endpoint, and its number of requests in flight. An endpoint's health depends on
//! connection attempts (passive) and on health checks (active).
//!
//! Passive: if no connection can be made to an endpoint, the endpoint is ejected for a short time,
//! longer after each failure. After that time, one request probes the endpoint.
//! Active: an endpoint that fails its health checks ([`super::check`]) gets no requests.
//! Invariant: no request takes a lock of this module. All state that a request reads is atomic,
//! because all workers share this state.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

const FIRST_EJECTION: Duration = Duration::from_millis(100);
/// Longest ejection of an endpoint. An endpoint that recovers gets requests again within this time.
const LONGEST_EJECTION: Duration = Duration::from_secs(2);
/// Time after which a probe without a result is abandoned, so that another request may probe the
/// endpoint.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Value of `Health::ejected_until` while the endpoint is not ejected.
const NOT_EJECTED: u64 = 0;

/// The health of one endpoint, shared by all workers.
#[derive(Debug, Default)]
pub(crate) struct Health {
    in_flight: AtomicUsize,
    failures: AtomicU32,
    is_failing_checks: AtomicBool,
    /// Reason why the health checks fail; `None` while they pass.
    check_failure: Mutex<Option<String>>,
    /// Whether the endpoint's health is known, because at least one request or health check has had
    /// a result.
    is_known: AtomicBool,
    /// End of the ejection, in milliseconds after the process's start, or [`NOT_EJECTED`].
    ejected_until: AtomicU64,
}

/// Counts one request to an endpoint as in flight until this guard is dropped.
#[derive(Debug)]
pub(crate) struct InFlightGuard(Arc<Health>);

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Health {
    /// Counts a new request to the endpoint as in flight.
    pub(crate) fn start_request(self: &Arc<Self>) -> InFlightGuard {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlightGuard(self.clone())
    }

    /// Returns the number of requests to the endpoint that are in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether the endpoint's health is known, because at least one request or health check has had
    /// a result.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    fn mark_known(&self) {
        // The flag is loaded first, because a store would remove its cache line from the caches of
        // the other workers. So only the first call stores.
        if !self.is_known() {
            self.is_known.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the endpoint is not ejected and passes its health checks.
    pub(crate) fn is_healthy(&self) -> bool {
        self.ejected_until.load(Ordering::Relaxed) == NOT_EJECTED && !self.is_failing_checks()
    }

    /// Whether the endpoint fails its health checks, and therefore gets no requests.
    pub(crate) fn is_failing_checks(&self) -> bool {
        self.is_failing_checks.load(Ordering::Relaxed)
    }

    /// Records the result of a health check: the reason of the failure, or `None` if the check
    /// passed. Returns whether the endpoint has begun or ceased to fail its health checks.
    pub(crate) fn record_check(&self, check_failure: Option<String>) -> bool {
        self.mark_known();
        let is_failing_checks = check_failure.is_some();
        *self.check_failure.lock().unwrap_or_else(PoisonError::into_inner) = check_failure;
        self.is_failing_checks.swap(is_failing_checks, Ordering::Relaxed) != is_failing_checks
    }

    /// Clears the result of the health checks. Called when the endpoint is no longer checked.
    pub(crate) fn clear_check(&self) {
        *self.check_failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.is_failing_checks.store(false, Ordering::Relaxed);
    }

    /// Returns the reason why the endpoint gets no requests; `None` if it gets requests.
    pub(crate) fn fault(&self) -> Option<String> {
        let check_failure = self.check_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let is_ejected = self.ejected_until.load(Ordering::Relaxed) != NOT_EJECTED;
        check_failure.or_else(|| is_ejected.then(|| "can't be connected to".to_owned()))
    }

    /// Returns whether the caller's request may probe the endpoint. The result is true only when an
    /// ejection is over, and for one caller at a time.
    pub(crate) fn try_claim_probe(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        if until == NOT_EJECTED || millis(now) < until {
            return false;
        }
        let next = millis(now + PROBE_TIMEOUT);
        self.ejected_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// Records that connecting failed, and ejects the endpoint. Returns the length of the ejection
    /// if the endpoint was not ejected before.
    pub(crate) fn record_failure(&self, now: Instant) -> Option<Duration> {
        self.mark_known();
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let ejection = FIRST_EJECTION.saturating_mul(1 << failures.min(16)).min(LONGEST_EJECTION);
        let before = self.ejected_until.swap(millis(now + ejection), Ordering::Relaxed);
        (before == NOT_EJECTED).then_some(ejection)
    }

    /// Records that the endpoint accepted a connection or sent an answer. Returns whether the
    /// endpoint was ejected before.
    pub(crate) fn record_success(&self) -> bool {
        self.mark_known();
        if self.ejected_until.load(Ordering::Relaxed) == NOT_EJECTED {
            return false;
        }
        self.failures.store(0, Ordering::Relaxed);
        self.ejected_until.swap(NOT_EJECTED, Ordering::Relaxed) != NOT_EJECTED
    }
}

/// Returns the milliseconds from the first call of this function to `instant`. Never returns
/// [`NOT_EJECTED`].
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
    fn an_ejected_endpoint_is_probed_by_one_request_at_a_time() {
        let health = Health::default();
        let mut now = Instant::now() + Duration::from_secs(1);
        assert!(health.is_healthy() && !health.is_known() && !health.try_claim_probe(now));
        assert_eq!(health.record_failure(now), Some(FIRST_EJECTION));
        assert!(health.is_known());
        for _ in 0..10 {
            assert!(!health.try_claim_probe(now), "the ejection is not over");
            now += LONGEST_EJECTION;
            assert!(health.try_claim_probe(now));
            assert!(!health.try_claim_probe(now), "one probe at a time");
            assert_eq!(health.record_failure(now), None, "an ejection is reported once");
        }
        now += LONGEST_EJECTION;
        assert!(health.try_claim_probe(now));
        // The previous probe has had no result.
        assert!(health.try_claim_probe(now + PROBE_TIMEOUT));
        assert!(health.record_success() && health.is_healthy());
        assert!(!health.record_success());
        assert_eq!(health.record_failure(now), Some(FIRST_EJECTION), "ejections start short again");
    }
}
