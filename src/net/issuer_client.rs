//! The HTTPS client for the keys of issuers.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CACHE_CONTROL, ETAG, HeaderValue, IF_NONE_MATCH};
use http::{HeaderMap, Request};
use http_body_util::Empty;

use super::https::{exchange, tls_config};
use crate::identity::{Document, Wanted};

/// Longest ETag that is kept, in bytes.
const LONGEST_TAG: usize = 1024;

/// Asks for a document. The caller limits the time.
///
/// # Errors
///
/// The server can't be reached, or its answer is not valid HTTP or too long.
pub(crate) async fn fetch(wanted: Wanted) -> anyhow::Result<Document> {
    let Wanted { url, ca, authorization, tag, most_bytes } = wanted;
    // The authorities are read each time, since their file may have changed.
    let config = tls_config(ca.as_deref()).map_err(|faults| anyhow::anyhow!("{faults}"))?;
    let mut request = Request::get(&url).header(ACCEPT, "application/json");
    if let Some(tag) = tag {
        request = request.header(IF_NONE_MATCH, tag);
    }
    if let Some(authorization) = authorization {
        let mut value = HeaderValue::try_from(authorization.as_str())?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    let response = exchange(&config, request.body(Empty::<Bytes>::new())?, most_bytes).await?;
    let (head, body) = response.into_parts();
    let tag = head.headers.get(ETAG).and_then(|tag| tag.to_str().ok());
    let tag = tag.filter(|tag| tag.len() <= LONGEST_TAG).map(str::to_owned);
    Ok(Document { status: head.status.as_u16(), tag, max_age: max_age(&head.headers), body })
}

/// Returns how long a document holds (RFC 9111, section 5.2.2.1).
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    let values = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut directives = values.flat_map(|value| value.split(','));
    let seconds = directives.find_map(|directive| directive.trim().strip_prefix("max-age=")?.parse().ok())?;
    Some(Duration::from_secs(seconds))
}
