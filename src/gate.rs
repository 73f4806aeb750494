//! Decides whether a request may pass.
//!
//! [`decide`] judges the head of a request, [`Grant::admit`] charges the limits. Every front end
//! calls these two: the proxy, `bearward explain`, and whatever else asks by a head alone. A front
//! end chooses the form of an answer; nothing here depends on it, and no body is seen.
//!
//! The order of the steps matters. A client without a key can't map routes (401 before 404), and a
//! request that may not pass burns no quota (403 before 429).
//! Invariant: a [`Permit`] exists only if every check passed; `forward` takes nothing else.

mod admission;
mod authentication;
mod authorization;
mod context;
mod credential;
mod failed_attempts;
mod principal;
mod readings;
mod revocation;
mod suspicion;

use std::sync::Arc;

use http::request::Parts;

use crate::denial::{Code, Denial};
use crate::guard;
use crate::guard::Target;
use crate::guard::client::Client;
use crate::key_cache::LiveKey;
use crate::keys::KeyHash;
use crate::route::Route;
pub(crate) use admission::{Admitted, Grant, Permit, limit_status};
pub(crate) use authentication::{Authentication, authenticate};
pub(crate) use authorization::may_use;
pub(crate) use context::Context;
pub(crate) use credential::harmless_protocols;
pub(crate) use failed_attempts::wait_of;
pub(crate) use principal::Principal;
pub(crate) use readings::Readings;
pub(crate) use revocation::{Ended, Revocation};
pub(crate) use suspicion::note_use;

/// A request, as a front end puts it to the gate.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) client: &'a Client,
    /// Whether the client's connection is known to be without TLS: `https` targets are refused then.
    pub(crate) is_plain: bool,
    pub(crate) identity: Identity<'a>,
}

/// Whose request it is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity<'a> {
    /// The holder of the key that the head's credential matches.
    Credential,
    /// The holder of this key, found by the digest of its current secret.
    Assumed(Option<(KeyHash, &'a Arc<LiveKey>)>),
}

/// What became known of a request while it was decided, whichever way it was decided.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The path and host of the request, if its head has one meaning.
    pub(crate) target: Option<Target>,
    /// `None` where no key was asked for.
    pub(crate) authentication: Option<Authentication>,
    /// The holder of the valid key that was presented.
    pub(crate) principal: Option<Principal>,
    /// The route, and those of the path's other readings.
    pub(crate) readings: Option<Readings>,
    /// The route, once it is known to be one.
    pub(crate) route: Option<Arc<Route>>,
}

/// A decision.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) facts: Facts,
    pub(crate) outcome: Result<Grant, Denial>,
}

/// Decides whether a request may pass, as far as its head and its key say.
///
/// Later checks need the body or the limits.
pub(crate) fn decide(head: &Head<'_>, context: Context<'_>) -> Decided {
    let mut facts = Facts::default();
    let outcome = judge(head, context, &mut facts);
    Decided { facts, outcome }
}

/// The steps of a decision, in their order.
fn judge(head: &Head<'_>, context: Context<'_>, facts: &mut Facts) -> Result<Grant, Denial> {
    let (method, snapshot) = (&head.parts.method, context.snapshot);
    // Refuse what is ambiguous, before anybody can act on one of its meanings.
    let target = facts.target.insert(guard::check(head.parts, &snapshot.limits, head.is_plain)?);
    let readings = facts.readings.insert(Readings::of(&snapshot.routes, target, method)?);
    // Authentication comes before routing: a client without a key learns of no route.
    let principal = match readings.are_public() {
        true => {
            check_public(head, context)?;
            None
        }
        false => {
            let (authentication, outcome) = identify(head, context);
            facts.authentication = Some(authentication);
            Some(&*facts.principal.insert(outcome?))
        }
    };
    readings.refuse_ambiguities(&target.ambiguities)?;
    let route = &*facts.route.insert(readings.route(target, method, &snapshot.limits)?);
    authorization::authorize(principal, readings.others.iter().chain([route]))?;
    Ok(Grant { principal: principal.cloned(), route: route.clone(), readings: readings.others.clone() })
}

fn identify(head: &Head<'_>, context: Context<'_>) -> authentication::Judged {
    match head.identity {
        Identity::Credential => {
            authenticate(&head.parts.headers, &context.snapshot.auth, head.client, context)
        }
        Identity::Assumed(Some((hash, live))) => authentication::assume(hash, live, head.client, context),
        Identity::Assumed(None) => authentication::missing(),
    }
}

/// Checks a request that needs no key. Two credentials are refused all the same: the upstream could
/// go by the other one. Its headers have a bound of their own.
fn check_public(head: &Head<'_>, context: Context<'_>) -> Result<(), Denial> {
    let headers = &head.parts.headers;
    match credential::find(headers, &context.snapshot.auth) {
        Err(denial) if denial.code() == Code::BadRequest => Err(denial),
        _ => guard::check_public_sizes(headers, &context.snapshot.limits),
    }
}
