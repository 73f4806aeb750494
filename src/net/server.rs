//! A plain HTTP/1.1 server on one connection: for the admin listener and the demo's model server.
//!
//! Connections of proxied clients are served by `net::conn`.

use std::convert::Infallible;
use std::future::Future;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::body::IncomingBody;

/// The size limit of a request's head, in bytes.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Serves requests on `stream` until the connection ends. This function sets no time limits.
pub(crate) async fn serve<S, F, B>(stream: S, answer: impl Fn(Request<IncomingBody>) -> F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes, Error = Infallible> + 'static,
{
    let service = service_fn(|request: Request<Incoming>| {
        let answered = answer(request.map(IncomingBody));
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let _ended = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
