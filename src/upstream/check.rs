//! The active health check: one request to one endpoint.
//!
//! `app::checks` runs a check at each configured interval.
//! Invariant: a check uses a connection of its own, so it neither uses nor closes a pooled
//! connection.

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
use super::socket::SocketIo;

/// Reason for a failed health check.
#[derive(Debug)]
pub(crate) enum CheckFailure {
    /// No connection to the endpoint could be made.
    Connect(io::Error),
    /// The connection broke before the head of an answer had arrived.
    Exchange(hyper::Error),
    /// The status of the answer was neither 2xx nor 3xx.
    BadStatus(StatusCode),
    /// No answer arrived before the check's timeout.
    Timeout,
}

impl std::fmt::Display for CheckFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CheckFailure::Connect(error) => write!(f, "can't connect: {error}"),
            CheckFailure::Exchange(error) => write!(f, "no answer: {error}"),
            CheckFailure::BadStatus(status) => write!(f, "it answers {status}"),
            CheckFailure::Timeout => f.write_str("no answer in time"),
        }
    }
}

/// Sends one GET to the endpoint on a new connection, and closes that connection.
///
/// The request has the upstream's Host and credential, like every forwarded request.
///
/// # Errors
///
/// Fails if no connection can be made, or if the endpoint sends another status than 2xx or 3xx, or
/// no answer within `limit`.
pub(crate) async fn check(
    endpoint: &Endpoint,
    path: &PathAndQuery,
    upstream: &Upstream,
    limit: Duration,
) -> Result<(), CheckFailure> {
    match tokio::time::timeout(limit, request_status(endpoint, path, upstream)).await {
        Ok(Ok(status)) if status.is_success() || status.is_redirection() => Ok(()),
        Ok(Ok(status)) => Err(CheckFailure::BadStatus(status)),
        Ok(Err(failure)) => Err(failure),
        Err(_elapsed) => Err(CheckFailure::Timeout),
    }
}

async fn request_status(
    endpoint: &Endpoint,
    path: &PathAndQuery,
    upstream: &Upstream,
) -> Result<StatusCode, CheckFailure> {
    let Connected { socket, protocol } = connect(endpoint, false).await.map_err(CheckFailure::Connect)?;
    let host = upstream.requests.host.clone().unwrap_or_else(|| endpoint.authority());
    let mut request = Request::new(Empty::<Bytes>::new());
    if let Some(credential) = &upstream.requests.credential {
        request.headers_mut().insert(&credential.header, credential.value.clone());
    }
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("bearward-health"));
    let io = TokioIo::new(SocketIo(socket));
    if protocol.has_streams() {
        let scheme = if endpoint.is_tls() { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(host.as_bytes()).path_and_query(path.clone());
        *request.uri_mut() = uri.build().map_err(|error| CheckFailure::Connect(io::Error::other(error)))?;
        let handshake = http2::Builder::new(TokioExecutor::new()).handshake(io).await;
        let (mut sender, connection) = handshake.map_err(CheckFailure::Exchange)?;
        return answer_status(sender.send_request(request), connection).await;
    }
    request.headers_mut().insert(HOST, host);
    *request.uri_mut() = Uri::from(path.clone());
    let (mut sender, connection) = http1::handshake(io).await.map_err(CheckFailure::Exchange)?;
    answer_status(sender.send_request(request), connection).await
}

/// Drives the connection until the answer's head has arrived, and returns the answer's status. Then
/// the connection is dropped, and with it the answer's body.
async fn answer_status<B>(
    sending: impl Future<Output = hyper::Result<http::Response<B>>>,
    connection: impl Future<Output = hyper::Result<()>>,
) -> Result<StatusCode, CheckFailure> {
    let (sending, connection) = (std::pin::pin!(sending), std::pin::pin!(connection));
    match futures_util::future::select(sending, connection).await {
        futures_util::future::Either::Left((answer, _)) => {
            answer.map(|answer| answer.status()).map_err(CheckFailure::Exchange)
        }
        futures_util::future::Either::Right((ended, sending)) => {
            ended.map_err(CheckFailure::Exchange)?;
            sending.await.map(|answer| answer.status()).map_err(CheckFailure::Exchange)
        }
    }
}
