//! The answer to a request for the list of models: joined from the upstreams that models lead to,
//! and without the models that the key may not use.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderName, HeaderValue, IF_MATCH,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use super::gateway::Peer;
use super::turn::{class, who};
use crate::config::ModelIn;
use crate::denial::Denial;
use crate::forward::body::ResponseBody;
use crate::forward::headers::Origin;
use crate::forward::{self, Forwarded, PermittedRequest, RequestTokens};
use crate::gate::{Context, Grant, InFlightPermits, Permit, Principal};
use crate::guard::Target;
use crate::model::{ModelNaming, Named, filtered, joined};
use crate::observe::Times;
use crate::snapshot::Snapshot;
use crate::tap::TapSlot;
use crate::upstream::Upstream;
use crate::upstream::turn::Turn;
use crate::upstream::upload::{Upload, UploadLimits};

/// Longest list of models that is filtered, in bytes.
const LONGEST_LIST: usize = 8 * 1024 * 1024;

/// Time in which another upstream has to answer with its list.
const TIME_OF_PARTS: Duration = Duration::from_secs(5);

/// Header with the names of the upstreams whose lists are missing.
const X_PARTIAL: HeaderName = HeaderName::from_static("x-bearward-partial");

/// What happens to the answer of a request for the list of models.
pub(super) struct ListFilter {
    /// The principal whose models are shown; `None` if all may be shown.
    principal: Option<Principal>,
    naming: ModelNaming,
    /// The upstream of the request's own route.
    upstream: Arc<Upstream>,
    snapshot: Arc<Snapshot>,
    /// The other upstreams that are asked for their lists, and a place in flight for each.
    others: Vec<(Arc<Upstream>, InFlightPermits)>,
    /// The requests for their lists.
    parts: Vec<PartOfList>,
}

/// The request for a list, for the requests to other upstreams.
#[derive(Clone, Copy)]
pub(super) struct ListRequest<'a> {
    pub(super) is_head: bool,
    pub(super) peer: &'a Peer,
    pub(super) target: &'a Target,
    pub(super) limits: UploadLimits,
    pub(super) origin: &'a Origin<'a>,
}

/// The request for the list of one other upstream.
struct PartOfList {
    permit: Permit,
    head: Parts,
}

impl ListFilter {
    /// Returns the filter of the answer to a granted request; `None` if the answer is forwarded as
    /// it is.
    ///
    /// # Errors
    ///
    /// 503 if the process has no room for the requests to other upstreams. Nothing was charged yet.
    pub(super) fn of(
        grant: &Grant,
        method: &Method,
        path: &str,
        snapshot: &Arc<Snapshot>,
        context: Context<'_>,
    ) -> Result<Option<Box<Self>>, Denial> {
        let route = grant.route();
        // A request for the entry of one model is decided by that model.
        if route.model.place != ModelIn::List || route.model_in_list(path) != Named::Absent {
            return Ok(None);
        }
        let restricted = grant.principal().filter(|principal| principal.models().next().is_some());
        let principal = restricted.cloned();
        let others = match *method {
            Method::GET => snapshot.routes.upstreams_by_model(&route.upstream),
            _ => Vec::new(),
        };
        if principal.is_none() && others.is_empty() {
            return Ok(None);
        }
        let in_flight = |upstream| Ok((upstream, InFlightPermits::of_process(context)?));
        Ok(Some(Box::new(ListFilter {
            principal,
            naming: route.model.naming,
            upstream: route.upstream.clone(),
            snapshot: snapshot.clone(),
            others: others.into_iter().map(in_flight).collect::<Result<_, Denial>>()?,
            parts: Vec::new(),
        })))
    }

    /// Prepares the request: removes the headers with which an upstream might answer with a part of
    /// the list, with a compressed list, or with none; and makes the requests to other upstreams.
    pub(super) fn prepare(&mut self, permit: &Permit, head: &mut Parts) {
        for name in [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE] {
            head.headers.remove(name);
        }
        head.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for (upstream, in_flight) in std::mem::take(&mut self.others) {
            let permit = permit.for_part(Arc::new(permit.route().led_to(&upstream)), in_flight);
            self.parts.push(PartOfList { permit, head: head.clone() });
        }
    }

    /// Returns the answer to a request, with the filter applied.
    ///
    /// # Errors
    ///
    /// The failure of the request, if no upstream answered with a list; 502 if an answer is no list
    /// that is known, or is too long.
    pub(super) async fn apply(
        mut self: Box<Self>,
        forwarded: Result<Forwarded, Denial>,
        request: ListRequest<'_>,
    ) -> Result<Forwarded, Denial> {
        let parts = std::mem::take(&mut self.parts);
        let is_alone = parts.is_empty();
        let lists = parts.into_iter().map(|part| async {
            let name = part.permit.route().upstream.name.clone();
            let list = tokio::time::timeout(TIME_OF_PARTS, self.part(part, request)).await;
            (name, list.ok().flatten())
        });
        let own = match forwarded {
            Ok(Forwarded::Answer(response)) if response.status().is_success() && request.is_head => {
                let (mut head, body) = response.into_parts();
                without_length(&mut head.headers);
                return Ok(Forwarded::Answer(Response::from_parts(head, body)));
            }
            Ok(Forwarded::Answer(response)) if response.status().is_success() => Ok(response),
            // The list has only this one upstream.
            other if is_alone => return other,
            other => Err(match other {
                Err(denial) => denial,
                Ok(_) => self.broken("the list of models could not be read"),
            }),
        };
        let own = async {
            match own {
                Ok(response) => self.own(response).await,
                Err(denial) => Err(denial),
            }
        };
        // All lists are read at once: an answer that waits for the others would hold its slot at its upstream.
        let (own, lists) = join(own, join_all(lists)).await;
        let missing = lists.iter().filter(|(_, list)| list.is_none()).map(|(name, _)| name.to_string());
        let mut missing: Vec<String> = missing.collect();
        let mut others = lists.iter().filter_map(|(_, list)| list.as_ref());
        let (mut head, mut list) = match own {
            Ok(own) => own,
            Err(denial) => {
                missing.insert(0, self.upstream.name.to_string());
                let Some(first) = others.next() else { return Err(denial) };
                let mut response = Response::new(()).into_parts().0;
                response
                    .headers
                    .insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                (response, first.clone())
            }
        };
        for more in others {
            list = joined(&list, more).map_err(|_| self.broken("the answers are no lists of models"))?.into();
        }
        if let (false, Ok(names)) = (missing.is_empty(), HeaderValue::from_str(&missing.join(", "))) {
            head.headers.insert(X_PARTIAL, names);
        }
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(list.len()));
        Ok(Forwarded::Answer(Response::from_parts(head, ResponseBody::own(list))))
    }

    /// Returns the list of the request's own upstream.
    async fn own(&self, response: Response<ResponseBody>) -> Result<(http::response::Parts, Bytes), Denial> {
        let (mut head, body) = response.into_parts();
        without_length(&mut head.headers);
        let list = self.shown(&head, body, &self.upstream.name).await;
        Ok((head, list.map_err(|reason| self.broken(reason))?))
    }

    /// Returns the list of another upstream; `None` if it does not answer with one.
    async fn part(&self, part: PartOfList, request: ListRequest<'_>) -> Option<Bytes> {
        let PartOfList { permit, mut head } = part;
        let ListRequest { peer, target, limits, origin, .. } = request;
        let upstream = permit.route().upstream.clone();
        let class = class(permit.principal(), &head.headers).ok()?;
        let turn = Turn::begin(&upstream, || who(permit.principal(), class, &peer.gateway.limiter));
        let mut times = Times::default();
        let forwarded = forward::forward(PermittedRequest {
            permit,
            parts: &mut head,
            upload: Upload::empty(),
            limits,
            activity: &peer.activity,
            upgrade: None,
            revocations: None,
            target,
            origin,
            pool: &peer.pool,
            times: &mut times,
            tap: TapSlot::default(),
            tokens: RequestTokens::default(),
            turn,
            judgement: None,
        });
        let Ok(Forwarded::Answer(response)) = Box::pin(forwarded).await else { return None };
        let (head, body) = response.into_parts();
        if !head.status.is_success() {
            return None;
        }
        self.shown(&head, body, &upstream.name).await.ok()
    }

    /// Reads a list, and removes the entries that are not shown of it.
    async fn shown(
        &self,
        head: &http::response::Parts,
        body: ResponseBody,
        upstream: &str,
    ) -> Result<Bytes, &'static str> {
        if head.headers.contains_key(CONTENT_ENCODING) || head.status == StatusCode::PARTIAL_CONTENT {
            return Err("the list of models is compressed, or a part of the list");
        }
        let list = Limited::new(body, LONGEST_LIST).collect().await;
        let list = list.map_err(|_| "the list of models is too long, or broke")?.to_bytes();
        let routes = &self.snapshot.routes;
        let may_see = |name: &str| {
            let mut models = self.principal.iter().flat_map(Principal::models);
            routes.leads_to(name, upstream, &self.upstream.name)
                && models.all(|models| self.naming.is_allowed(models, name))
        };
        Ok(filtered(&list, may_see).map_err(|_| "the answer is no list of models")?.into())
    }

    fn broken(&self, reason: &'static str) -> Denial {
        Denial::upstream_protocol(&self.upstream.name).caused_by(reason)
    }
}

/// Removes the headers that hold for the whole list only.
fn without_length(headers: &mut HeaderMap) {
    for name in [CONTENT_LENGTH, ETAG, LAST_MODIFIED] {
        headers.remove(name);
    }
}
