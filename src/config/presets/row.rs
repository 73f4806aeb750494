//! Rows of presets, and constants for their methods and access.

use http::Method;

use crate::config::route::Access;
use crate::permission::Permission;

/// A row of a preset describes one route: its name, methods (an empty list means all methods),
/// paths and access.
pub(super) type Row = (&'static str, &'static [Method], &'static [&'static str], Access);

pub(super) const READ: Access = Access::Needs(Permission::Read);
pub(super) const WRITE: Access = Access::Needs(Permission::Write);
pub(super) const ADMIN: Access = Access::Needs(Permission::Admin);
pub(super) const WEBHOOK: Access = Access::Needs(Permission::Webhook);
pub(super) const PUBLIC: Access = Access::Public;

pub(super) const ALL: &[Method] = &[];
pub(super) const GET: &[Method] = &[Method::GET];
pub(super) const POST: &[Method] = &[Method::POST];
pub(super) const HEAD: &[Method] = &[Method::HEAD];
pub(super) const DELETE: &[Method] = &[Method::DELETE];
pub(super) const POST_AND_PUT: &[Method] = &[Method::POST, Method::PUT];
pub(super) const GET_AND_POST: &[Method] = &[Method::GET, Method::POST];
pub(super) const CHANGES: &[Method] = &[Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
