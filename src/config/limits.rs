//! `limits`: the resources that clients may use.

use std::time::Duration;

use crate::config::form::{KIB, MIB, duration, number, one_of, size, size_up_to};
use crate::config::section::{nested, section};

/// The longest method, in bytes; a longer one is answered with 400. No registered one comes near it.
pub(crate) const LONGEST_METHOD: usize = 64;

section! {
    /// Resource limits per client.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Limits: Default in "limits" {
        /// The size of all headers of a request; above it, 431.
        header_bytes: u64 = size_up_to(MIB).or(32 * KIB);
        /// The number of headers of a request; above it, 431.
        header_count: usize = number(1).or(100);
        /// Headers with `_` in the name. Those that alias a header of bearward's own are always
        /// removed; others pass, or the request is refused with 400.
        refuses_underscores as "underscores_in_headers": bool = one_of(&UNDERSCORES).or(false);
        /// The size of the request target; above it, 414.
        uri_bytes: u64 = size_up_to(MIB).or(8 * KIB);
        /// The size of a request's body; above it, 413.
        body_bytes: u64 = size().or(32 * MIB);
        /// Connections of all clients at once; reduced to what the file descriptors allow.
        connections: usize = number(1).or(10_000);
        /// Connections of one client at once (IPv6 by /64); above it, 503. `trusted_proxies` are exempt.
        connections_per_address: Option<usize> = number(1).optional();
        /// Requests in flight at once, streams included; above it, 503.
        in_flight: usize = number(1).or(10_000);
        /// The time for a request's head, from its first byte to its last.
        header_timeout: Duration = duration().or(Duration::from_secs(10));
        /// The time in which a request's body must move; then 408.
        body_idle_timeout: Duration = duration().or(Duration::from_secs(30));
        /// The time between two requests of a connection.
        idle_timeout: Duration = duration().or(Duration::from_secs(75));
        /// The time in which a client must read some of its answer; at most 5 s for a client without a key.
        client_stall_timeout: Duration = duration().or(Duration::from_secs(300));
        /// The time for a TLS handshake.
        handshake_timeout: Duration = duration().or(Duration::from_secs(10));
        /// The time for requests in flight when the server stops.
        drain_timeout: Duration = duration().or(Duration::from_secs(30));
        public: PublicLimits = nested().or_default();
    }
}

section! {
    /// Limits of requests without a key, on public routes.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct PublicLimits: Default in "limits.public" {
        /// The time from a request's head to the end of its answer; then 408 or 504, or the answer is cut.
        total: Duration = duration().or(Duration::from_secs(30));
        /// The size of a request's body, where the route has no `max_body`; above it, 413.
        body_bytes: u64 = size().or(MIB);
        /// The size of all headers of a request; above it, 431.
        header_bytes: u64 = size().or(16 * KIB);
    }
}

/// Whether a request with `_` in a header's name is refused.
const UNDERSCORES: [(&str, bool); 2] = [("pass", false), ("refuse", true)];
