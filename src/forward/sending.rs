//! Sends a request: chooses an endpoint and a connection, adapts the request to its protocol, and
//! retries.
//!
//! `forward` calls [`Exchange::send`] once for each request.
//! Invariant: a request is sent again at most once after a byte of it was written, and only if it
//! is repeatable.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Uri};
use http_body::Body as _;

use super::waiting::not_served;
use crate::alarm::Alarm;
use crate::config::Timeouts;
use crate::denial::Denial;
use crate::gate::Permit;
use crate::guard::Target;
use crate::route::Route;
use crate::upstream::connect_error::is_shortage;
use crate::upstream::exchange::{Answer, Sent};
use crate::upstream::failure::{Failure, Unanswered};
use crate::upstream::pool::{ConnectionNeeds, Lease, WorkerPool};
use crate::upstream::queue::NotServed;
use crate::upstream::request::UpstreamRequest;
use crate::upstream::request_body::UploadFailure;
use crate::upstream::turn::Turn;
use crate::upstream::upload::{Upload, UploadLimits, UploadProgress};
use crate::upstream::{Endpoint, Upstream};

/// The circumstances of sending one request to upstream, such as timeouts, target and limits, but
/// not the request itself.
pub(super) struct Exchange<'a> {
    upstream: &'a Arc<Upstream>,
    timeouts: Timeouts,
    needs: ConnectionNeeds,
    target: &'a Target,
    path: &'a PathAndQuery,
    progress: &'a UploadProgress,
    limits: UploadLimits,
}

/// Endpoints that a request was already sent to, or that could not be reached.
#[derive(Default)]
struct Tried {
    /// Number of tries. Trying all addresses of a host name counts as one try.
    count: usize,
    endpoints: Vec<Arc<Endpoint>>,
}

impl<'a> Exchange<'a> {
    pub(super) fn new(
        permit: &'a Permit,
        (target, path): (&'a Target, &'a PathAndQuery),
        (progress, limits): (&'a UploadProgress, UploadLimits),
        needs: ConnectionNeeds,
    ) -> Self {
        let Route { upstream, timeouts, .. } = permit.route();
        Exchange { upstream, timeouts: *timeouts, needs, target, path, progress, limits }
    }
}

impl Exchange<'_> {
    /// Sends the request on an existing or a new connection, and awaits the head of the answer.
    ///
    /// If a connection dies before a byte of the request was written, another connection is used.
    /// If an endpoint can't be reached, another endpoint is picked. A request that was written is
    /// sent again, once, if repeating it is harmless: it is idempotent, has no body, and upstream
    /// closed a reused connection without sending a byte (RFC 9110, section 9.2.2).
    ///
    /// `request` is `None` while the request is being sent, and is set again if no byte was
    /// written. `turn`: the request's turn, which the lease has afterwards; `None` if upstream has no queue.
    /// `connecting` is set to the time that was spent on making new connections.
    pub(super) async fn send(
        &self,
        request: &mut Option<Box<UpstreamRequest>>,
        turn: &mut Option<Box<Turn>>,
        pool: &Arc<WorkerPool>,
        connecting: &mut Option<Duration>,
        alarm: &mut Alarm,
    ) -> Result<(Answer, Lease), Denial> {
        let is_repeatable = is_repeatable(request.as_deref());
        let (mut tried, mut is_repeated) = (Tried::default(), false);
        // Upstream may have acted on the first copy of a request that was sent twice, so the client
        // is asked not to retry.
        let refuse = |denial: Denial, is_repeated| match is_repeated {
            true => denial.not_to_be_retried(),
            false => denial,
        };
        loop {
            let mut lease =
                match self.lease(pool, turn.as_deref_mut(), &mut tried, connecting, is_repeated).await {
                    Ok(lease) => lease,
                    Err(denial) => return Err(refuse(denial, is_repeated)),
                };
            turn.iter_mut().for_each(|turn| turn.sent());
            let method = request.as_ref().map(|request| request.method.clone());
            let outcome = {
                let sending = pin!(self.start(request, &mut lease, is_repeatable && !is_repeated)?);
                self.await_head(sending, alarm).await
            };
            let Unanswered { failure, unsent } = match outcome {
                Some(Ok(answer)) => {
                    self.upstream.note_success(lease.endpoint());
                    lease.turn = turn.take();
                    return Ok((answer, lease));
                }
                Some(Err(unanswered)) => unanswered,
                None => {
                    let denial = Denial::upstream_timeout(&self.upstream.name).caused_by("no answer in time");
                    return Err(no_retry_once_written(denial, &lease));
                }
            };
            match unsent {
                Some(unsent) if lease.is_reused => *request = Some(unsent),
                Some(unsent) if self.upstream.allows_retry(tried.count) => {
                    tried.count += 1;
                    tried.endpoints.push(lease.endpoint().clone());
                    *request = Some(unsent);
                }
                Some(_) => return Err(refuse(self.failure_denial(failure, &lease), is_repeated)),
                None => {
                    let unanswered = failure.was_closed().then(|| lease.take_unanswered_headers()).flatten();
                    let Some(headers) = unanswered else { return Err(self.failure_denial(failure, &lease)) };
                    debug_assert!(method.is_some(), "the request was there before it was sent");
                    *request = Some(self.rebuild(method.unwrap_or_default(), headers, &lease));
                    is_repeated = true;
                }
            }
        }
    }

    /// Rebuilds a repeatable request from `headers`, which were written to the connection of
    /// `lease`.
    fn rebuild(&self, method: Method, mut headers: HeaderMap, lease: &Lease) -> Box<UpstreamRequest> {
        let credential = self.upstream.requests.credential.as_ref();
        if let Some(value) = credential.and_then(|credential| headers.get_mut(&credential.header)) {
            // The header with upstream's credential was parsed from the written bytes, so it is no
            // longer marked as sensitive.
            value.set_sensitive(true);
        }
        if lease.protocol().has_streams() {
            headers.insert(HOST, self.host());
        }
        let (uri, upload) = (Uri::default(), Upload::empty());
        Box::new(UpstreamRequest { method, uri, headers: headers.into(), upload })
    }

    /// Starts sending the request on a connection.
    fn start<'l>(
        &self,
        request: &mut Option<Box<UpstreamRequest>>,
        lease: &'l mut Lease,
        is_repeatable: bool,
    ) -> Result<impl Future<Output = Sent> + use<'l>, Denial> {
        debug_assert!(request.is_some(), "a request that was not written is put back");
        let mut request = request.take().ok_or_else(Denial::internal)?;
        self.adapt_to_protocol(&mut request, lease)?;
        Ok(lease.send(request, self.timeouts.response_headers, is_repeatable))
    }

    /// Leases a connection to an endpoint that is not in `tried`. With `is_new`, the connection
    /// must not have served a request before.
    async fn lease(
        &self,
        pool: &Arc<WorkerPool>,
        mut turn: Option<&mut Turn>,
        tried: &mut Tried,
        connecting: &mut Option<Duration>,
        is_new: bool,
    ) -> Result<Lease, Denial> {
        let needs = ConnectionNeeds { new_only: is_new, ..self.needs };
        loop {
            let Some(endpoint) = self.pick(turn.as_deref_mut(), &mut tried.endpoints).await? else {
                let name = &self.upstream.name;
                return Err(match tried.endpoints.is_empty() {
                    true => Denial::upstream_failing_checks(name)
                        .caused_by("the health checks of all endpoints fail"),
                    false => Denial::upstream_unreachable(name).caused_by("tried on all endpoints"),
                });
            };
            if let Some(lease) = pool.reuse(self.upstream, &endpoint, needs) {
                return Ok(lease);
            }
            let (limit, others) = (self.timeouts.connect, &mut tried.endpoints);
            let leasing = pool.lease(self.upstream, &endpoint, needs, limit, others);
            let began = Instant::now();
            // The future is boxed, because it is large and few requests make a connection.
            let leased = Box::pin(leasing).await;
            *connecting = Some(connecting.unwrap_or_default() + began.elapsed());
            let error = match leased {
                Ok(lease) => {
                    if !lease.is_reused {
                        self.upstream.note_success(lease.endpoint());
                    }
                    return Ok(lease);
                }
                Err(error) => error,
            };
            if !self.upstream.allows_retry(tried.count) || !self.upstream.has_untried(&tried.endpoints) {
                return Err(self.connect_denial(error.into()));
            }
            tried.count += 1;
        }
    }

    /// Picks the endpoint to try next, which is that of the request's slot if endpoints have slots. If no
    /// address is known yet, waits for the first lookup of the upstream's host names.
    async fn pick(
        &self,
        turn: Option<&mut Turn>,
        tried: &mut Vec<Arc<Endpoint>>,
    ) -> Result<Option<Arc<Endpoint>>, Denial> {
        if let Some(turn) = turn.filter(|turn| turn.is_at_endpoint()) {
            match turn.endpoint(tried).await {
                Ok(Some(endpoint)) => return Ok(Some(endpoint)),
                Ok(None) => {}
                Err(NotServed::Nowhere) => return Ok(None),
                Err(why) => return Err(not_served(why, self.upstream)),
            }
        }
        let picked = self.upstream.pick(tried);
        if picked.is_some() || self.upstream.has_addresses() {
            return Ok(picked);
        }
        if Box::pin(self.upstream.wait_for_addresses(self.timeouts.connect)).await {
            return Ok(self.upstream.pick(tried));
        }
        Err(Denial::upstream_unreachable(&self.upstream.name).caused_by(self.upstream.no_address_reason()))
    }

    /// Returns the Host to send to upstream.
    fn host(&self) -> HeaderValue {
        self.upstream.host_for(self.target.authority.as_ref())
    }

    /// Adapts the request to the connection's protocol. A retry may use a connection with another
    /// protocol than the previous try.
    fn adapt_to_protocol(&self, request: &mut UpstreamRequest, lease: &mut Lease) -> Result<(), Denial> {
        if lease.protocol().has_streams() {
            let scheme = if lease.endpoint().is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
            let uri = Uri::builder().scheme(scheme).authority(self.host().as_bytes());
            let uri = uri.path_and_query(self.path.clone()).build();
            request.uri =
                uri.map_err(|error| Denial::bad_request("The target is not valid").caused_by(error))?;
            return Ok(());
        }
        request.uri = Uri::from(self.path.clone());
        // A server might send a body in spite of HEAD, and the next request on the connection would
        // read that body as its answer.
        let is_head = request.method == Method::HEAD;
        // A server may leave the body of this request unread, and then parse the body as the next
        // request. The connection is therefore not used for another request.
        let is_surely_read = request.upload.is_end_stream()
            || (usually_has_body(&request.method) && self.upstream.connections.reuse_after_body);
        if is_head || !is_surely_read {
            request.headers.set(CONNECTION, HeaderValue::from_static("close"));
            lease.forbid_reuse();
        }
        Ok(())
    }

    /// Awaits the head of the answer; `None` if the wait exceeds `timeouts.response_headers`,
    /// measured from the last byte that was sent to upstream.
    async fn await_head<T>(
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
                since = if self.progress.is_blocked_on_client() {
                    // While the client delays the request's body, the timer of the upload limits
                    // the wait instead of this timer.
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

    /// Returns the denial of a request that got no connection.
    fn connect_denial(&self, error: std::io::Error) -> Denial {
        match error.kind() {
            _ if is_shortage(&error) => Denial::out_of_sockets(),
            std::io::ErrorKind::TimedOut => Denial::upstream_timeout(&self.upstream.name),
            _ => Denial::upstream_unreachable(&self.upstream.name),
        }
        .caused_by(error)
    }

    /// Returns the denial of a broken exchange. A fault of the request's body takes precedence over
    /// a fault of upstream.
    fn failure_denial(&self, failure: Failure, lease: &Lease) -> Denial {
        match self.progress.failure() {
            Some(UploadFailure::TooLarge) => Denial::body_too_large(self.limits.bytes),
            Some(UploadFailure::Stalled) => Denial::body_stalled(self.limits.idle),
            Some(UploadFailure::Broken) => {
                Denial::bad_request("The request body is malformed").caused_by(failure)
            }
            Some(UploadFailure::UnclearModel) => Denial::unclear_model().caused_by(failure),
            Some(UploadFailure::LatePriority) => Denial::unclear_priority().caused_by(failure),
            Some(UploadFailure::InBackground) => Denial::in_background().caused_by(failure),
            Some(UploadFailure::UnclearStream) => Denial::unclear_stream().caused_by(failure),
            Some(UploadFailure::PickedAnswer) => Denial::picked_answer().caused_by(failure),
            Some(UploadFailure::TooMuchOutput) => {
                Denial::output_limit("max_tokens", self.limits.output.unwrap_or(0)).caused_by(failure)
            }
            None if failure.is_protocol_error() => {
                no_retry_once_written(Denial::upstream_protocol(&self.upstream.name), lease)
                    .caused_by(failure)
            }
            None if failure.was_not_processed() => {
                Denial::upstream_unreachable(&self.upstream.name).caused_by(failure)
            }
            None => no_retry_once_written(Denial::upstream_unreachable(&self.upstream.name), lease)
                .caused_by(failure),
        }
    }
}

/// Asks the client not to retry if a byte of the request was written, because upstream may have
/// acted on the request.
fn no_retry_once_written(denial: Denial, lease: &Lease) -> Denial {
    if lease.has_written() { denial.not_to_be_retried() } else { denial }
}

/// Whether requests with this method usually have a body. Many servers leave a body unread if the
/// request has another method.
pub(super) fn usually_has_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Whether a request may be sent again after upstream may have acted on it: its method is safe (RFC
/// 9110, section 9.2.1), and it has no body.
fn is_repeatable(request: Option<&UpstreamRequest>) -> bool {
    request.is_some_and(|request| {
        matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS)
            && request.upload.is_end_stream()
    })
}
