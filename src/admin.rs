//! The admin listener: probes, for now. They are open to all and say nothing but their state.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::denial::Denial;
use crate::forward::headers::X_REQUEST_ID;
use crate::net::listen::{Bound, Stream};
use crate::observe;

/// Connections at once: probes need few, and nobody else should take descriptors from the data path.
const MAX_CONNECTIONS: usize = 64;
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Behind an error of accept, descriptors that ran out most likely.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// Serves until the process ends: `/livez` answers to the last, `/readyz` says when traffic should go elsewhere.
pub(crate) async fn serve(bound: Bound, stopping: watch::Receiver<bool>) {
    let local = bound.local().clone();
    if let Err(error) = accept_all(bound, stopping).await {
        tracing::error!(listener = %local, %error, "the admin listener ended");
    }
}

async fn accept_all(bound: Bound, stopping: watch::Receiver<bool>) -> std::io::Result<()> {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let listener = bound.into_listener()?;
    loop {
        let permit = permits.clone().acquire_owned().await.ok();
        match listener.accept().await {
            Ok((Stream::Tcp(stream), _)) => {
                let stream = TcpStream::from_std(stream)?;
                drop(tokio::spawn(connection(stream, stopping.clone(), permit)));
            }
            Ok((Stream::Unix(stream), _)) => {
                let stream = UnixStream::from_std(stream)?;
                drop(tokio::spawn(connection(stream, stopping.clone(), permit)));
            }
            Err(_) => tokio::time::sleep(ACCEPT_BACKOFF).await,
        }
    }
}

async fn connection<S>(
    stream: S,
    stopping: watch::Receiver<bool>,
    _permit: Option<tokio::sync::OwnedSemaphorePermit>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let is_stopping = *stopping.borrow();
        async move { Ok::<_, Infallible>(answer(&request, is_stopping)) }
    });
    let _ended = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn answer(request: &Request<Incoming>, is_stopping: bool) -> Response<Full<Bytes>> {
    let mut response = decide(request, is_stopping);
    response.headers_mut().insert(X_REQUEST_ID, observe::request_id(request.headers()));
    response
}

fn decide(request: &Request<Incoming>, is_stopping: bool) -> Response<Full<Bytes>> {
    let is_look = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/livez" | "/healthz" if is_look => state("ok"),
        "/readyz" if is_look && is_stopping => Denial::shutting_down().into_http().map(Full::new),
        "/readyz" if is_look => state("ready"),
        path => Denial::route_not_found(request.method().as_str(), path).into_http().map(Full::new),
    }
}

fn state(word: &'static str) -> Response<Full<Bytes>> {
    let body = format!("{{\"status\":\"{word}\"}}\n");
    let mut response = Response::new(Full::new(Bytes::from(body)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
