//! A reverse proxy that checks the Bearer key of every request to the server behind it.
//!
//! The modules that a request passes through, in order:
//!
//! ```text
//! net       accept, TLS, HTTP/1.1 or HTTP/2              (net::listen, net::tls, net::conn, net::wire)
//! proxy     handle a request, step by step
//! guard     refuse ambiguous requests; make the canonical target
//! route     (host, method, path) → a route; a request without a route is denied
//! gate      credential → principal → permission → a permit, with the limits charged
//! forward   send the permitted request to upstream, stream the answer back
//! observe   write one record per request when its answer has ended
//! ```
//!
//! `app` turns a `config` into a running server. `cli` is the command line. ARCHITECTURE.md
//! describes all modules.

mod acme;
mod activity;
mod address;
mod admin;
mod ago;
mod alarm;
mod app;
mod bom;
pub mod cli;
mod clock;
mod config;
mod cors;
mod denial;
mod digest;
mod folding;
mod forward;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod gate;
mod glob;
mod group;
mod guard;
mod hooks;
mod host_pattern;
mod identity;
mod journal;
mod json;
mod key_cache;
#[cfg(test)]
mod key_reference;
mod key_store;
mod keys;
mod late_thread;
mod limit;
mod mask;
mod model;
mod net;
mod observe;
mod path_pattern;
mod pattern_fault;
mod pem;
mod permission;
mod placeholder;
mod plural;
mod protocol;
mod proxy;
mod random_id;
mod redis_address;
mod redis_link;
#[cfg(test)]
mod reference;
mod regular_file;
mod reload;
mod route;
mod shared;
mod shell_word;
mod snapshot;
mod stamp;
mod state;
mod system_authorities;
mod tap;
mod thread_supervisor;
mod token_report;
mod tokens;
mod unreadable;
mod upstream;
mod web_origin;
mod worker;

pub use app::{App, StartError};
pub use clock::{Clock, Manual};
pub use config::{Config, Fault, Faults, Position};
pub use hooks::{BodyEvent, Direction, Hooks};
pub use key_cache::KeyRing;
pub use keys::token::{Credential, KeyHash, Token};
pub use net::local::Local;
pub use observe::log::LogGuards;
pub use tap::BodyEnd;
