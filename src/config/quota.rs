//! `rate_limits` and `failed_attempts`: how many requests or credentials are accepted in a window
//! of time.

use std::time::Duration;

use crate::config::decode::Decoder;
use crate::config::form::{Form, duration, duration_of_at_least, list_of, number};
use crate::config::section::{nested, section};
use crate::config::tree::Node;

/// A rate limit of `requests` requests in each window of the length `per`. Of these requests,
/// `burst` may arrive at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Quota {
    pub(crate) requests: u32,
    pub(crate) per: Duration,
    pub(crate) burst: u32,
}

impl Quota {
    /// Returns the burst of a rate limit for which none is configured: a tenth of its requests, at
    /// least 1.
    pub(crate) fn default_burst(requests: u32) -> u32 {
        (requests / 10).max(1)
    }

    /// Whether a burst that was used up is available again within a century. The limiter counts in
    /// nanoseconds, and supports no longer time.
    pub(crate) fn is_countable(&self) -> bool {
        const CENTURY: u128 = 100 * 366 * 86_400 * 1_000_000_000;
        let each = self.per.as_nanos().div_ceil(u128::from(self.requests.max(1)));
        each.saturating_mul(u128::from(self.burst)) <= CENTURY
    }
}

section! {
    /// A rate limit: a number of requests in a window.
    #[derive(Clone, Debug)]
    struct Written in "a rate limit" {
        /// The number of requests in a window.
        requests: u32 = number(1).required();
        /// The length of the window, in whole seconds.
        per: Duration = duration().checked(whole_seconds).required();
        /// The number of requests that may come at once. Left out: a tenth of `requests`.
        burst: Option<u32> = number(1).optional();
    }
}

fn quota() -> Form<Quota> {
    nested::<Written>().then(|_, _, Written { requests, per, burst }| {
        Some(Quota { requests, per, burst: burst.unwrap_or(Quota::default_burst(requests)) })
    })
}

fn whole_seconds(d: &mut Decoder<'_>, node: &Node, per: Duration) -> Option<Duration> {
    match per.subsec_nanos() {
        0 => Some(per),
        _ => d.hinted(node.at, "a window is measured in whole seconds", "at least 1s"),
    }
}

/// Returns the `Form` of the rate limits of a key, of a route, or of all keys. Two rate limits over
/// the same window are a fault.
pub(super) fn rate_limits() -> Form<Vec<Quota>> {
    list_of(quota()).checked(check)
}

/// Decodes the rate limits of a key. Two rate limits over the same window are a fault.
pub(crate) fn quotas(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<Quota>> {
    rate_limits().decode(d, node)
}

fn check(d: &mut Decoder<'_>, node: &Node, quotas: Vec<Quota>) -> Option<Vec<Quota>> {
    let is_repeated =
        |(index, quota): (usize, &Quota)| quotas.iter().take(index).any(|earlier| earlier.per == quota.per);
    if quotas.iter().enumerate().any(is_repeated) {
        // Two rate limits over the same window would contradict each other in the headers of an
        // answer.
        return d.hinted(node.at, "two rate limits over the same window", "keep the tighter one");
    }
    if !quotas.iter().all(Quota::is_countable) {
        return d.hinted(
            node.at,
            "a burst that takes more than a century to be full again",
            "a smaller burst, or more requests in a shorter time",
        );
    }
    Some(quotas)
}

/// The shortest window of `failed_attempts`. A shorter window would not delay a client noticeably.
const SHORTEST_ATTEMPTS: Duration = Duration::from_secs(1);

section! {
    /// The number of credentials without a matching key that one address may present in a window.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct AttemptQuota: Default in "failed_attempts" {
        /// The number of credentials without a matching key that one address may present in a
        /// window. With more of them, the address is answered with 429.
        per_address: u32 = number(1).or(20);
        /// The length of the window.
        per: Duration = duration_of_at_least(SHORTEST_ATTEMPTS, "too short to hold up a client")
            .or(Duration::from_secs(60));
    }
}
