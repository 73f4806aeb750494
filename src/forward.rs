//! Sends a permitted request to its upstream and brings the answer back, unbuffered.
//!
//! Called by `proxy` with a [`Permit`], which `gate` alone can make.
//! Invariants: a request is sent twice only if not one byte of it was written, or once more if it is
//! idempotent, has no body, and its connection was closed without an answer. The path that is sent
//! is the one that was authorized.

mod answer;
pub(crate) mod body;
mod cutter;
pub(crate) mod failure;
pub(crate) mod headers;
mod sending;
pub(crate) mod tunnel;
pub(crate) mod unread;
pub(crate) mod upgrade;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;

use crate::activity::ConnectionActivity;
use crate::denial::Denial;
use crate::gate::{Ended, Permit, Revocation};
use crate::guard::Target;
use crate::observe::Times;
use crate::protocol::Protocol;
use crate::tap::TapSlot;
use crate::upstream::exchange::Answer;
use crate::upstream::pool::{Lease, Needs, WorkerPool};
use crate::upstream::upgrade::PendingUpgrade;
use crate::upstream::upload::{Upload, UploadLimits, UploadProgress};
use body::{Download, ResponseBody};
use headers::Origin;
use sending::{Exchange, usually_has_body};
use tunnel::Tunnel;
use upgrade::Upgrade;

/// What came back from upstream.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// An answer, whose body follows.
    Answer(Response<ResponseBody>),
    /// It changes over to the protocol that the client asked for: the head of its 101, and the bytes
    /// behind it.
    Tunnel(Response<()>, Box<Tunnel>),
}

/// A request that may pass, and all that its way to upstream and back needs.
#[derive(Debug)]
pub(crate) struct PermittedRequest<'a> {
    pub(crate) permit: Permit,
    pub(crate) parts: &'a mut Parts,
    pub(crate) upload: Upload,
    pub(crate) limits: UploadLimits,
    /// Of the caller's connection.
    pub(crate) activity: &'a Arc<ConnectionActivity>,
    pub(crate) upgrade: Option<Upgrade>,
    /// Where open answers end with their key.
    pub(crate) revocation: Option<Revocation>,
    /// Second waiter: cuts clients that never poll the body.
    pub(crate) second_waiter: Option<Revocation>,
    pub(crate) target: &'a Target,
    pub(crate) origin: Origin<'a>,
    pub(crate) pool: &'a Arc<WorkerPool>,
    pub(crate) times: &'a mut Times,
    /// On the body of the answer.
    pub(crate) tap: TapSlot,
}

/// Sends the request and awaits the head of the answer.
///
/// # Errors
///
/// 401 where the key is revoked meanwhile, 408 and 413 for the request's body, 502 and 504 for
/// upstream.
pub(crate) async fn forward(permitted: PermittedRequest<'_>) -> Result<Forwarded, Denial> {
    let PermittedRequest {
        permit,
        parts,
        upload,
        limits,
        activity,
        upgrade,
        mut revocation,
        second_waiter,
        target,
        origin,
        pool,
        times,
        tap,
    } = permitted;
    let upstream = permit.route().upstream.clone();
    let is_head = parts.method == Method::HEAD;
    let (progress, body) = (upload.progress(), !upload.is_end_stream());
    let mut alarm = activity.lend_alarm();
    let mut request = Some(request_for(parts, target, &permit, &origin, upgrade.as_ref(), upload));
    let path = upstream_path(&permit, target)?;
    let (Answer { mut head, body }, mut lease) = {
        let exchange = Exchange {
            upstream: &upstream,
            timeouts: permit.route().timeouts,
            needs: Needs { http1: upgrade.is_some(), body, new: false },
            target,
            path: &path,
            progress: &progress,
            limits,
        };
        times.ready = Some(Instant::now());
        let sent = {
            let mut sending = pin!(exchange.send(&mut request, pool, &mut times.connecting, &mut alarm));
            // Given up once the key is revoked.
            poll_fn(|cx| match revocation.as_mut().map(|revocation| revocation.poll(cx)) {
                Some(Poll::Ready(ended)) => Poll::Ready(Err(revoked(&permit, ended, &progress))),
                _ => sending.as_mut().poll(cx),
            })
            .await
        };
        times.back = Some(Instant::now());
        sent?
    };
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return tunnelled(head, lease, permit, upgrade, revocation);
    }
    answer::check(&head, &upstream)?;
    // hyper would speak HTTP/1.0 on the connection from here on, which can't send a body of unknown
    // length.
    if Protocol::from(head.version) == Protocol::Http10 || answer::may_be_followed_by_a_body(&head) {
        lease.is_last_use();
    }
    progress.answered();
    let keeps_length = is_head || head.status == StatusCode::NOT_MODIFIED;
    headers::prepare_response(&mut head.headers, keeps_length);
    head.version = Protocol::Http11.version();
    head.extensions.clear();
    let (activity, revocations) = (activity.clone(), revocation.zip(second_waiter));
    let download = Download::new(body, tap, lease, permit, progress, activity, alarm, revocations);
    Ok(Forwarded::Answer(Response::from_parts(head, ResponseBody::upstream(download))))
}

/// The caller's request as upstream gets it, but for what depends on the connection. Takes its
/// headers from `parts`.
fn request_for(
    parts: &mut Parts,
    target: &Target,
    permit: &Permit,
    origin: &Origin<'_>,
    upgrade: Option<&Upgrade>,
    upload: Upload,
) -> Request<Upload> {
    headers::prepare_request(&mut parts.headers, target, permit, origin);
    if let Some(upgrade) = upgrade {
        upgrade.write_to(&mut parts.headers);
    }
    declare_empty_body(parts, &upload);
    // hyper's own extensions belong to the caller's connection, and stay there.
    let mut request = Request::new(upload);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    request
}

/// The right to the request ended before upstream answered.
fn revoked(permit: &Permit, ended: Ended, progress: &UploadProgress) -> Denial {
    match ended {
        Ended::Expired(end) => Denial::expired_key(end).caused_by("expired while upstream was asked"),
        Ended::Revoked => {
            let key_id = permit.principal().map(|principal| principal.key().key.id());
            debug_assert!(key_id.is_some(), "only a key is revoked");
            Denial::invalid_key(key_id.unwrap_or_default()).caused_by("revoked while upstream was asked")
        }
        Ended::OutOfTime(total) if progress.awaits_client() => Denial::body_stalled(total),
        Ended::OutOfTime(_) => {
            let denial = Denial::upstream_timeout(&permit.route().upstream.name);
            denial.not_to_be_retried().caused_by("a request without a key has had its time")
        }
    }
}

/// Makes the tunnel of a 101 that was asked for.
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
        return refuse("101 for another protocol than was asked for");
    };
    let Some(upstream) = PendingUpgrade::take_from(&mut head.extensions) else {
        return refuse("101 on a connection that can't be upgraded");
    };
    headers::prepare_response(&mut head.headers, false);
    Upgrade::confirm(&mut head.headers, granted);
    head.version = Protocol::Http11.version();
    head.extensions.clear();
    let idle = permit.route().timeouts.idle;
    let tunnel =
        Tunnel { client: upgrade.client, upstream, idle, revocation, permit, at: lease.into_tunnel() };
    Ok(Forwarded::Tunnel(Response::from_parts(head, ()), Box::new(tunnel)))
}

/// A method that usually has a body declares where it has none (RFC 9110, section 8.6). All other
/// framing is derived from the body, once the connection's protocol is known. Nothing of the
/// caller's framing is copied.
fn declare_empty_body(parts: &mut Parts, upload: &Upload) {
    if usually_has_body(&parts.method) && upload.is_end_stream() {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// The canonical path and query, as upstream gets them.
fn upstream_path(permit: &Permit, target: &Target) -> Result<PathAndQuery, Denial> {
    let path = permit.route().upstream_path(target.path());
    if path == target.path() {
        return Ok(target.path_and_query.clone());
    }
    let query = target.path_and_query.query().map(|query| format!("?{query}")).unwrap_or_default();
    PathAndQuery::try_from(format!("{path}{query}"))
        .map_err(|error| Denial::bad_request("The path is not valid").caused_by(error))
}
