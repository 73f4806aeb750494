//! Forwarding: sends a permitted request to its upstream, and returns the answer unbuffered.
//!
//! Called by `proxy` with a [`Permit`], which `gate` alone can make.
//! Invariants: a request is sent again only if no byte of it was written; or, at most once, if the
//! request is idempotent, has no body, and its connection was closed without an answer. The path
//! that is sent is the path that was authorized.

mod answer;
pub(crate) mod body;
mod cutter;
mod download;
pub(crate) mod failure;
pub(crate) mod headers;
mod sending;
mod tokens;
pub(crate) mod tunnel;
pub(crate) mod unread;
pub(crate) mod upgrade;
mod waiting;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, Uri};
use http_body::Body as _;

use crate::activity::ConnectionActivity;
use crate::denial::Denial;
use crate::gate::{Judgement, Permit, Revocation};
use crate::guard::Target;
use crate::observe::Times;
use crate::protocol::Protocol;
use crate::tap::TapSlot;
use crate::upstream::exchange::Answer;
use crate::upstream::pool::{ConnectionNeeds, Lease, WorkerPool};
use crate::upstream::request::UpstreamRequest;
use crate::upstream::turn::Turn;
use crate::upstream::upgrade::PendingUpgrade;
use crate::upstream::upload::{Upload, UploadLimits};
use body::ResponseBody;
use download::Download;
use headers::Origin;
use sending::{Exchange, usually_has_body};
pub(crate) use tokens::RequestTokens;
use tunnel::Tunnel;
use upgrade::Upgrade;
use waiting::{note_wait, revoked, wait_for_turn};

/// Upstream's response to a forwarded request.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// An HTTP answer and its body.
    Answer(Response<ResponseBody>),
    /// A switch to the protocol that the client requested: the head of the 101 answer, and the
    /// tunnel that follows it.
    Tunnel(Response<()>, Box<Tunnel>),
}

/// A permitted request, with everything that is needed to forward it.
#[derive(Debug)]
pub(crate) struct PermittedRequest<'a> {
    pub(crate) permit: Permit,
    pub(crate) parts: &'a mut Parts,
    pub(crate) upload: Upload,
    pub(crate) limits: UploadLimits,
    /// Activity of the client's connection.
    pub(crate) activity: &'a Arc<ConnectionActivity>,
    pub(crate) upgrade: Option<Upgrade>,
    /// Two waiters for the end of the request's key, or of the time of a request without a key.
    /// `None` if the configuration lets requests outlast their key. The second waiter cuts the
    /// answer if the client reads nothing, because hyper does not poll the answer's body then.
    pub(crate) revocations: Option<(Revocation, Revocation)>,
    pub(crate) target: &'a Target,
    pub(crate) origin: &'a Origin<'a>,
    pub(crate) pool: &'a Arc<WorkerPool>,
    pub(crate) times: &'a mut Times,
    /// Observer of the answer's body.
    pub(crate) tap: TapSlot,
    pub(crate) tokens: RequestTokens,
    /// The turn of the request at its upstream; `None` if that has no queue.
    pub(crate) turn: Option<Box<Turn>>,
    /// What judges the request again after it has waited; `None` if it does not wait, or has no key.
    pub(crate) judgement: Option<Box<Judgement>>,
}

/// Sends the request and awaits the head of the answer.
///
/// # Errors
///
/// 401 if the key expires or is revoked while the request waits or is forwarded; 408, 413 or 400 because of
/// the request's body; 502, 503 or 504 because of upstream; 503 if the request waits too long for its turn.
pub(crate) fn forward(permitted: PermittedRequest<'_>) -> impl Future<Output = Result<Forwarded, Denial>> {
    let PermittedRequest {
        permit,
        parts,
        upload,
        limits,
        activity,
        upgrade,
        revocations,
        target,
        origin,
        pool,
        times,
        tap,
        mut tokens,
        mut turn,
        judgement,
    } = permitted;
    let (mut revocation, second_waiter) = revocations.unzip();
    let is_head = parts.method == Method::HEAD;
    let (progress, has_body) = (upload.progress(), !upload.is_end_stream());
    let mut alarm = activity.lend_alarm();
    let mut request = Some(request_for(parts, target, &permit, origin, upgrade.as_ref(), upload));
    let path = upstream_path(&permit, target);
    // The block captures what it needs: an async fn would keep its argument as well. What is captured is
    // dropped in the order in which it is named, so the tokens are settled before the slot and the permit are
    // given back.
    async move {
        let tokens = &mut tokens;
        let path = path?;
        if let Some(turn) = turn.as_deref_mut().filter(|turn| turn.must_wait()) {
            // The future is boxed, because few requests wait.
            let waiting = wait_for_turn(turn, &permit, revocation.as_mut(), judgement, &progress);
            let served = Box::pin(waiting).await;
            note_wait(times, Some(turn));
            served?;
        }
        times.ready = Some(Instant::now());
        tokens.sent();
        let sent = {
            let needs = ConnectionNeeds { http1_only: upgrade.is_some(), has_body, new_only: false };
            let exchange = Exchange::new(&permit, (target, &path), (&progress, limits), needs);
            let mut sending =
                pin!(exchange.send(&mut request, &mut turn, pool, &mut times.connecting, &mut alarm));
            // The request is aborted as soon as its key, or the time of a request without a key,
            // ends.
            poll_fn(|cx| match revocation.as_mut().map(|revocation| revocation.poll(cx)) {
                Some(Poll::Ready(ended)) => Poll::Ready(Err(revoked(&permit, ended, &progress))),
                _ => sending.as_mut().poll(cx),
            })
            .await
        };
        times.back = Some(Instant::now());
        note_wait(times, turn.as_deref().or_else(|| sent.as_ref().ok()?.1.turn.as_deref()));
        let (Answer { mut head, body }, mut lease) = sent.inspect_err(|_| tokens.failed())?;
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return tunnelled(head, lease, permit, upgrade, revocation);
        }
        check_answer(&head, &mut lease, &permit).inspect_err(|_| tokens.failed())?;
        progress.answer_started();
        let tokens = std::mem::take(tokens).answered(&mut head);
        prepare_head(&mut head, is_head);
        let (activity, revocations) = (activity.clone(), revocation.zip(second_waiter));
        let taps = (tap, tokens);
        let download = Download::new(body, taps, lease, permit, progress, activity, alarm, revocations);
        Ok(Forwarded::Answer(Response::from_parts(head, ResponseBody::upstream(download))))
    }
}

/// Checks the head of an answer, and whether its connection may serve another request.
///
/// # Errors
///
/// 502 if the answer is not safe to forward.
fn check_answer(head: &http::response::Parts, lease: &mut Lease, permit: &Permit) -> Result<(), Denial> {
    answer::check(head, &permit.route().upstream)?;
    // After an HTTP/1.0 answer, hyper would send later requests on the connection as HTTP/1.0,
    // which can't carry a request body of unknown length.
    if Protocol::from(head.version) == Protocol::Http10 || answer::may_be_followed_by_a_body(head) {
        lease.forbid_reuse();
    }
    Ok(())
}

/// Makes the head of an answer to the client from the head of upstream's answer.
fn prepare_head(head: &mut http::response::Parts, is_head: bool) {
    let keeps_length = is_head || head.status == StatusCode::NOT_MODIFIED;
    headers::prepare_response(&mut head.headers, keeps_length);
    head.version = Protocol::Http11.version();
    head.extensions.clear();
}

/// Builds the request to upstream, except for the parts that depend on the connection's protocol.
/// Takes the headers out of `parts`.
fn request_for(
    parts: &mut Parts,
    target: &Target,
    permit: &Permit,
    origin: &Origin<'_>,
    upgrade: Option<&Upgrade>,
    upload: Upload,
) -> Box<UpstreamRequest> {
    let mut headers = headers::request_headers(std::mem::take(&mut parts.headers), target, permit, origin);
    if let Some(upgrade) = upgrade {
        upgrade.write_to(&mut headers);
    }
    // An empty body is declared for a method that usually has a body (RFC 9110, section 8.6). All other
    // framing is derived from the body when the connection's protocol is known. The client's framing
    // headers are never copied.
    if usually_has_body(&parts.method) && upload.is_end_stream() {
        headers.set(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    Box::new(UpstreamRequest { method: parts.method.clone(), uri: Uri::default(), headers, upload })
}

/// Makes the tunnel that follows a 101 answer, if the 101 is for the upgrade that the client
/// requested.
fn tunnelled(
    mut head: http::response::Parts,
    lease: Lease,
    permit: Permit,
    upgrade: Option<Upgrade>,
    revocation: Option<Revocation>,
) -> Result<Forwarded, Denial> {
    let refuse = |reason: &'static str| {
        let upstream = &permit.route().upstream.name;
        Err(Denial::upstream_protocol(upstream).not_to_be_retried().caused_by(reason))
    };
    let Some(upgrade) = upgrade else { return refuse("101 without a request for an upgrade") };
    let granted = head.headers.get(http::header::UPGRADE).cloned();
    let Some(granted) = granted.filter(|_| upgrade.is_granted_by(&head.headers)) else {
        return refuse("101 for another protocol than requested");
    };
    let Some(upstream) = PendingUpgrade::take_from(&mut head.extensions) else {
        return refuse("101 on a connection that can't be upgraded");
    };
    headers::prepare_response(&mut head.headers, false);
    Upgrade::confirm(&mut head.headers, granted);
    head.version = Protocol::Http11.version();
    head.extensions.clear();
    let idle = permit.route().timeouts.idle;
    let (in_flight, turn) = lease.into_tunnel();
    let tunnel = Tunnel { client: upgrade.client, upstream, idle, revocation, permit, in_flight, turn };
    Ok(Forwarded::Tunnel(Response::from_parts(head, ()), Box::new(tunnel)))
}

/// Returns the canonical path and query to send to upstream.
fn upstream_path(permit: &Permit, target: &Target) -> Result<PathAndQuery, Denial> {
    let path = permit.route().upstream_path(target.path());
    if path == target.path() {
        return Ok(target.path_and_query.clone());
    }
    let query = target.path_and_query.query().map(|query| format!("?{query}")).unwrap_or_default();
    PathAndQuery::try_from(format!("{path}{query}"))
        .map_err(|error| Denial::bad_request("The path is not valid").caused_by(error))
}
