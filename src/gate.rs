//! Decides whether a request may pass.
//!
//! [`decide`] judges the head of a request, and [`Grant::admit`] charges the limits. Every front
//! end calls these two functions: the proxy, `bearward explain`, and any front end that has only
//! the head of a request. A front end chooses the form of an answer; no decision depends on that
//! form, and the gate sees no body. [`preflight`] answers the preflights of browsers before the
//! decision.
//!
//! The order of the steps matters. A client without a key can't find out which routes exist (401
//! comes before 404), and a request that may not pass uses no quota (403 comes before 429).
//! Invariant: a [`Permit`] exists only if every check passed, and `forward` forwards no request
//! without a permit.

mod admission;
mod authentication;
mod authorization;
mod context;
mod cors;
mod credential;
mod ended;
mod failed_attempts;
mod foreign_page;
mod identified;
mod identity_judge;
mod model;
mod principal;
mod proof;
mod readings;
mod revocation;
mod settle;
mod suspicion;
mod unenforceable;

use std::sync::Arc;

use http::request::Parts;

use crate::denial::{Code, Denial};
use crate::guard;
use crate::guard::Target;
use crate::guard::client::Client;
use crate::identity::ClientCertificate;
use crate::key_cache::LiveKey;
use crate::keys::KeyHash;
use crate::route::Route;
pub(crate) use admission::{Admitted, Grant, InFlightPermits, Permit, holders, limit_status};
pub(crate) use authentication::{Authentication, authenticate};
pub(crate) use authorization::may_use;
pub(crate) use context::Context;
pub(crate) use cors::{Preflight, cors_answer, preflight};
pub(crate) use credential::{harmless_protocols, has_key_in_protocols};
pub(crate) use ended::Ended;
pub(crate) use failed_attempts::is_limited;
use foreign_page::is_from_foreign_page;
pub(crate) use model::Verdict;
pub(crate) use principal::Principal;
pub(crate) use readings::Readings;
pub(crate) use revocation::{Judgement, Revocation};
use settle::{Open, Provisional, settle};
pub(crate) use suspicion::note_use;

/// A request, in the form in which a front end passes it to the gate.
#[derive(Debug)]
pub(crate) struct Head<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) client: &'a Client,
    /// Whether the client's connection certainly has no TLS. Targets with `https` are then refused.
    pub(crate) is_plain: bool,
    pub(crate) identity: Identity<'a>,
}

/// The holder on whose behalf a request is decided.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Identity<'a> {
    /// The holder of the key or token that is the credential in the head. Without a credential, the holder of
    /// the certificate that the client of the connection has presented.
    Presented(Option<&'a Arc<ClientCertificate>>),
    /// The holder of this key, which was found by the digest of its current secret; `None` for a
    /// caller without a key.
    Assumed(Option<(KeyHash, &'a Arc<LiveKey>)>),
}

/// What a decision found out about a request, whatever its outcome was.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// The canonical path and host of the request; `None` if `guard` refused the head.
    pub(crate) target: Option<Target>,
    /// Result of the authentication; `None` if no key was needed.
    pub(crate) authentication: Option<Authentication>,
    /// The holder of the valid key that the request presented.
    pub(crate) principal: Option<Principal>,
    /// The route of the path, and the routes of the other ways in which a server may read the path.
    pub(crate) readings: Option<Readings>,
    /// The route of the request; `None` if the request was refused before its route was known.
    pub(crate) route: Option<Arc<Route>>,
}

/// A decision: the facts that it found, and its outcome.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) facts: Facts,
    pub(crate) outcome: Result<Verdict, Denial>,
}

impl Provisional for Decided {
    fn is_valid(&self) -> bool {
        self.facts.principal.is_some()
    }

    fn take_open(&mut self) -> Open {
        let authentication = self.facts.authentication.as_mut();
        authentication.map(|authentication| std::mem::take(&mut authentication.open)).unwrap_or_default()
    }

    fn companions(&mut self) -> Option<&mut Vec<String>> {
        self.facts.authentication.as_mut().map(|authentication| &mut authentication.companions)
    }
}

/// Decides whether a request may pass, by the head and the key of the request. Counts failed attempts
/// in all replicas together, if limits are shared, and waits for the keys of a token's issuer.
///
/// The checks that need the body or the limits come later.
pub(crate) async fn decide(head: &Head<'_>, context: Context<'_>) -> Decided {
    // The block ends before the wait, so that the decision is no part of this future.
    let settling = {
        let decide = |context: Context<'_>| decide_here(head, context);
        let decided = decide(context);
        match decided.facts.authentication.as_ref().is_some_and(|found| found.open.is_any()) {
            true => Box::pin(settle(decided, head.client, context, decide)),
            false => return decided,
        }
    };
    settling.await
}

/// Finds the holder of the key of a request that asks about this key alone, and so needs no route.
/// Counts failed attempts as [`decide`] does.
pub(crate) async fn decide_own(head: &Head<'_>, context: Context<'_>) -> (Facts, Result<Principal, Denial>) {
    let mut facts = Facts::default();
    match guard::check(head.parts, &context.snapshot.limits, head.is_plain) {
        Ok(target) => facts.target = Some(target),
        Err(denial) => return (facts, Err(denial)),
    }
    let certificate = match (head.identity, &facts.target) {
        (Identity::Presented(certificate), Some(target)) => {
            certificate.filter(|_| !is_from_foreign_page(&head.parts.headers, target))
        }
        _ => None,
    };
    let presented = (&head.parts.headers, certificate);
    let (authentication, outcome) =
        authenticate(presented, &context.snapshot.auth, head.client, context).await;
    facts.authentication = Some(authentication);
    facts.principal = outcome.as_ref().ok().cloned();
    (facts, outcome)
}

/// Decides about a request as [`decide`] does, as far as this process knows.
pub(crate) fn decide_here(head: &Head<'_>, context: Context<'_>) -> Decided {
    let mut facts = Facts::default();
    let outcome = judge(head, context, &mut facts);
    Decided { facts, outcome }
}

/// Runs the steps of a decision, in order.
fn judge(head: &Head<'_>, context: Context<'_>, facts: &mut Facts) -> Result<Verdict, Denial> {
    let (method, snapshot) = (&head.parts.method, context.snapshot);
    // Ambiguous requests are refused first, before any step can act on one of their meanings.
    let target = facts.target.insert(guard::check(head.parts, &snapshot.limits, head.is_plain)?);
    let readings = facts.readings.insert(Readings::of(&snapshot.routes, target, method)?);
    // Authentication comes before routing: a client without a key learns of no route.
    let principal = match readings.are_public() {
        true => {
            check_public(head, context)?;
            None
        }
        false => {
            let (authentication, outcome) = identify(head, (target, readings), context);
            facts.authentication = Some(authentication);
            Some(&*facts.principal.insert(outcome?))
        }
    };
    readings.refuse_ambiguities(&target.ambiguities)?;
    let route = readings.route(target, method, &snapshot.limits)?;
    let (by_model, others) = (readings.by_model.clone(), readings.others.clone());
    // If the model selects the route, the permission is checked with the model.
    if by_model.is_empty() {
        authorization::authorize(principal, others.iter().chain([&*facts.route.insert(route.clone())]))?;
    }
    Ok(Verdict { principal: principal.cloned(), route, by_model, readings: others, in_flight: None })
}

fn identify(
    head: &Head<'_>,
    (target, readings): (&Target, &Readings),
    context: Context<'_>,
) -> authentication::Judged {
    let headers = &head.parts.headers;
    match head.identity {
        Identity::Presented(certificate) => {
            let certificate = certificate.filter(|_| {
                !is_from_foreign_page(headers, target)
                    || cors::lists_for_credentials(&context.snapshot.routes, target, readings, headers)
            });
            let auth = &context.snapshot.auth;
            authentication::authenticate_here((headers, certificate), auth, head.client, context)
        }
        Identity::Assumed(Some((hash, live))) => authentication::assume(hash, live, head.client, context),
        Identity::Assumed(None) => authentication::missing(),
    }
}

/// Checks a request that needs no key. Two credentials are refused here, too, because the upstream
/// might not use the same credential as bearward. The headers of a request without a key have a
/// size limit of their own.
fn check_public(head: &Head<'_>, context: Context<'_>) -> Result<(), Denial> {
    let headers = &head.parts.headers;
    match credential::find(headers, &context.snapshot.auth) {
        Err(denial) if denial.code() == Code::BadRequest => Err(denial),
        _ => guard::check_public_sizes(headers, &context.snapshot.limits),
    }
}
