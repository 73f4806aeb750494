//! The route of a request. It is determined by host, method and canonical path, and by nothing
//! else.
//!
//! The first route that matches wins. A request that matches no route is denied; its client learns
//! this only after its key was accepted.

mod ambiguous;
mod compiled;
mod index;
mod shadow;
mod table;

pub(crate) use compiled::Route;
pub(crate) use shadow::Shadow;
pub(crate) use table::{Lookup, RouteTable};
