//! The request path: all steps from the head of a request to its answer.
//!
//! [`serve`] generates a request's id, keeps its record, catches its panics and forms its answer.
//! [`handle`] lists the steps: answer a preflight, decide, check what the body declares, admit,
//! forward.

mod caller;
pub(crate) mod countable;
pub(crate) mod door;
mod early;
mod edge;
mod gateway;
mod inspection;
mod known;
mod list;
mod own_key;
pub(crate) mod seen_body;
mod state;
pub(crate) mod turn;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use http::request::Parts;
use http::{HeaderValue, Method, Response};

use crate::denial::{AnswerForm, Denial};
use crate::forward::body::ResponseBody;
use crate::forward::headers::{Origin, is_harmless_trailer};
use crate::forward::upgrade::{self, Upgrade};
use crate::forward::{self, PermittedRequest, RequestTokens};
use crate::gate::{self, Admitted, Context, Grant, Head, Identity, Permit, Verdict};
use crate::guard::Target;
use crate::guard::client::{self, Client};
use crate::hooks::Hooks;
use crate::model::Named;
use crate::observe::trace::TraceContext;
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::tap::TapSlot;
use crate::tokens::Charges;
use crate::upstream::request_body::{Patience, RequestBody, UploadFailure};
use crate::upstream::turn::Turn;
use crate::upstream::upload::{TrailerRule, Upload, UploadGuard, UploadLimits};
use caller::Caller;
pub(crate) use edge::Edge;
pub(crate) use gateway::{Gateway, Peer};
use inspection::Inspection;
use known::Known;
use list::{ListFilter, ListRequest};
pub(crate) use state::StreamRefused;
use state::{Handled, RequestState};

/// Answers one request, even if handling it panics.
///
/// The request's state, head and body stay in this future until the request ends. Moving them from
/// step to step would cost more than all decisions about the request.
pub(crate) fn serve<E: From<StreamRefused>>(
    peer: Arc<Peer>,
    mut parts: Parts,
    body: RequestBody,
) -> impl Future<Output = Result<Response<ResponseBody>, E>> {
    let mut state = RequestState::open(&peer, &parts, &body);
    let caller = Caller::of(&parts, &body);
    async move {
        let outcome = {
            // hyper moves this future to where it keeps it for the connection. The steps are in memory that
            // the last request of the thread has just used.
            let handling = Box::pin(handle(&peer, &caller, &mut state, &mut parts, &body));
            AssertUnwindSafe(handling).catch_unwind().await
        };
        let outcome = outcome.unwrap_or_else(|_panic| Err(Denial::internal()));
        state.conclude(&peer, &caller, outcome, body)
    }
}

/// A request that may be forwarded, after its limits were charged.
struct AdmittedRequest {
    permit: Permit,
    target: Target,
    limits: UploadLimits,
    upgrade: Option<Upgrade>,
    tokens: RequestTokens,
    /// The turn of the request at its upstream; `None` if that has no queue.
    turn: Option<Box<Turn>>,
    guard: Option<Box<dyn UploadGuard>>,
    /// The filter of the answer, if that is a list of models of which the key may see some.
    filter: Option<Box<ListFilter>>,
}

/// Runs the steps of a request, in order.
async fn handle(
    peer: &Peer,
    caller: &Caller,
    state: &mut RequestState,
    parts: &mut Parts,
    body: &RequestBody,
) -> Result<Handled, Denial> {
    let Gateway { keys, identities, hooks, clock, .. } = &*peer.gateway;
    let snapshot = state.snapshot.clone();
    let client = client::client(&parts.headers, peer.address, &snapshot.trusted_proxies);
    state.note_client(&client, &parts.headers);
    peer.refuse_over_limit()?;

    let now = clock.wall();
    let context = peer.gateway.context(&snapshot, now);
    let known = Known { peer, caller, client: &client, body, context };
    if early::may_answer(known) {
        // The future is boxed, because few listeners answer before a key is looked at.
        let answer = Box::pin(early::answer(known, state, parts)).await?;
        if let Some(answer) = answer {
            return Ok(answer);
        }
    }
    if let Some(answer) = preflight(state, parts, body, known.is_plain()) {
        return Ok(Handled::Preflight(answer));
    }
    if own_key::is_asked(parts, state) {
        // The future is boxed, because few requests are about their own key.
        let answer = own_key::answer(peer, state, parts, &client, known.is_plain(), context);
        return Box::pin(answer).await;
    }
    let AdmittedRequest { permit, target, limits, upgrade, tokens, turn, guard, mut filter } =
        admit(known, state, parts).await?;
    state.note_use(peer, &client, now);
    let taps = hooks.call(target.path());
    if let Some(filter) = &mut filter {
        filter.prepare(&permit, parts);
    }
    let upload = upload(peer, state, permit.route(), body, limits, taps.request).guarded(guard);
    let origin = origin(peer, client, (&state.request_id, state.trace), &snapshot);
    let revocations = permit.revocations((keys, identities), clock, client.address, &snapshot);
    let waits = turn.as_ref().is_some_and(|turn| turn.must_wait());
    let judgement = || permit.judgement((keys, identities), clock, client.address, &snapshot).map(Box::new);
    let judgement = waits.then(judgement).flatten();
    let forwarded = forward::forward(PermittedRequest {
        permit,
        parts,
        upload,
        limits,
        activity: &peer.activity,
        upgrade,
        revocations,
        target: &target,
        origin: &origin,
        pool: &peer.pool,
        times: &mut state.times,
        tap: taps.response,
        tokens,
        turn,
        judgement,
    })
    .await;
    let Some(filter) = filter else { return forwarded.map(Handled::Forwarded) };
    let list = ListRequest { is_head: caller.is_head, peer, target: &target, limits, origin: &origin };
    // The future is boxed, because few requests are for a list.
    Box::pin(filter.apply(forwarded, list)).await.map(Handled::Forwarded)
}

/// Runs the steps up to the admission of a request: decides by its head, looks at what its body
/// declares, and charges its limits.
async fn admit(
    known: Known<'_>,
    state: &mut RequestState,
    parts: &mut Parts,
) -> Result<AdmittedRequest, Denial> {
    let Known { peer, caller, client, body, context } = known;
    let (mut verdict, target) = decide(known, state, parts).await?;
    let mut inspection = match Inspection::is_needed(&verdict, &parts.method, body) {
        true => Some(inspect(known, &mut verdict, parts, target.path()).await?),
        false => None,
    };
    let (grant, filter) = grant((state, context), verdict, inspection.as_deref(), parts, target.path())?;

    // The body's declared length is checked before the limits, so that a refused request uses no
    // quota.
    let mut limits = upload_limits(state, grant.route(), &parts.method, body, caller.form)?;
    let upgrade = permitted_upgrade(&grant, parts, body)?;
    let hooks = &peer.gateway.hooks;
    if let Some(bytes) = hooks.prelude_bytes() {
        look_ahead(hooks, bytes, body, limits).await?;
    }
    let class = turn::class_of(&grant, &parts.headers)?;
    let cost = Inspection::cost(&mut inspection, peer, &grant, parts, target.path(), body, context)?;
    Inspection::tell_priority(&mut inspection, grant.route(), &parts.method, body, class)?;
    // A slot that is free is taken before the limits are judged, so that nothing has to be taken back.
    let mut turn = turn::begin(&grant, class, context.limiter);
    let must_wait = turn.as_ref().is_some_and(|turn| turn.must_wait());
    let Admitted { permit, limit_status, mut reservation, would_refuse } =
        grant.admit(cost.to_be_taken_back(must_wait), client.counted_at, context).await?;
    let has_account = inspection.as_ref().is_some_and(|seen| seen.counts_tokens());
    let taken_back = reservation.take_if(|_| must_wait && !has_account);
    let charges = taken_back.map(|of_request| Box::new(Charges::new(&peer.gateway.limiter, of_request)));
    let begun = inspection
        .map(|seen| seen.begin(peer, permit.route(), reservation, parts, target.path(), body, &mut limits));
    let (account, guard) = begun.unwrap_or_default();
    if let (Some(turn), Some(account)) = (&mut turn, &account) {
        turn.counts(account.report());
    }
    state.note_admission(limit_status, account.as_deref(), would_refuse);
    let tokens = RequestTokens { account, charges };
    Ok(AdmittedRequest { permit, target, limits, upgrade, tokens, turn, guard, filter })
}

/// Decides by the head of a request whether it may pass, and records the facts of the decision.
async fn decide(
    known: Known<'_>,
    state: &mut RequestState,
    parts: &Parts,
) -> Result<(Verdict, Target), Denial> {
    let Known { peer, client, context, .. } = known;
    let head = Head {
        parts,
        client,
        is_plain: known.is_plain(),
        identity: Identity::Presented(peer.certificate.as_ref()),
    };
    let mut decided = gate::decide(&head, context).await;
    state.note_facts(peer, &mut decided.facts, &parts.headers);
    let verdict = decided.outcome?;
    debug_assert!(decided.facts.target.is_some(), "a granted request has a target");
    Ok((verdict, decided.facts.target.ok_or_else(Denial::internal)?))
}

/// Looks at what a request says of its model and of its tokens.
async fn inspect(
    known: Known<'_>,
    verdict: &mut Verdict,
    parts: &Parts,
    path: &str,
) -> Result<Box<Inspection>, Denial> {
    let Known { peer, client, body, context, .. } = known;
    verdict.take_permits(client.counted_at, context).await?;
    // The future is boxed: many requests name no model, and an unboxed future would enlarge the
    // future of every request.
    Box::pin(Inspection::of(peer, verdict, parts, path, body, context.snapshot)).await
}

/// Grants a request for its model. Returns the filter of its answer as well, if the answer is a
/// list of models of which the key may see some.
fn grant(
    (state, context): (&mut RequestState, Context<'_>),
    verdict: Verdict,
    inspection: Option<&Inspection>,
    parts: &Parts,
    path: &str,
) -> Result<(Grant, Option<Box<ListFilter>>), Denial> {
    let model = inspection.map_or(&Named::Absent, |inspection| &inspection.model);
    state.note_model(model);
    let grant = verdict.grant(model, parts.method.as_str(), path)?;
    state.note_grant(grant.route(), &parts.headers);
    let filter = ListFilter::of(&grant, &parts.method, path, &state.snapshot, context)?;
    Ok((grant, filter))
}

/// Reads the first bytes of a body for a test.
async fn look_ahead(
    hooks: &Hooks,
    bytes: usize,
    body: &RequestBody,
    limits: UploadLimits,
) -> Result<(), Denial> {
    // The future is boxed: only tests have it, and an unboxed future would enlarge the future of
    // every request.
    let prelude = Box::pin(body.prelude(bytes as u64, Patience::UpTo(limits.idle), None)).await;
    hooks.looked_ahead(&prelude.map_err(|failure| broken_prelude(failure, limits))?);
    Ok(())
}

/// Returns the answer to a preflight that bearward answers itself. Browsers send preflights without
/// a body; an OPTIONS request with a body is decided like any other request.
fn preflight(
    state: &mut RequestState,
    parts: &Parts,
    body: &RequestBody,
    is_plain: bool,
) -> Option<Response<()>> {
    if !state.snapshot.routes.has_cors() || body.may_hold_bytes() {
        return None;
    }
    let preflight = gate::preflight(parts, is_plain, &state.snapshot)?;
    Some(state.note_preflight(preflight))
}

/// Makes the upload: the request's body in the form in which upstream receives it.
fn upload(
    peer: &Peer,
    state: &RequestState,
    route: &Route,
    body: &RequestBody,
    limits: UploadLimits,
    tap: TapSlot,
) -> Upload {
    let trailers = TrailerRule {
        is_harmless: is_harmless_trailer,
        secret: state.snapshot.secret_headers.clone(),
        removed: route.removes.clone(),
    };
    Upload::new(body, limits, &peer.activity, trailers, tap)
}

/// Returns the facts about the origin of a request, for the headers that describe it to the upstream.
fn origin<'a>(
    peer: &'a Peer,
    client: Client,
    (request_id, trace): (&'a HeaderValue, Option<TraceContext>),
    snapshot: &'a Snapshot,
) -> Origin<'a> {
    let secret_headers = &snapshot.secret_headers;
    Origin {
        peer: peer.address_value.as_ref(),
        client,
        is_tls: peer.is_tls,
        request_id,
        trace,
        secret_headers,
    }
}

/// Refuses a body on GET or HEAD, unless the route accepts it. A body has no meaning for these
/// methods (RFC 9110, section 9.3.1). A server may leave it unread and parse it as the next request
/// on the connection, which may be another client's.
///
/// An HTTP/2 request whose head does not end the stream counts as having a body, unless it declares
/// `content-length: 0`. Only a later frame could show that the body is empty, and the client
/// decides how long that frame takes.
fn refuse_body_on_get(method: &Method, route: &Route, body: &RequestBody) -> Result<(), Denial> {
    match !route.takes_body(method) && body.may_hold_bytes() {
        true => Err(Denial::bad_request("GET and HEAD take no body")),
        false => Ok(()),
    }
}

/// Returns the upgrade that the request asks for, if it may have one.
fn permitted_upgrade(
    grant: &Grant,
    parts: &mut Parts,
    body: &RequestBody,
) -> Result<Option<Upgrade>, Denial> {
    let upgrade = upgrade::asked(parts, grant.route(), !body.is_empty())?;
    if upgrade.is_some() {
        grant.check_tunnel()?;
    }
    Ok(upgrade)
}

/// Returns the limits of the request's body. Refuses a body whose declared length exceeds its limit
/// before the body is read.
fn upload_limits(
    state: &RequestState,
    route: &Route,
    method: &Method,
    body: &RequestBody,
    form: AnswerForm,
) -> Result<UploadLimits, Denial> {
    let limits = &state.snapshot.limits;
    refuse_body_on_get(method, route, body)?;
    let bytes = route.body_bytes(limits);
    if body.least_length() > bytes {
        return Err(Denial::body_too_large(bytes));
    }
    // The client of a gRPC stream may be silent for a long time, and some servers send the head of
    // an answer only with their first message. The route's idle timeout then applies if it is
    // longer, but only for key holders: without a key, a content type must not extend the timeout.
    let may_be_silent = form == AnswerForm::Grpc && state.principal.is_some();
    let idle = limits.body_idle_timeout;
    let idle = if may_be_silent { idle.max(route.timeouts.idle) } else { idle };
    Ok(UploadLimits { bytes, idle, output: None })
}

/// Returns the denial of a request whose first body frames could not be read.
fn broken_prelude(failure: UploadFailure, limits: UploadLimits) -> Denial {
    match failure {
        UploadFailure::TooLarge => Denial::body_too_large(limits.bytes),
        UploadFailure::Stalled => Denial::body_stalled(limits.idle),
        UploadFailure::Broken
        | UploadFailure::UnclearModel
        | UploadFailure::TooMuchOutput
        | UploadFailure::LatePriority
        | UploadFailure::InBackground
        | UploadFailure::UnclearStream
        | UploadFailure::PickedAnswer => Denial::bad_request("The request body is malformed"),
    }
}
