//! Front ends for other proxies, which ask whether they may forward a request (docs/decisions/050).
//!
//! A proxy tells of a request ([`Told`]). It is decided by the same functions as a request of a client, its
//! limits are charged, and the answer says that it may pass, or what its client has to be told.
//! Invariants: a request that is told of in two ways is refused. A limit that can't be held refuses its keys,
//! unless the listener says otherwise; a rule for models always does.

pub(super) mod answer;
pub(super) mod answered;
mod encoding;
mod ext_authz;
mod forward_auth;
mod messages;
pub(crate) mod told;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use http::request::Parts;
use http::{Method, Response};
use tokio::time::{Instant, timeout_at};

use super::caller::Caller;
use super::countable::Countable;
use super::gateway::Peer;
use super::seen_body::{SeenBody, caps_of, estimate, kind_of_body, learned_name, named_model};
use super::state::{RequestState, StreamRefused};
use crate::config::{Asker, Door, ModelIn, Unenforceable};
use crate::denial::Denial;
use crate::forward::body::ResponseBody;
use crate::forward::headers::identity;
use crate::gate::{self, Admitted, Context, Grant, Head, Identity, Verdict};
use crate::limit::Cost;
use crate::model::Named;
use crate::tokens::{Charges, Learned};
use crate::upstream::request_body::RequestBody;
use answered::{Answered, Granted};
use told::{Claimed, Told};

/// One question, as it came.
struct Question<'a> {
    peer: &'a Peer,
    door: Door,
    caller: &'a Caller,
    parts: &'a mut Parts,
    body: &'a RequestBody,
    /// When its caller waits no longer.
    deadline: Option<Instant>,
}

/// Answers one question, even if that panics.
pub(crate) fn serve<E: From<StreamRefused>>(
    peer: Arc<Peer>,
    door: Door,
    mut parts: Parts,
    body: RequestBody,
) -> impl Future<Output = Result<Response<ResponseBody>, E>> {
    let mut state = RequestState::open(&peer, &parts, &body);
    state.note_door(door.asker);
    let caller = Caller::of(&parts, &body);
    async move {
        let answered = {
            let question = Question {
                peer: &peer,
                door,
                caller: &caller,
                parts: &mut parts,
                body: &body,
                deadline: None,
            };
            AssertUnwindSafe(question.answer(&mut state)).catch_unwind().await
        };
        let answered = answered.unwrap_or_else(|_panic| Answered::Failed(Denial::internal()));
        state.conclude_at_door(&peer, door, &caller, answered, body)
    }
}

impl Question<'_> {
    /// Answers the question within the time that its caller has set for it.
    async fn answer(mut self, state: &mut RequestState) -> Answered {
        let asker = self.peer.address.map(|address| address.to_canonical());
        if !state.snapshot.trusted_proxies.may_ask(asker) {
            return Answered::Failed(Denial::untrusted_caller());
        }
        let deadline = match self.door.asker {
            Asker::ExtAuthz => ext_authz::deadline(self.parts),
            _ => Ok(None),
        };
        let Ok(deadline) = deadline else {
            return Answered::Failed(Denial::bad_request("The grpc-timeout can't be read"));
        };
        self.deadline = deadline.and_then(|time| Instant::now().checked_add(time));
        let (until, answering) = (self.deadline, self.decided(state));
        let answered = match until {
            None => answering.await,
            Some(until) => {
                let answered = timeout_at(until, answering).await;
                answered.unwrap_or_else(|_passed| Err(Answered::Failed(Denial::deadline_exceeded())))
            }
        };
        answered.map_or_else(|answered| answered, Answered::Granted)
    }

    /// Reads what is told of a request, decides about it, and charges its limits.
    async fn decided(mut self, state: &mut RequestState) -> Result<Box<Granted>, Answered> {
        let (peer, door, snapshot) = (self.peer, self.door, state.snapshot.clone());
        let claimed = self.claimed(state).await?;
        state.note_claimed(&claimed);
        if door.asker != Asker::ExtAuthz {
            forward_auth::refuse_what_would_pass(door.asker, &claimed.headers, &snapshot)?;
        }
        let told = Told::new(claimed)?;
        if door.asker == Asker::ExtAuthz
            && snapshot.routes.has_cors()
            && !told.has_body
            && let Some(preflight) = gate::preflight(&told.parts, false, &snapshot)
        {
            return Err(Answered::Preflight(state.note_preflight(preflight)));
        }
        let now = peer.gateway.clock.wall();
        self.admitted(state, &told, peer.gateway.context(&snapshot, now)).await?;
        state.note_use(peer, &told.client, now);
        let (removes, protocols) = match door.asker {
            Asker::ExtAuthz => {
                (ext_authz::removed(&told, state.route(), &snapshot), ext_authz::protocols(&told))
            }
            _ => (Vec::new(), None),
        };
        let identity = identity(state.principal.as_ref());
        Ok(Box::new(Granted { identity, request_id: state.request_id.clone(), removes, protocols }))
    }

    /// Reads what is told of a request.
    async fn claimed(&mut self, state: &RequestState) -> Result<Claimed, Answered> {
        let Question { peer, door, caller, parts, body, .. } = self;
        let (snapshot, limits) = (&state.snapshot, &state.snapshot.limits);
        match door.asker {
            Asker::ExtAuthz => {
                let question = ext_authz::question(peer, caller, parts, body, limits).await;
                Ok(ext_authz::claimed(question.map_err(Answered::Failed)?, peer, limits)?)
            }
            asker => Ok(forward_auth::claimed(peer, asker, parts, snapshot)?),
        }
    }

    async fn admitted(
        &self,
        state: &mut RequestState,
        told: &Told,
        context: Context<'_>,
    ) -> Result<(), Answered> {
        let (Question { peer, door, .. }, Told { parts, client, .. }) = (self, told);
        let head = Head { parts, client, is_plain: false, identity: Identity::Presented(None) };
        let mut decided = gate::decide(&head, context).await;
        state.note_facts(peer, &mut decided.facts, &parts.headers);
        let verdict = decided.outcome?;
        let target = decided.facts.target.as_ref();
        let path = target.map(|target| target.path().to_owned()).unwrap_or_default();
        peer.gateway.hooks.call(&path);
        let read = Read::of(&verdict, told, &path);
        state.note_model(&read.model);
        let learned = &peer.gateway.learned;
        let (mut grant, cost) = granted(verdict, told, &path, read, *door, learned, context)?;
        state.note_grant(grant.route(), &parts.headers);
        grant.enter_undecided(context)?;
        // Nothing is charged for an answer that nobody waits for.
        if self.deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Err(Answered::Failed(Denial::deadline_exceeded()));
        }
        let Admitted { permit, limit_status, reservation, would_refuse } =
            grant.admit(cost, client.counted_at, context).await?;
        drop(permit);
        if let Some(reservation) = reservation {
            Charges::new(&peer.gateway.limiter, reservation).keep_as_reserved();
        }
        state.note_admission(limit_status, None, would_refuse);
        Ok(())
    }
}

/// What the body of a request says, as far as it was sent along.
pub(crate) struct Read {
    seen: Option<SeenBody>,
    pub(crate) model: Named,
}

impl Read {
    pub(crate) fn of(verdict: &Verdict, told: &Told, path: &str) -> Self {
        let route = verdict.route();
        let seen = told.seen(route);
        let query = told.parts.uri.query();
        let model = named_model(route, path, query, seen.as_ref(), verdict.needs_model());
        Read { seen, model }
    }
}

/// Grants a request that another proxy forwards. Returns what to charge for it.
///
/// # Errors
///
/// As for a request that bearward forwards; 403 also if the key has a limit that can't be held here, or if the
/// model matters and is not known.
pub(crate) fn granted(
    verdict: Verdict,
    told: &Told,
    path: &str,
    read: Read,
    door: Door,
    learned: &Learned,
    context: Context<'_>,
) -> Result<(Grant, Cost), Denial> {
    let (method, Read { seen, model }) = (&told.parts.method, read);
    // An answer with a list is not seen, so it can't be filtered. A body may name the model, or another one
    // than the path or the query.
    let (route, sees_body) = (verdict.route(), told.sees_body(verdict.route()));
    let is_list = route.model.place == ModelIn::List && model == Named::Absent;
    let is_hidden = !sees_body && kind_of_body(route, method).is_some();
    if verdict.needs_model() && (is_list || is_hidden) {
        return Err(Denial::unenforceable_limit("models"));
    }
    let grant = verdict.grant(&model, method.as_str(), path)?;
    if door.asker != Asker::ExtAuthz {
        forward_auth::refuse_removed(&told.parts.headers, grant.route())?;
    }
    check_head(&grant, told, context)?;
    let unenforceable = grant.unenforceable(method, sees_body, context);
    if let (Some(limit), Unenforceable::Refuse) = (unenforceable, door.unenforceable) {
        return Err(Denial::unenforceable_limit(&limit));
    }
    let Some(seen) = seen.filter(|_| grant.route().uses_tokens(method)) else {
        return Ok((grant, Cost::REQUEST));
    };
    let (route, spellings) = (grant.route(), grant.route().model.server.spellings(path));
    let held = seen.hold(caps_of(grant.principal(), route, method), spellings)?;
    // Nobody counts the output here.
    seen.check_countable(Countable::new(route, path, (held.output.is_some(), false)))?;
    // Nobody changes the body here.
    if !held.edits.is_empty() && door.unenforceable == Unenforceable::Refuse {
        return Err(Denial::unenforceable_limit("max_output_tokens"));
    }
    let name = learned_name(route, &model);
    let (length, limits) = (told.announced_length(), &context.snapshot.limits);
    let (estimate, _) = estimate(Some(&seen), length, route, spellings, learned, &name, limits, held.output);
    Ok((grant, Cost { output_tokens: 0, declared_output_tokens: 0, ..estimate.cost() }))
}

/// Checks what the head of a request says of its body, and of other protocols.
fn check_head(grant: &Grant, told: &Told, context: Context<'_>) -> Result<(), Denial> {
    let route = grant.route();
    if !route.takes_body(&told.parts.method) && told.has_body {
        return Err(Denial::bad_request("GET and HEAD take no body"));
    }
    let most = route.body_bytes(&context.snapshot.limits);
    if told.announced_length().is_some_and(|length| length > most) {
        return Err(Denial::body_too_large(most));
    }
    if !told.asks_for_upgrade() {
        return Ok(());
    }
    if told.asks_for_other_protocol(route) || told.parts.method != Method::GET {
        return Err(Denial::bad_request("The route allows no such upgrade"));
    }
    grant.check_tunnel()
}
