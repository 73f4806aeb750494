//! The configuration: the sections of its file, and their decoder.
//!
//! | files | contents |
//! |---|---|
//! | `document.rs` | a whole configuration, and [`Config::load`] |
//! | `listener.rs`, `keys.rs`, `limits.rs`, … | sections: fields, defaults, decoders, docs |
//! | `section.rs`, `field.rs`, `form.rs` | the macro `section!`, and the fields and forms for it |
//! | `tree.rs`, `decode.rs`, `fault.rs` | trees, decoders and faults, also those of key files |
//! | `presets.rs` | the built-in sets of routes |
//! | `schema.rs` | the JSON Schema |
//! | `beside.rs` | the files that relative paths in a configuration mean |
//!
//! Files in `config/` import each other by path (`crate::config::fault::Fault`), never by the names
//! that this file re-exports. This way no files import each other in a circle.

pub(crate) mod acme;
mod address;
mod admin;
mod ambiguity;
mod auth;
mod beside;
mod budget;
mod cors;
mod credential;
pub(crate) mod decode;
pub(crate) mod denied;
mod document;
mod door;
mod endpoint;
pub(crate) mod fault;
mod field;
mod files;
mod form;
mod group;
mod header_name;
mod health;
mod host;
mod identity;
mod identity_needs;
mod issuer;
mod keys;
mod limits;
mod listener;
mod log;
mod method;
mod model;
pub(crate) mod network;
pub(crate) mod presets;
mod queue;
mod quota;
mod route;
mod routes;
pub(crate) mod schema;
mod secret;
mod section;
mod shared;
mod store_place;
mod timeouts;
mod traces;
pub(crate) mod tree;
mod trusted_proxies;
mod upstream;

pub(crate) use acme::{Acme, Challenge};
pub(crate) use address::Address;
pub(crate) use admin::Admin;
pub(crate) use ambiguity::Ambiguity;
pub(crate) use auth::{Auth, Conflict};
pub(crate) use budget::{BudgetQuota, Every, Period, Zone, budget_quotas, parse_budget};
pub(crate) use cors::{Cors, CorsOrigins};
pub(crate) use credential::UpstreamCredential;
pub use document::Config;
pub(crate) use door::{Asker, Door, Unenforceable};
pub(crate) use endpoint::{ConfiguredEndpoint, EndpointAddress};
pub use fault::{Fault, Faults, Position};
pub(crate) use files::{Content, ReadFile};
pub(crate) use group::{Group, is_group_name};
pub(crate) use health::HealthCheck;
pub(crate) use identity::{Condition, Identity};
pub(crate) use issuer::{Algorithm, Issuer, KeysPlace, is_trustworthy};
pub(crate) use keys::{AgeAction, ID_SECRET_LENGTH, Keys, MaxAge};
pub(crate) use limits::{LONGEST_METHOD, Limits};
pub(crate) use listener::{CertificatePair, Listener, Tls, TlsVersion};
pub(crate) use log::{Log, LogFormat, LogTarget};
pub(crate) use model::{
    ModelIn, OnExcess, OutputCap, RouteModel, Usage, UsesTokens, model_patterns, output_cap, parse_output_cap,
};
pub(crate) use queue::{Priority, Queue, TellsPriority};
pub(crate) use quota::{AttemptQuota, Quota, Unit, has_repeated_window, parse_count, quotas};
pub(crate) use route::{Access, Route};
pub(crate) use shared::{Shared, WhenUnavailable};
pub(crate) use store_place::{KeyServer, StorePlace};
pub(crate) use timeouts::Timeouts;
pub(crate) use traces::Traces;
pub(crate) use trusted_proxies::TrustedProxies;
pub(crate) use upstream::{Balance, Pool, Upstream, UpstreamTls};

#[cfg(test)]
mod path_fields;
