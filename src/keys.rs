//! Defines what a key is: its fields, its token and digest, and when it is valid.
//!
//! This module has data types only. `key_store` reads and writes keys, `key_cache` has the keys in
//! service, and `gate` decides requests by them.
//! Invariant: no file of `keys` uses a store, a limit or a log.

pub(crate) mod api_key;
pub(crate) mod field;
pub(crate) mod fields;
pub(crate) mod id_secret;
pub(crate) mod record;
pub(crate) mod rotation;
pub(crate) mod terms;
pub(crate) mod token;

pub(crate) use crate::permission::{Permission, Permissions};
pub(crate) use api_key::{ApiKey, Circumstances, Draft, Invalidity, State};
pub(crate) use record::{KeyRecord, is_label};
pub(crate) use terms::{Secret, Terms};
pub(crate) use token::{Credential, Form, KeyHash, PREFIX as TOKEN_PREFIX, is_presentable};
