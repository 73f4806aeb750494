//! A connection to upstream that speaks HTTP/1.1, and what was read of it.

use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::head::HeadSearch;
use crate::upstream::bounds::MAX_READ_BYTES;
use crate::upstream::socket::{Socket, SocketIo};

/// The length of the first read of an answer, and of a read that leaves room for no other, in bytes.
const FIRST_READ: usize = 8 * 1024;
const LEAST_READ: usize = 1024;

/// A connection. It serves one request at a time.
#[derive(Debug)]
pub(crate) struct Http1 {
    pub(in crate::upstream) socket: Arc<Socket>,
    wire: Mutex<Wire>,
    /// Wakes the task that sends the rest of a request's body while its answer is read; and the reader of
    /// the answer, if that task fails.
    pub(super) sender: AtomicWaker,
    pub(super) reader: AtomicWaker,
    /// Whether nobody reads the answer any more.
    is_abandoned: AtomicBool,
    /// Whether the body of the request has failed, so that the request is not complete.
    is_cut: AtomicBool,
    /// Whether a write has found that upstream reset the connection. Such an error is told once, and a read
    /// then finds an ordinary end.
    was_reset: AtomicBool,
}

/// What was read, and how far the request and its answer are.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) read: BytesMut,
    pub(super) search: HeadSearch,
    next_read: usize,
    /// Whether the memory of `read` is that of a long answer.
    is_long: bool,
    /// Room for the heads of requests.
    pub(super) room: Vec<u8>,
    /// The head of a request that may be sent again, because no byte of an answer came.
    pub(super) unanswered: Option<Vec<u8>>,
    pub(super) request_has_ended: bool,
    pub(super) answer_has_ended: bool,
    /// Whether the answer lets the connection persist.
    pub(super) persists: bool,
}

impl Http1 {
    pub(in crate::upstream) fn new(socket: Arc<Socket>) -> Self {
        Http1 {
            socket,
            wire: Mutex::default(),
            sender: AtomicWaker::new(),
            reader: AtomicWaker::new(),
            is_abandoned: AtomicBool::new(false),
            is_cut: AtomicBool::new(false),
            was_reset: AtomicBool::new(false),
        }
    }

    pub(super) fn wire(&self) -> MutexGuard<'_, Wire> {
        self.wire.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the last request and its answer have ended, and nothing was read behind the answer.
    pub(in crate::upstream) fn is_ready(&self) -> bool {
        let Wire { read, request_has_ended, answer_has_ended, persists, .. } = &*self.wire();
        let is_complete = *request_has_ended && *answer_has_ended;
        is_complete && *persists && read.is_empty() && !self.is_abandoned() && !self.is_cut()
    }

    /// Removes and returns the head of a repeatable request without an answer; `None` if any byte of an
    /// answer has come.
    pub(in crate::upstream) fn take_unanswered(&self) -> Option<Vec<u8>> {
        self.wire().unanswered.take()
    }

    /// Notes that nobody reads the answer any more. A task that still sends the request ends.
    pub(super) fn abandon(&self) {
        self.is_abandoned.store(true, Ordering::Release);
        self.sender.wake();
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
    }

    /// Notes the failure of a write.
    pub(super) fn refused(&self, error: &io::Error) {
        // After an ordinary end of the answer, upstream may read no more.
        if error.kind() != io::ErrorKind::BrokenPipe {
            self.was_reset.store(true, Ordering::Release);
        }
    }

    pub(super) fn was_reset(&self) -> bool {
        self.was_reset.load(Ordering::Acquire)
    }

    /// Ends a connection whose request has failed while its answer was read.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
        self.socket.cut();
        self.reader.wake();
    }

    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }
}

impl Wire {
    /// Begins with another request. Returns room for its head.
    pub(super) fn begin(&mut self) -> Vec<u8> {
        debug_assert!(self.read.is_empty(), "nothing is read between two answers");
        (self.request_has_ended, self.answer_has_ended, self.persists) = (false, false, false);
        (self.search, self.unanswered) = (HeadSearch::default(), None);
        std::mem::take(&mut self.room)
    }

    /// Reads more. Returns the number of bytes; zero if upstream has closed the connection.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>, socket: &Socket) -> Poll<io::Result<usize>> {
        let length = self.next_read.max(FIRST_READ);
        if self.read.capacity() - self.read.len() < LEAST_READ {
            self.read.reserve(length);
            self.is_long |= length > FIRST_READ;
        }
        let room = self.read.capacity() - self.read.len();
        let bytes = ready!(pin!(Reader(socket).read_buf(&mut self.read)).poll(cx))?;
        // A long answer is read in long pieces.
        self.next_read = match bytes {
            _ if bytes >= room => (2 * length).min(MAX_READ_BYTES),
            _ if bytes < length / 4 => (length / 2).max(FIRST_READ),
            _ => length,
        };
        Poll::Ready(Ok(bytes))
    }

    /// Gives the memory of long answers back.
    pub(super) fn rest(&mut self) {
        if self.read.is_empty() && self.is_long {
            self.read = BytesMut::new();
            (self.next_read, self.is_long) = (0, false);
        }
        if self.room.capacity() > FIRST_READ {
            self.room = Vec::new();
        }
    }
}

/// Reads a socket that others write.
struct Reader<'s>(&'s Socket);

impl AsyncRead for Reader<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

/// A connection that is no longer HTTP (RFC 9110, section 7.8).
#[derive(Clone, Debug)]
pub(crate) struct Tunnelled(pub(super) Arc<Http1>);

impl Tunnelled {
    fn io(&self) -> SocketIo {
        SocketIo(self.0.socket.clone())
    }
}

impl AsyncRead for Tunnelled {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.0.wire();
        if wire.read.is_empty() {
            return self.0.socket.poll_read(cx, buf);
        }
        // These bytes came with the head of the 101 answer.
        let length = wire.read.len().min(buf.remaining());
        buf.put_slice(wire.read.get(..length).unwrap_or_default());
        wire.read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io()).poll_shutdown(cx)
    }
}
