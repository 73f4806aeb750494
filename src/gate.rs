//! Decides whether a request may pass.
//!
//! Called by `proxy`; sees the head of a request, never a body, so that another door (a forward-auth
//! endpoint, say) can make the same decision. `authenticate` → `authorize` → `admit`.
//! Invariant: a [`Permit`] exists only if every check passed; `forward` takes nothing else.

mod credential;
mod revocation;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

use crate::clock::Clock;
use crate::config::{Access, Auth};
use crate::denial::{Code, Denial};
use crate::guard::client::Client;
use crate::key_cache::{KeyCache, LiveKey, Match};
use crate::keys::{ApiKey, Circumstances, Credential, Form, KeyHash, Permission};
use crate::limit::{
    ConcurrencyPermit, Exhausted, InFlightPermit, LimitStatus, Limiter, PublicInFlightPermit, Window,
};
use crate::observe::audit::Suspicion;
use crate::observe::naming::Naming;
use crate::observe::usage::UsageBook;
use crate::route::Route;
use crate::snapshot::Snapshot;
pub(crate) use credential::harmless_protocols;
use credential::{Found, PresentedCredential};
use revocation::Judgement;
pub(crate) use revocation::{Ended, Revocation};

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
    readings: Vec<Arc<Route>>,
}

/// The right to forward one request. It holds the request's place among those in flight, of its key and of all, for
/// as long as the response body lives.
#[derive(Debug)]
pub(crate) struct Permit {
    principal: Option<Principal>,
    route: Arc<Route>,
    /// Routes that servers may take the path for as well. Nearly always none.
    readings: Vec<Arc<Route>>,
    _place: InFlightPermit,
    _public: Option<PublicInFlightPermit>,
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
    /// What the log names the credential by.
    pub(crate) named: Naming,
    /// The key that the credential is a secret of, a good one or not.
    pub(crate) owner: Option<Arc<LiveKey>>,
    /// The ids of unknown credentials that stood beside the key's, and did not before.
    pub(crate) beside: Vec<String>,
    pub(crate) outcome: Result<Principal, Denial>,
}

/// Finds out who asks.
///
/// `auth`: where a key may stand; `now`: by the wall clock. An address that keeps guessing is told to wait: until then,
/// what is no bearward token is not looked up, so that a right guess tells nothing. A good token of the same address is
/// let in all the same.
pub(crate) fn authenticate(
    headers: &HeaderMap,
    auth: &Auth,
    client: &Client,
    snapshot: &Snapshot,
    keys: &KeyCache,
    limiter: &Limiter,
    now: Timestamp,
) -> Authentication {
    let found = match credential::find(headers, auth) {
        Ok(found) => found,
        Err(denial) => return Authentication::refused(Naming::Nothing, denial),
    };
    let lookup = Lookup { client, snapshot, keys, limiter };
    let opened = match found.others.is_empty() {
        true => lookup.open(found.first).map_err(|unopened| lookup.after_guess(unopened)),
        false => lookup.open_one_of(found),
    };
    match opened {
        Ok(opened) => opened.judged(client, snapshot, now),
        Err(refused) => refused,
    }
}

/// How long the client's address has to wait after too many guesses, if it has.
pub(crate) fn wait_of(client: &Client, snapshot: &Snapshot, limiter: &Limiter) -> Option<Duration> {
    limiter.attempts_exhausted(client.counted_at?, snapshot.failed_attempts?)
}

/// What a credential is looked up with.
#[derive(Clone, Copy)]
struct Lookup<'a> {
    client: &'a Client,
    snapshot: &'a Snapshot,
    keys: &'a KeyCache,
    limiter: &'a Limiter,
}

/// A credential that is the secret of a key, a good one or not.
struct Opened {
    credential: Credential,
    hash: KeyHash,
    found: Match,
    /// The ids of unknown credentials that stand beside it, and did not before.
    beside: Vec<String>,
}

/// A credential that opens nothing.
struct Unopened {
    credential: Credential,
    form: Form,
    reason: &'static str,
    /// Whether it was looked up, or could have been: that is a guess.
    is_guess: bool,
    /// How long its address has to wait, where it was not looked up for that.
    wait: Option<Duration>,
}

impl Lookup<'_> {
    fn open(&self, presented: PresentedCredential) -> Result<Opened, Unopened> {
        let credential = match presented {
            PresentedCredential::Word(credential) => credential,
            PresentedCredential::Malformed(credential) => {
                let (form, reason) = (Form::Foreign, "malformed");
                return Err(Unopened { credential, form, reason, is_guess: false, wait: None });
            }
        };
        let form = credential.form();
        if form != Form::Token
            && let Some(wait) = self.wait()
        {
            let reason = "not looked up, after too many failed attempts";
            return Err(Unopened { credential, form, reason, is_guess: false, wait: Some(wait) });
        }
        match self.keys.open_as(form, &credential) {
            Ok((hash, found)) => Ok(Opened { credential, hash, found, beside: Vec::new() }),
            Err(why) => Err(Unopened { credential, form, reason: why.name(), is_guess: true, wait: None }),
        }
    }

    /// Opens the one of several credentials that is a key. Where none is, all of them were guesses; where two are, nobody
    /// knows which of them is meant.
    fn open_one_of(&self, found: Found) -> Result<Opened, Authentication> {
        let (mut opened, mut unopened) = (None, Vec::new());
        for presented in std::iter::once(found.first).chain(found.others) {
            match self.open(presented) {
                Ok(one) if opened.is_none() => opened = Some(one),
                Ok(_) => {
                    let denial = Denial::bad_request("Two different keys");
                    return Err(Authentication::refused(Naming::Nothing, denial));
                }
                Err(one) => unopened.push(one),
            }
        }
        if let Some(opened) = opened {
            return Ok(Opened { beside: self.count_beside(unopened), ..opened });
        }
        let mut refused: Vec<_> = unopened.into_iter().map(|one| self.after_guess(one)).collect();
        let is_limited = |refused: &Authentication| matches!(&refused.outcome, Err(denial) if denial.code() == Code::TooManyFailedAttempts);
        let told = refused.iter().position(is_limited).unwrap_or_default();
        Err(refused.swap_remove(told))
    }

    /// Counts what stands beside a key and opens nothing, the first time that it comes: else whoever holds a key could try
    /// others beside it, as fast as can be and unseen. Nobody guesses a token of ours.
    fn count_beside(&self, unopened: Vec<Unopened>) -> Vec<String> {
        let is_new = |one: &Unopened| {
            one.is_guess
                && one.form != Form::Token
                && self.limiter.is_new_companion(one.credential.hash().head())
        };
        let new = unopened.into_iter().filter(is_new).map(|one| {
            if let (Some(address), Some(quota)) = (self.client.counted_at, self.snapshot.failed_attempts) {
                // The key that it stands beside is let in all the same.
                let _wait_of_the_next = self.limiter.failed_attempt(address, quota);
            }
            self.snapshot.ids.key_id(&one.credential)
        });
        new.collect()
    }

    fn wait(&self) -> Option<Duration> {
        wait_of(self.client, self.snapshot, self.limiter)
    }

    /// Counts a guess: one word that opens nothing. Who holds the secret of a key that is not good any more guesses
    /// nothing, and is told so as often as asked.
    fn after_guess(&self, unopened: Unopened) -> Authentication {
        let Unopened { credential, form, reason, is_guess, wait } = unopened;
        let id = self.snapshot.ids.key_id(&credential);
        let denial = Denial::invalid_key(&id).caused_by(Refusal { reason });
        let of_address = || {
            let (address, quota) = (self.client.counted_at?, self.snapshot.failed_attempts?);
            self.limiter.failed_attempt(address, quota).err()
        };
        let wait = if is_guess { of_address() } else { wait };
        let denial = match wait {
            Some(wait) => Denial::too_many_failed_attempts(wait).in_place_of(denial),
            None => denial,
        };
        let named = match form {
            // Anybody can make a token with the id of a key in it.
            Form::Token => Naming::Claimed(id.into()),
            Form::Mistyped | Form::Foreign => Naming::Unknown(id.into()),
        };
        Authentication::refused(named, denial)
    }
}

impl Opened {
    /// Whether the key is good, here and now.
    fn judged(self, client: &Client, snapshot: &Snapshot, now: Timestamp) -> Authentication {
        let Opened { credential, hash, found, beside } = self;
        let circumstances = Circumstances {
            now,
            environment: snapshot.environment.as_deref(),
            address: client.address,
            max_age: snapshot.max_age,
        };
        let key_id = found.key.headers().key_id.clone();
        let invalidity = match found.key.key.validity(found.rotated_out, &circumstances) {
            Ok(()) => {
                let (is_rotated_out, owner) = (found.rotated_out.is_some(), Some(found.key.clone()));
                let outcome = Ok(Principal { live: found.key, hash, is_rotated_out });
                return Authentication { named: Naming::Key(key_id), owner, beside, outcome };
            }
            Err(invalidity) => invalidity,
        };
        // The answer names the credential as if no key had it: it must not tell that one has.
        let presented = snapshot.ids.key_id(&credential);
        let denial = match invalidity.end() {
            Some(end) => Denial::expired_key(end),
            None => Denial::invalid_key(&presented),
        };
        let denial = denial.caused_by(Refusal { reason: invalidity.name() });
        let named = match presented == found.key.key.id() {
            true => Naming::Key(key_id),
            false => Naming::KeyBy(Box::new((key_id, presented))),
        };
        Authentication { named, owner: Some(found.key), beside, outcome: Err(denial) }
    }
}

impl Authentication {
    fn refused(named: Naming, denial: Denial) -> Self {
        Authentication { named, owner: None, beside: Vec::new(), outcome: Err(denial) }
    }
}

/// Lets somebody through whom nobody asks for a key. Two credentials are refused all the same: what stands
/// behind us could go by the other one.
pub(crate) fn check_public(headers: &HeaderMap, snapshot: &Snapshot) -> Result<(), Denial> {
    match credential::find(headers, &snapshot.auth) {
        Err(denial) if denial.code() == Code::BadRequest => Err(denial),
        _ => Ok(()),
    }
}

/// Whether the principal may use the route, and those of `readings`, which servers may take the path for as well; `None` is
/// somebody without a key.
pub(crate) fn authorize(
    principal: Option<Principal>,
    route: Arc<Route>,
    readings: Vec<Arc<Route>>,
) -> Result<Authorized, Denial> {
    for route in readings.iter().chain([&route]) {
        let Access::Needs(permission) = route.access else { continue };
        // The proxy authenticates for every route that is not public; if it ever did not, nobody passes.
        let Some(Principal { live, .. }) = &principal else {
            return Err(Denial::missing_key("Authorization"));
        };
        may_use(&live.key, permission, &route.name)?;
    }
    Ok(Authorized { principal, route, readings })
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

/// Charges the limits, all or none, and makes the permit. `address`: the client's, for what needs no key.
///
/// # Errors
///
/// 429, or 503 where the whole process has no room; nothing was charged then.
pub(crate) fn admit(
    authorized: Authorized,
    address: Option<IpAddr>,
    snapshot: &Snapshot,
    limiter: &Limiter,
) -> Result<(Permit, Option<LimitStatus>), Denial> {
    let Authorized { principal, route, readings } = authorized;
    let all = snapshot.limits.in_flight;
    let place = limiter.enter(all).map_err(Denial::too_many_in_flight)?;
    let Some(Principal { live, .. }) = &principal else {
        let public = limiter.enter_public(address, all).map_err(Denial::too_many_in_flight)?;
        let permit =
            Permit { principal, route, readings, _place: place, _public: Some(public), _of_key: None };
        return Ok((permit, None));
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
    Ok((Permit { principal, route, readings, _place: place, _public: None, _of_key: of_key }, standing))
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
) -> Option<LimitStatus> {
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
}

impl Permit {
    pub(crate) fn principal(&self) -> Option<&Principal> {
        self.principal.as_ref()
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    /// Ready once the request would not be let in any more, where open ones end with their key. A request without a key ends
    /// when it has had its time, wherever.
    pub(crate) fn revocation(
        &self,
        keys: &Arc<KeyCache>,
        clock: &Clock,
        address: Option<IpAddr>,
        snapshot: &Snapshot,
    ) -> Option<Revocation> {
        let Some(principal) = &self.principal else {
            return Some(Revocation::after(snapshot.limits.public.total));
        };
        if !snapshot.cut_open_streams {
            return None;
        }
        Some(Revocation::new(Judgement {
            keys: keys.clone(),
            clock: clock.clone(),
            hash: principal.hash,
            address,
            environment: snapshot.environment.clone(),
            max_age: snapshot.max_age,
            routes: self.readings.iter().chain([&self.route]).cloned().collect(),
        }))
    }
}
