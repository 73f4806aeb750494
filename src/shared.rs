//! Limits that hold for all replicas together, by a Redis or Valkey server.
//!
//! One thread has the connection to the server. It sends the asks of all keys (see `limit::lease`),
//! registers the replica by heartbeats, and decides whether the server is available. Requests never
//! wait longer than `shared.timeout`.
//!
//! Invariant: an answer that came too late is no answer; the server may have charged for it.

mod check;
mod handle;
mod link;
mod scripts;
mod session;
mod settings;
mod thread;
mod usage;

pub(crate) use check::{Missing, check};
pub(crate) use handle::Sharing;
pub(crate) use link::{LinkReport, Replica};
pub(crate) use scripts::COMMANDS;
pub(crate) use settings::Settings;
pub(crate) use thread::{Asker, Ours, share};
pub(crate) use usage::{each_row, last_uses};
