//! The end of a connection whose client still sends.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};

/// A client that still sends while it is refused may do so for this long, unread.
const TIME: Duration = Duration::from_secs(5);
/// … and this much.
const BYTES: usize = 64 * 1024 * 1024;

/// Reads and forgets what comes after our end was closed, within bounds: closing at once would reset the connection, and
/// could take the refusal with it.
#[derive(Debug)]
pub(super) struct Linger {
    over: Pin<Box<Sleep>>,
    budget: usize,
}

impl Linger {
    pub(super) fn new() -> Self {
        Linger { over: Box::pin(sleep(TIME)), budget: BYTES }
    }

    /// Ready when the client has ended, too, or had enough of both.
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
