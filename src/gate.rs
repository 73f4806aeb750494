//! Decides whether a request may pass.
//!
//! Called by `proxy`; sees the head of a request, never a body, so that another door (a forward-auth
//! endpoint, say) can make the same decision. `authenticate` → `authorize` → `admit`.
//! Invariant: a [`Permit`] exists only if every check passed; `forward` takes nothing else.

mod credential;

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue};
use jiff::Timestamp;

use crate::clock::Clock;
use crate::config::Access;
use crate::denial::{Code, Denial};
use crate::guard::client::Client;
use crate::keys::cache::{KeyCache, LiveKey, Revocation};
use crate::keys::{ApiKey, Circumstances, KeyHash, Permission};
use crate::limit::{ConcurrencyPermit, Exhausted, Limiter, Place, Standing, Window};
use crate::observe::audit::Suspicion;
use crate::observe::usage::UsageBook;
use crate::route::Route;
use crate::snapshot::Snapshot;
use credential::Presented;

/// Somebody whose key is good.
#[derive(Clone, Debug)]
pub(crate) struct Principal {
    live: Arc<LiveKey>,
    /// The digest of the secret that was presented.
    hash: KeyHash,
    /// It is one that was rotated out, in its grace.
    is_rotated_out: bool,
}

/// A principal, or anybody, who may use a route.
#[derive(Debug)]
pub(crate) struct Authorized {
    principal: Option<Principal>,
    route: Arc<Route>,
}

/// The right to forward one request. It holds the request's place among those in flight, of its key and of all, for
/// as long as the response body lives.
#[derive(Debug)]
pub(crate) struct Permit {
    principal: Option<Principal>,
    route: Arc<Route>,
    _place: Place,
    _of_key: Option<ConcurrencyPermit>,
}

/// Why a credential was refused, for the log.
#[derive(Debug)]
pub(crate) struct Refusal {
    reason: &'static str,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason)
    }
}

impl std::error::Error for Refusal {}

/// What an authentication found, for the log as well as for the decision.
pub(crate) struct Authentication {
    /// The id that answers and the log name the credential by; `None` where there was none.
    pub(crate) key_id: Option<HeaderValue>,
    /// The key that the credential is a secret of, a good one or not.
    pub(crate) owner: Option<Arc<LiveKey>>,
    pub(crate) outcome: Result<Principal, Denial>,
}

/// Finds out who asks.
///
/// `now`: by the wall clock. An address that keeps guessing is told to wait. A good key of the same address is never looked at that way.
pub(crate) fn authenticate(
    headers: &HeaderMap,
    client: &Client,
    snapshot: &Snapshot,
    keys: &KeyCache,
    limiter: &Limiter,
    now: Timestamp,
) -> Authentication {
    let presented = match credential::find(headers, &snapshot.credential_headers) {
        Ok(presented) => presented,
        Err(denial) => return Authentication { key_id: None, owner: None, outcome: Err(denial) },
    };
    let credential = match presented {
        Presented::Word(credential) => credential,
        Presented::Malformed(credential) => return refused(credential.key_id(), "malformed"),
    };
    let (hash, found) = match keys.open(&credential) {
        Ok(found) => found,
        Err(unopened) => {
            let refused = refused(credential.key_id(), unopened.name());
            return after_guess(refused, client, snapshot, limiter);
        }
    };
    let circumstances = Circumstances {
        now,
        environment: snapshot.environment.as_deref(),
        address: client.address,
        max_age: snapshot.max_age,
    };
    let key_id = Some(found.key.headers().key_id.clone());
    match found.key.key.validity(found.rotated_out, &circumstances) {
        Ok(()) => {
            let is_rotated_out = found.rotated_out.is_some();
            let owner = Some(found.key.clone());
            Authentication { key_id, owner, outcome: Ok(Principal { live: found.key, hash, is_rotated_out }) }
        }
        Err(invalidity) => {
            let denial = match invalidity.end() {
                Some(end) => Denial::expired_key(end),
                None => Denial::invalid_key(&credential.key_id()),
            };
            let denial = denial.caused_by(Refusal { reason: invalidity.name() });
            Authentication { key_id, owner: Some(found.key), outcome: Err(denial) }
        }
    }
}

/// Lets somebody through whom nobody asks for a key. Two credentials are refused all the same: what stands
/// behind us could go by the other one.
pub(crate) fn pass_unasked(headers: &HeaderMap, snapshot: &Snapshot) -> Result<(), Denial> {
    match credential::find(headers, &snapshot.credential_headers) {
        Err(denial) if denial.code() == Code::BadRequest => Err(denial),
        _ => Ok(()),
    }
}

/// Counts a guess: one word that opens nothing. Who holds the secret of a key that is not good any more guesses nothing,
/// and is told so as often as asked.
fn after_guess(
    refused: Authentication,
    client: &Client,
    snapshot: &Snapshot,
    limiter: &Limiter,
) -> Authentication {
    let (Some(address), Some(quota)) = (client.address, snapshot.failed_attempts) else { return refused };
    let Err(retry_after) = limiter.failed_attempt(address, quota) else { return refused };
    let outcome =
        refused.outcome.map_err(|denial| Denial::too_many_failed_attempts(retry_after).in_place_of(denial));
    Authentication { outcome, ..refused }
}

fn refused(key_id: String, reason: &'static str) -> Authentication {
    let denial = Denial::invalid_key(&key_id).caused_by(Refusal { reason });
    // An id is visible ASCII, whatever the credential is.
    Authentication { key_id: HeaderValue::try_from(key_id).ok(), owner: None, outcome: Err(denial) }
}

/// Whether the principal may use the route; `None` is somebody without a key.
pub(crate) fn authorize(principal: Option<Principal>, route: Arc<Route>) -> Result<Authorized, Denial> {
    if let Access::Needs(permission) = route.access {
        // The proxy authenticates for every route that is not public; if it ever did not, nobody passes.
        let Some(Principal { live, .. }) = &principal else {
            return Err(Denial::missing_key("Authorization"));
        };
        may_use(&live.key, permission, &route.name)?;
    }
    Ok(Authorized { principal, route })
}

/// As [`authorize`], where servers may read the path as one of other routes, `readings`: the principal must be allowed to
/// use those, too.
pub(crate) fn authorize_as_read(
    principal: Option<Principal>,
    route: Arc<Route>,
    readings: &[Arc<Route>],
) -> Result<Authorized, Denial> {
    for reading in readings {
        authorize(principal.clone(), reading.clone())?;
    }
    authorize(principal, route)
}

/// Whether a good key may use a route that needs this permission.
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

/// Charges the limits, all or none, and makes the permit.
///
/// # Errors
///
/// 429, or 503 where the whole process has no room; nothing was charged then.
pub(crate) fn admit(
    authorized: Authorized,
    snapshot: &Snapshot,
    limiter: &Limiter,
) -> Result<(Permit, Option<Standing>), Denial> {
    let Authorized { principal, route } = authorized;
    let place = limiter.enter(snapshot.limits.in_flight).map_err(Denial::too_many_in_flight)?;
    let Some(Principal { live, .. }) = &principal else {
        return Ok((Permit { principal, route, _place: place, _of_key: None }, None));
    };
    let limits = live.limits(limiter);
    let of_key = match live.key.max_concurrent().or(snapshot.default_max_concurrent) {
        Some(limit) => Some(limits.state.enter(limit).ok_or_else(|| Denial::concurrency(limit))?),
        None => None,
    };
    let standing = {
        let windows = windows(live, limiter, snapshot, Some(&route));
        match windows.clone().next() {
            Some(_) => Some(limiter.charge(&limits.state, windows).map_err(refuse)?),
            None => None,
        }
    };
    Ok((Permit { principal, route, _place: place, _of_key: of_key }, standing))
}

fn refuse(refusal: Exhausted) -> Denial {
    let quota = refusal.window.quota();
    Denial::rate_limited(refusal.window.name(), quota.requests, quota.per, refusal.retry_after)
}

/// Notes that a principal was let in, and says what of that is worth a look.
pub(crate) fn note_use(
    principal: &Principal,
    address: Option<IpAddr>,
    snapshot: &Snapshot,
    book: &UsageBook,
    clock: &Clock,
    now: Timestamp,
) -> impl Iterator<Item = Suspicion> {
    let Principal { live, is_rotated_out, .. } = principal;
    let usage = live.usage(book);
    let is_new = usage.note(now, address);
    let is_old_secret = *is_rotated_out && usage.tells_old_secret(clock.monotonic_nanos());
    let end_of_age =
        snapshot.max_age.filter(|_| !is_rotated_out).and_then(|max_age| live.key.end_of_age(max_age.age));
    let is_old = end_of_age.is_some_and(|end| now >= end) && usage.tells_old_age(clock.monotonic_nanos());
    let found = [
        is_new.then_some(Suspicion::NewAddress),
        is_old_secret.then_some(Suspicion::RotatedSecret),
        is_old.then_some(Suspicion::PastMaxAge),
    ];
    found.into_iter().flatten()
}

/// How a principal's limits stand, for an answer to a request that was not charged.
pub(crate) fn standing(
    principal: &Principal,
    route: Option<&Arc<Route>>,
    snapshot: &Snapshot,
    limiter: &Limiter,
) -> Option<Standing> {
    let live = &principal.live;
    let windows = windows(live, limiter, snapshot, route);
    windows.clone().next()?;
    Some(limiter.standing(&live.limits(limiter).state, windows))
}

/// The key's own windows, or the default ones, and the route's.
fn windows<'a>(
    live: &'a LiveKey,
    limiter: &Limiter,
    snapshot: &'a Snapshot,
    route: Option<&'a Arc<Route>>,
) -> impl Iterator<Item = &'a Arc<Window>> + Clone {
    let own = live.limits(limiter).windows.as_deref().unwrap_or(&snapshot.default_windows);
    own.iter().chain(route.map(|route| route.windows.as_slice()).unwrap_or_default())
}

impl Principal {
    pub(crate) fn key(&self) -> &LiveKey {
        &self.live
    }

    /// Ready once the secret that was presented opens nothing any more.
    pub(crate) fn revocation(&self, keys: &Arc<KeyCache>) -> Revocation {
        keys.revocation(self.hash)
    }
}

impl Permit {
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }
}
