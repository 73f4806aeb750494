//! The socket under a connection to upstream, shared by its codec and the lease of the connection.
//!
//! `http1` reads and writes the [`Socket`] itself, and hyper (HTTP/2) through [`SocketIo`]. A lease gets
//! the byte counts and the state of the kernel's buffer from [`Socket`].
//! Invariant: the number of bytes that a codec may read is limited by a budget until the head of an
//! answer is complete (HTTP/1.1), or until an answer makes progress (HTTP/2).

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustls::IoState;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::bounds::{CONNECTION_WINDOW, MAX_HEAD_BYTES, MAX_READ_BYTES};
use super::window::Window;
use crate::protocol::Protocol;

/// Idle time of a connection before the kernel sends TCP keepalive probes.
const PROBE_AFTER: Duration = Duration::from_secs(30);
/// Interval between two TCP keepalive probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Number of unanswered TCP keepalive probes after which the kernel ends the connection.
const PROBES: u32 = 3;
/// Time without an acknowledgement, or with a closed receive window, after which the kernel ends
/// the connection (`TCP_USER_TIMEOUT`).
const USER_TIMEOUT: Duration = Duration::from_secs(45);

/// The socket of a connection, with its byte counts.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Mutex<Stream>,
    /// Number of bytes that were written on the connection.
    written: AtomicU64,
    /// Number of bytes that may be read before an answer makes progress; `usize::MAX` for no limit.
    read_budget: AtomicUsize,
    /// Whether the connection's `TCP_USER_TIMEOUT` is currently longer than [`USER_TIMEOUT`].
    has_extended_timeout: AtomicBool,
    /// Send window of the connection; `None` on HTTP/1.1.
    window: Option<Mutex<Window>>,
}

/// A connected socket: TCP, TLS over TCP, or unix.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Error of a read on a connection on which upstream has used up the read budget.
#[derive(Debug)]
pub(crate) struct Flooded;

impl std::fmt::Display for Flooded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("more interim answers than an answer may have")
    }
}

impl std::error::Error for Flooded {}

/// Read budget on HTTP/1.1 until the head of an answer is complete, in bytes. The budget covers
/// interim answers (RFC 9110, section 15.2), the head, and body bytes that arrive in the same read as the
/// head.
const HEAD_BUDGET: usize = MAX_HEAD_BYTES + MAX_READ_BYTES;
/// Read budget on HTTP/2 while no answer of the connection makes progress, in bytes. The budget is
/// twice the window of all streams, because upstream may fill that window while slow clients read
/// nothing.
const HTTP2_BUDGET: usize = 2 * CONNECTION_WINDOW as usize;

/// Makes the kernel detect a server that has disappeared without closing its connections.
///
/// HTTP/2 PINGs would detect such a server too, but gRPC servers close connections that send more
/// than one PING in five minutes.
pub(super) fn detect_dead_peers(socket: &SockRef<'_>) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

impl Socket {
    pub(super) fn new(stream: Stream, protocol: Protocol) -> Self {
        Socket {
            stream: Mutex::new(stream),
            written: AtomicU64::new(0),
            read_budget: AtomicUsize::new(if protocol.has_streams() { HTTP2_BUDGET } else { usize::MAX }),
            has_extended_timeout: AtomicBool::new(false),
            window: protocol.has_streams().then(Mutex::default),
        }
    }

    /// Starts the read budget for an answer's head.
    pub(super) fn expect_head(&self) {
        self.read_budget.store(HEAD_BUDGET, Ordering::Relaxed);
    }

    /// Ends the read budget: the head is complete, and a body may have any length.
    pub(super) fn head_received(&self) {
        self.read_budget.store(usize::MAX, Ordering::Relaxed);
        if self.has_extended_timeout.load(Ordering::Relaxed) {
            self.has_extended_timeout.store(false, Ordering::Relaxed);
            self.set_user_timeout(USER_TIMEOUT);
        }
    }

    /// Whether no byte of an answer has come since [`Socket::expect_head`].
    pub(super) fn is_silent(&self) -> bool {
        self.read_budget.load(Ordering::Relaxed) == HEAD_BUDGET
    }

    /// Extends the connection's `TCP_USER_TIMEOUT` until the head of the answer is complete. Until
    /// a server starts to read a long body, its receive window may stay closed, although the server
    /// is alive.
    pub(super) fn extend_user_timeout(&self, limit: Duration) {
        // The kernel's timeout is longer than `limit`, so that the request's own timeout expires
        // first. The error of the request's own timeout is more exact.
        let limit = limit.saturating_add(USER_TIMEOUT);
        if !self.has_extended_timeout.swap(true, Ordering::Relaxed) {
            self.set_user_timeout(limit);
        }
    }

    fn set_user_timeout(&self, limit: Duration) {
        // The kernel accepts at most 31 bits of milliseconds. A unix socket does not have this
        // timeout, so errors are ignored.
        let limit = limit.min(Duration::from_millis(i32::MAX as u64));
        let _best_effort = self.with_socket(|socket| socket.set_tcp_user_timeout(Some(limit)));
    }

    /// On HTTP/2, renews the read budget because an answer has made progress.
    pub(super) fn reset_read_budget(&self) {
        self.read_budget.store(HTTP2_BUDGET, Ordering::Relaxed);
    }

    /// Whether the window of an HTTP/2 connection has room for a new body.
    pub(super) fn has_window(&self) -> bool {
        let has_room =
            |window: &Mutex<Window>| window.lock().unwrap_or_else(PoisonError::into_inner).has_room();
        self.window.as_ref().is_none_or(has_room)
    }

    fn note_read(&self, bytes: &[u8]) {
        // The body of an HTTP/1.1 answer has no read budget, which is the value `usize::MAX`.
        let read_budget = self.read_budget.load(Ordering::Relaxed);
        if read_budget != usize::MAX {
            self.read_budget.store(read_budget.saturating_sub(bytes.len()), Ordering::Relaxed);
        }
        if let Some(window) = &self.window {
            window.lock().unwrap_or_else(PoisonError::into_inner).received(bytes);
        }
    }

    fn note_written<'b>(&self, written: usize, buffers: impl Iterator<Item = &'b [u8]>) {
        self.written.fetch_add(written as u64, Ordering::Relaxed);
        let Some(window) = &self.window else { return };
        let mut left = written;
        for buffer in buffers {
            let (part, _) = buffer.split_at(left.min(buffer.len()));
            left -= part.len();
            window.lock().unwrap_or_else(PoisonError::into_inner).sent(part);
        }
    }

    /// Returns the number of bytes that were written on the connection.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether upstream has sent nothing that was not read, and has not closed the connection. The kernel
    /// is asked, because the runtime may not know yet that upstream has closed the connection; and TLS,
    /// which may have decrypted more than was read.
    pub(super) fn has_nothing_to_read(&self) -> bool {
        if let Stream::Tls(stream) = &mut *self.stream.lock().unwrap_or_else(PoisonError::into_inner) {
            let state = stream.get_mut().1.process_new_packets();
            let is_quiet = |state: IoState| state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed();
            if !state.is_ok_and(is_quiet) {
                return false;
            }
        }
        let mut byte = [MaybeUninit::uninit()];
        let peeked = self.with_socket(|socket| socket.peek(&mut byte));
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether upstream has closed its side of the connection, even if unread bytes precede the
    /// end.
    pub(super) fn has_hung_up(&self) -> bool {
        self.with_socket(|socket| {
            let mut watched = [PollFd::new(&*socket, PollFlags::RDHUP)];
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(1..))
        })
    }

    /// Reads, within the read budget.
    pub(super) fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.read_budget.load(Ordering::Relaxed) == 0 {
            return Poll::Ready(Err(io::Error::other(Flooded)));
        }
        let before = buf.filled().len();
        let read = self.with_stream(|stream| stream.poll_read(cx, buf));
        debug_assert!(before <= buf.filled().len(), "a read adds to its buffer");
        self.note_read(buf.filled().get(before..).unwrap_or_default());
        read
    }

    pub(super) fn poll_write(&self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.with_stream(|stream| stream.poll_write(cx, buf));
        if let Poll::Ready(Ok(bytes)) = &written {
            self.note_written(*bytes, std::iter::once(buf));
        }
        written
    }

    pub(super) fn poll_write_vectored(
        &self,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.with_stream(|stream| stream.poll_write_vectored(cx, bufs));
        if let Poll::Ready(Ok(bytes)) = &written {
            self.note_written(*bytes, bufs.iter().map(|buf| &**buf));
        }
        written
    }

    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with_stream(|stream| stream.poll_flush(cx))
    }

    /// Ends the connection at once, in both directions, whoever still reads or writes it.
    pub(super) fn cut(&self) {
        let _already_ended = self.with_socket(|socket| socket.shutdown(std::net::Shutdown::Both));
    }

    fn with_stream<T>(&self, act: impl FnOnce(Pin<&mut dyn Duplex>) -> T) -> T {
        let mut stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *stream {
            Stream::Tcp(stream) => act(Pin::new(stream)),
            Stream::Unix(stream) => act(Pin::new(stream)),
            Stream::Tls(stream) => act(Pin::new(stream)),
        }
    }

    fn with_socket<T>(&self, act: impl FnOnce(SockRef<'_>) -> T) -> T {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match &*stream {
            Stream::Tcp(stream) => act(SockRef::from(stream)),
            Stream::Unix(stream) => act(SockRef::from(stream)),
            Stream::Tls(stream) => act(SockRef::from(stream.get_ref().0)),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let stream = self.stream.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Stream::Tls(stream) = stream {
            // A server would log a connection that ends without a word (RFC 8446, section 6.1). What can't
            // be written at once is not worth a wait.
            let _written = Pin::new(stream).poll_shutdown(&mut Context::from_waker(Waker::noop()));
        }
    }
}

/// The I/O object through which hyper reads and writes a [`Socket`]. It counts the bytes in both
/// directions.
pub(crate) struct SocketIo(pub(crate) Arc<Socket>);

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Duplex for T {}

impl AsyncRead for SocketIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for SocketIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with_stream(|stream| stream.poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_timeout_is_extended_from_a_long_upload_to_the_head_of_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        detect_dead_peers(&SockRef::from(&stream)).unwrap();
        let socket = Socket::new(Stream::Tcp(stream), Protocol::Http11);
        let waits = || socket.with_socket(|socket| socket.tcp_user_timeout().unwrap().unwrap());
        assert_eq!(waits(), USER_TIMEOUT);
        socket.expect_head();
        socket.extend_user_timeout(Duration::from_secs(600));
        assert!(waits() > Duration::from_secs(600));
        socket.head_received();
        assert_eq!(waits(), USER_TIMEOUT);
        socket.extend_user_timeout(Duration::MAX);
        assert_eq!(waits(), Duration::from_millis(i32::MAX as u64));
    }
}
