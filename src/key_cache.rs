//! The keys in service: each with its limits, its usage and the headers that upstream gets.
//!
//! [`cache::KeyCache`] finds a key by the digest of a credential. [`builder`] builds the set that a reload puts into it.

pub(crate) mod builder;
pub(crate) mod cache;
pub(crate) mod outlook;
pub(crate) mod ring;
pub(crate) mod set;
