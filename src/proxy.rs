//! The request path.
//!
//! [`serve`] owns a request's id, record, panics and the form of its answer; [`handle`] is the list of steps,
//! and its order matters: a stranger can't map routes (401 before 404), and a forbidden call burns no quota
//! (403 before 429).

pub(crate) mod readings;

use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HeaderValue, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use jiff::Timestamp;

use crate::activity::unauthenticated::UnauthenticatedConnections;
use crate::activity::{ConnectionActivity, RequestInService, unauthenticated_use};
use crate::clock::Clock;
use crate::denial::{Code, Denial};
use crate::forward::body::ResponseBody;
use crate::forward::headers::{Origin, is_harmless_trailer};
use crate::forward::tunnel::OpenTunnel;
use crate::forward::unread::UnreadBody;
use crate::forward::{self, Forwarded, PermittedRequest, upgrade};
use crate::gate::{self, Authentication, Principal};
use crate::guard::client::Client;
use crate::guard::{self, client};
use crate::hooks::Hooks;
use crate::key_cache::KeyCache;
use crate::limit::{LimitStatus, Limiter};
use crate::observe::observer::{Observer, Observers};
use crate::observe::reloads::Reloads;
use crate::observe::trace::TraceContext;
use crate::observe::usage::UsageBook;
use crate::observe::{self, RequestRecord, Times, X_REQUEST_ID};
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::upstream::Endpoints;
use crate::upstream::pool::WorkerPool;
use crate::upstream::upload::{RequestBody, TrailerRule, Upload, UploadLimits};
use readings::Readings;

/// What all workers share, and what outlives a reload.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) snapshot: ArcSwap<Snapshot>,
    pub(crate) keys: Arc<KeyCache>,
    pub(crate) limiter: Limiter,
    pub(crate) endpoints: Endpoints,
    /// The process is ending: answers on HTTP/1 say that their connection does, too.
    pub(crate) is_draining: AtomicBool,
    pub(crate) clock: Clock,
    pub(crate) usage: UsageBook,
    pub(crate) observers: Observers,
    pub(crate) reloads: Reloads,
    /// Connections on which no good key was presented yet.
    pub(crate) unauthenticated: Arc<UnauthenticatedConnections>,
    pub(crate) hooks: Hooks,
}

/// What a request inherits from its connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) pool: Arc<WorkerPool>,
    pub(crate) observer: Arc<Observer>,
    /// `None` behind a unix socket.
    pub(crate) address: Option<IpAddr>,
    /// The address as headers have it.
    pub(crate) address_value: Option<HeaderValue>,
    pub(crate) is_tls: bool,
    /// The requests in service on the connection.
    pub(crate) activity: Arc<ConnectionActivity>,
    /// What the connection is used for once it is free of HTTP.
    pub(crate) tunnel: Arc<Mutex<Option<OpenTunnel>>>,
    /// The client's address has more connections than this: nothing is served on this one.
    pub(crate) over_limit: Option<usize>,
    /// It is a trusted proxy's: what one of its clients does is not held against the connection.
    pub(crate) is_trusted: bool,
}

/// What becomes known of a request on its way, and is needed whichever way it ends.
struct RequestState {
    snapshot: Arc<Snapshot>,
    record: RequestRecord,
    request_id: HeaderValue,
    principal: Option<Principal>,
    route: Option<Arc<Route>>,
    /// How the limits stand after this request was charged.
    standing: Option<LimitStatus>,
    times: Times,
    trace: Option<TraceContext>,
    in_service: RequestInService,
}

/// Answers one request, whatever happens in it.
///
/// What a request is made of stays where it is put here, for as long as it lasts: moved from step to step, it would cost
/// more than all decisions about it.
pub(crate) fn serve(
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, StreamRefused>> {
    let (mut parts, body) = request.into_parts();
    let body = RequestBody::new(body, parts.version);
    let in_service = peer.activity.begin(!body.is_empty());
    let request_id = observe::request_id(&parts.headers);
    let path = parts.uri.path();
    let mut record =
        RequestRecord::open(&peer.observer, &request_id, peer.address, &parts.method, path, parts.version);
    record.within(&peer.activity);
    let trace = record.trace();
    let mut state = RequestState {
        snapshot: peer.gateway.snapshot.load_full(),
        record,
        request_id,
        principal: None,
        route: None,
        standing: None,
        times: Times::default(),
        trace,
        in_service,
    };
    let caller = Caller {
        is_grpc: is_grpc(&parts),
        is_head: parts.method == Method::HEAD,
        is_chunked: parts.version != Version::HTTP_2 && parts.headers.contains_key(TRANSFER_ENCODING),
        is_short: is_short(&parts, &body),
        version: parts.version,
    };
    async move {
        let outcome = {
            let handling = pin!(handle(&peer, &caller, &mut state, &mut parts, &body));
            AssertUnwindSafe(handling).catch_unwind().await
        };
        let outcome = outcome.unwrap_or_else(|_panic| Err(Denial::internal()));
        state.conclude(&peer, &caller, outcome, body)
    }
}

/// The steps of a request, in their order.
async fn handle(
    peer: &Peer,
    caller: &Caller,
    state: &mut RequestState,
    parts: &mut Parts,
    body: &RequestBody,
) -> Result<Forwarded, Denial> {
    let Gateway { keys, limiter, hooks, clock, .. } = &*peer.gateway;
    let snapshot = state.snapshot.clone();
    let client = client::client(&parts.headers, peer.address, &snapshot.trusted_proxies);
    state.comes_from(&client, &parts.headers);

    if let Some(limit) = peer.over_limit {
        return Err(Denial::too_many_connections(limit));
    }

    // Refuse what is ambiguous, before anybody can act on one of its meanings.
    let target = guard::check(parts, &snapshot.limits, !peer.is_tls && !client.via_trusted)?;
    state.record.path(target.path());
    let readings = Readings::of(&snapshot.routes, &target, &parts.method)?;

    // Who asks comes before what there is: a stranger learns of no route.
    let now = clock.wall();
    match readings.are_public() {
        true => state.check_public(&parts.headers)?,
        false => state.identify(peer, &parts.headers, &client, now)?,
    }
    readings.refuse_ambiguities(&target.ambiguities)?;
    let route = readings.route(&target, &parts.method, &snapshot.limits)?;
    state.record.route(&route.name, &route.upstream.name);
    state.route = Some(route.clone());
    let authorized = gate::authorize(state.principal.clone(), route.clone(), readings.others)?;
    let limits = upload_limits(state, &route, &parts.method, body, caller.is_grpc)?;
    let upgrade = upgrade::asked(parts, &route, !body.is_empty())?;

    // The limits come last: what is refused has burnt no quota.
    let (permit, standing) = gate::admit(authorized, client.counted_at, &snapshot, limiter)?;
    state.standing = standing;
    state.note_use(peer, client.address, now);
    hooks.call(target.path());
    let origin = Origin {
        peer: peer.address_value.as_ref(),
        client,
        is_tls: peer.is_tls,
        request_id: &state.request_id,
        trace: state.trace,
        secret_headers: &snapshot.secret_headers,
    };
    let upload = upload(peer, state, permit.route(), body, limits);
    let revocation = permit.revocation(keys, clock, client.address, &snapshot);
    let second_waiter =
        revocation.as_ref().and_then(|_| permit.revocation(keys, clock, client.address, &snapshot));
    forward::forward(PermittedRequest {
        permit,
        parts,
        upload,
        limits,
        activity: &peer.activity,
        upgrade,
        revocation,
        second_waiter,
        target: &target,
        origin,
        pool: &peer.pool,
        times: &mut state.times,
    })
    .await
}

/// The request's body, as upstream will get it.
fn upload(
    peer: &Peer,
    state: &RequestState,
    route: &Route,
    body: &RequestBody,
    limits: UploadLimits,
) -> Upload {
    let trailers = TrailerRule {
        is_harmless: is_harmless_trailer,
        secret: state.snapshot.secret_headers.clone(),
        removed: route.removes.clone(),
    };
    Upload::new(body, limits, &peer.activity, trailers)
}

/// GET and HEAD give no meaning to a body (RFC 9110, section 9.3.1): a server may leave it unread, and take it for the next
/// request of whoever comes next on the connection.
///
/// On HTTP/2 a body is what comes without END_STREAM on its head, and not `content-length: 0` either: whether an empty frame
/// ends it is known only later, and waiting for that would cost every such request a wait that its client decides on.
fn refuse_body_on_get(method: &Method, route: &Route, body: &RequestBody) -> Result<(), Denial> {
    match !route.takes_body(method) && body.may_hold_bytes() {
        true => Err(Denial::bad_request("GET and HEAD take no body")),
        false => Ok(()),
    }
}

/// The body's limits; one that is too long by its own word is refused before it is read.
fn upload_limits(
    state: &RequestState,
    route: &Route,
    method: &Method,
    body: &RequestBody,
    is_grpc: bool,
) -> Result<UploadLimits, Denial> {
    let limits = &state.snapshot.limits;
    refuse_body_on_get(method, route, body)?;
    let bytes = route.body_bytes(limits);
    if body.least_length() > bytes {
        return Err(Denial::body_too_large(bytes));
    }
    // A gRPC stream in both directions may be silent for long, and some servers answer only with their first message. For
    // somebody without a key a content type makes nothing longer.
    let idle = limits.body_idle_timeout;
    let idle = if is_grpc && state.principal.is_some() { idle.max(route.timeouts.idle) } else { idle };
    Ok(UploadLimits { bytes, idle })
}

/// What the form of an answer depends on.
struct Caller {
    is_grpc: bool,
    is_head: bool,
    /// The end of its body is a matter of HTTP/1.1's chunks.
    is_chunked: bool,
    /// What of its body nobody has read may be read and forgotten.
    is_short: bool,
    version: Version,
}

impl Caller {
    /// What becomes of the request's body where the answer is there before all of it was read.
    fn rest(&self, activity: &ConnectionActivity) -> UnreadBody {
        let is_left = self.version != Version::HTTP_2 && (self.is_head || !activity.may_be_sending());
        if self.is_short && !is_left { UnreadBody::Discard } else { UnreadBody::Leave }
    }
}

/// Whether the body of a request is read to its end for the sake of its connection, where nobody else reads it.
///
/// On HTTP/1, only one whose length is known and small: a longer one may cost more than a connection. A client that waits
/// for 100 (RFC 9110, section 10.1.1) may send none after a refusal, so that nobody could tell what comes next.
fn is_short(parts: &Parts, body: &RequestBody) -> bool {
    const BYTES: u64 = 64 * 1024;
    parts.version == Version::HTTP_2
        || (!body.is_empty()
            && body.exact_length().is_some_and(|length| length <= BYTES)
            && !parts.headers.contains_key(EXPECT))
}

impl RequestState {
    /// Finds out whose request it is; without a good key, nobody's.
    fn identify(
        &mut self,
        peer: &Peer,
        headers: &HeaderMap,
        client: &Client,
        now: Timestamp,
    ) -> Result<(), Denial> {
        let Gateway { keys, limiter, usage, .. } = &*peer.gateway;
        let Authentication { named, owner, beside, outcome } =
            gate::authenticate(headers, &self.snapshot.auth, client, &self.snapshot, keys, limiter, now);
        self.record.named(named);
        beside.iter().for_each(|unknown| self.record.came_with(unknown));
        if let Some(owner) = owner {
            self.record.owned(owner.usage(usage));
        }
        if outcome.is_err() && !peer.is_trusted && peer.activity.is_alone() {
            // What was a key holder's connection is a stranger's once its key is no good any more, and no request of it is open.
            peer.gateway.unauthenticated.enter(peer.address, &peer.activity);
        }
        self.principal = Some(outcome?);
        peer.activity.unauthenticated_use.note_authenticated();
        self.record.accepted();
        self.continue_trace(headers);
        Ok(())
    }

    /// Notes the client, and takes a trusted proxy's word on the trace.
    fn comes_from(&mut self, client: &Client, headers: &HeaderMap) {
        self.record.client(client.address);
        if client.via_trusted {
            self.continue_trace(headers);
        }
    }

    /// Takes the word of a caller that is trusted, or has a good key, on the trace that the request belongs to.
    fn continue_trace(&mut self, headers: &HeaderMap) {
        if self.trace.is_some() {
            self.trace = self.record.continue_trace(headers);
        }
    }

    /// Lets somebody through whom nobody asks for a key, if there is room for one more without.
    fn check_public(&mut self, headers: &HeaderMap) -> Result<(), Denial> {
        gate::check_public(headers, &self.snapshot)?;
        guard::check_public_sizes(headers, &self.snapshot.limits)?;
        Ok(())
    }

    /// Notes that a key was let in, and tells what of that is worth a look.
    fn note_use(&self, peer: &Peer, address: Option<IpAddr>, now: Timestamp) {
        let Gateway { usage, clock, .. } = &*peer.gateway;
        let Some(principal) = &self.principal else { return };
        let suspicions = gate::note_use(principal, address, &self.snapshot, usage, clock, now);
        suspicions.for_each(|suspicion| self.record.suspected(suspicion));
    }

    /// Makes the answer, with what every answer carries.
    ///
    /// # Errors
    ///
    /// A stranger has too many requests open on its connection: there is no answer, and it may ask again.
    fn conclude(
        mut self,
        peer: &Peer,
        caller: &Caller,
        outcome: Result<Forwarded, Denial>,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, StreamRefused> {
        // Only where upstream has got nothing of it: whoever is told so asks again.
        let is_unauthenticated = self.principal.is_none() && outcome.is_err() && self.times.ready.is_none();
        if is_unauthenticated && !self.in_service.count_as_unauthenticated() {
            self.record.denied(&Denial::too_many_in_flight(unauthenticated_use::STREAMS));
            peer.activity.unauthenticated_use.note_abuse();
            return Err(StreamRefused);
        }
        let in_service = self.in_service;
        let standing = self.standing.take().or_else(|| {
            let principal = self.principal.as_ref()?;
            gate::standing(principal, self.route.as_ref(), &self.snapshot, &peer.gateway.limiter)
        });
        let is_http2 = caller.version == Version::HTTP_2;
        self.record.decided(self.times);
        let mut response = match outcome {
            Ok(Forwarded::Tunnel(head, tunnel)) => {
                self.record.status(head.status());
                let tunnel = tunnel.open(self.record, in_service);
                *peer.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
                head.map(|()| ResponseBody::none())
            }
            Ok(Forwarded::Answer(mut response)) => {
                self.record.status(response.status());
                let rest = caller.rest(&peer.activity);
                tell_of_end(&mut response, rest, &peer.activity);
                response.map(|answer| answer.concluding(self.record, in_service, body, caller.version, rest))
            }
            Err(denial) => {
                self.record.denied(&denial);
                // Of a body that has stalled there is no rest to wait for.
                let is_stalled = denial.code() == Code::RequestTimeout;
                let mut response = if caller.is_grpc { denial.into_grpc() } else { denial.into_http() };
                let is_kept = !is_stalled && (is_http2 || !response.headers().contains_key(CONNECTION));
                let rest = if is_kept { caller.rest(&peer.activity) } else { UnreadBody::Leave };
                tell_of_end(&mut response, rest, &peer.activity);
                if caller.is_head {
                    // The length of what is not sent (RFC 9110, section 9.3.2).
                    let length = std::mem::take(response.body_mut()).len();
                    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
                }
                response.map(|bytes| {
                    let answer = ResponseBody::own(bytes);
                    answer.concluding(self.record, in_service, body, caller.version, rest)
                })
            }
        };
        let is_tunnel = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        let is_draining = peer.gateway.is_draining.load(Ordering::Relaxed);
        let headers = response.headers_mut();
        if let Some(standing) = standing {
            standing.write_to(headers);
        }
        headers.insert(X_REQUEST_ID, self.request_id);
        if is_http2 {
            // HTTP/2 knows no such header (RFC 9113, section 8.2.2).
            headers.remove(CONNECTION);
        } else if !is_tunnel && (is_draining || (caller.is_chunked && peer.activity.may_end_in_two_ways())) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Says that the connection ends with this answer, where it does because the request's body is not read to its end. Else a client
/// that shares its connection would take it for a kept one, and lose its next request.
fn tell_of_end<B>(response: &mut Response<B>, rest: UnreadBody, activity: &ConnectionActivity) {
    if rest == UnreadBody::Leave && activity.may_be_sending() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// A stream of HTTP/2 that is reset with REFUSED_STREAM: nothing was done for it (RFC 9113, section 8.7).
#[derive(Debug)]
pub(crate) struct StreamRefused;

impl From<StreamRefused> for Box<dyn std::error::Error + Send + Sync> {
    fn from(_: StreamRefused) -> Self {
        // hyper looks for the reason in an error of h2's.
        Box::new(h2::Error::from(h2::Reason::REFUSED_STREAM))
    }
}

/// gRPC is a POST on HTTP/2 with its own content type (gRPC over HTTP2, "Requests"); whatever else says so is not answered as
/// gRPC.
fn is_grpc(parts: &Parts) -> bool {
    if parts.version != Version::HTTP_2 || parts.method != Method::POST {
        return false;
    }
    let mut types = parts.headers.get_all(CONTENT_TYPE).iter();
    let (Some(named), None) = (types.next(), types.next()) else { return false };
    match named.as_bytes().strip_prefix(b"application/grpc") {
        Some([]) => true,
        Some([first, ..]) => *first == b'+',
        None => false,
    }
}
