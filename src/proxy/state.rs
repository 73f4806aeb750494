//! State of one request from its head to its answer, and the headers that every answer carries.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, HeaderName, Response, StatusCode};
use jiff::Timestamp;

use super::caller::Caller;
use super::door::answer::{self, Shaped};
use super::door::answered::{Answered, Facts as DoorFacts};
use super::door::told::Claimed;
use super::gateway::Peer;
use crate::activity::{ConnectionActivity, RequestInService, unauthenticated_use};
use crate::config::{Asker, Door};
use crate::cors::CorsAnswer;
use crate::denial::{Code, Denial};
use crate::forward::Forwarded;
use crate::forward::body::ResponseBody;
use crate::forward::unread::UnreadBody;
use crate::gate::{self, Authentication, Facts, Preflight, Principal};
use crate::guard::Target;
use crate::guard::client::Client;
use crate::limit::LimitStatus;
use crate::model::Named;
use crate::observe::trace::TraceContext;
use crate::observe::{self, RequestRecord, Times, X_REQUEST_ID};
use crate::route::Route;
use crate::snapshot::Snapshot;
use crate::tokens::TokenAccount;
use crate::upstream::request_body::RequestBody;

/// Header with the time for which a request waited in the queue of its upstream, in milliseconds.
const X_QUEUED_MS: HeaderName = HeaderName::from_static("x-bearward-queued-ms");

/// The number of headers of a question's answer that a request may pass: identity, limits and id.
const GRANTED_HEADERS: usize = 12;

/// The answer to a request that is not refused.
pub(super) enum Handled {
    Forwarded(Forwarded),
    /// The head of bearward's own answer to a preflight (docs/decisions/041).
    Preflight(Response<()>),
    /// bearward's own answer to a request about its own key.
    Own(Response<Bytes>),
}

/// State of a request that is needed whether the request is forwarded or refused.
pub(super) struct RequestState {
    pub(super) snapshot: Arc<Snapshot>,
    record: RequestRecord,
    pub(super) request_id: HeaderValue,
    pub(super) principal: Option<Principal>,
    route: Option<Arc<Route>>,
    /// The CORS headers of the answer; `None` if no `cors` holds for the request.
    cors: Option<Arc<CorsAnswer>>,
    /// State of the rate limits after this request was charged to them.
    limit_status: Option<LimitStatus>,
    pub(super) times: Times,
    pub(super) trace: Option<TraceContext>,
    in_service: RequestInService,
}

impl RequestState {
    /// Creates the state and the access-log record of a request that has just begun.
    pub(super) fn open(peer: &Peer, parts: &Parts, body: &RequestBody) -> Self {
        let in_service = peer.activity.begin(!body.is_empty());
        let request_id = observe::request_id(&parts.headers);
        let path = parts.uri.path();
        let mut record = RequestRecord::open(
            &peer.observer,
            &request_id,
            peer.address,
            &parts.method,
            path,
            parts.version,
        );
        record.within(&peer.activity);
        let trace = record.trace();
        let snapshot = peer.gateway.snapshot.load_full();
        // The `cors` at the top holds until the request has a route.
        let cors = snapshot.routes.cors().map(|policy| policy.answer_to(&parts.headers).clone());
        RequestState {
            snapshot,
            record,
            request_id,
            principal: None,
            route: None,
            cors,
            limit_status: None,
            times: Times::default(),
            trace,
            in_service,
        }
    }

    /// Records the address of the client. If a trusted proxy sent the request, continues the trace
    /// that its headers name.
    pub(super) fn note_client(&mut self, client: &Client, headers: &HeaderMap) {
        self.record.client(client.address);
        if client.via_trusted {
            self.continue_trace(headers);
        }
    }

    /// Records what a decision found out about the request, for the access log and for the state of
    /// the connection.
    pub(super) fn note_facts(&mut self, peer: &Peer, facts: &mut Facts, headers: &HeaderMap) {
        if let Some(target) = &facts.target {
            self.record.path(target.path());
        }
        if self.snapshot.routes.has_cors_by_route() {
            let request = (facts.target.as_ref(), facts.readings.as_ref());
            self.cors = gate::cors_answer(&self.snapshot.routes, request, facts.route.is_some(), headers);
        }
        self.principal = facts.principal.take();
        self.route = facts.route.take();
        if let Some(Authentication { naming, owner, companions, .. }) = facts.authentication.take() {
            self.record.named(naming);
            companions.iter().for_each(|unknown| self.record.came_with(unknown));
            if let Some(owner) = owner {
                self.record.owned(owner.usage(&peer.gateway.usage));
            }
            match &self.principal {
                Some(_) => {
                    peer.activity.unauthenticated_use.note_authenticated();
                    self.record.accepted();
                    self.continue_trace(headers);
                }
                // The connection of a key holder counts as unauthenticated again when the key is no
                // longer valid and no other request is open on the connection.
                None if !peer.is_trusted && peer.activity.is_alone() => {
                    peer.gateway.unauthenticated.enter(peer.address, &peer.activity);
                }
                None => {}
            }
        }
        if let Some(route) = &self.route {
            self.record.route(&route.name, &route.upstream.name);
        }
    }

    /// Records the path of a request that is answered before a decision.
    pub(super) fn note_target(&mut self, target: &Target) {
        self.record.path(target.path());
    }

    /// Records that the request is a preflight, and returns its answer.
    pub(super) fn note_preflight(&mut self, preflight: Preflight) -> Response<()> {
        let Preflight { target, answer } = preflight;
        self.record.path(target.path());
        // The answer to a preflight has all of its CORS headers.
        self.cors = None;
        answer
    }

    /// Records the model that a request names, also if the request is refused for it.
    pub(super) fn note_model(&mut self, model: &Named) {
        if let Named::Model(name) = model {
            self.record.model(name);
        }
    }

    /// Records the route of a granted request, if the model has selected it.
    pub(super) fn note_grant(&mut self, route: &Arc<Route>, headers: &HeaderMap) {
        if self.route.is_none() {
            self.record.route(&route.name, &route.upstream.name);
            self.cors = route.cors.as_ref().map(|policy| policy.answer_to(headers).clone());
            self.route = Some(route.clone());
        }
    }

    /// Records the state of the limits after the request was charged, where the tokens of the
    /// request will be reported, and what a limit that only counts would have refused.
    pub(super) fn note_admission(
        &mut self,
        limit_status: Option<LimitStatus>,
        account: Option<&TokenAccount>,
        would_refuse: Option<Denial>,
    ) {
        self.limit_status = limit_status;
        if let Some(account) = account {
            self.record.tokens(account.report());
        }
        if let Some(denial) = would_refuse {
            self.record.would_refuse(denial.code());
        }
    }

    /// Continues the trace that the request's headers name. Called only if a trusted proxy sent the
    /// request, or if its key is valid.
    fn continue_trace(&mut self, headers: &HeaderMap) {
        if self.trace.is_some() {
            self.trace = self.record.continue_trace(headers);
        }
    }

    /// Records that a key holder's request was admitted, and logs what is suspicious about it.
    pub(super) fn note_use(&mut self, peer: &Peer, client: &Client, now: Timestamp) {
        let Some(principal) = &self.principal else { return };
        self.record.admitted(now, principal.group().map(|group| &group.name));
        let (gateway, context) = (&peer.gateway, peer.gateway.context(&self.snapshot, now));
        let suspicions = gate::note_use(principal, client.address, context, &gateway.usage, &gateway.clock);
        suspicions.for_each(|suspicion| self.record.suspected(suspicion));
    }

    /// Returns the state of the limits after the request. What was charged to a request that waited and was
    /// not sent was given back meanwhile.
    fn take_limit_status(&mut self, peer: &Peer, is_refused: bool) -> Option<LimitStatus> {
        let is_given_back = is_refused && self.times.queued.is_some() && self.times.ready.is_none();
        let charged = self.limit_status.take().filter(|_| !is_given_back);
        charged.or_else(|| {
            let context = peer.gateway.context(&self.snapshot, Timestamp::UNIX_EPOCH);
            gate::limit_status(self.principal.as_ref()?, self.route.as_ref(), context)
        })
    }

    /// Returns the route of the request, if it is known.
    pub(super) fn route(&self) -> Option<&Route> {
        self.route.as_deref()
    }

    /// Records that another proxy asks.
    pub(super) fn note_door(&mut self, asker: Asker) {
        self.record.asked_by(asker);
    }

    /// Records the request about which another proxy asks, before it is checked.
    pub(super) fn note_claimed(&mut self, claimed: &Claimed) {
        self.request_id = observe::request_id(&claimed.headers);
        self.record.about(&self.request_id, claimed.method(), &claimed.path(), claimed.protocol);
        self.note_client(&claimed.client, &claimed.headers);
        self.cors = self.snapshot.routes.cors().map(|policy| policy.answer_to(&claimed.headers).clone());
    }

    /// Makes the answer to another proxy that asks.
    ///
    /// # Errors
    ///
    /// As [`Self::conclude`].
    pub(super) fn conclude_at_door<E: From<StreamRefused>>(
        mut self,
        peer: &Peer,
        door: Door,
        caller: &Caller,
        answered: Answered,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, E> {
        if !peer.is_trusted && !self.in_service.count_as_unauthenticated() {
            self.record.denied(&Denial::too_many_in_flight(unauthenticated_use::STREAMS));
            peer.activity.unauthenticated_use.note_abuse();
            return Err(StreamRefused.into());
        }
        let limit_status = self.take_limit_status(peer, !matches!(answered, Answered::Granted(_)));
        self.record.decided(self.times);
        let (mut sent, granted, code) = match answered {
            Answered::Granted(granted) => {
                self.record.status(StatusCode::OK);
                let mut response = Response::new(Bytes::new());
                response.headers_mut().reserve(GRANTED_HEADERS);
                (response, Some(*granted), None)
            }
            Answered::Refused(denial) => {
                self.record.denied(&denial);
                let code = denial.code();
                (answer::shortened(door, denial).into_http(), None, Some(code))
            }
            Answered::Preflight(head) => {
                self.record.status(head.status());
                (head.map(|()| Bytes::new()), None, None)
            }
            Answered::Failed(denial) => {
                self.record.denied(&denial);
                let form = answer::form_of_failure(door, caller);
                let shaped = Shaped { response: denial.into_response(form), trailers: None };
                return Ok(self.send_to_asker(peer, caller, shaped, body));
            }
        };
        let (status, headers) = (sent.status(), sent.headers_mut());
        // Whether the connection of the client goes on is for the proxy to say.
        headers.remove(CONNECTION);
        if let Some(limits) = limit_status {
            limits.write_to(headers);
        }
        headers.insert(X_REQUEST_ID, self.request_id.clone());
        if let Some(cors) = self.cors.take() {
            cors.write_to(status, headers);
        }
        let key_id = self.principal.as_ref().map(|principal| principal.key().key.id().to_owned());
        let route = self.route.as_ref().map(|route| route.name.to_string());
        let shaped = answer::shaped(door, granted, sent, DoorFacts::of(code, key_id, route));
        Ok(self.send_to_asker(peer, caller, shaped, body))
    }

    /// Sends an answer to another proxy that asks.
    fn send_to_asker(
        self,
        peer: &Peer,
        caller: &Caller,
        shaped: Shaped,
        body: RequestBody,
    ) -> Response<ResponseBody> {
        let Shaped { mut response, trailers } = shaped;
        let headers = response.headers_mut();
        headers.entry(X_REQUEST_ID).or_insert(self.request_id);
        headers.remove(CONNECTION);
        let unread = caller.unread_body(&peer.activity);
        close_where_left(&mut response, unread, &peer.activity);
        if caller.is_head {
            without_body(&mut response);
        }
        if caller.protocol.has_connection_headers() && peer.gateway.is_draining.load(Ordering::Relaxed) {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let sent = |data| match trailers {
            Some(trailers) => ResponseBody::with_trailers(data, trailers),
            None => ResponseBody::own(data),
        };
        let (record, in_service, protocol) = (self.record, self.in_service, caller.protocol);
        response.map(sent).map(|answer| answer.concluding(record, in_service, body, protocol, unread))
    }

    /// Makes the answer to the request, and adds the headers that every answer carries.
    ///
    /// # Errors
    ///
    /// Fails if a client without a valid key has too many open requests on its connection. The
    /// request then gets no answer, and the client may repeat the request.
    pub(super) fn conclude<E: From<StreamRefused>>(
        mut self,
        peer: &Peer,
        caller: &Caller,
        outcome: Result<Handled, Denial>,
        body: RequestBody,
    ) -> Result<Response<ResponseBody>, E> {
        // A request is refused without an answer only if nothing of the request was sent to
        // upstream, because the client will repeat the request.
        let is_unauthenticated = self.principal.is_none() && self.times.ready.is_none();
        if is_unauthenticated && !self.in_service.count_as_unauthenticated() {
            self.record.denied(&Denial::too_many_in_flight(unauthenticated_use::STREAMS));
            peer.activity.unauthenticated_use.note_abuse();
            return Err(StreamRefused.into());
        }
        let limit_status = self.take_limit_status(peer, outcome.is_err());
        let (record, in_service, protocol) = (&mut self.record, self.in_service, caller.protocol);
        record.decided(self.times);
        let mut response = match outcome {
            Ok(Handled::Forwarded(Forwarded::Tunnel(head, tunnel))) => {
                record.status(head.status());
                let tunnel = tunnel.open(self.record, in_service);
                *peer.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some(tunnel);
                head.map(|()| ResponseBody::none())
            }
            Ok(Handled::Preflight(head)) => {
                record.status(head.status());
                let answer = |()| ResponseBody::none();
                head.map(answer).map(|answer| {
                    answer.concluding(self.record, in_service, body, protocol, UnreadBody::Leave)
                })
            }
            Ok(Handled::Own(response)) => {
                record.status(response.status());
                let (response, unread) = own_answer(response, true, caller, &peer.activity);
                response.map(|answer| answer.concluding(self.record, in_service, body, protocol, unread))
            }
            Ok(Handled::Forwarded(Forwarded::Answer(mut response))) => {
                record.status(response.status());
                let unread = caller.unread_body(&peer.activity);
                close_where_left(&mut response, unread, &peer.activity);
                response.map(|answer| answer.concluding(self.record, in_service, body, protocol, unread))
            }
            Err(denial) => {
                record.denied(&denial);
                let (response, unread) = refusal(denial, caller, &peer.activity);
                response.map(|answer| answer.concluding(self.record, in_service, body, protocol, unread))
            }
        };
        let status = response.status();
        let is_tunnel = status == StatusCode::SWITCHING_PROTOCOLS;
        let is_draining = peer.gateway.is_draining.load(Ordering::Relaxed);
        let headers = response.headers_mut();
        if let Some(limits) = limit_status {
            limits.write_to(headers);
        }
        headers.insert(X_REQUEST_ID, self.request_id);
        peer.edge.write_to(headers);
        write_wait(&self.times, headers);
        if let Some(cors) = self.cors {
            cors.write_to(status, headers);
        }
        if !protocol.has_connection_headers() {
            headers.remove(CONNECTION);
        } else if !is_tunnel && (is_draining || (caller.is_chunked && peer.activity.may_end_in_two_ways())) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }
}

/// Writes how long a request has waited in the queue of its upstream, if it has waited.
fn write_wait(times: &Times, headers: &mut HeaderMap) {
    if let Some((_, waited)) = times.queued.filter(|(_, waited)| !waited.is_zero()) {
        let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        headers.insert(X_QUEUED_MS, HeaderValue::from(millis));
    }
}

/// Makes the answer to a refused request, and decides what happens to the unread rest of the
/// request's body.
fn refusal(
    denial: Denial,
    caller: &Caller,
    activity: &ConnectionActivity,
) -> (Response<ResponseBody>, UnreadBody) {
    // A body that has stalled is not drained, because no more of it is likely to arrive.
    let is_stalled = denial.code() == Code::RequestTimeout;
    own_answer(denial.into_response(caller.form), !is_stalled, caller, activity)
}

/// Makes an answer of bearward's own, and decides what happens to the unread rest of the request's body.
/// `may_drain`: whether more of the body is likely to arrive.
fn own_answer(
    mut response: Response<Bytes>,
    may_drain: bool,
    caller: &Caller,
    activity: &ConnectionActivity,
) -> (Response<ResponseBody>, UnreadBody) {
    let is_kept =
        may_drain && (caller.protocol.has_streams() || !response.headers().contains_key(CONNECTION));
    let unread = if is_kept { caller.unread_body(activity) } else { UnreadBody::Leave };
    close_where_left(&mut response, unread, activity);
    if caller.is_head {
        without_body(&mut response);
    }
    (response.map(ResponseBody::own), unread)
}

/// Makes the answer to HEAD, whose Content-Length is the length of the body that is not sent (RFC 9110,
/// section 9.3.2).
fn without_body(response: &mut Response<Bytes>) {
    let length = std::mem::take(response.body_mut()).len();
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
}

/// Announces `Connection: close` if the connection ends with this answer because the request's body
/// is not read to its end. Without this header, a client would reuse the connection and lose its
/// next request.
fn close_where_left<B>(response: &mut Response<B>, unread: UnreadBody, activity: &ConnectionActivity) {
    if unread == UnreadBody::Leave && activity.may_be_sending() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
}

/// Error that resets an HTTP/2 stream with REFUSED_STREAM. The reset shows the client that nothing
/// was done for the request (RFC 9113, section 8.7).
#[derive(Debug)]
pub(crate) struct StreamRefused;
