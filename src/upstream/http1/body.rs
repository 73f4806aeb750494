//! The body of an answer, read in the task of the request.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::chunked::Decoded;
use super::connection::Http1;
use super::decoder::Decoder;
use super::head::Malformed;
use crate::upstream::failure::Failure;

/// The body of an answer. Dropping it before its end closes the connection.
#[derive(Debug)]
pub(in crate::upstream) struct Http1Body {
    /// The connection; `None` when the body has ended.
    connection: Option<Arc<Http1>>,
    decoder: Decoder,
    /// Whether the whole request was sent before the answer began.
    is_sent: bool,
}

impl Http1Body {
    pub(super) fn new(connection: Arc<Http1>, decoder: Decoder, is_sent: bool) -> Self {
        let mut body = Http1Body { connection: Some(connection), decoder, is_sent };
        if body.decoder.has_ended() {
            body.end();
        }
        body
    }

    /// Ends a complete answer. Its connection may serve another request.
    fn end(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        let request_has_ended = {
            let mut wire = connection.wire();
            wire.answer_has_ended = true;
            wire.rest();
            wire.request_has_ended
        };
        // The rest of a request that was answered is of no use.
        if !request_has_ended {
            connection.abandon();
        }
    }

    fn fail(&mut self, failure: Failure) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        // An answer that has failed has not ended.
        self.decoder = Decoder::Broken(Malformed("the answer has failed"));
        if let Some(connection) = self.connection.take() {
            connection.abandon();
        }
        Poll::Ready(Some(Err(failure)))
    }

    pub(in crate::upstream) fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let this = &mut *self;
        let Some(connection) = &this.connection else { return Poll::Ready(None) };
        if !this.is_sent {
            connection.reader.register(cx.waker());
            if connection.is_cut() {
                return this.fail(Failure::ended("the request was cut"));
            }
        }
        let mut wire = connection.wire();
        let frame = loop {
            match this.decoder.decode(&mut wire.read) {
                Ok(Decoded::Data(data)) => break Some(Frame::data(data)),
                Ok(Decoded::Trailers(trailers)) => break Some(Frame::trailers(trailers)),
                Ok(Decoded::End) => break None,
                Ok(Decoded::Incomplete) => {}
                Err(malformed) => {
                    drop(wire);
                    return this.fail(malformed.into());
                }
            }
            let read = wire.poll_read(cx, &connection.socket);
            if read.is_pending() && !this.is_sent {
                // Reading TLS may have written, and have taken the place of the sender's waker.
                connection.sender.wake();
            }
            let failure = match ready!(read) {
                Ok(0) if !connection.was_reset() && this.decoder.closed() => continue,
                Ok(0) => Failure::ended("upstream closed the connection before the end of its answer"),
                Ok(_) => continue,
                Err(error) => error.into(),
            };
            drop(wire);
            return this.fail(failure);
        };
        drop(wire);
        if this.decoder.has_ended() {
            this.end();
        }
        Poll::Ready(frame.map(Ok))
    }

    pub(in crate::upstream) fn is_end_stream(&self) -> bool {
        self.connection.is_none() && self.decoder.has_ended()
    }

    pub(in crate::upstream) fn size_hint(&self) -> SizeHint {
        self.decoder.size_hint()
    }
}

impl Drop for Http1Body {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.abandon();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::protocol::Protocol;
    use crate::upstream::socket::{Socket, Stream};

    /// A write that finds a reset takes the error from the read behind it, which then finds an ordinary end.
    #[tokio::test]
    async fn an_answer_that_a_reset_has_cut_is_not_complete() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (error, is_complete) in [(ErrorKind::BrokenPipe, true), (ErrorKind::ConnectionReset, false)] {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            drop(listener.accept().await.unwrap());
            let socket = Arc::new(Socket::new(Stream::Tcp(stream), Protocol::Http11));
            let connection = Arc::new(Http1::new(socket));
            connection.refused(&Error::from(error));
            let mut body = Http1Body::new(connection, Decoder::UntilClose, false);
            let end = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            assert_eq!(end.is_none(), is_complete, "{end:?}");
            assert_eq!(body.is_end_stream(), is_complete);
        }
    }
}
