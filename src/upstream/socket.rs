//! The socket under a connection to upstream: looked at while it waits, counted while it is written to.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::bounds::{CONNECTION_WINDOW, MAX_HEAD_BYTES, MAX_READ_BYTES};
use super::window::Window;
use crate::protocol::Protocol;

/// Silence on a connection before the kernel probes it.
const PROBE_AFTER: Duration = Duration::from_secs(30);
/// The pause between two of these probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Probes without an answer that end the connection.
const PROBES: u32 = 3;
/// How long the kernel waits for a server that acknowledges nothing, or that makes no room.
const USER_TIMEOUT: Duration = Duration::from_secs(45);

/// Room for the bytes of a request that a connection keeps between two requests.
const KEPT_RECORD: usize = 2 * 1024;

/// The socket under a connection that hyper drives, shared so that a lease can look at it.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: Mutex<Stream>,
    written: AtomicU64,
    /// Bytes that may still be read before something comes of them.
    room: AtomicUsize,
    /// Whether what is written is kept.
    is_recording: AtomicBool,
    record: Mutex<Vec<u8>>,
    /// Whether the kernel waits longer than [`USER_TIMEOUT`].
    is_patient: AtomicBool,
    /// On HTTP/2.
    window: Option<Mutex<Window>>,
}

/// A connected socket of any kind.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Upstream has sent more than the head of an answer may take.
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
/// On HTTP/2, the bytes that may come on a connection while none of its answers advances: twice the windows of all its
/// streams, since clients may be slow.
const HTTP2_ROOM: usize = 2 * CONNECTION_WINDOW as usize;

/// Has the kernel notice a server that is gone without a word.
///
/// Pings of HTTP/2 would notice it, too, but gRPC servers end connections that ping oftener than every five minutes.
pub(super) fn watch_over(socket: &SockRef<'_>) -> io::Result<()> {
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
            room: AtomicUsize::new(if protocol.has_streams() { HTTP2_ROOM } else { usize::MAX }),
            is_recording: AtomicBool::new(false),
            record: Mutex::default(),
            is_patient: AtomicBool::new(false),
            window: protocol.has_streams().then(Mutex::default),
        }
    }

    /// A request goes out: its answer's head must come within bounds. `is_kept`: the request's bytes are kept until then.
    pub(super) fn expects_head(&self, is_kept: bool) {
        self.room.store(HEAD_ROOM, Ordering::Relaxed);
        if is_kept {
            self.is_recording.store(true, Ordering::Relaxed);
        }
    }

    /// The head has come: what follows is a body, of any length.
    pub(super) fn head_came(&self) {
        self.room.store(usize::MAX, Ordering::Relaxed);
        if self.is_recording.load(Ordering::Relaxed) {
            self.is_recording.store(false, Ordering::Relaxed);
            // The room of an ordinary head is kept for the next one.
            let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
            record.clear();
            record.shrink_to(KEPT_RECORD);
        }
        if self.is_patient.load(Ordering::Relaxed) {
            self.is_patient.store(false, Ordering::Relaxed);
            self.wait_for(USER_TIMEOUT);
        }
    }

    /// The bytes of a request that were written and kept, where not a byte has come back for it.
    pub(super) fn take_unanswered(&self) -> Option<Vec<u8>> {
        let is_silent = self.room.load(Ordering::Relaxed) == HEAD_ROOM;
        let was_recording = self.is_recording.swap(false, Ordering::Relaxed);
        let record = std::mem::take(&mut *self.record.lock().unwrap_or_else(PoisonError::into_inner));
        (is_silent && was_recording).then_some(record)
    }

    /// Has the kernel wait for as long as a request may take: a server that reads a long body late makes no room
    /// meanwhile, and is not gone. Until the head of the answer comes.
    pub(super) fn is_patient_for(&self, limit: Duration) {
        // The request's own timeout comes first, and says more.
        let limit = limit.saturating_add(USER_TIMEOUT);
        if !self.is_patient.swap(true, Ordering::Relaxed) {
            self.wait_for(limit);
        }
    }

    fn wait_for(&self, limit: Duration) {
        // Milliseconds in 31 bits are what the kernel takes; a unix socket takes none.
        let limit = limit.min(Duration::from_millis(i32::MAX as u64));
        let _of_no_use = self.look(|socket| socket.set_tcp_user_timeout(Some(limit)));
    }

    /// On HTTP/2, something has come of what was read.
    pub(super) fn progressed(&self) {
        self.room.store(HTTP2_ROOM, Ordering::Relaxed);
    }

    /// On HTTP/2, whether the server takes more of bodies at the moment.
    pub(super) fn has_window(&self) -> bool {
        let has_room =
            |window: &Mutex<Window>| window.lock().unwrap_or_else(PoisonError::into_inner).has_room();
        self.window.as_ref().is_none_or(has_room)
    }

    fn note_read(&self, bytes: &[u8]) {
        // Only while a head is due.
        let room = self.room.load(Ordering::Relaxed);
        if room != usize::MAX {
            self.room.store(room.saturating_sub(bytes.len()), Ordering::Relaxed);
        }
        if let Some(window) = &self.window {
            window.lock().unwrap_or_else(PoisonError::into_inner).received(bytes);
        }
    }

    fn note_written<'b>(&self, written: usize, buffers: impl Iterator<Item = &'b [u8]>) {
        self.written.fetch_add(written as u64, Ordering::Relaxed);
        let is_recording = self.is_recording.load(Ordering::Relaxed);
        if !is_recording && self.window.is_none() {
            return;
        }
        let mut left = written;
        for buffer in buffers {
            let (part, _) = buffer.split_at(left.min(buffer.len()));
            left -= part.len();
            if is_recording {
                self.record.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(part);
            }
            if let Some(window) = &self.window {
                window.lock().unwrap_or_else(PoisonError::into_inner).sent(part);
            }
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
pub(crate) struct Tap(pub(crate) Arc<Socket>);

impl Tap {
    fn with<T>(&self, act: impl FnOnce(Pin<&mut dyn Duplex>) -> T) -> T {
        let mut stream = self.0.stream.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *stream {
            Stream::Tcp(stream) => act(Pin::new(stream)),
            Stream::Unix(stream) => act(Pin::new(stream)),
            Stream::Tls(stream) => act(Pin::new(stream)),
        }
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
        self.0.note_read(buf.filled().get(before..).unwrap_or_default());
        read
    }
}

impl AsyncWrite for Tap {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.with(|stream| stream.poll_write(cx, buf));
        if let Poll::Ready(Ok(bytes)) = &written {
            self.0.note_written(*bytes, std::iter::once(buf));
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.with(|stream| stream.poll_write_vectored(cx, bufs));
        if let Poll::Ready(Ok(bytes)) = &written {
            self.0.note_written(*bytes, bufs.iter().map(|buf| &**buf));
        }
        written
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
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_is_patient_from_a_long_upload_to_the_head_of_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        watch_over(&SockRef::from(&stream)).unwrap();
        let socket = Socket::new(Stream::Tcp(stream), Protocol::Http11);
        let waits = || socket.look(|socket| socket.tcp_user_timeout().unwrap().unwrap());
        assert_eq!(waits(), USER_TIMEOUT);
        socket.expects_head(false);
        socket.is_patient_for(Duration::from_secs(600));
        assert!(waits() > Duration::from_secs(600));
        socket.head_came();
        assert_eq!(waits(), USER_TIMEOUT);
        socket.is_patient_for(Duration::MAX);
        assert_eq!(waits(), Duration::from_millis(i32::MAX as u64));
    }
}
