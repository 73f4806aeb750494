//! The keys in service: each with its limits, its usage and the headers that the upstream gets.
//!
//! [`KeyCache`] finds a key by the digest of a credential. A reload loads a store into a
//! [`KeySet`], and then puts the set into service.

mod builder;
mod cache;
mod live_key;
mod outlook;
mod ring;
mod set;

pub(crate) use cache::{Difference, KeyCache, Match, NoMatch};
pub(crate) use live_key::LiveKey;
pub(crate) use outlook::Outlook;
pub use ring::KeyRing;
pub(crate) use set::KeySet;
