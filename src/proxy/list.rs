//! The answer to a request for the list of models, for a key that may use some of them.

use std::sync::Arc;

use http::header::{
    ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE,
    IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED, RANGE,
};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::{BodyExt, Limited};

use crate::config::ModelIn;
use crate::denial::Denial;
use crate::forward::Forwarded;
use crate::forward::body::ResponseBody;
use crate::gate::Grant;
use crate::key_cache::LiveKey;
use crate::model::{ModelNaming, Named, filtered};

/// Longest list of models that is filtered, in bytes.
const LONGEST_LIST: usize = 8 * 1024 * 1024;

/// The filter of one answer: the models of a key, as a route's upstream names them.
pub(super) struct ListFilter {
    live: Arc<LiveKey>,
    naming: ModelNaming,
    upstream: Arc<str>,
}

impl ListFilter {
    /// Returns the filter of the answer to a granted request; `None` if the whole answer may be
    /// seen. `model`: the model of which the request asks for the entry.
    pub(super) fn of(grant: &Grant, model: &Named) -> Option<Self> {
        let route = grant.route();
        let is_list = route.model.place == ModelIn::List && *model == Named::Absent;
        let principal = grant.principal().filter(|_| is_list)?;
        principal.key().key.models()?;
        let (live, upstream) = (principal.shared_key().clone(), route.upstream.name.clone());
        Some(ListFilter { live, naming: route.model.naming, upstream })
    }

    /// Removes headers with which the upstream might answer with a part of the list, with a
    /// compressed list, or with none.
    pub(super) fn prepare(headers: &mut HeaderMap) {
        for name in [RANGE, IF_RANGE, IF_MATCH, IF_NONE_MATCH, IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE] {
            headers.remove(name);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }

    /// Removes the entries of models that the key may not use.
    ///
    /// # Errors
    ///
    /// 502 if the answer is no list that is known, or is too long.
    pub(super) async fn apply(self, forwarded: Forwarded, is_head: bool) -> Result<Forwarded, Denial> {
        let Forwarded::Answer(response) = forwarded else { return Ok(forwarded) };
        if !response.status().is_success() {
            return Ok(Forwarded::Answer(response));
        }
        let (mut head, body) = response.into_parts();
        for name in [CONTENT_LENGTH, ETAG, LAST_MODIFIED] {
            head.headers.remove(name);
        }
        if is_head {
            return Ok(Forwarded::Answer(Response::from_parts(head, body)));
        }
        let refuse = |reason: &'static str| Denial::upstream_protocol(&self.upstream).caused_by(reason);
        if head.headers.contains_key(CONTENT_ENCODING) || head.status == StatusCode::PARTIAL_CONTENT {
            return Err(refuse("the list of models is compressed, or a part of the list"));
        }
        let list = Limited::new(body, LONGEST_LIST).collect().await;
        let list = list.map_err(|_| refuse("the list of models is too long, or broke"))?.to_bytes();
        let may_see =
            |name: &str| self.live.key.models().is_none_or(|models| self.naming.is_allowed(models, name));
        let kept = filtered(&list, may_see).map_err(|_| refuse("the answer is no list of models"))?;
        head.headers.insert(CONTENT_LENGTH, HeaderValue::from(kept.len()));
        Ok(Forwarded::Answer(Response::from_parts(head, ResponseBody::own(kept.into()))))
    }
}
