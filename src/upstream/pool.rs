//! A worker's own connections to upstream: HTTP/1.1, kept alive, last in first out.
//!
//! Invariant: a connection on which anything at all has arrived since its last answer is never used again,
//! so no byte of one answer can reach the next caller.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::upload::Upload;
use super::{Endpoint, Upstream};
use crate::config;

/// Past this, an answer's head is no answer.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// A read of a large answer takes this much at once; it starts small and grows only where it pays.
const MAX_READ_BYTES: usize = 256 * 1024;

/// The idle connections of one worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerPool {
    idle: Mutex<HashMap<u64, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<Upload>,
    socket: Arc<Socket>,
    since: Instant,
    limit: Duration,
}

/// A connection in use by one request. Unless it is given back, dropping it closes it.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) sender: SendRequest<Upload>,
    socket: Arc<Socket>,
    upstream: Arc<Upstream>,
    pool: Arc<WorkerPool>,
    /// Bytes that had been written before this request.
    written_before: u64,
    /// Whether it served a request before, so that it may have died unseen.
    pub(crate) is_reused: bool,
}

impl WorkerPool {
    /// An idle connection that is alive, the latest used first.
    pub(crate) fn reuse(self: &Arc<Self>, upstream: &Arc<Upstream>) -> Option<Lease> {
        loop {
            let candidate = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.get_mut(&upstream.endpoint.id)?.pop()?
            };
            if candidate.since.elapsed() >= candidate.limit
                || !candidate.sender.is_ready()
                || !candidate.socket.is_quiet()
            {
                continue;
            }
            return Some(Lease {
                written_before: candidate.socket.written(),
                sender: candidate.sender,
                socket: candidate.socket,
                upstream: upstream.clone(),
                pool: self.clone(),
                is_reused: true,
            });
        }
    }

    /// A new connection.
    ///
    /// # Errors
    ///
    /// What the system said; `TimedOut` when it took longer than the upstream's `timeouts.connect`.
    pub(crate) async fn connect(self: &Arc<Self>, upstream: &Arc<Upstream>) -> io::Result<Lease> {
        let connecting = Stream::connect(&upstream.endpoint);
        let stream = match tokio::time::timeout(upstream.timeouts.connect, connecting).await {
            Ok(stream) => stream?,
            Err(_elapsed) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let socket = Arc::new(Socket { stream: Mutex::new(stream), written: AtomicU64::new(0) });
        let handshake = http1::Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_READ_BYTES)
            .handshake(TokioIo::new(Tap(socket.clone())))
            .await;
        let (sender, connection) = handshake.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // How it ended is told to the request that was on it; between requests nobody is concerned.
            let _ended = connection.await;
        });
        Ok(Lease {
            sender,
            socket,
            upstream: upstream.clone(),
            pool: self.clone(),
            written_before: 0,
            is_reused: false,
        })
    }

    /// Closes what has been idle for too long. Called now and then by the worker.
    pub(crate) fn sweep(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for connections in idle.values_mut() {
            connections.retain(|idle| idle.since.elapsed() < idle.limit && !idle.sender.is_closed());
        }
        idle.retain(|_, connections| !connections.is_empty());
    }
}

impl Lease {
    /// Whether any byte of this request was written, so that upstream may have acted on it.
    pub(crate) fn has_written(&self) -> bool {
        self.socket.written() > self.written_before
    }

    /// Returns the connection to its pool, if it is still one.
    pub(crate) fn give_back(self) {
        let settings = self.upstream.pool;
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(self.upstream.endpoint.id).or_default();
        if connections.len() < settings.max_idle {
            let since = Instant::now();
            connections.push(Idle { sender: self.sender, socket: self.socket, since, limit: settings.idle });
        }
    }
}

/// The socket under a connection that hyper drives, shared so that a lease can look at it.
#[derive(Debug)]
struct Socket {
    stream: Mutex<Stream>,
    written: AtomicU64,
}

impl Socket {
    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether nothing has arrived, not even the end: one look at the kernel's buffer, since what the
    /// runtime knows of the socket may be older than the end that upstream sent.
    fn is_quiet(&self) -> bool {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let mut byte = [MaybeUninit::uninit()];
        let seen = match &*stream {
            Stream::Tcp(stream) => SockRef::from(stream).peek(&mut byte),
            Stream::Unix(stream) => SockRef::from(stream).peek(&mut byte),
        };
        matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

/// A connected socket of either kind.
#[derive(Debug)]
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    async fn connect(endpoint: &Endpoint) -> io::Result<Self> {
        match &endpoint.address {
            config::Endpoint::Unix(path) => connect_unix(path).await,
            config::Endpoint::Http(authority) => {
                let stream = match authority.parse::<SocketAddr>() {
                    // No resolver, and so no thread, for a literal address.
                    Ok(address) => TcpStream::connect(address).await?,
                    Err(_) => TcpStream::connect(with_port(authority)).await?,
                };
                // Small writes of a stream must not wait for an acknowledgement.
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }
}

async fn connect_unix(path: &Path) -> io::Result<Stream> {
    Ok(Stream::Unix(UnixStream::connect(path).await?))
}

/// The authority with http's own port where it names none.
fn with_port(authority: &str) -> String {
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if has_port { authority.to_owned() } else { format!("{authority}:80") }
}

/// hyper's handle on a [`Socket`].
struct Tap(Arc<Socket>);

impl Tap {
    fn with<T>(&self, act: impl FnOnce(Pin<&mut dyn Duplex>) -> T) -> T {
        let mut stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *stream {
            Stream::Tcp(stream) => act(Pin::new(stream)),
            Stream::Unix(stream) => act(Pin::new(stream)),
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
        self.with(|stream| stream.poll_read(cx, buf))
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
    fn an_endpoint_without_a_port_gets_port_80() {
        assert_eq!(with_port("model"), "model:80");
        assert_eq!(with_port("model:8000"), "model:8000");
        assert_eq!(with_port("[::1]"), "[::1]:80");
        assert_eq!(with_port("[::1]:81"), "[::1]:81");
    }
}
