//! Where keys are stored: the four kinds of store, read for service and changed by commands.
//!
//! [`store`] tells the kinds apart; [`edit`] changes one.

pub(crate) mod claim;
pub(crate) mod directory;
pub(crate) mod edit;
pub(crate) mod id_secret;
pub(crate) mod jsonl;
pub(crate) mod settle;
pub(crate) mod store;
pub(crate) mod text;
pub(crate) mod yaml;
