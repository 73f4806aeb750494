//! The servers behind bearward: their addresses, their health, and the connections to them.
//!
//! `forward` picks an endpoint in this module and leases a connection to it. `app` runs the health
//! checks and the lookups of host names.
//!
//! An [`Upstream`] is part of a snapshot. Its endpoints ([`endpoints`]) outlive snapshots, so that
//! a reload keeps connections and health.
//! Invariants: a connection belongs to one worker ([`pool`]), so a request never moves to another
//! thread. hyper's types do not leave this module: `forward` sees the answer and the failure of
//! [`exchange`] instead.

mod balance;
mod bounds;
pub(crate) mod check;
mod compiled;
pub(crate) mod connect;
pub(crate) mod connect_error;
mod dial;
pub(crate) mod endpoints;
pub(crate) mod exchange;
pub(crate) mod failure;
pub(crate) mod health;
mod http1;
pub(crate) mod pool;
pub(crate) mod probe;
pub(crate) mod queue;
pub(crate) mod request;
pub(crate) mod request_body;
pub(crate) mod slots;
pub(crate) mod socket;
pub(crate) mod stall;
pub(crate) mod tls;
pub(crate) mod turn;
pub(crate) mod upgrade;
pub(crate) mod upload;
mod window;

pub(crate) use compiled::Upstream;
pub(crate) use endpoints::{Endpoint, Endpoints};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use http1::{Reading, listed};
