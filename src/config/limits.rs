//! `limits`: the resources that clients may use.

use std::time::Duration;

use crate::config::form::{KIB, MIB, duration, number, one_of, size, size_up_to};
use crate::config::section::{nested, section};

/// The longest method of a request, in bytes. A longer method is answered with 400; all registered
/// methods are much shorter.
pub(crate) const LONGEST_METHOD: usize = 64;

section! {
    /// Limits of the resources that clients may use.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Limits: Default in "limits" {
        /// The size of all headers of a request; a larger one is answered with 431.
        header_bytes: u64 = size_up_to(MIB).or(32 * KIB);
        /// The number of headers of a request; more are answered with 431.
        header_count: usize = number(1).or(100);
        /// Whether headers with `_` in the name pass, or the request is refused with 400. A header
        /// whose name reads as one of bearward's own (`x_bearward_key_id`) is always removed.
        refuses_underscores as "underscores_in_headers": bool = one_of(&UNDERSCORES).or(false);
        /// The size of the request target; a larger one is answered with 414.
        uri_bytes: u64 = size_up_to(MIB).or(8 * KIB);
        /// The size of a request's body; a larger one is answered with 413.
        body_bytes: u64 = size().or(32 * MIB);
        /// The number of connections of all clients at once; reduced if file descriptors do not
        /// suffice.
        connections: usize = number(1).or(10_000);
        /// The number of connections of one client at once (IPv6 by /64); above it, the answer is
        /// 503. `trusted_proxies` are exempt.
        connections_per_address: Option<usize> = number(1).optional();
        /// The number of requests in flight at once, streams included; above it, the answer is 503.
        in_flight: usize = number(1).or(10_000);
        /// The time limit for a request's head, from its first byte to its last.
        header_timeout: Duration = duration().or(Duration::from_secs(10));
        /// The longest pause in a request's body; after it, the answer is 408.
        body_idle_timeout: Duration = duration().or(Duration::from_secs(30));
        /// The longest time between two requests of a connection.
        idle_timeout: Duration = duration().or(Duration::from_secs(75));
        /// The longest time in which a client reads nothing of its answer; at most 5 s for a client
        /// without a key.
        client_stall_timeout: Duration = duration().or(Duration::from_secs(300));
        /// The time limit for a TLS handshake.
        handshake_timeout: Duration = duration().or(Duration::from_secs(10));
        /// The time limit for requests in flight when the server stops.
        drain_timeout: Duration = duration().or(Duration::from_secs(30));
        /// The part of a request's body that is held back until its model and its output limits are
        /// known.
        model_prelude: u64 = size_up_to(64 * MIB).or(64 * KIB);
        /// The memory for all parts of bodies that are held back; above it, the answer is 503.
        model_memory: u64 = size().or(64 * MIB);
        /// The number of input tokens that an image, a recording or another file counts.
        media_tokens: u32 = number(1).or(1000);
        public: PublicLimits = nested().or_default();
    }
}

section! {
    /// Limits of requests without a key, on public routes.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct PublicLimits: Default in "limits.public" {
        /// The time limit from a request's head to the end of its answer. After it, the request is
        /// answered with 408 or 504, and an answer that has begun is cut.
        total: Duration = duration().or(Duration::from_secs(30));
        /// The size of a request's body, if the route has no `max_body`; a larger one is answered
        /// with 413.
        body_bytes: u64 = size().or(MIB);
        /// The size of all headers of a request; a larger one is answered with 431.
        header_bytes: u64 = size().or(16 * KIB);
    }
}

/// The words that the field `underscores_in_headers` accepts. For each word: whether a request with
/// `_` in the name of a header is refused.
const UNDERSCORES: [(&str, bool); 2] = [("pass", false), ("refuse", true)];
