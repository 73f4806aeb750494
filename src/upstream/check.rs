//! Asks an endpoint how it is.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::uri::{PathAndQuery, Scheme};
use http::{Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::compiled::Upstream;
use super::connect::{Connected, connect};
use super::endpoints::Endpoint;
use super::socket::Tap;

/// Why an endpoint is not well.
#[derive(Debug)]
pub(crate) enum CheckFailure {
    Connecting(io::Error),
    Asking(hyper::Error),
    Answered(StatusCode),
    TookTooLong,
}

impl std::fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CheckFailure::Connecting(error) => write!(f, "can't connect: {error}"),
            CheckFailure::Asking(error) => write!(f, "no answer: {error}"),
            CheckFailure::Answered(status) => write!(f, "it answers {status}"),
            CheckFailure::TookTooLong => f.write_str("no answer in time"),
        }
    }
}

/// Asks by a connection of its own, which is closed again, with what every request to the upstream has: its Host, and its
/// credential.
///
/// # Errors
///
/// What it answered where that is neither 2xx nor 3xx, or why it did not.
pub(crate) async fn check(
    endpoint: &Endpoint,
    path: &PathAndQuery,
    upstream: &Upstream,
    limit: Duration,
) -> Result<(), CheckFailure> {
    match tokio::time::timeout(limit, ask(endpoint, path, upstream)).await {
        Ok(Ok(status)) if status.is_success() || status.is_redirection() => Ok(()),
        Ok(Ok(status)) => Err(CheckFailure::Answered(status)),
        Ok(Err(why)) => Err(why),
        Err(_elapsed) => Err(CheckFailure::TookTooLong),
    }
}

async fn ask(
    endpoint: &Endpoint,
    path: &PathAndQuery,
    upstream: &Upstream,
) -> Result<StatusCode, CheckFailure> {
    let Connected { socket, protocol } = connect(endpoint, false).await.map_err(CheckFailure::Connecting)?;
    let host = upstream.host.clone().unwrap_or_else(|| endpoint.authority());
    let mut request = Request::new(Empty::<Bytes>::new());
    if let Some(credential) = &upstream.credential {
        request.headers_mut().insert(&credential.header, credential.value.clone());
    }
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("bearward-health"));
    let io = TokioIo::new(Tap(socket));
    if protocol.has_streams() {
        let scheme = if endpoint.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path.clone());
        *request.uri_mut() =
            uri.build().map_err(|error| CheckFailure::Connecting(io::Error::other(error)))?;
        let handshake = http2::Builder::new(TokioExecutor::new()).handshake(io).await;
        let (mut sender, connection) = handshake.map_err(CheckFailure::Asking)?;
        return answered(sender.send_request(request), connection).await;
    }
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = Uri::from(path.clone());
    let (mut sender, connection) = http1::handshake(io).await.map_err(CheckFailure::Asking)?;
    answered(sender.send_request(request), connection).await
}

/// The status of the answer. Whatever it has for a body goes with the connection.
async fn answered<B>(
    asking: impl Future<Output = hyper::Result<http::Response<B>>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<StatusCode, CheckFailure> {
    let (asking, connection) = (std::pin::pin!(asking), std::pin::pin!(connection));
    match futures_util::future::select(asking, connection).await {
        futures_util::future::Either::Left((answer, _)) => {
            answer.map(|answer| answer.status()).map_err(CheckFailure::Asking)
        }
        futures_util::future::Either::Right((ended, asking)) => {
            ended.map_err(CheckFailure::Asking)?;
            asking.await.map(|answer| answer.status()).map_err(CheckFailure::Asking)
        }
    }
}
