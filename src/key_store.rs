//! Reads and changes key stores, of which there are five kinds. Stores are read for service, and
//! changed by commands and the admin API.
//!
//! [`Store`] distinguishes the kinds of key stores, and loads a store into any implementation of
//! [`build_set::BuildSet`]. [`edit`] changes a store.
//! Invariant: this module accesses the keys in service only through [`build_set::KeysInService`].

pub(crate) mod availability;
pub(crate) mod build_set;
pub(crate) mod claim;
mod decode;
pub(crate) mod directory;
pub(crate) mod edit;
mod file;
pub(crate) mod id_secret;
mod jsonl;
pub(crate) mod labels;
pub(crate) mod ownership;
pub(crate) mod provisions;
pub(crate) mod reading;
pub(crate) mod redis;
mod settle;
mod store;
mod tally;
mod text;
pub(crate) mod yaml;

pub(crate) use reading::{AtFault, LastGood, Pace, Reading};
pub(crate) use store::Store;
