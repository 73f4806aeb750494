//! What is limited: requests of a key, guesses of an address, and what the process takes on.

use std::time::Duration;

/// Longer than any method that is registered, with room for more: a longer one is 400.
pub(crate) const LONGEST_METHOD: usize = 64;

/// `requests` per `per`, of which `burst` may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Quota {
    pub(crate) requests: u32,
    pub(crate) per: Duration,
    pub(crate) burst: u32,
}

impl Quota {
    /// The burst of a quota that names none: a tenth of its requests.
    pub(crate) fn default_burst(requests: u32) -> u32 {
        (requests / 10).max(1)
    }

    /// Whether an empty burst is full again within a century: what counts nanoseconds counts no further.
    pub(crate) fn is_countable(&self) -> bool {
        const CENTURY: u128 = 100 * 366 * 86_400 * 1_000_000_000;
        let each = self.per.as_nanos().div_ceil(u128::from(self.requests.max(1)));
        each.saturating_mul(u128::from(self.burst)) <= CENTURY
    }
}

/// How many bad keys one address may present in a span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptQuota {
    pub(crate) per_address: u32,
    pub(crate) per: Duration,
}

impl Default for AttemptQuota {
    fn default() -> Self {
        AttemptQuota { per_address: 20, per: Duration::from_secs(60) }
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) header_bytes: u64,
    pub(crate) header_count: usize,
    /// Whether a header with `_` in its name is a reason to refuse a request.
    pub(crate) refuses_underscores: bool,
    pub(crate) uri_bytes: u64,
    pub(crate) body_bytes: u64,
    pub(crate) connections: usize,
    /// Of one client address; IPv6 is counted by /64.
    pub(crate) connections_per_address: Option<usize>,
    /// Requests of all keys at once, streams included.
    pub(crate) in_flight: usize,
    pub(crate) header_timeout: Duration,
    pub(crate) body_idle_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    /// For a client that takes nothing of its answer.
    pub(crate) client_stall_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    /// Of requests without a key.
    pub(crate) public: PublicLimits,
}

/// What a request without a key may cost.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PublicLimits {
    /// From its head to the end of its answer.
    pub(crate) total: Duration,
    /// Its body, where the route does not say.
    pub(crate) body_bytes: u64,
    /// All of its headers.
    pub(crate) header_bytes: u64,
}

impl Default for PublicLimits {
    fn default() -> Self {
        PublicLimits { total: Duration::from_secs(30), body_bytes: 1024 * 1024, header_bytes: 16 * 1024 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_bytes: 32 * 1024,
            header_count: 100,
            refuses_underscores: false,
            uri_bytes: 8 * 1024,
            body_bytes: 32 * 1024 * 1024,
            connections: 10_000,
            connections_per_address: None,
            in_flight: 10_000,
            header_timeout: Duration::from_secs(10),
            body_idle_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            client_stall_timeout: Duration::from_secs(300),
            handshake_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            public: PublicLimits::default(),
        }
    }
}
