//! Certificates that bearward gets from a certificate authority by itself, and renews (ACME, RFC 8555;
//! decision 51).
//!
//! A thread ([`Renewer`]) asks the authority and writes the certificate to `acme.storage`. The reload thread
//! finds the file there, and puts the certificate into service. Workers pass what the authority asks them to
//! that thread by the [`Registry`].
//!
//! Invariants: a certificate is replaced only by one that is complete, valid and for the same names; what
//! fails changes nothing of the certificate in service; a process that is killed at any moment leaves a
//! storage from which the next one goes on.

mod account;
mod answers;
mod certificate;
mod challenges;
mod fault;
mod fleet;
mod lock;
mod order;
mod progress;
mod publisher;
mod registry;
mod renewer;
mod schedule;
mod storage;
mod tending;
mod tools;

pub(crate) use certificate::Life;
pub(crate) use challenges::{ALPN, HTTP_PATH};
pub(crate) use registry::{Registry, Shown, ShownFault};
pub(crate) use renewer::Renewer;
pub(crate) use storage::{Storage, Stored, name_of};
pub(crate) use tools::{Connected, Tools};
