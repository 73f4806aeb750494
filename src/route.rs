//! Which route a request takes: host, method and canonical path decide, and nothing else does.
//!
//! The first route that matches wins. A request that matches none is denied; its caller learns so
//! only after its key was accepted.

mod ambiguous;
mod compiled;
mod index;
mod shadow;
mod table;

pub(crate) use compiled::Route;
pub(crate) use shadow::Shadow;
pub(crate) use table::{Lookup, RouteTable};
