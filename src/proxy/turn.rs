//! Who a request is in the queue of its upstream.

use http::{HeaderMap, HeaderName};

use crate::config::Priority;
use crate::denial::Denial;
use crate::gate::{Grant, Principal};
use crate::upstream::queue::Who;
use crate::upstream::turn::Turn;

/// Header with which a client lowers the class of its request.
pub(crate) const X_PRIORITY: HeaderName = HeaderName::from_static("x-bearward-priority");

/// Begins the turn of a granted request. Returns `None` if its upstream has no queue.
pub(super) fn begin(grant: &Grant, class: Priority) -> Option<Box<Turn>> {
    Turn::begin(&grant.route().upstream, || who(grant.principal(), class))
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
    let of_key = principal.map(Principal::priority).unwrap_or_default();
    headers.get_all(X_PRIORITY).iter().try_fold(of_key, |class, asked| {
        let asked = asked.to_str().ok().and_then(|name| Priority::named(name.trim()));
        asked.map(|asked| class.lowered_to(asked)).ok_or_else(|| Denial::unknown_priority(&X_PRIORITY))
    })
}

/// Returns who a request of this class is.
pub(super) fn who(principal: Option<&Principal>, class: Priority) -> Who {
    let weight = principal.map_or(1, Principal::weight);
    Who::new(class, principal.map(|principal| principal.key().key.id()), weight)
}
