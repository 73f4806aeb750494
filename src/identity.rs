//! Holders of tokens (JWTs) and client certificates. They become principals of the same kind as the holders of
//! keys: [`Identities`] finds or makes a key in service for each of them, with the limits of its identity.
//!
//! Invariants: what is unknown, stale, expired, denied or ambiguous identifies nobody; what was verified counts as
//! long as the rules, the keys and the denied tokens stay the same; memory is bounded.

mod certificate;
mod compact;
mod denied;
mod fetch;
mod holders;
mod json;
mod jwks;
mod known_tokens;
mod reason;
mod registry;
mod rules;
mod source;
mod thread;
mod token;

pub(crate) use certificate::ClientCertificate;
pub(crate) use compact::is_token;
pub(crate) use fetch::{Client, Document, Wanted};
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use jwks::KeySet;
pub(crate) use reason::Reason;
pub(crate) use registry::{Identities, ReadFiles, Shown, lost_ids};
pub(crate) use rules::Rules;
pub(crate) use source::{Awaited, ShownSource};
pub(crate) use thread::{Sweep, Tasks, ask_all};
pub(crate) use token::{LEEWAY, Refused};
