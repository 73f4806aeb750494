//! A plain HTTP/1.1 client: for commands that ask the admin listener, and for the export of traces.
//!
//! Requests to upstreams are sent by `upstream::pool`.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;

use crate::config::Address;

/// The most bytes of an answer's body that [`post`] reads.
const MAX_ANSWER: usize = 64 * 1024;

/// The body of an answer. Dropping it aborts the task that drives the connection.
pub(crate) struct Answer {
    body: Incoming,
    _connection: JoinSet<()>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

/// A stream of any kind. There is one client for all of them, since none is called often.
trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;

/// Opens a connection, sends a request on it, and returns the answer.
///
/// # Errors
///
/// Fails if no connection can be opened, or if the answer is not valid HTTP.
pub(crate) async fn send<B>(address: &Address, request: Request<B>) -> anyhow::Result<Response<Answer>>
where
    B: Body<Data = Bytes, Error: Into<Error>> + Send + 'static,
{
    match address {
        Address::Tcp(address) => send_on(TcpStream::connect(address).await?, request).await,
        Address::Unix(path) => send_on(UnixStream::connect(path).await?, request).await,
    }
}

/// Sends a request on a connection of its own, and returns the answer.
///
/// # Errors
///
/// Fails if the answer is not valid HTTP.
pub(super) async fn send_on<S, B>(stream: S, request: Request<B>) -> anyhow::Result<Response<Answer>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    B: Body<Data = Bytes, Error: Into<Error>> + Send + 'static,
{
    let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
    send_boxed(Box::new(stream), request).await
}

async fn send_boxed(
    stream: Box<dyn Io>,
    request: Request<UnsyncBoxBody<Bytes, Error>>,
) -> anyhow::Result<Response<Answer>> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let mut task = JoinSet::new();
    task.spawn(async move {
        // An error of the connection is ignored here, because it also makes the request fail, and
        // the failed request reports the error.
        let _ended = connection.await;
    });
    let response = sender.send_request(request).await?;
    Ok(response.map(|body| Answer { body, _connection: task }))
}

/// Sends a request to `HOST:PORT`, and returns the status of the answer.
///
/// # Errors
///
/// Fails with the same errors as [`send`].
pub(crate) async fn post(authority: &str, request: Request<Full<Bytes>>) -> anyhow::Result<StatusCode> {
    let (head, body) = send(&Address::Tcp(authority.to_owned()), request).await?.into_parts();
    let _read_to_its_end = Limited::new(body, MAX_ANSWER).collect().await;
    Ok(head.status)
}
