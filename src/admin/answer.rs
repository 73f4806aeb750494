//! Builds the answers of the admin listener.

use std::convert::Infallible;

use bytes::Bytes;
use http::Response;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};

/// The body of an answer: bytes, or a stream.
pub(super) type AdminBody = UnsyncBoxBody<Bytes, Infallible>;

/// Returns an answer whose JSON body is `{"success": true, "data": …}`.
pub(super) fn data(value: &Value) -> Response<AdminBody> {
    typed(format!("{}\n", json!({"success": true, "data": value})), "application/json")
}

pub(super) fn typed(body: String, content_type: &'static str) -> Response<AdminBody> {
    let mut response = Response::new(whole(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    // Caches must not store these answers, because the answers contain current figures and names of
    // keys.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

pub(super) fn whole(bytes: Bytes) -> AdminBody {
    Full::new(bytes).boxed_unsync()
}
