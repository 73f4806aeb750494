//! Sockets to upstream: made, watched while they wait, and counted while they are written to.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Endpoint;
use super::pool::{CONNECTION_WINDOW, MAX_HEAD_BYTES, MAX_READ_BYTES};
use crate::config;

/// A silent connection is probed after this long,
const PROBE_AFTER: Duration = Duration::from_secs(30);
/// … so often,
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// … and so many times.
const PROBES: u32 = 3;

/// The socket under a connection that hyper drives, shared so that a lease can look at it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: Mutex<Stream>,
    written: AtomicU64,
    /// Bytes that may still be read before something comes of them.
    room: AtomicUsize,
}

/// A connected socket of any kind.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection whose protocol is agreed.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) socket: Arc<Socket>,
    pub(super) is_http2: bool,
}

/// Connects to an endpoint. `needs_http1`: HTTP/2 is not offered.
///
/// # Errors
///
/// What the system or the TLS handshake said.
pub(super) async fn connect(endpoint: &Endpoint, needs_http1: bool) -> io::Result<Connected> {
    let (stream, is_http2) = match &endpoint.address {
        config::Endpoint::Unix(path) => (Stream::Unix(UnixStream::connect(path).await?), false),
        config::Endpoint::Http(authority) => (Stream::Tcp(dial_tcp(authority, 80).await?), false),
        config::Endpoint::H2c(authority) => (Stream::Tcp(dial_tcp(authority, 80).await?), true),
        config::Endpoint::Https(authority) => {
            let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "the endpoint has no server name");
            let tls = endpoint.tls.as_ref().ok_or_else(no_name)?;
            let name = tls.name_for(split(authority).0).ok_or_else(no_name)?;
            let stream = dial_tcp(authority, 443).await?;
            let stream = TlsConnector::from(tls.config(needs_http1)).connect(name, stream).await?;
            let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (Stream::Tls(Box::new(stream)), is_http2)
        }
    };
    let (stream, room) =
        (Mutex::new(stream), AtomicUsize::new(if is_http2 { HTTP2_ROOM } else { usize::MAX }));
    let socket = Arc::new(Socket { stream, written: AtomicU64::new(0), room });
    Ok(Connected { socket, is_http2 })
}

async fn dial_tcp(authority: &str, default_port: u16) -> io::Result<TcpStream> {
    let stream = match authority.parse::<SocketAddr>() {
        // No resolver, and so no thread, for a literal address.
        Ok(address) => TcpStream::connect(address).await?,
        Err(_) => {
            let (host, port) = split(authority);
            TcpStream::connect(format!("{host}:{}", port.unwrap_or(default_port))).await?
        }
    };
    // Small writes of a stream must not wait for an acknowledgement.
    stream.set_nodelay(true)?;
    // A server that is gone without a word is noticed by the kernel. Pings of HTTP/2 would notice it, too, but gRPC
    // servers end connections that ping oftener than every five minutes.
    let keepalive =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL).with_retries(PROBES);
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(PROBE_AFTER + PROBE_INTERVAL * PROBES))?;
    Ok(stream)
}

/// Host and port of an authority. An IPv6 address keeps its brackets.
fn split(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (authority, None),
        },
        None => (authority, None),
    }
}

/// Upstream sends and sends, and nothing comes of it.
#[derive(Debug)]
pub(crate) struct Flooded;

impl std::fmt::Display for Flooded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("more interim answers than an answer may have")
    }
}

impl std::error::Error for Flooded {}

/// What may come before the head of an answer is whole: itself, interim answers, and what is read along with it.
/// hyper drops interim answers (RFC 9110, section 15.2) without counting them.
const HEAD_ROOM: usize = MAX_HEAD_BYTES + MAX_READ_BYTES;
/// On HTTP/2, what may come on a connection while none of its answers gets on: the windows of all its streams twice, since clients
/// may be slow.
const HTTP2_ROOM: usize = 2 * CONNECTION_WINDOW as usize;

impl Socket {
    /// A request goes out: its answer's head must come within bounds.
    pub(super) fn expects_head(&self) {
        self.room.store(HEAD_ROOM, Ordering::Relaxed);
    }

    /// The head has come: what follows is a body, of any length.
    pub(super) fn head_came(&self) {
        self.room.store(usize::MAX, Ordering::Relaxed);
    }

    /// On HTTP/2, something has come of what was read.
    pub(super) fn progressed(&self) {
        self.room.store(HTTP2_ROOM, Ordering::Relaxed);
    }

    /// Counts what was read while a head is due.
    fn count_read(&self, bytes: usize) {
        let room = self.room.load(Ordering::Relaxed);
        if room != usize::MAX {
            self.room.store(room.saturating_sub(bytes), Ordering::Relaxed);
        }
    }
    /// Bytes that were written so far.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether nothing has arrived, not even the end: one look at the kernel's buffer, since what the
    /// runtime knows of the socket may be older than the end that upstream sent.
    pub(super) fn is_quiet(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let seen = self.look(|socket| socket.peek(&mut byte));
        matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the other end has closed, whatever it sent before.
    pub(super) fn has_hung_up(&self) -> bool {
        self.look(|socket| {
            let mut watched = [PollFd::new(&*socket, PollFlags::RDHUP)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(1..))
        })
    }

    fn look<T>(&self, look: impl FnOnce(SockRef<'_>) -> T) -> T {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match &*stream {
            Stream::Tcp(stream) => look(SockRef::from(stream)),
            Stream::Unix(stream) => look(SockRef::from(stream)),
            Stream::Tls(stream) => look(SockRef::from(stream.get_ref().0)),
        }
    }
}

/// hyper's handle on a [`Socket`].
pub(super) struct Tap(pub(super) Arc<Socket>);

impl Tap {
    fn with<T>(&self, act: impl FnOnce(Pin<&mut dyn Duplex>) -> T) -> T {
        let mut stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *stream {
            Stream::Tcp(stream) => act(Pin::new(stream)),
            Stream::Unix(stream) => act(Pin::new(stream)),
            Stream::Tls(stream) => act(Pin::new(stream)),
        }
    }

    fn count(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.0.written.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for Tap {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.0.room.load(Ordering::Relaxed) == 0 {
            return Poll::Ready(Err(io::Error::other(Flooded)));
        }
        let before = buf.filled().len();
        let read = self.with(|stream| stream.poll_read(cx, buf));
        self.0.count_read(buf.filled().len() - before);
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.with(|stream| stream.poll_write(cx, buf));
        self.count(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.with(|stream| stream.poll_write_vectored(cx, bufs));
        self.count(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_perhaps_a_port() {
        assert_eq!(split("model"), ("model", None));
        assert_eq!(split("model:8000"), ("model", Some(8000)));
        assert_eq!(split("[::1]"), ("[::1]", None));
        assert_eq!(split("[::1]:81"), ("[::1]", Some(81)));
    }
}
