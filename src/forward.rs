//! Sends a permitted request to its upstream and brings the answer back, unbuffered.
//!
//! Called by `proxy` with a [`Permit`], which `gate` alone can make.
//! Invariants: a request is sent twice only if not one byte of it was written, or once more if it is idempotent, has no
//! body, and its connection was closed without an answer; the path that is sent is the one that was authorized.

pub(crate) mod body;
mod cutter;
pub(crate) mod headers;
mod outcome;
mod sending;
pub(crate) mod tunnel;
pub(crate) mod unread;
pub(crate) mod upgrade;

use std::error::Error as _;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::activity::ConnectionActivity;
use crate::alarm::Alarm;
use crate::config::Timeouts;
use crate::denial::Denial;
use crate::gate::{Ended, Permit, Revocation};
use crate::guard::Target;
use crate::observe::Times;
use crate::upstream::Upstream;
use crate::upstream::pool::{Lease, Needs, WorkerPool};
use crate::upstream::socket::Flooded;
use crate::upstream::unconnected::is_shortage;
use crate::upstream::upload::{Upload, UploadFailure, UploadLimits, UploadProgress};
use body::{Download, ResponseBody};
use headers::Origin;
use tunnel::Tunnel;
use upgrade::Upgrade;

/// What upstream said.
#[derive(Debug)]
pub(crate) enum Forwarded {
    /// An answer, whose body follows.
    Answer(Response<ResponseBody>),
    /// It changes over to what the client asked for: the head of its 101, and what is spoken behind it.
    Tunnel(Response<()>, Box<Tunnel>),
}

/// A request that may pass.
#[derive(Debug)]
pub(crate) struct PermittedRequest<'a> {
    pub(crate) permit: Permit,
    pub(crate) parts: &'a mut Parts,
    pub(crate) upload: Upload,
    pub(crate) limits: UploadLimits,
    /// Those of the caller's connection.
    pub(crate) activity: &'a Arc<ConnectionActivity>,
    pub(crate) upgrade: Option<Upgrade>,
    /// Where open answers end with their key.
    pub(crate) revocation: Option<Revocation>,
    /// The same once more, for who reads nothing.
    pub(crate) second_waiter: Option<Revocation>,
    pub(crate) target: &'a Target,
    pub(crate) origin: Origin<'a>,
    pub(crate) pool: &'a Arc<WorkerPool>,
    pub(crate) times: &'a mut Times,
}

/// Sends the request and awaits the head of the answer.
///
/// # Errors
///
/// 401 where the key goes meanwhile, 408 and 413 for the request's body, 502 and 504 for upstream.
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
    } = permitted;
    let upstream = permit.route().upstream.clone();
    let is_head = parts.method == Method::HEAD;
    let (progress, body) = (upload.progress(), !upload.is_end_stream());
    let mut alarm = activity.lend_alarm();
    let mut request = Some(request_for(parts, target, &permit, &origin, upgrade.as_ref(), upload));
    let path = upstream_path(&permit, target)?;
    let (response, mut lease) = {
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
            // Given up once the key is gone.
            poll_fn(|cx| match revocation.as_mut().map(|revocation| revocation.poll(cx)) {
                Some(Poll::Ready(ended)) => Poll::Ready(Err(over(&permit, ended, &progress))),
                _ => sending.as_mut().poll(cx),
            })
            .await
        };
        times.back = Some(Instant::now());
        sent?
    };
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return tunnelled(response, lease, permit, upgrade, revocation);
    }
    check_answer(&response, &upstream)?;
    // hyper would speak HTTP/1.0 on it from here on, in which a body of unknown length can't be sent.
    if response.version() == Version::HTTP_10 || may_be_followed_by_a_body(&response) {
        lease.is_last_use();
    }
    progress.answered();
    let (mut head, incoming) = response.into_parts();
    let keeps_length = is_head || head.status == StatusCode::NOT_MODIFIED;
    headers::prepare_response(&mut head.headers, keeps_length);
    head.version = Version::default();
    head.extensions.clear();
    let (activity, revocations) = (activity.clone(), revocation.zip(second_waiter));
    let download = Download::new(incoming, lease, permit, progress, activity, alarm, revocations);
    Ok(Forwarded::Answer(Response::from_parts(head, ResponseBody::upstream(download))))
}

/// The caller's request as upstream gets it, but for what depends on the connection. Its headers are taken from `parts`.
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
    tell_of_no_body(parts, &upload);
    // hyper's own extensions belong to the caller's connection, and stay there.
    let mut request = Request::new(upload);
    *request.method_mut() = parts.method.clone();
    *request.headers_mut() = std::mem::take(&mut parts.headers);
    request
}

/// The right to the request ended before upstream answered.
fn over(permit: &Permit, ended: Ended, progress: &UploadProgress) -> Denial {
    match ended {
        Ended::Expired(end) => Denial::expired_key(end).caused_by("expired while upstream was asked"),
        Ended::Revoked => {
            let key_id = permit.principal().map(|principal| principal.key().key.id());
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
    mut response: Response<Incoming>,
    lease: Lease,
    permit: Permit,
    upgrade: Option<Upgrade>,
    revocation: Option<Revocation>,
) -> Result<Forwarded, Denial> {
    let refuse = |why: &'static str| {
        let upstream = &permit.route().upstream.name;
        Err(Denial::upstream_protocol(upstream).not_to_be_retried().caused_by(why))
    };
    let Some(upgrade) = upgrade else { return refuse("101 without a request for an upgrade") };
    let granted = response.headers().get(http::header::UPGRADE).cloned();
    let Some(granted) = granted.filter(|_| upgrade.is_granted_by(response.headers())) else {
        return refuse("101 for another protocol than was asked for");
    };
    let upstream = hyper::upgrade::on(&mut response);
    let (mut head, _no_body) = response.into_parts();
    headers::prepare_response(&mut head.headers, false);
    Upgrade::confirm(&mut head.headers, granted);
    head.version = Version::HTTP_11;
    head.extensions.clear();
    let idle = permit.route().timeouts.idle;
    let tunnel =
        Tunnel { client: upgrade.client, upstream, idle, revocation, permit, at: lease.into_tunnel() };
    Ok(Forwarded::Tunnel(Response::from_parts(head, ()), Box::new(tunnel)))
}

/// A method that usually has a body says where it has none (RFC 9110, section 8.6). All other framing is derived from
/// the body, when the connection's protocol is known; nothing of the caller's framing is copied.
fn tell_of_no_body(parts: &mut Parts, upload: &Upload) {
    if has_usually_a_body(&parts.method) && upload.is_end_stream() {
        parts.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// Whether a body has a meaning with this method. Servers commonly leave it unread with others.
fn has_usually_a_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
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

/// Refuses answers that can't be passed on in one meaning.
fn check_answer(response: &Response<Incoming>, upstream: &Upstream) -> Result<(), Denial> {
    let refuse =
        |why: &'static str| Err(Denial::upstream_protocol(&upstream.name).not_to_be_retried().caused_by(why));
    let (mut lengths, mut encodings) = (0, 0);
    for (name, value) in response.headers() {
        if *name == CONTENT_LENGTH {
            lengths += 1;
            if lengths > 1 || !value.as_bytes().iter().all(u8::is_ascii_digit) {
                return refuse("Content-Length is not one number");
            }
        } else if *name == TRANSFER_ENCODING {
            encodings += 1;
            if encodings > 1 || !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
                return refuse("a transfer coding other than chunked");
            }
        }
    }
    if lengths > 0 && encodings > 0 {
        return refuse("both Content-Length and Transfer-Encoding");
    }
    Ok(())
}

/// Whether an answer that has no body tells of one (RFC 9110, section 8.6; RFC 9112, section 6.1). A server that does so may send
/// it as well, which comes when the answer is over for us.
fn may_be_followed_by_a_body(response: &Response<Incoming>) -> bool {
    let has_none = matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let headers = response.headers();
    has_none
        && (headers.contains_key(TRANSFER_ENCODING)
            || headers.get(CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0"))
}

/// One request on its way.
struct Exchange<'a> {
    upstream: &'a Arc<Upstream>,
    timeouts: Timeouts,
    needs: Needs,
    target: &'a Target,
    path: &'a PathAndQuery,
    progress: &'a UploadProgress,
    limits: UploadLimits,
}

impl Exchange<'_> {
    /// Awaits the head of the answer for as long as upstream may take, counted from when it last got a byte;
    /// `None` where it took longer.
    async fn answer<T>(
        &self,
        mut sending: Pin<&mut impl Future<Output = T>>,
        alarm: &mut Alarm,
    ) -> Option<T> {
        let limit = self.timeouts.response_headers;
        let mut since = Instant::now();
        poll_fn(|cx| {
            if let Poll::Ready(answer) = sending.as_mut().poll(cx) {
                return Poll::Ready(Some(answer));
            }
            loop {
                ready!(alarm.poll(cx, (since + limit).into()));
                since = if self.progress.awaits_client() {
                    // The upload's own timer watches over the client.
                    Instant::now()
                } else {
                    match self.progress.last_moved().filter(|moved| *moved > since) {
                        Some(moved) => moved,
                        None => return Poll::Ready(None),
                    }
                };
            }
        })
        .await
    }

    fn unconnected(&self, error: std::io::Error) -> Denial {
        match error.kind() {
            _ if is_shortage(&error) => Denial::out_of_sockets(),
            std::io::ErrorKind::TimedOut => Denial::upstream_timeout(&self.upstream.name),
            _ => Denial::upstream_unreachable(&self.upstream.name),
        }
        .caused_by(error)
    }

    /// What an exchange that broke is told as: the request's own fault first, then upstream's.
    fn failed(&self, error: hyper::Error, lease: &Lease) -> Denial {
        match self.progress.failure() {
            Some(UploadFailure::TooLarge) => Denial::body_too_large(self.limits.bytes),
            Some(UploadFailure::Stalled) => Denial::body_stalled(self.limits.idle),
            Some(UploadFailure::Broken) => {
                Denial::bad_request("The request body is malformed").caused_by(error)
            }
            None if is_no_protocol(&error) => {
                no_retry_once_written(Denial::upstream_protocol(&self.upstream.name).caused_by(error), lease)
            }
            None if was_not_acted_on(&error) => {
                Denial::upstream_unreachable(&self.upstream.name).caused_by(error)
            }
            None => no_retry_once_written(
                Denial::upstream_unreachable(&self.upstream.name).caused_by(error),
                lease,
            ),
        }
    }
}

/// Once a byte was written, upstream may have acted on it.
fn no_retry_once_written(denial: Denial, lease: &Lease) -> Denial {
    if lease.has_written() { denial.not_to_be_retried() } else { denial }
}

/// Whether what upstream sent was not HTTP.
fn is_no_protocol(error: &hyper::Error) -> bool {
    error.is_parse() || is_flood(error) || of_http2(error).is_some_and(h2::Error::is_library)
}

/// Whether interim answers came without end.
fn is_flood(error: &hyper::Error) -> bool {
    let of_socket = error.source().and_then(|source| source.downcast_ref::<std::io::Error>());
    of_socket.and_then(std::io::Error::get_ref).is_some_and(|cause| cause.is::<Flooded>())
}

/// Whether upstream has said that it did nothing: it refused the stream, or went away before it (RFC 9113,
/// sections 6.8 and 8.7).
fn was_not_acted_on(error: &hyper::Error) -> bool {
    of_http2(error).is_some_and(was_refused_unread)
}

fn was_refused_unread(error: &h2::Error) -> bool {
    let is_refusal = error.reason() == Some(h2::Reason::REFUSED_STREAM);
    error.is_remote() && (error.is_go_away() || is_refusal)
}

fn of_http2(error: &hyper::Error) -> Option<&h2::Error> {
    error.source().and_then(|source| source.downcast_ref())
}
