//! The request path: all steps from the head of a request to its answer.
//!
//! [`serve`] generates a request's id, keeps its record, catches its panics and forms its answer.
//! [`handle`] lists the steps: answer a preflight, decide, check what the body declares, admit,
//! forward.

mod caller;
mod gateway;
mod state;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt;
use http::request::Parts;
use http::{Method, Response};

use crate::denial::{AnswerForm, Denial};
use crate::forward::body::ResponseBody;
use crate::forward::headers::{Origin, is_harmless_trailer};
use crate::forward::{self, PermittedRequest, upgrade};
use crate::gate::{self, Admitted, Head, Identity};
use crate::guard::client;
use crate::limit::Cost;
use crate::route::Route;
use crate::tap::TapSlot;
use crate::upstream::request_body::{RequestBody, UploadFailure};
use crate::upstream::upload::{TrailerRule, Upload, UploadLimits};
use caller::Caller;
pub(crate) use gateway::{Gateway, Peer};
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
            let handling = pin!(handle(&peer, &caller, &mut state, &mut parts, &body));
            AssertUnwindSafe(handling).catch_unwind().await
        };
        let outcome = outcome.unwrap_or_else(|_panic| Err(Denial::internal()));
        state.conclude(&peer, &caller, outcome, body)
    }
}

/// Runs the steps of a request, in order.
async fn handle(
    peer: &Peer,
    caller: &Caller,
    state: &mut RequestState,
    parts: &mut Parts,
    body: &RequestBody,
) -> Result<Handled, Denial> {
    let Gateway { keys, hooks, clock, .. } = &*peer.gateway;
    let snapshot = state.snapshot.clone();
    let client = client::client(&parts.headers, peer.address, &snapshot.trusted_proxies);
    state.note_client(&client, &parts.headers);
    if let Some(limit) = peer.over_limit {
        return Err(Denial::too_many_connections(limit));
    }

    let now = clock.wall();
    let context = peer.gateway.context(&snapshot, now);
    let is_plain = !peer.is_tls && !client.via_trusted;
    if let Some(answer) = preflight(state, parts, body, is_plain) {
        return Ok(Handled::Preflight(answer));
    }
    let (grant, target) = {
        let head = Head { parts, client: &client, is_plain, identity: Identity::Credential };
        let mut decided = gate::decide(&head, context);
        state.note_facts(peer, &mut decided.facts, &parts.headers);
        let grant = decided.outcome?;
        debug_assert!(decided.facts.target.is_some(), "a granted request has a target");
        (grant, decided.facts.target.ok_or_else(Denial::internal)?)
    };

    // The body's declared length is checked before the limits, so that a refused request uses no
    // quota.
    let limits = upload_limits(state, grant.route(), &parts.method, body, caller.form)?;
    let upgrade = upgrade::asked(parts, grant.route(), !body.is_empty())?;
    if let Some(bytes) = hooks.prelude_bytes() {
        // The future is boxed: few requests have a prelude, and an unboxed future would enlarge the
        // future of every request.
        let prelude = Box::pin(body.prelude(bytes, limits.idle)).await;
        hooks.looked_ahead(&prelude.map_err(|failure| broken_prelude(failure, limits))?);
    }

    let Admitted { permit, limit_status } = grant.admit(Cost::REQUEST, client.counted_at, context).await?;
    state.limit_status = limit_status;
    state.note_use(peer, &client, now);
    hooks.call(target.path());
    let taps = hooks.taps();
    let upload = upload(peer, state, permit.route(), body, limits, taps.request);
    let origin = Origin {
        peer: peer.address_value.as_ref(),
        client,
        is_tls: peer.is_tls,
        request_id: &state.request_id,
        trace: state.trace,
        secret_headers: &snapshot.secret_headers,
    };
    let revocations = permit.revocations(keys, clock, client.address, &snapshot);
    forward::forward(PermittedRequest {
        permit,
        parts,
        upload,
        limits,
        activity: &peer.activity,
        upgrade,
        revocations,
        target: &target,
        origin,
        pool: &peer.pool,
        times: &mut state.times,
        tap: taps.response,
    })
    .await
    .map(Handled::Forwarded)
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
    Ok(UploadLimits { bytes, idle })
}

/// Returns the denial of a request whose first body frames could not be read.
fn broken_prelude(failure: UploadFailure, limits: UploadLimits) -> Denial {
    match failure {
        UploadFailure::TooLarge => Denial::body_too_large(limits.bytes),
        UploadFailure::Stalled => Denial::body_stalled(limits.idle),
        UploadFailure::Broken => Denial::bad_request("The request body is malformed"),
    }
}
