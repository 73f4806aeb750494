//! The servers behind bearward: where they are, whether they are healthy, and the connections to them.
//!
//! An [`Upstream`] is part of a snapshot. Its endpoints ([`endpoints`]) outlive snapshots, so that a
//! reload keeps connections and health. Connections belong to a worker ([`pool`]), so that no request
//! ever changes thread. What comes back, whichever codec reads it, is in [`exchange`].

mod bounds;
pub(crate) mod check;
mod compiled;
pub(crate) mod connect;
pub(crate) mod connect_error;
mod dial;
pub(crate) mod endpoints;
pub(crate) mod exchange;
pub(crate) mod health;
pub(crate) mod pool;
pub(crate) mod probe;
pub(crate) mod request_body;
pub(crate) mod socket;
pub(crate) mod stall;
pub(crate) mod tls;
pub(crate) mod upgrade;
pub(crate) mod upload;
mod window;

pub(crate) use compiled::Upstream;
pub(crate) use endpoints::{Endpoint, Endpoints};
