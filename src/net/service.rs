//! hyper's service on a connection: its types on one side, the request path on the other.

use std::sync::Arc;

use futures_util::TryFutureExt;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::forward::body::ResponseBody;
use crate::protocol::Protocol;
use crate::proxy::{self, Peer, StreamRefused};
use crate::upstream::request_body::RequestBody;

/// Answers a request that hyper has read.
pub(super) fn serve(
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, h2::Error>> {
    let (parts, incoming) = request.into_parts();
    let body = RequestBody::new(incoming, Protocol::from(parts.version));
    proxy::serve(peer, parts, body).map_err(|StreamRefused| refused_stream())
}

/// hyper resets a stream with the reason of an error of h2's.
pub(super) fn refused_stream() -> h2::Error {
    h2::Reason::REFUSED_STREAM.into()
}
