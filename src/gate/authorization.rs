//! Decides whether a key may use a route.

use std::sync::Arc;

use super::principal::Principal;
use crate::config::Access;
use crate::denial::Denial;
use crate::keys::{ApiKey, Permission};
use crate::route::Route;

/// Checks that the principal may use all of `routes`: the route of the request's path, and the
/// routes of the other ways in which a server may read the path. `principal` is `None` for a client
/// without a key.
///
/// # Errors
///
/// 401 if a route needs a key and the request has none, 403 if the key may not use a route.
pub(super) fn authorize<'r>(
    principal: Option<&Principal>,
    mut routes: impl Iterator<Item = &'r Arc<Route>>,
) -> Result<(), Denial> {
    routes.try_for_each(|route| {
        let Access::Needs(permission) = route.access else { return Ok(()) };
        // `decide` authenticates the request for every route that is not public. If `decide` did
        // not, this check would refuse the request.
        let principal = principal.ok_or_else(|| Denial::missing_key("Authorization"))?;
        may_use(&principal.key().key, permission, &route.name)
    })
}

/// Checks that a valid key may use a route that needs this permission.
///
/// # Errors
///
/// 403 if the key may not use the route.
pub(crate) fn may_use(key: &ApiKey, permission: Permission, route: &str) -> Result<(), Denial> {
    if !key.has(permission) {
        return Err(Denial::insufficient_permissions(permission.name(), &key.permissions.names()));
    }
    match key.routes() {
        Some(allowed) if !allowed.iter().any(|allowed| allowed == route) => {
            Err(Denial::route_not_allowed(route, allowed))
        }
        _ => Ok(()),
    }
}
