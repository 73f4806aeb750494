//! Who a request is in the queue of its upstream.

use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::config::Priority;
use crate::denial::Denial;
use crate::gate::{Grant, Principal};
use crate::limit::Limiter;
use crate::upstream::queue::Who;
use crate::upstream::turn::Turn;

/// Header with which a client lowers the class of its request.
pub(crate) const X_PRIORITY: HeaderName = HeaderName::from_static("x-bearward-priority");

/// Begins the turn of a granted request. Returns `None` if its upstream has no queue.
pub(super) fn begin(grant: &Grant, class: Priority, limiter: &Limiter) -> Option<Box<Turn>> {
    Turn::begin(&grant.route().upstream, || who(grant.principal(), class, limiter))
}

/// Returns the class of a granted request, if its upstream has a queue or is told of the class; otherwise the
/// class does not matter.
///
/// # Errors
///
/// As [`class`].
pub(super) fn class_of(grant: &Grant, headers: &HeaderMap) -> Result<Priority, Denial> {
    let upstream = &grant.route().upstream;
    match upstream.queue.is_some() || upstream.tells_priority.is_some() {
        true => class(grant.principal(), headers),
        false => Ok(Priority::default()),
    }
}

/// Returns the class of a request: that of its key, or a lower one that the client asks for.
///
/// # Errors
///
/// 400 if the client names a class that does not exist: it would be lowered by mistake, or not at all.
pub(super) fn class(principal: Option<&Principal>, headers: &HeaderMap) -> Result<Priority, Denial> {
    let mut class = principal.map_or_else(Priority::default, Principal::priority);
    if !headers.contains_key(&X_PRIORITY) {
        return Ok(class);
    }
    for asked in headers.get_all(&X_PRIORITY) {
        let asked = asked.to_str().ok().and_then(|name| Priority::named(name.trim()));
        class = class.lowered_to(asked.ok_or_else(|| Denial::unknown_priority(&X_PRIORITY))?);
    }
    Ok(class)
}

/// Returns who a request of this class is. A key is known by its limit state, which it has for as long as it
/// exists.
pub(super) fn who(principal: Option<&Principal>, class: Priority, limiter: &Limiter) -> Who {
    let weight = principal.map_or(1, Principal::weight);
    let key = principal.map_or(0, |principal| Arc::as_ptr(&principal.key().limits(limiter).state).addr());
    Who { class, key, weight }
}
