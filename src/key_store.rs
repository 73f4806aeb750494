//! Where keys are stored: the four kinds of store, read for service and changed by commands.
//!
//! [`Store`] knows the kinds. It loads into whatever implements [`build_set::BuildSet`]. [`edit`]
//! changes a store.
//! Invariant: nothing here knows the keys in service but through [`build_set::KeysInService`].

pub(crate) mod build_set;
pub(crate) mod claim;
mod decode;
pub(crate) mod directory;
pub(crate) mod edit;
mod file;
pub(crate) mod id_secret;
mod jsonl;
pub(crate) mod labels;
pub(crate) mod reading;
mod settle;
mod store;
mod tally;
mod text;
pub(crate) mod yaml;

pub(crate) use reading::{AtFault, LastGood, Pace, Reading};
pub(crate) use store::Store;
