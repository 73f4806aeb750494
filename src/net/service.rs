//! Passes requests from hyper to `proxy`, so that the request path does not use hyper's types.

use std::sync::Arc;

use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::forward::body::ResponseBody;
use crate::protocol::Protocol;
use crate::proxy::{self, Peer, StreamRefused, door};
use crate::upstream::request_body::RequestBody;

/// Answers a request that hyper has read: of a client, or of another proxy that asks.
pub(super) fn serve(
    peer: Arc<Peer>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<ResponseBody>, h2::Error>> {
    let (parts, incoming) = request.into_parts();
    let body = RequestBody::new(incoming, Protocol::from(parts.version));
    match peer.door {
        None => Either::Left(proxy::serve(peer, parts, body)),
        Some(door) => Either::Right(Box::pin(door::serve(peer, door, parts, body))),
    }
}

/// Converts a [`StreamRefused`] to an `h2::Error`: hyper resets a stream with the reason of that
/// error type.
impl From<StreamRefused> for h2::Error {
    fn from(_: StreamRefused) -> Self {
        h2::Reason::REFUSED_STREAM.into()
    }
}
