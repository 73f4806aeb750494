//! Serves one client connection: does the TLS handshake, detects the protocol, and serves requests
//! until the connection ends.

use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use hyper::body::Incoming;
use hyper::server::conn::http1::{self, UpgradeableConnection};
use hyper::service::{HttpService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authority;
use super::client_certificate;
use super::http2;
use super::linger::Returning;
use super::listen::{Accepted, Stream};
use super::phase::WireTimeouts;
use super::presence::Peered;
use super::service;
use super::tls;
use super::waits::{FRESH_GRACE, REFUSAL_TIME, grace_is_over, watch_idle};
use super::wire::{Refuse, Wire};
use crate::activity::ConnectionActivity;
use crate::config::Limits;
use crate::denial::Denial;
use crate::forward::body::ResponseBody;
use crate::observe::observer::Observer;
use crate::observe::{self, RequestRecord, Times, X_REQUEST_ID};
use crate::proxy::{Edge, Peer};

/// The connection preface, which every HTTP/2 client sends first (RFC 9113, section 3.4). Without
/// TLS, it distinguishes HTTP/2 from HTTP/1.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The number of headers that hyper's HTTP/1 server accepts by default.
const HYPERS_HEADER_COUNT: usize = 100;
/// Time, after the process began to stop, in which a client that has sent requests before may send
/// another request.
const IDLE_GRACE: Duration = Duration::from_millis(300);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Serves a connection until it ends. An error ends this connection only.
///
/// Each stage of the connection is boxed separately, and its box is freed when the next stage
/// begins. An idle connection therefore uses no more memory than its current stage needs.
pub(crate) async fn serve(accepted: Accepted, peer: Peer, shutdown: watch::Receiver<bool>) {
    let Accepted { stream, tls, permit, standing, proxied, .. } = accepted;
    let activity = peer.activity.clone();
    let mut member = standing.member;
    let of_client = &mut member;
    let serving = async move {
        let stage = match stream {
            Stream::Unix(stream) => begin(UnixStream::from_std(stream)?, tls, peer, shutdown),
            Stream::Tcp(stream) => match proxied {
                None => begin(TcpStream::from_std(stream)?, tls, peer, shutdown),
                // The future is boxed, because few connections come from a balancer.
                Some(proxied) => {
                    let identified = proxied.identify(TcpStream::from_std(stream)?, peer, shutdown.clone());
                    let Some((stream, peer, counted)) = Box::pin(identified).await? else { return Ok(()) };
                    *of_client = counted;
                    begin(stream, tls, peer, shutdown)
                }
            },
        };
        match stage.await? {
            Some(http) => http.await,
            None => Ok(()),
        }
    };
    let mut is_watched = false;
    let served = tokio::select! {
        biased;
        served = serving => served,
        () = poll_fn(|cx| activity.poll_cut(cx, &mut is_watched)) => Err(io::ErrorKind::ConnectionAborted.into()),
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
    drop((permit, member));
}

/// The future of one stage of a connection.
type Stage<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// The last stage of a connection, which serves HTTP.
type Serving = Stage<()>;

/// Returns the first stage of a connection, which does all that precedes HTTP. It resolves to the
/// next stage, or to `None` if the connection has ended.
fn begin<S>(
    stream: S,
    tls: Option<tls::Serving>,
    peer: Peer,
    shutdown: watch::Receiver<bool>,
) -> Stage<Option<Serving>>
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let mut limits = peer.gateway.snapshot.load().limits;
    if peer.over_limit.is_some() {
        limits.header_timeout = limits.header_timeout.min(REFUSAL_TIME);
    }
    match tls {
        None => Box::pin(serve_plain(stream, peer, limits, shutdown)),
        Some(tls) if tls.tls.acme.is_none() => Box::pin(serve_tls(stream, tls, peer, limits, shutdown)),
        Some(tls) => Box::pin(serve_by_hello(stream, tls, peer, limits, shutdown)),
    }
}

async fn serve_plain<S>(
    mut stream: S,
    peer: Peer,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Option<Serving>>
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let sniffed = tokio::select! {
        sniffed = timeout(limits.header_timeout, sniff(&mut stream)) => sniffed,
        // When the process stops, a client that has sent nothing has only `FRESH_GRACE` left.
        () = grace_is_over(shutdown.clone()) => return Ok(None),
    };
    let (protocol, ahead) = sniffed??;
    Ok(Some(serve_http(stream, ahead, protocol, peer, limits, shutdown)))
}

async fn serve_tls<S>(
    stream: S,
    tls: tls::Serving,
    peer: Peer,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Option<Serving>>
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let handshake = Box::pin(TlsAcceptor::from(tls.tls.config.clone()).accept(stream));
    let shaken =
        in_time(handshake, limits, shutdown.clone()).await.inspect_err(|error| report(&peer, error))?;
    Ok(shaken.map(|stream| serve_shaken(stream, &tls, peer, limits, shutdown)))
}

/// Serves a listener that gets its certificate by itself, and whose handshakes may be those of an authority.
async fn serve_by_hello<S>(
    stream: S,
    tls: tls::Serving,
    peer: Peer,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Option<Serving>>
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let shaken = {
        let handshake = Box::pin(authority::accept(stream, &tls.tls, &peer.gateway.acme));
        in_time(handshake, limits, shutdown.clone())
            .await
            .inspect_err(|error| report(&peer, error))?
            .flatten()
    };
    Ok(shaken.map(|stream| serve_shaken(stream, &tls, peer, limits, shutdown)))
}

/// Waits for a handshake. Returns `None` if the process stops meanwhile.
async fn in_time<T>(
    handshake: Pin<Box<impl Future<Output = io::Result<T>>>>,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Option<T>> {
    tokio::select! {
        shaken = timeout(limits.handshake_timeout, handshake) => Ok(Some(shaken??)),
        () = grace_is_over(shutdown) => Ok(None),
    }
}

/// Tells the operator about a client that sent something else than TLS, such as a probe of a port that has got TLS
/// since: such a client sees no more than a closed connection. It can be a scanner, too.
fn report(peer: &Peer, error: &io::Error) {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let is_no_tls =
        matches!(error, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)));
    if is_no_tls && peer.edge.without_tls.is_due() {
        let client = peer.address.map(|address| address.to_string()).unwrap_or_default();
        let listener = peer.edge.listener.as_str();
        tracing::info!(
            listener,
            client,
            "a client sent no TLS to a listener with `tls`: does its URL begin with https://?"
        );
    }
}

/// Serves HTTP after a handshake.
fn serve_shaken<S>(
    stream: TlsStream<S>,
    tls: &tls::Serving,
    mut peer: Peer,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> Serving
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    // The certificate of a proxy that asks is the proxy's, and says nothing of its client.
    peer.certificate =
        if peer.door.is_none() { client_certificate::presented(stream.get_ref().1, tls) } else { None };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
    serve_http(stream, Bytes::new(), protocol, peer, limits, shutdown)
}

/// Reads until it is clear whether the client speaks HTTP/2. Returns the protocol, and the bytes
/// that were read.
async fn sniff<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Protocol, Bytes)> {
    let mut ahead = BytesMut::with_capacity(1024);
    loop {
        let read = stream.read_buf(&mut ahead).await?;
        let compared = ahead.len().min(PREFACE.len());
        if read == 0 || ahead.get(..compared) != PREFACE.get(..compared) {
            return Ok((Protocol::Http1, ahead.freeze()));
        }
        if compared == PREFACE.len() {
            return Ok((Protocol::Http2, ahead.freeze()));
        }
    }
}

fn serve_http<S>(
    stream: S,
    ahead: Bytes,
    protocol: Protocol,
    peer: Peer,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> Serving
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let activity = peer.activity.clone();
    let timeouts = WireTimeouts {
        header: limits.header_timeout,
        idle: limits.idle_timeout,
        client_stall: limits.client_stall_timeout,
    };
    match protocol {
        Protocol::Http1 => {
            let wire = Wire::new(stream, ahead, activity, timeouts);
            let wire =
                wire.refusing(refusals(peer.observer.clone(), peer.address, peer.edge.clone(), limits));
            Box::pin(serve_http1(Http1::new(peer, limits), Box::new(wire), shutdown))
        }
        Protocol::Http2 => {
            peer.activity.note_tasks();
            let (stream, left_behind) = Returning::new(stream);
            let wire = Wire::new(stream, ahead, activity, timeouts);
            let wire = wire.metered(u32::try_from(limits.header_bytes).unwrap_or(u32::MAX));
            Box::pin(async move {
                let ended = http2::serve(wire, peer, limits, shutdown).await;
                left_behind.say_farewell().await;
                ended
            })
        }
    }
}

/// hyper's configuration for an HTTP/1 connection, and the connection's peer.
struct Http1 {
    builder: http1::Builder,
    peer: Arc<Peer>,
    drain_timeout: Duration,
}

impl Http1 {
    fn new(peer: Peer, limits: Limits) -> Self {
        // hyper's buffer has room for a request line and headers that are both at their limits. The
        // guard reports which of the two is too large.
        let head_bytes = usize::try_from(limits.header_bytes + limits.uri_bytes).unwrap_or(usize::MAX);
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(head_bytes.max(8192).saturating_add(1024))
            // `Wire` has its own timer for heads.
            .header_read_timeout(None);
        if limits.header_count != HYPERS_HEADER_COUNT {
            // If the limit is set, hyper fills a list of this length for every head. The limit is
            // therefore set only if it differs from hyper's default.
            builder.max_headers(limits.header_count);
        }
        Http1 { builder, peer: Arc::new(peer), drain_timeout: limits.drain_timeout }
    }

    /// Makes hyper's connection object on `wire`, for a new connection or after a rest.
    fn wake<W>(
        &self,
        wire: W,
    ) -> Box<
        UpgradeableConnection<
            TokioIo<W>,
            impl HttpService<Incoming, ResBody = ResponseBody, Error = h2::Error, Future: Send> + use<W>,
        >,
    >
    where
        W: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let peer = self.peer.clone();
        let service = service_fn(move |request| service::serve(peer.clone(), request));
        Box::new(self.builder.serve_connection(TokioIo::new(wire), service).with_upgrades())
    }
}

async fn serve_http1<S>(
    http: Http1,
    mut wire: Box<Wire<S>>,
    mut shutdown: watch::Receiver<bool>,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let (activity, mut after_shutdown) = (http.peer.activity.clone(), shutdown.clone());
    let gateway = http.peer.gateway.clone();
    // Once the process begins to stop, every answer closes its connection. A connection in use
    // therefore ends with its next answer, and no request is lost; an idle connection ends after a
    // short grace.
    let mut drained = pin!(async {
        drop(shutdown.wait_for(|stop| *stop).await);
        let is_fresh = activity.begun() == 0;
        tokio::time::sleep(if is_fresh { FRESH_GRACE } else { IDLE_GRACE }).await;
    });
    let mut is_watched = false;
    let ended = loop {
        let mut connection = http.wake(wire);
        let at_rest = tokio::select! {
            biased;
            ended = &mut *connection => break ended.map_err(io::Error::other),
            // This branch is polled after hyper's branch, so hyper has nothing to do at the moment.
            () = poll_fn(|_| if activity.may_rest() { Poll::Ready(()) } else { Poll::Pending }) => true,
            // `drained` is polled once at the start, to register its waker. After that, `drained`
            // is polled only between requests or while the process stops, which saves work during
            // requests.
            () = poll_fn(|cx| {
                if is_watched && !activity.has_no_request() && !gateway.is_draining.load(Ordering::Relaxed) {
                    return Poll::Pending;
                }
                is_watched = true;
                drained.as_mut().poll(cx)
            }) => false,
        };
        if !at_rest {
            Pin::new(&mut *connection).graceful_shutdown();
            break tokio::select! {
                biased;
                ended = connection => ended.map_err(io::Error::other),
                // Ends the connection if the rest of a request head does not arrive in time.
                () = watch_idle(&activity, FRESH_GRACE, ConnectionActivity::is_quiet) => Ok(()),
            };
        }
        // The connection is idle between two requests. hyper's buffers and the request state are
        // freed until more bytes arrive.
        let Some(parts) = connection.into_parts() else { return Ok(()) };
        wire = parts.io.into_inner();
        drop(activity.lend_alarm());
        activity.note_resting(true);
        tokio::select! {
            biased;
            more = wire.rest(parts.read_buf) => match more {
                Ok(true) => activity.note_resting(false),
                Ok(false) | Err(_) => break wire.shutdown().await,
            },
            () = drained.as_mut() => {
                // Bounds the wait for a client that reads nothing.
                break timeout(FRESH_GRACE, wire.shutdown()).await.unwrap_or(Ok(()));
            }
        }
    };
    // After an answer with status 101, the connection continues as a tunnel.
    let opened = http.peer.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(opened) = opened {
        // A tunnel does not end by itself, so bearward ends it after nine tenths of the drain
        // timeout.
        let over = async {
            drop(after_shutdown.wait_for(|stop| *stop).await);
            tokio::time::sleep(http.drain_timeout - http.drain_timeout / 10).await;
        };
        opened.run(over).await;
    }
    ended
}

/// Returns the function that makes our answers to requests that hyper refuses.
pub(crate) fn refusals(
    observer: Arc<Observer>,
    client: Option<IpAddr>,
    edge: Arc<Edge>,
    limits: Limits,
) -> Refuse {
    Box::new(move |status, seen| {
        let denial = match status {
            // hyper does not distinguish a request line that is too long from headers that are too
            // large.
            414 => Denial::uri_too_long(limits.uri_bytes),
            431 if seen.lines == 0 => Denial::uri_too_long(limits.uri_bytes),
            // hyper also answers 431 to an invalid Content-Length.
            431 if seen.bytes as u64 <= limits.header_bytes && seen.lines <= limits.header_count => {
                Denial::bad_request("The request's framing is not valid")
            }
            431 => Denial::headers_too_large(limits.header_bytes, limits.header_count as u64),
            _ => Denial::bad_request("The request is not valid HTTP"),
        };
        let id = observe::refusal_id();
        let mut record =
            RequestRecord::open(&observer, &id, client, &http::Method::default(), "", http::Version::HTTP_11);
        record.denied(&denial);
        record.decided(Times::default());
        record.completed();
        let mut response = denial.closing().into_http();
        response.headers_mut().insert(X_REQUEST_ID, id);
        edge.write_to(response.headers_mut());
        serialized(&response)
    })
}

/// Serializes an answer as an HTTP/1.1 message, as hyper would write it.
fn serialized(response: &http::Response<Bytes>) -> Bytes {
    let mut message = Vec::with_capacity(512);
    let status = response.status();
    debug_assert!(status.canonical_reason().is_some(), "{status}");
    let reason = status.canonical_reason().unwrap_or_default();
    message.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
    for (name, value) in response.headers() {
        message.extend_from_slice(name.as_str().as_bytes());
        message.extend_from_slice(b": ");
        message.extend_from_slice(value.as_bytes());
        message.extend_from_slice(b"\r\n");
    }
    message.extend_from_slice(format!("content-length: {}\r\n\r\n", response.body().len()).as_bytes());
    message.extend_from_slice(response.body());
    Bytes::from(message)
}
