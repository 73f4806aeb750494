//! The CORS policy of a request, and the answer to a preflight.
//!
//! A preflight is the OPTIONS request by which a browser asks whether a page may send the request
//! that the page's script wants to send (Fetch, "CORS-preflight request"). Browsers send preflights
//! without a key, so they are answered before authentication.
//! Invariant: the answer to a preflight depends on the routes only as far as routes have a `cors`
//! of their own. With a `cors` at the top alone, a client without a key learns of no route.

use std::sync::Arc;

use http::request::Parts;
use http::{HeaderMap, Response};

use super::readings::Readings;
use crate::cors::{CorsAnswer, CorsPolicy, preflighted_method};
use crate::guard;
use crate::guard::Target;
use crate::route::RouteTable;
use crate::snapshot::Snapshot;

/// A preflight that bearward answers.
#[derive(Debug)]
pub(crate) struct Preflight {
    pub(crate) target: Target,
    pub(crate) answer: Response<()>,
}

/// Returns the answer to a preflight; `None` if the request is no preflight, if its origin is not
/// listed, or if the request is refused in any case because it is ambiguous. Such a request is then
/// decided like any other request.
///
/// `is_plain`: whether the client's connection certainly has no TLS.
pub(crate) fn preflight(parts: &Parts, is_plain: bool, snapshot: &Snapshot) -> Option<Preflight> {
    let method = preflighted_method(parts)?;
    let target = guard::check(parts, &snapshot.limits, is_plain).ok()?;
    let readings = Readings::of(&snapshot.routes, &target, &method).ok()?;
    let headers = &parts.headers;
    let policy = snapshot.routes.cors_policy(&readings.lookup, target.host(), target.path())?;
    if !every_reading_lists(policy, &readings, headers) {
        return None;
    }
    let answer = policy.preflight(headers, &method)?;
    Some(Preflight { target, answer })
}

/// Returns the CORS of the answer to a request; `None` if no `cors` holds for the request. `target`
/// and `readings` are what the request's decision found; they are `None` if the request was refused
/// before. `has_route`: whether the decision came as far as the request's route.
pub(crate) fn cors_answer(
    routes: &RouteTable,
    (target, readings): (Option<&Target>, Option<&Readings>),
    has_route: bool,
    headers: &HeaderMap,
) -> Option<Arc<CorsAnswer>> {
    let policy = match (target, readings) {
        (Some(target), Some(readings)) => routes.cors_policy(&readings.lookup, target.host(), target.path()),
        _ => routes.cors().map(|policy| &**policy),
    };
    let Some(policy) = policy else {
        return routes.beside_cors().filter(|_| !has_route).cloned();
    };
    let is_listed = readings.is_none_or(|readings| every_reading_lists(policy, readings, headers));
    Some(if is_listed { policy.answer_to(headers).clone() } else { policy.unlisted().clone() })
}

/// Whether the pages of the request's origin may send what a browser adds by itself: cookies, and its user's
/// client certificate.
pub(super) fn lists_for_credentials(
    routes: &RouteTable,
    target: &Target,
    readings: &Readings,
    headers: &HeaderMap,
) -> bool {
    let policy = routes.cors_policy(&readings.lookup, target.host(), target.path());
    let others = readings.others.iter().map(|route| route.cors.as_deref());
    std::iter::once(policy)
        .chain(others)
        .all(|policy| policy.is_some_and(|policy| policy.lists_for_credentials(headers)))
}

/// Whether the request's origin is listed for each way in which a server may read the path. The
/// upstream may answer with the content of another route, which pages of the origin must be allowed
/// to read, too.
fn every_reading_lists(policy: &CorsPolicy, readings: &Readings, headers: &HeaderMap) -> bool {
    policy.lists_origin_of(headers)
        && readings
            .others
            .iter()
            .all(|route| route.cors.as_ref().is_some_and(|other| other.lists_origin_of(headers)))
}
