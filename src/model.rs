//! The model that a request names, and what its body declares of its size.
//!
//! A request may name its model in its body, a form, its path or its query; its route says where.
//! Invariant: a name counts only if every server reads the same name. Two members, another
//! spelling, another encoding and bytes behind the body make the model [`Named::Ambiguous`].

mod body;
mod declared;
mod list;
mod member;
mod multipart;
mod name;
mod named;
mod patterns;
mod query_search;
mod spellings;
mod values;

pub(crate) use body::{BodyKind, BodyScan};
pub(crate) use declared::Declared;
pub(crate) use list::{filtered, joined};
pub(crate) use name::{ModelNaming, in_path, in_query};
pub(crate) use named::Named;
pub(crate) use patterns::ModelPatterns;
pub(crate) use spellings::{Server, Spellings, folded_path};
pub(crate) use values::{DeclaredStream, Given, StreamOptions};
