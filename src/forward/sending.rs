//! Brings a request to a connection: which endpoint, which connection, in which form, and whether once more.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use http::header::{CONNECTION, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING};
use http::uri::{PathAndQuery, Scheme};
use http::{Method, Request, Uri};
use http_body::Body as _;

use crate::alarm::Alarm;
use crate::config::Timeouts;
use crate::denial::Denial;
use crate::guard::Target;
use crate::protocol::Protocol;
use crate::upstream::connect_error::is_shortage;
use crate::upstream::exchange::{Answer, Failure, Sent, Unanswered};
use crate::upstream::pool::{Lease, Needs, WorkerPool};
use crate::upstream::request_body::UploadFailure;
use crate::upstream::upload::{Upload, UploadLimits, UploadProgress};
use crate::upstream::{Endpoint, Upstream};

/// One request on its way.
pub(super) struct Exchange<'a> {
    pub(super) upstream: &'a Arc<Upstream>,
    pub(super) timeouts: Timeouts,
    pub(super) needs: Needs,
    pub(super) target: &'a Target,
    pub(super) path: &'a PathAndQuery,
    pub(super) progress: &'a UploadProgress,
    pub(super) limits: UploadLimits,
}

/// Where a request could not be sent.
#[derive(Default)]
struct Tried {
    /// How often it was tried. A name that was tried at all of its addresses counts once.
    times: usize,
    endpoints: Vec<Arc<Endpoint>>,
}

impl Exchange<'_> {
    /// Sends on a connection that is kept, or a new one. A connection that dies before a byte was written is
    /// replaced, and an endpoint that can't be reached by another one. `request`: where it waits until it is sent;
    /// `connecting`: how long that was for new connections.
    ///
    /// A request that was written is sent once more where that is harmless: it is idempotent and has no body, the
    /// connection was used before, and upstream closed it without a byte (RFC 9110, section 9.2.2).
    pub(super) async fn send(
        &self,
        request: &mut Option<Request<Upload>>,
        pool: &Arc<WorkerPool>,
        connecting: &mut Option<Duration>,
        alarm: &mut Alarm,
    ) -> Result<(Answer, Lease), Denial> {
        let is_repeatable = is_repeatable(request.as_ref());
        let (mut tried, mut is_repeated) = (Tried::default(), false);
        // Upstream may have acted on what it got before.
        let refuse = |denial: Denial, is_repeated| match is_repeated {
            true => denial.not_to_be_retried(),
            false => denial,
        };
        loop {
            let mut lease = match self.lease(pool, &mut tried, connecting, is_repeated).await {
                Ok(lease) => lease,
                Err(denial) => return Err(refuse(denial, is_repeated)),
            };
            let method = request.as_ref().map(|request| request.method().clone());
            let answered = {
                let sending = pin!(self.begin(request, &mut lease, is_repeatable && !is_repeated)?);
                self.answer(sending, alarm).await
            };
            let Unanswered { failure, unsent } = match answered {
                Some(Ok(answer)) => {
                    self.upstream.note_success(lease.endpoint());
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
                Some(unsent) if tried.times < self.upstream.retries => {
                    tried.times += 1;
                    tried.endpoints.push(lease.endpoint().clone());
                    *request = Some(unsent);
                }
                Some(_) => return Err(refuse(self.failed(failure, &lease), is_repeated)),
                None => {
                    let unanswered = failure.was_closed().then(|| lease.take_unanswered()).flatten();
                    let Some(headers) = unanswered else { return Err(self.failed(failure, &lease)) };
                    *request = Some(self.again(method.unwrap_or_default(), headers, &lease));
                    is_repeated = true;
                }
            }
        }
    }

    /// A repeatable request once more, with the headers that it had on the connection of `lease`.
    fn again(&self, method: Method, mut headers: HeaderMap, lease: &Lease) -> Request<Upload> {
        let credential = self.upstream.credential.as_ref();
        if let Some(value) = credential.and_then(|credential| headers.get_mut(&credential.header)) {
            // The bytes do not say it.
            value.set_sensitive(true);
        }
        let mut request = Request::new(Upload::none());
        *request.method_mut() = method;
        *request.version_mut() = lease.protocol().version();
        *request.headers_mut() = headers;
        request
    }

    /// Takes the request to a connection.
    fn begin<'l>(
        &self,
        request: &mut Option<Request<Upload>>,
        lease: &'l mut Lease,
        is_repeatable: bool,
    ) -> Result<impl Future<Output = Sent> + use<'l>, Denial> {
        // It is there: it was put back where it was not sent.
        let mut request = request.take().ok_or_else(Denial::internal)?;
        self.shape(&mut request, lease)?;
        Ok(lease.send(request, self.timeouts.response_headers, is_repeatable))
    }

    /// A connection to an endpoint that the request was not tried on yet. `is_new`: none that was used before.
    async fn lease(
        &self,
        pool: &Arc<WorkerPool>,
        tried: &mut Tried,
        connecting: &mut Option<Duration>,
        is_new: bool,
    ) -> Result<Lease, Denial> {
        let needs = Needs { new: is_new, ..self.needs };
        loop {
            let Some(endpoint) = self.pick(&tried.endpoints).await? else {
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
            // In a box: few requests need the room that it takes.
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
            tried.times += 1;
            if tried.times > self.upstream.retries || !self.upstream.has_untried(&tried.endpoints) {
                return Err(self.unconnected(error.into()));
            }
        }
    }

    /// The endpoint to try next. Where the first look-up of all names is still under way, its end is waited for.
    async fn pick(&self, tried: &[Arc<Endpoint>]) -> Result<Option<Arc<Endpoint>>, Denial> {
        let picked = self.upstream.pick(tried);
        if picked.is_some() || self.upstream.has_addresses() {
            return Ok(picked);
        }
        if Box::pin(self.upstream.is_found_within(self.timeouts.connect)).await {
            return Ok(self.upstream.pick(tried));
        }
        Err(Denial::upstream_unreachable(&self.upstream.name).caused_by(self.upstream.why_no_address()))
    }

    /// The name that upstream is asked by.
    fn host(&self) -> HeaderValue {
        self.upstream.host_for(self.target.authority.as_ref())
    }

    /// Gives the request the form of the connection's protocol. It may have had the other one's before.
    fn shape(&self, request: &mut Request<Upload>, lease: &mut Lease) -> Result<(), Denial> {
        if lease.protocol() == Protocol::Http11 {
            if Protocol::from(request.version()) == Protocol::Http2 {
                // The other protocol has taken it away.
                request.headers_mut().insert(HOST, self.host());
            }
            *request.version_mut() = Protocol::Http11.version();
            *request.uri_mut() = Uri::from(self.path.clone());
            if *request.method() == Method::HEAD {
                // A server that sends the body all the same sends it when the answer is over for us: the next caller would have it.
                request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                lease.is_last_use();
            }
            if request.body().is_end_stream() {
                return Ok(());
            }
            if request.body().size_hint().exact().is_none() {
                // hyper would send a GET of unknown length without its body.
                request.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            }
            // A server that leaves the body unread takes it for the next request on the connection: there is none.
            if !usually_has_body(request.method()) || !self.upstream.reuse_after_body {
                request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                lease.is_last_use();
            }
            return Ok(());
        }
        *request.version_mut() = Protocol::Http2.version();
        let scheme = if lease.endpoint().is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        let uri =
            Uri::builder().scheme(scheme).authority(self.host().as_bytes()).path_and_query(self.path.clone());
        *request.uri_mut() =
            uri.build().map_err(|error| Denial::bad_request("The target is not valid").caused_by(error))?;
        // The authority says it, and HTTP/2 frames bodies by itself.
        request.headers_mut().remove(HOST);
        request.headers_mut().remove(TRANSFER_ENCODING);
        request.headers_mut().remove(CONNECTION);
        Ok(())
    }

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
    fn failed(&self, failure: Failure, lease: &Lease) -> Denial {
        match self.progress.failure() {
            Some(UploadFailure::TooLarge) => Denial::body_too_large(self.limits.bytes),
            Some(UploadFailure::Stalled) => Denial::body_stalled(self.limits.idle),
            Some(UploadFailure::Broken) => {
                Denial::bad_request("The request body is malformed").caused_by(failure)
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

/// Once a byte was written, upstream may have acted on it.
fn no_retry_once_written(denial: Denial, lease: &Lease) -> Denial {
    if lease.has_written() { denial.not_to_be_retried() } else { denial }
}

/// Whether a body has a meaning with this method. Servers commonly leave it unread with others.
pub(super) fn usually_has_body(method: &Method) -> bool {
    matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Whether a request may be sent again though upstream may have acted on it: it asks for nothing to be done
/// (RFC 9110, section 9.2.1), and has no body.
fn is_repeatable(request: Option<&Request<Upload>>) -> bool {
    request.is_some_and(|request| {
        matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS)
            && request.body().is_end_stream()
    })
}
