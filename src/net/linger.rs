//! Ends connections whose clients may still be sending, so that these clients can read the last
//! answer.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep, timeout};

use super::presence::Peered;

/// Time that a client may go on sending after it was refused. The bytes are discarded.
const TIME: Duration = Duration::from_secs(5);
/// Time that an HTTP/2 client has to close its side after we have closed ours.
const FAREWELL: Duration = Duration::from_secs(1);
/// The most bytes that are discarded.
const BYTES: usize = 64 * 1024 * 1024;

/// Reads and discards bytes after we have closed our side, within bounds. Closing the socket at
/// once would reset the connection, and the client might not receive the refusal.
#[derive(Debug)]
pub(super) struct Linger {
    over: Pin<Box<Sleep>>,
    budget: usize,
}

impl Linger {
    pub(super) fn new() -> Self {
        Linger { over: Box::pin(sleep(TIME)), budget: BYTES }
    }

    /// Makes a linger that lasts for at most [`FAREWELL`], for the end of an HTTP/2 connection.
    fn briefly() -> Self {
        Linger { over: Box::pin(sleep(FAREWELL)), budget: BYTES }
    }

    /// Returns ready when the client has closed its side, or the time or the number of bytes is
    /// used up.
    pub(super) fn poll<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0u8; 8192];
        while self.over.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut buf));
            match self.budget.checked_sub(buf.filled().len()) {
                Some(rest) if read.is_ok() && !buf.filled().is_empty() => self.budget = rest,
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

/// A wrapper of a stream. When the wrapper is dropped, it passes the stream to a [`Reclaimed`] and
/// does not close the stream, so that the connection can be ended in order.
#[derive(Debug)]
pub(super) struct Returning<S> {
    /// The stream; `None` only after this value was dropped.
    stream: Option<S>,
    left: Arc<Mutex<Option<S>>>,
}

/// Gives access to the stream of a [`Returning`] that was dropped.
#[derive(Debug)]
pub(super) struct Reclaimed<S>(Arc<Mutex<Option<S>>>);

impl<S> Returning<S> {
    pub(super) fn new(stream: S) -> (Self, Reclaimed<S>) {
        let left = Arc::default();
        (Returning { stream: Some(stream), left: Arc::clone(&left) }, Reclaimed(left))
    }
}

impl<S> Drop for Returning<S> {
    fn drop(&mut self) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl<S> Reclaimed<S> {
    /// Closes our side (on TLS with close_notify), and reads until the client closes its side, for
    /// a second at most. Closing a socket with unread bytes resets the connection, and the end of
    /// the last answer may be lost.
    pub(super) async fn say_farewell(self)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut stream) = stream else { return };
        // Bounds the wait for a client that reads nothing more.
        let closed = timeout(FAREWELL, stream.shutdown()).await;
        if matches!(closed, Ok(Ok(()))) {
            let mut linger = Linger::briefly();
            poll_fn(|cx| linger.poll(&mut stream, cx)).await;
        }
    }
}

impl<S: Unpin> Returning<S> {
    fn stream(self: Pin<&mut Self>) -> io::Result<Pin<&mut S>> {
        self.get_mut().stream.as_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Returning<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Returning<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(cx)
    }
}

impl<S: Peered> Peered for Returning<S> {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().and_then(Peered::socket)
    }
}
