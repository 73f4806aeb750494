//! The generic cell rate algorithm (GCRA) of one window, as implemented by the crate governor. The
//! caller stores the state.
//!
//! governor can neither check a request without a charge nor give back a charge. governor's state
//! store is therefore a [`Stage`]: governor reads the arrival time that the caller stored, and
//! writes the next arrival time. The caller stores the next arrival time only if every other window
//! grants the request, too. governor's clock always returns the instant of the decision, so all
//! windows decide for the same instant (docs/decisions/005).

use std::cell::Cell;
use std::hash::{Hash, Hasher};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota as GovernorQuota, RateLimiter};
use http::HeaderValue;

use super::cost::Cost;
use crate::config::{Quota, Unit};

thread_local! {
    /// Instant of the decision on this thread, in nanoseconds.
    static NOW: Cell<u64> = const { Cell::new(0) };
}

/// The length of the shortest window that survives a restart.
const SHORTEST_KEPT: Duration = Duration::from_secs(3600);

/// A clock that reads [`NOW`]. The value is zero while a limiter is made, so that arrival times are
/// measured from the start of the clock.
#[derive(Clone, Debug)]
struct DecisionInstant;

impl Clock for DecisionInstant {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(NOW.get())
    }
}

/// A state store for one decision: governor reads the stored arrival time from it, and writes the
/// next arrival time into it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stage {
    stored: Option<Nanos>,
    next: Cell<Nanos>,
}

impl Hash for Stage {
    fn hash<H: Hasher>(&self, _state: &mut H) {
        // governor requires a key type that can be hashed. The hash is not used, because the stage
        // stores the state itself.
    }
}

#[derive(Debug)]
struct Stages;

impl StateStore for Stages {
    type Key = Stage;

    fn measure_and_replace<T, F, E>(&self, stage: &Stage, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (outcome, next) = decide(stage.stored)?;
        stage.next.set(next);
        Ok(outcome)
    }
}

/// A window: a quota, shared by all keys that have the quota.
#[derive(Debug)]
pub(crate) struct Window {
    /// The route that has the quota; `None` for a quota of keys.
    route: Option<Box<str>>,
    name: String,
    quota: Quota,
    /// Constant text of the headers: the whole policy, the beginning of the window's state, and the
    /// limit.
    pub(super) policy: String,
    pub(super) state: String,
    pub(super) limit: HeaderValue,
    /// Nanoseconds in which one unit is regained. They are rounded up, so that the quota is never
    /// exceeded.
    period: u64,
    limiter: RateLimiter<Stage, Stages, DecisionInstant, NoOpMiddleware<Nanos>>,
}

/// What a refused request has to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wait {
    /// The request is granted after this time, if no other request is charged before.
    For(Duration),
    /// The window never grants the request, whose input alone needs this number of tokens.
    Forever(u32),
}

impl Window {
    pub(super) fn new(route: Option<&str>, quota: Quota) -> Self {
        let span = u64::try_from(quota.per.as_nanos()).unwrap_or(u64::MAX);
        let period = span.div_ceil(u64::from(quota.amount.max(1))).max(1);
        debug_assert!(quota.amount > 0 && quota.burst > 0, "the decoder refuses a quota of nothing");
        let burst = NonZeroU32::new(quota.burst).unwrap_or(NonZeroU32::MIN);
        // `with_period` returns `None` only for a period of zero, which `max(1)` rules out.
        let shape = GovernorQuota::with_period(Duration::from_nanos(period))
            .unwrap_or_else(|| GovernorQuota::per_second(NonZeroU32::MIN))
            .allow_burst(burst);
        NOW.set(0);
        let limiter = RateLimiter::new(shape, Stages, DecisionInstant);
        let own = format!("{}-{}", quota.unit.in_policies(), short_span(quota.per));
        let name = route.map_or_else(|| own.clone(), |route| format!("{route}-{own}"));
        let unit = match quota.unit {
            Unit::Requests => String::new(),
            tokens => format!(";qu=\"{}\"", tokens.in_policies()),
        };
        let policy = format!("\"{name}\";q={};w={}{unit}", quota.amount, quota.per.as_secs());
        let (state, limit) = (format!("\"{name}\";r="), HeaderValue::from(quota.amount));
        let route = route.map(Into::into);
        Window { route, name, quota, policy, state, limit, period, limiter }
    }

    /// Returns the name of the policy in headers and answers: `requests-1m`, or
    /// `ROUTE-requests-1m`.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn quota(&self) -> Quota {
        self.quota
    }

    pub(crate) fn unit(&self) -> Unit {
        self.quota.unit
    }

    /// Returns the number of units that the window counts for a cost of `units`. A cost that takes
    /// centuries to be regained counts as one century, so that settling the charge gives back
    /// exactly what was charged, without an overflow.
    pub(super) fn counted(&self, units: u32) -> u32 {
        const CENTURY: u64 = 100 * 366 * 86_400 * 1_000_000_000;
        units.min(u32::try_from(CENTURY / self.period).unwrap_or(u32::MAX).max(1))
    }

    /// Returns the arrival time after a request of this cost, or else what the request has to wait
    /// for.
    pub(super) fn charge_for(&self, arrival: Option<u64>, now: u64, cost: Cost) -> Result<u64, Wait> {
        match self.never_grants(cost) {
            Some(wait) => Err(wait),
            None => self.charge(arrival, now, cost.of(self.quota.unit)).map_err(Wait::For),
        }
    }

    /// Returns the refusal of a request that no wait would let in.
    pub(super) fn never_grants(&self, cost: Cost) -> Option<Wait> {
        let Quota { unit, amount, burst, .. } = self.quota;
        let counts_input = matches!(unit, Unit::Tokens | Unit::InputTokens);
        let exceeds = counts_input && cost.least_input_tokens > amount.max(burst);
        exceeds.then_some(Wait::Forever(cost.least_input_tokens))
    }

    /// Whether the window is so long that a restart must not make it full.
    pub(super) fn is_kept(&self) -> bool {
        self.quota.per >= SHORTEST_KEPT
    }

    pub(super) fn counts_tokens(&self) -> bool {
        self.quota.unit != Unit::Requests
    }

    /// Returns the name of the window among all windows of a key, in the server that has shared limits.
    pub(crate) fn field(&self) -> String {
        let Quota { unit, per, .. } = self.quota;
        let route = self.route.as_deref().unwrap_or_default();
        format!("{route}/{}/{}", unit.field(), per.as_secs())
    }

    /// Returns the time in which the window regains a unit, in microseconds.
    pub(crate) fn period_in_micros(&self) -> f64 {
        self.period as f64 / 1000.0
    }

    /// Returns the time in which the window regains a unit, in nanoseconds.
    pub(super) fn period(&self) -> u64 {
        self.period
    }

    /// Returns the arrival time after a request that costs `units`, or else the time until such a
    /// request is granted.
    ///
    /// A cost above the burst would never be granted by the algorithm. It is granted if the window
    /// is full, and the excess must be regained before the next request is granted.
    fn charge(&self, arrival: Option<u64>, now: u64, units: u32) -> Result<u64, Duration> {
        let units = self.counted(units);
        let Some(within) = NonZeroU32::new(units.min(self.quota.burst.max(1))) else {
            return Ok(arrival.unwrap_or(now));
        };
        NOW.set(now);
        let stage = Stage { stored: arrival.map(Nanos::from), next: Cell::new(Nanos::from(0)) };
        let checked = match within.get() {
            1 => Ok(self.limiter.check_key(&stage)),
            _ => self.limiter.check_key_n(&stage, within),
        };
        debug_assert!(checked.is_ok(), "a cost within the burst can be granted");
        match checked {
            Ok(Ok(())) => Ok(self.later(stage.next.get().as_u64(), units - within.get())),
            Ok(Err(refusal)) => Err(refusal.wait_time_from(Nanos::from(now))),
            Err(_insufficient) => Err(self.quota.per),
        }
    }

    /// Returns the time in which the window regains a number of units, in nanoseconds.
    pub(super) fn time_of(&self, units: u32) -> u64 {
        self.period.saturating_mul(u64::from(self.counted(units)))
    }

    /// Whether the window takes the place of another one at a reload: both count the same unit in
    /// the same time, on the same route.
    pub(super) fn replaces(&self, other: &Window) -> bool {
        let policy = |window: &Window| (window.quota.unit, window.quota.per);
        policy(self) == policy(other) && self.route == other.route
    }

    /// Returns the arrival time in this window of a key that has `arrival` in the window `other`: as
    /// many units are used as in `other`.
    pub(super) fn taken_over(&self, other: &Window, arrival: u64, now: u64) -> u64 {
        let used = u32::try_from(arrival.saturating_sub(now).div_ceil(other.period)).unwrap_or(u32::MAX);
        self.later(now, self.counted(used))
    }

    fn later(&self, arrival: u64, units: u32) -> u64 {
        arrival.saturating_add(self.period.saturating_mul(u64::from(units)))
    }

    /// Returns the number of units that would be granted at once now, and the time until the whole
    /// burst would be granted at once.
    pub(super) fn status(&self, arrival: Option<u64>, now: u64) -> (u32, Duration) {
        let ahead = arrival.unwrap_or(0).saturating_sub(now);
        let used = u32::try_from(ahead.div_ceil(self.period)).unwrap_or(u32::MAX);
        (self.quota.burst.saturating_sub(used), Duration::from_nanos(ahead))
    }
}

/// Returns a time span such as `1m`, `1d` or `90s`, in the largest unit that divides it.
fn short_span(span: Duration) -> String {
    let seconds = span.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "m")];
    match units.into_iter().find(|(length, _)| seconds.is_multiple_of(*length)) {
        Some((length, unit)) => format!("{}{unit}", seconds / length),
        None => format!("{seconds}s"),
    }
}
