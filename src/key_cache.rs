//! The keys in service: each with its limits, its usage and the headers that upstream gets.
//!
//! [`KeyCache`] finds a key by the digest of a credential. A reload has a store build a [`KeySet`] beside it, which it
//! then puts into service.

mod builder;
mod cache;
mod live_key;
mod outlook;
mod ring;
mod set;

pub(crate) use cache::{Difference, KeyCache, Match, Unopened};
pub(crate) use live_key::LiveKey;
pub(crate) use outlook::Outlook;
pub use ring::KeyRing;
pub(crate) use set::KeySet;
