//! Limits: requests per window for each key (GCRA, by the governor library), requests in flight,
//! and failed attempts of addresses.
//!
//! A quota of N units per time T with a burst of B grants at most `B + N·t/T` units in any time
//! span t. All windows of a request are judged at one instant, and either all of them are charged
//! or none. Limit state belongs to the id of a key and outlives every reload. It is forgotten when
//! its key no longer exists and its windows are full, because a newly made state would be equal.

mod attempt_counts;
mod companions;
mod cost;
mod gcra;
mod in_flight;
mod key_state;
mod policy_header;
mod status;

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use smallvec::SmallVec;

use attempt_counts::FailedAttempts;
use companions::Companions;
pub(crate) use cost::Cost;
pub(crate) use gcra::{Wait, Window};
use in_flight::{InFlight, PublicInFlight};
pub(crate) use in_flight::{InFlightPermit, PublicInFlightPermit};
pub(crate) use key_state::{ConcurrencyPermit, KeyState};
use key_state::{arrival, store};
pub(crate) use status::LimitStatus;

use crate::clock::Clock;
use crate::config::{AttemptQuota, Quota, Unit};

/// The limit state of all keys and addresses, and the windows in use.
#[derive(Debug)]
pub(crate) struct Limiter {
    clock: Clock,
    states: DashMap<String, Arc<KeyState>>,
    windows: DashMap<(Option<String>, Quota), Arc<Window>>,
    attempts: FailedAttempts,
    companions: Companions,
    in_flight: InFlight,
    public: PublicInFlight,
    /// Largest number of requests in flight for which the process has room, whatever the
    /// configuration allows.
    capacity: usize,
}

/// The outcome of charging the windows of a request.
#[derive(Debug)]
pub(crate) struct Charged {
    pub(crate) status: LimitStatus,
    /// The windows of tokens that were charged, to be settled when the request has ended.
    pub(crate) of_tokens: SmallVec<[Arc<Window>; 2]>,
    /// The refusal of a window that is not enforced.
    pub(crate) would_refuse: Option<Refused>,
}

/// A refusal of a request by a window.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) window: Arc<Window>,
    pub(crate) wait: Wait,
}

impl Limiter {
    /// Makes a limiter. `capacity`: the largest number of requests that the process can have in
    /// flight.
    pub(crate) fn new(clock: Clock, capacity: usize) -> Self {
        Limiter {
            clock,
            states: DashMap::new(),
            windows: DashMap::new(),
            attempts: FailedAttempts::default(),
            companions: Companions::default(),
            in_flight: InFlight::default(),
            public: PublicInFlight::default(),
            capacity,
        }
    }

    /// Counts a failed attempt of an address.
    ///
    /// # Errors
    ///
    /// Fails with the time that the address has to wait, if its failed attempts are used up.
    pub(crate) fn failed_attempt(&self, address: IpAddr, quota: AttemptQuota) -> Result<(), Duration> {
        self.attempts.note(address, quota, self.clock.monotonic_nanos())
    }

    /// Records a credential that was sent beside a key's secret and matches no key. Returns whether
    /// the credential is new.
    pub(crate) fn is_new_companion(&self, credential: impl Hash) -> bool {
        self.companions.note(credential)
    }

    /// Returns how long an address has to wait, if it has used up its failed attempts.
    pub(crate) fn attempts_exhausted(&self, address: IpAddr, quota: AttemptQuota) -> Option<Duration> {
        self.attempts.waits(address, quota, self.clock.monotonic_nanos())
    }

    /// Acquires a permit for a request in flight, one of `limit` permits.
    ///
    /// # Errors
    ///
    /// Fails with the number of permits if all permits are in use.
    pub(crate) fn enter(&self, limit: usize) -> Result<InFlightPermit, usize> {
        let limit = limit.min(self.capacity);
        self.in_flight.enter(limit).ok_or(limit)
    }

    /// Acquires a permit for a request without a key from this address. `limit`: the number of
    /// permits for all requests, with or without a key.
    ///
    /// # Errors
    ///
    /// Fails with the number of permits for requests without a key if all of these permits are in
    /// use.
    pub(crate) fn enter_public(
        &self,
        address: Option<IpAddr>,
        limit: usize,
    ) -> Result<PublicInFlightPermit, usize> {
        self.public.enter(address, limit.min(self.capacity))
    }

    /// Returns the limit state of the key with this id. Makes the state if the key has none yet.
    pub(crate) fn state(&self, key_id: &str) -> Arc<KeyState> {
        if let Some(state) = self.states.get(key_id) {
            return state.value().clone();
        }
        self.states.entry(key_id.to_owned()).or_default().value().clone()
    }

    /// Forgets the state of a key that has left the store, if nothing refers to the state and all
    /// of its windows are full. Returns whether the key has no state now.
    pub(crate) fn forget(&self, key_id: &str) -> bool {
        let now = self.clock.monotonic_nanos();
        self.states.remove_if(key_id, |_, state| Arc::strong_count(state) == 1 && state.is_unused(now));
        !self.states.contains_key(key_id)
    }

    /// Returns the limit state of the key with this id, if there is one.
    pub(crate) fn known_state(&self, key_id: &str) -> Option<Arc<KeyState>> {
        self.states.get(key_id).map(|state| state.value().clone())
    }

    /// Returns the window of a quota. `route`: the route that has the quota; `None` for
    /// a quota of keys. As long as the window is in use, each call for the same quota returns the
    /// same window, so that limit state survives a reload that keeps the quota.
    pub(crate) fn window(&self, route: Option<&str>, quota: Quota) -> Arc<Window> {
        let name = (route.map(str::to_owned), quota);
        self.windows.entry(name).or_insert_with(|| Arc::new(Window::new(route, quota))).value().clone()
    }

    /// Forgets the windows to which neither a configuration nor a key refers. Windows of a refused
    /// configuration are removed in this way.
    pub(crate) fn forget_unused_windows(&self) {
        self.windows.retain(|_, window| Arc::strong_count(window) > 1);
    }

    /// Charges all enforced `windows` for a request of this cost, or charges none of them. A window
    /// that is not enforced is charged if it would grant the request.
    ///
    /// # Errors
    ///
    /// Fails with the window that has the longest wait, if any enforced window refuses the request.
    pub(crate) fn charge<'w>(
        &self,
        state: &KeyState,
        windows: impl Iterator<Item = &'w Arc<Window>> + Clone,
        cost: Cost,
    ) -> Result<Charged, Refused> {
        let mut slots = state.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic_nanos();
        let mut charged = SmallVec::<[_; 4]>::new();
        let (mut refusal, mut would_refuse) = (None, None);
        for window in windows.clone() {
            let refused = match window.charge_for(arrival(&slots, window, now), now, cost) {
                Ok(arrival) => {
                    charged.push((window, arrival));
                    continue;
                }
                Err(wait) => Refused { window: window.clone(), wait },
            };
            let first = if window.quota().is_enforced { &mut refusal } else { &mut would_refuse };
            if first.as_ref().is_none_or(|other: &Refused| other.wait < refused.wait) {
                *first = Some(refused);
            }
        }
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        let mut of_tokens = SmallVec::new();
        for (window, arrival) in charged {
            store(&mut slots, window, arrival, now);
            if window.unit() != Unit::Requests {
                of_tokens.push(window.clone());
            }
        }
        Ok(Charged { status: LimitStatus::of(&slots, windows, now), of_tokens, would_refuse })
    }

    /// Corrects a charge when the actual cost of the request is known: charges the difference, or
    /// gives it back. The difference is charged even if the window has fewer units left. The window
    /// then grants nothing until it has regained the missing units.
    pub(crate) fn settle<'w>(
        &self,
        state: &KeyState,
        windows: impl Iterator<Item = &'w Arc<Window>>,
        charged: Cost,
        used: Cost,
    ) {
        let mut slots = state.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.monotonic_nanos();
        for window in windows {
            let (charged, used) = (charged.of(window.unit()), used.of(window.unit()));
            if charged != used {
                let settled = window.settled(arrival(&slots, window, now), now, charged, used);
                store(&mut slots, window, settled, now);
            }
        }
    }

    /// Returns the state of the windows without charging them.
    pub(crate) fn status<'w>(
        &self,
        state: &KeyState,
        windows: impl Iterator<Item = &'w Arc<Window>>,
    ) -> LimitStatus {
        let slots = state.slots.lock().unwrap_or_else(PoisonError::into_inner);
        LimitStatus::of(&slots, windows, self.clock.monotonic_nanos())
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;
    use jiff::Timestamp;

    use super::*;

    fn quota(requests: u32, seconds: u64, burst: u32) -> Quota {
        Quota::new(Unit::Requests, requests, Duration::from_secs(seconds), Some(burst))
    }

    fn limiter() -> (Limiter, Arc<crate::clock::Manual>) {
        let (clock, hands) = Clock::manual(Timestamp::UNIX_EPOCH);
        (Limiter::new(clock, usize::MAX), hands)
    }

    fn granted(limiter: &Limiter, state: &KeyState, windows: &[Arc<Window>], tries: u32) -> u32 {
        (0..tries).filter(|_| limiter.charge(state, windows.iter(), Cost::REQUEST).is_ok()).count() as u32
    }

    #[test]
    fn a_burst_and_then_the_rate_and_never_more() {
        let (limiter, hands) = limiter();
        let state = limiter.state("key_a");
        let windows = [limiter.window(None, quota(60, 60, 10))];
        assert_eq!(granted(&limiter, &state, &windows, 100), 10);
        let mut total = 10;
        for _ in 0..200 {
            hands.advance(Duration::from_millis(100));
            total += granted(&limiter, &state, &windows, 5);
        }
        assert_eq!(total, 30, "10 at once and one a second for 20 s");
        hands.advance(Duration::from_secs(3600));
        assert_eq!(granted(&limiter, &state, &windows, 100), 10, "idle time saves up no more than the burst");
    }

    #[test]
    fn a_refusal_by_one_window_leaves_the_other_as_it_was() {
        let (limiter, hands) = limiter();
        let state = limiter.state("key_a");
        let (tight, wide) =
            (limiter.window(None, quota(1, 10, 1)), limiter.window(None, quota(100, 60, 100)));
        let windows = [tight, wide.clone()];
        assert_eq!(granted(&limiter, &state, &windows, 50), 1);
        let (remaining, _) = wide.status(arrival(&state.slots.lock().unwrap(), &wide, 0), 0);
        assert_eq!(remaining, 99);
        hands.advance(Duration::from_secs(10));
        assert_eq!(granted(&limiter, &state, &windows, 50), 1);
    }

    #[test]
    fn a_settled_charge_costs_what_was_used() {
        let (limiter, hands) = limiter();
        let state = limiter.state("key_a");
        let tokens = |tokens: u32| Cost { output_tokens: tokens, ..Cost::REQUEST };
        let windows = [
            limiter.window(None, quota(60, 60, 10)),
            limiter.window(None, Quota { unit: Unit::Tokens, ..quota(6000, 60, 1000) }),
        ];
        let remaining =
            || limiter.status(&state, windows.iter()).0.iter().map(|w| w.remaining).collect::<Vec<_>>();
        limiter.charge(&state, windows.iter(), tokens(400)).unwrap();
        assert_eq!(remaining(), [9, 600]);
        limiter.settle(&state, windows.iter(), tokens(400), tokens(150));
        assert_eq!(remaining(), [9, 850], "what was too much is given back, in its own unit alone");
        limiter.settle(&state, windows.iter(), tokens(150), tokens(1250));
        assert_eq!(remaining(), [9, 0], "a debt");
        let refusal = limiter.charge(&state, windows.iter(), tokens(1)).unwrap_err();
        assert_eq!(
            (refusal.window.name(), refusal.wait),
            ("tokens-1m", Wait::For(Duration::from_millis(2510)))
        );
        assert_eq!(remaining(), [9, 0], "a refusal takes nothing");
        hands.advance(Duration::from_millis(2510));
        limiter.charge(&state, windows.iter(), tokens(1)).unwrap();
        hands.advance(Duration::from_secs(60));
        limiter.settle(&state, windows.iter(), tokens(1000), tokens(0));
        assert_eq!(remaining(), [10, 1000], "a window is never fuller than full");
        limiter.charge(&state, windows.iter(), tokens(1500)).unwrap();
        assert_eq!(
            remaining(),
            [9, 0],
            "a cost beyond the burst is granted by a full one, and leaves a debt"
        );
        assert_eq!(limiter.status(&state, windows.iter()).0[1].reset, Duration::from_secs(15));
        assert!(limiter.charge(&state, windows.iter(), tokens(0)).is_ok(), "no tokens need no room");
    }

    #[test]
    fn all_that_remains_is_granted_and_retry_after_is_kept() {
        let (limiter, hands) = limiter();
        let state = limiter.state("key_a");
        let windows = [limiter.window(None, quota(7, 13, 3)), limiter.window(None, quota(20, 60, 5))];
        for step in 0..500u64 {
            let remaining =
                limiter.status(&state, windows.iter()).0.iter().map(|w| w.remaining).min().unwrap();
            if step % 3 == 0 {
                assert_eq!(granted(&limiter, &state, &windows, remaining), remaining);
                let refusal = limiter.charge(&state, windows.iter(), Cost::REQUEST).unwrap_err();
                let Wait::For(retry_after) = refusal.wait else { panic!("{refusal:?}") };
                hands.advance(retry_after);
                assert!(
                    limiter.charge(&state, windows.iter(), Cost::REQUEST).is_ok(),
                    "the promise of Retry-After"
                );
            }
            hands.advance(Duration::from_millis(137 * (step % 11)));
        }
    }

    #[test]
    fn the_reset_time_is_when_all_is_granted_again() {
        let (limiter, hands) = limiter();
        let state = limiter.state("key_a");
        let windows = [limiter.window(None, quota(60, 60, 10))];
        granted(&limiter, &state, &windows, 4);
        let status = limiter.status(&state, windows.iter());
        assert_eq!((status.0[0].remaining, status.0[0].reset), (6, Duration::from_secs(4)));
        hands.advance(Duration::from_secs(4));
        assert_eq!(limiter.status(&state, windows.iter()).0[0].remaining, 10);
    }

    #[test]
    fn a_window_lasts_as_long_as_anything_has_it() {
        let (limiter, _hands) = limiter();
        let used = limiter.window(Some("a"), quota(1, 60, 1));
        limiter.window(Some("b"), quota(1, 60, 1));
        limiter.forget_unused_windows();
        assert_eq!(limiter.windows.len(), 1);
        // The state of a key still refers to the window of the route after the route was removed.
        let state = limiter.state("key_a");
        limiter.charge(&state, [&used].into_iter(), Cost::REQUEST).unwrap();
        drop(used);
        limiter.forget_unused_windows();
        let again = limiter.window(Some("a"), quota(1, 60, 1));
        assert!(
            limiter.charge(&state, [&again].into_iter(), Cost::REQUEST).is_err(),
            "what was used is remembered"
        );
    }

    #[test]
    fn the_headers_have_the_documented_form() {
        let (limiter, _hands) = limiter();
        let state = limiter.state("key_a");
        let windows = [
            limiter.window(None, quota(600, 60, 60)),
            limiter.window(Some("chat"), quota(20_000, 86_400, 2000)),
        ];
        let mut headers = HeaderMap::new();
        limiter.charge(&state, windows.iter(), Cost::REQUEST).unwrap().status.write_to(&mut headers);
        assert_eq!(
            headers["ratelimit-policy"],
            "\"requests-1m\";q=600;w=60, \"chat-requests-1d\";q=20000;w=86400"
        );
        assert_eq!(headers["ratelimit"], "\"requests-1m\";r=59;t=1, \"chat-requests-1d\";r=1999;t=5");
        assert_eq!(headers["x-ratelimit-limit-requests"], "600");
        assert_eq!(headers["x-ratelimit-remaining-requests"], "59");
        assert_eq!(headers["x-ratelimit-reset-requests"], "1s");
    }
}
