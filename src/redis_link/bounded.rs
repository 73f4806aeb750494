//! A stream that bounds the length of an answer.
//!
//! The client of Redis keeps an answer in memory until it is complete. Without a bound, a server
//! that is broken, or is no Redis server, could fill the memory with one answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that fails if the server sends too much between two commands.
pub(super) struct Bounded<S> {
    stream: S,
    /// How many bytes the server may send between two commands, in answers and push messages, and how
    /// many of them are left.
    most: usize,
    left: usize,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S, most: usize) -> Self {
        Bounded { stream, most, left: most }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let new = buffer.filled().len() - before;
        match self.left.checked_sub(new) {
            Some(left) => self.left = left,
            None => {
                buffer.set_filled(before);
                return Poll::Ready(Err(io::Error::other("the server sends more than an answer can have")));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.left = self.most;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const MOST_BYTES: usize = 4 * 1024 * 1024;

    #[tokio::test]
    async fn an_endless_answer_fails_and_long_answers_to_several_commands_do_not() {
        let (near, mut far) = tokio::io::duplex(1024 * 1024);
        let mut near = Bounded::new(near, MOST_BYTES);
        let server = tokio::spawn(async move {
            let block = vec![b'x'; 1024 * 1024];
            while far.write_all(&block).await.is_ok() {}
        });
        let mut answer = vec![0; MOST_BYTES - 1];
        for _ in 0..3 {
            near.write_all(b"x").await.unwrap();
            near.read_exact(&mut answer).await.unwrap();
        }
        near.write_all(b"x").await.unwrap();
        let message = near.read_to_end(&mut Vec::new()).await.unwrap_err().to_string();
        assert!(message.contains("more than an answer"), "{message}");
        drop(near);
        server.await.unwrap();
    }
}
