//! Sends a permitted request to its upstream and brings the answer back, unbuffered.
//!
//! Called by `proxy` with a [`Permit`], which `gate` alone can make.
//! Invariants: a request is sent twice only if not one byte of it was written; the path that is sent is the
//! one that was authorized.

pub(crate) mod body;
pub(crate) mod headers;

use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::denial::Denial;
use crate::gate::Permit;
use crate::guard::Target;
use crate::upstream::Upstream;
use crate::upstream::pool::{Lease, WorkerPool};
use crate::upstream::upload::{Upload, UploadFailure, UploadLimits, UploadProgress};
use body::Download;
use headers::Origin;

/// Sends the request and awaits the head of the answer.
///
/// # Errors
///
/// 408 and 413 for the request's body, 502 and 504 for upstream.
pub(crate) async fn forward(
    permit: Permit,
    mut parts: Parts,
    upload: Upload,
    target: &Target,
    origin: &Origin<'_>,
    pool: &Arc<WorkerPool>,
) -> Result<Response<Download>, Denial> {
    let upstream = permit.route().upstream.clone();
    let method = parts.method.clone();
    let (progress, limits) = (upload.progress(), upload.limits());
    headers::prepare_request(&mut parts.headers, target, &permit, origin);
    frame_upload(&mut parts, &upload);
    parts.uri = upstream_uri(&permit, target)?;
    parts.version = Version::HTTP_11;
    // hyper's own extensions (an upgrade, say) belong to the caller's connection.
    parts.extensions.clear();

    let request = Request::from_parts(parts, upload);
    let exchange = Exchange { upstream: &upstream, progress: &progress, limits };
    let (response, lease) = exchange.send(request, pool).await?;
    check_answer(&response, &upstream)?;
    let (mut head, incoming) = response.into_parts();
    let keeps_length = method == Method::HEAD || head.status == StatusCode::NOT_MODIFIED;
    headers::prepare_response(&mut head.headers, keeps_length);
    head.version = Version::default();
    head.extensions.clear();
    Ok(Response::from_parts(head, Download::new(incoming, lease, permit)))
}

/// Frames the body anew from what is known of it; nothing of the caller's framing is copied.
fn frame_upload(parts: &mut Parts, upload: &Upload) {
    if upload.is_end_stream() {
        // A method that usually has a body says that it has none (RFC 9110, section 8.6).
        if matches!(parts.method, Method::POST | Method::PUT | Method::PATCH) {
            parts.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
    } else if upload.size_hint().exact().is_none() {
        // hyper would send a GET of unknown length without its body.
        parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// The canonical path and query, in origin form.
fn upstream_uri(permit: &Permit, target: &Target) -> Result<Uri, Denial> {
    let path = permit.route().upstream_path(target.path());
    let path_and_query = if path == target.path() {
        target.path_and_query.clone()
    } else {
        let query = target.path_and_query.query().map(|query| format!("?{query}")).unwrap_or_default();
        PathAndQuery::try_from(format!("{path}{query}"))
            .map_err(|error| Denial::bad_request("The path is not valid").caused_by(error))?
    };
    Ok(Uri::from(path_and_query))
}

/// Refuses answers that can't be passed on in one meaning.
fn check_answer(response: &Response<Incoming>, upstream: &Upstream) -> Result<(), Denial> {
    let refuse =
        |why: &'static str| Err(Denial::upstream_protocol(&upstream.name).not_to_be_retried().caused_by(why));
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return refuse("101 without a request for an upgrade");
    }
    let mut lengths = response.headers().get_all(CONTENT_LENGTH).iter();
    if let Some(length) = lengths.next()
        && (lengths.next().is_some() || !length.as_bytes().iter().all(u8::is_ascii_digit))
    {
        return refuse("Content-Length is not one number");
    }
    let mut encodings = response.headers().get_all(TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if response.headers().contains_key(CONTENT_LENGTH) {
            return refuse("both Content-Length and Transfer-Encoding");
        }
        if encodings.next().is_some() || !encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return refuse("a transfer coding other than chunked");
        }
    }
    Ok(())
}

/// One request on its way.
struct Exchange<'a> {
    upstream: &'a Arc<Upstream>,
    progress: &'a UploadProgress,
    limits: UploadLimits,
}

impl Exchange<'_> {
    /// Sends on a connection that is kept, or a new one; one that dies before a byte was written is replaced.
    async fn send(
        &self,
        mut request: Request<Upload>,
        pool: &Arc<WorkerPool>,
    ) -> Result<(Response<Incoming>, Lease), Denial> {
        loop {
            let mut lease = match pool.reuse(self.upstream) {
                Some(lease) => lease,
                None => pool.connect(self.upstream).await.map_err(|error| self.unconnected(error))?,
            };
            let sending = lease.sender.try_send_request(request);
            match self.answer(sending, &lease).await? {
                Ok(response) => return Ok((response, lease)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) if lease.is_reused => request = unsent,
                    _ => return Err(self.failed(error.into_error(), &lease)),
                },
            }
        }
    }

    /// Awaits the head of the answer for as long as upstream may take, counted from when it last got a byte.
    async fn answer<T>(&self, sending: impl Future<Output = T>, lease: &Lease) -> Result<T, Denial> {
        let mut sending = std::pin::pin!(sending);
        let limit = self.upstream.timeouts.response_headers;
        let mut since = Instant::now();
        loop {
            let deadline = tokio::time::Instant::from_std(since + limit);
            if let Ok(answer) = tokio::time::timeout_at(deadline, sending.as_mut()).await {
                return Ok(answer);
            }
            since = if self.progress.awaits_client() {
                // The upload's own timer watches over the client.
                Instant::now()
            } else if self.progress.last_moved() > since {
                self.progress.last_moved()
            } else {
                let denial = Denial::upstream_timeout(&self.upstream.name).caused_by("no answer in time");
                return Err(self.told_once(denial, lease));
            };
        }
    }

    fn unconnected(&self, error: std::io::Error) -> Denial {
        match error.kind() {
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
            None if error.is_parse() => {
                self.told_once(Denial::upstream_protocol(&self.upstream.name).caused_by(error), lease)
            }
            None => self.told_once(Denial::upstream_unreachable(&self.upstream.name).caused_by(error), lease),
        }
    }

    /// Once a byte was written, upstream may have acted on it.
    fn told_once(&self, denial: Denial, lease: &Lease) -> Denial {
        if lease.has_written() { denial.not_to_be_retried() } else { denial }
    }
}
