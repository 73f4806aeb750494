//! One connection: its TLS handshake, its protocol, and its requests until it ends.

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
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;

use super::http2;
use super::linger::Returning;
use super::listen::{Accepted, Stream};
use super::phase::WireTimeouts;
use super::presence::Peered;
use super::service;
use super::wire::{Refuse, Wire};
use crate::activity::ConnectionActivity;
use crate::config::Limits;
use crate::denial::Denial;
use crate::forward::body::ResponseBody;
use crate::observe::observer::Observer;
use crate::observe::{self, RequestRecord, Times, X_REQUEST_ID};
use crate::proxy::Peer;

/// What a client of HTTP/2 with prior knowledge sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The headers that hyper's HTTP/1 takes unless told otherwise.
const HYPERS_HEADER_COUNT: usize = 100;
/// When the process stops, a client that has just connected may still ask for this long,
const FRESH_GRACE: Duration = Duration::from_secs(1);
/// … and one that has asked before for this long.
const IDLE_GRACE: Duration = Duration::from_millis(300);
/// A client that is refused whatever it asks gets this long to ask.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http1,
    Http2,
}

/// Serves a connection until it ends. Errors end it and are nobody else's concern.
///
/// Each stage has a box of its own, which goes when the next begins: so an idle connection holds no more than the stage
/// that it is in needs.
pub(crate) async fn serve(accepted: Accepted, peer: Peer, shutdown: watch::Receiver<bool>) {
    let Accepted { stream, tls, permit, member, .. } = accepted;
    let activity = peer.activity.clone();
    let serving = match stream {
        Stream::Unix(stream) => UnixStream::from_std(stream).map(|stream| begin(stream, tls, peer, shutdown)),
        Stream::Tcp(stream) => TcpStream::from_std(stream).map(|stream| begin(stream, tls, peer, shutdown)),
    };
    let serving = async {
        match serving?.await? {
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

/// A stage of a connection.
type Stage<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// The last one.
type Serving = Stage<()>;

/// The first stage: all that comes before HTTP. It yields the next, unless the connection has ended.
fn begin<S>(
    stream: S,
    tls: Option<Arc<rustls::ServerConfig>>,
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
        Some(config) => Box::pin(serve_tls(stream, config, peer, limits, shutdown)),
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
        // A client that has sent nothing yet is not waited for much longer.
        () = grace_is_over(shutdown.clone()) => return Ok(None),
    };
    let (protocol, ahead) = sniffed??;
    Ok(Some(serve_http(stream, ahead, protocol, peer, limits, shutdown)))
}

async fn serve_tls<S>(
    stream: S,
    config: Arc<rustls::ServerConfig>,
    peer: Peer,
    limits: Limits,
    shutdown: watch::Receiver<bool>,
) -> io::Result<Option<Serving>>
where
    S: AsyncRead + AsyncWrite + Peered + Unpin + Send + 'static,
{
    let shaken = {
        let mut handshake = Box::pin(TlsAcceptor::from(config).accept(stream));
        let in_time = timeout(limits.handshake_timeout, handshake.as_mut());
        tokio::select! {
            shaken = in_time => shaken,
            () = grace_is_over(shutdown.clone()) => return Ok(None),
        }
    };
    let stream = shaken??;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let protocol = if is_http2 { Protocol::Http2 } else { Protocol::Http1 };
    Ok(Some(serve_http(stream, Bytes::new(), protocol, peer, limits, shutdown)))
}

/// Ready when the process has been told to stop, and a client that has just connected had its time to ask.
async fn grace_is_over(mut shutdown: watch::Receiver<bool>) {
    drop(shutdown.wait_for(|stop| *stop).await);
    tokio::time::sleep(FRESH_GRACE).await;
}

/// Reads until it is clear whether HTTP/2's preface comes.
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
            let wire = wire.refusing(refusals(peer.observer.clone(), peer.address, limits));
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

/// How connections of HTTP/1 are served.
struct Http1 {
    builder: http1::Builder,
    peer: Arc<Peer>,
    drain_timeout: Duration,
}

impl Http1 {
    fn new(peer: Peer, limits: Limits) -> Self {
        // A head may be as large as its two parts may be; which of them is too large, the guard says.
        let head_bytes = usize::try_from(limits.header_bytes + limits.uri_bytes).unwrap_or(usize::MAX);
        let mut builder = http1::Builder::new();
        builder
            .max_buf_size(head_bytes.max(8192).saturating_add(1024))
            // The wire has the timers.
            .header_read_timeout(None);
        if limits.header_count != HYPERS_HEADER_COUNT {
            // Said only where it differs: hyper then fills a list of this length for every head.
            builder.max_headers(limits.header_count);
        }
        Http1 { builder, peer: Arc::new(peer), drain_timeout: limits.drain_timeout }
    }

    /// Hands a wire to hyper.
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
    // From the word to stop on, every answer closes its connection. So one that is in use ends with its next answer,
    // and no request crosses the end of its connection on the way; one that is not in use ends a moment later.
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
            // hyper has had its turn, and waits.
            () = poll_fn(|_| if activity.may_rest() { Poll::Ready(()) } else { Poll::Pending }) => true,
            // Asked at first, so that it wakes us, and then only between requests or once the process ends: a request that
            // is in service need not pay for it.
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
                // The rest of a head that does not come is not waited for.
                () = watch_idle(&activity, FRESH_GRACE, ConnectionActivity::is_quiet) => Ok(()),
            };
        }
        // Between two requests, far apart: hyper's buffers, and room for a request's course, are given back meanwhile.
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
                // A client that reads nothing is not waited for.
                break timeout(FRESH_GRACE, wire.shutdown()).await.unwrap_or(Ok(()));
            }
        }
    };
    // What HTTP has ended with may be another protocol's beginning.
    let opened = http.peer.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(opened) = opened {
        // It has no end of its own: what it may have of the drain's time, it has to the full but for a last moment.
        let over = async {
            drop(after_shutdown.wait_for(|stop| *stop).await);
            tokio::time::sleep(http.drain_timeout - http.drain_timeout / 10).await;
        };
        opened.run(over).await;
    }
    ended
}

/// Ends when the connection has been idle, as `is_idle` has it, and no request has come for `limit`.
pub(super) async fn watch_idle(
    activity: &ConnectionActivity,
    limit: Duration,
    is_idle: fn(&ConnectionActivity) -> bool,
) {
    let mut seen = activity.begun();
    let mut since = Instant::now();
    loop {
        tokio::time::sleep_until(since + limit).await;
        if is_idle(activity) && activity.begun() == seen {
            return;
        }
        // Looked at once a limit: an idle connection lives for up to twice as long, and a busy one costs nothing.
        seen = activity.begun();
        since = Instant::now();
    }
}

/// Our answers in the place of hyper's own refusals.
pub(crate) fn refusals(observer: Arc<Observer>, client: Option<IpAddr>, limits: Limits) -> Refuse {
    Box::new(move |status, seen| {
        let denial = match status {
            // hyper can't tell a request line that is too long from headers that are.
            414 => Denial::uri_too_long(limits.uri_bytes),
            431 if seen.lines == 0 => Denial::uri_too_long(limits.uri_bytes),
            // … nor a Content-Length that is no length from either.
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
        serialized(&response)
    })
}

/// An HTTP/1.1 message, as hyper would have written it.
fn serialized(response: &http::Response<Bytes>) -> Bytes {
    let mut message = Vec::with_capacity(512);
    let status = response.status();
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
