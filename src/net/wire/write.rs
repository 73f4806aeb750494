//! The write half of a wire.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};

use super::Wire;
use crate::net::linger::Linger;
use crate::net::presence::Peered;

impl<S: AsyncRead + AsyncWrite + Peered + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_refusal() {
            this.replace(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        if this.announce(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        ready!(this.send_queued(cx))?;
        let polled = Pin::new(&mut this.stream).poll_write(cx, buf);
        if let Poll::Ready(Ok(written)) = &polled {
            debug_assert!(*written <= buf.len());
            this.wrote(buf.get(..*written).unwrap_or_default());
        }
        this.watch_write(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.is_refusal() {
            debug_assert!(!bufs.is_empty());
            this.replace(bufs.first().map(|buf| &**buf).unwrap_or_default());
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        if let Some(first) = bufs.first()
            && this.announce(first)
        {
            return Poll::Ready(Ok(first.len()));
        }
        ready!(this.send_queued(cx))?;
        let polled = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(written)) = &polled {
            let mut left = *written;
            for buf in bufs {
                let (of_buf, _) = buf.split_at(left.min(buf.len()));
                this.wrote(of_buf);
                left -= of_buf.len();
            }
        }
        this.watch_write(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // hyper flushes the wire only when hyper itself buffers no bytes.
        this.activity.flushed();
        ready!(this.send_queued(cx))?;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        ready!(this.watch_write(cx, flushed))?;
        ready!(this.poll_presence(cx))?;
        // After an answer, hyper does not read again if its last read found nothing. The timer of
        // the wait for the next head is therefore polled here; otherwise, nothing would poll it.
        if !this.ending.has_ended && this.poll_waited(cx).is_ready() {
            // If hyper does not read even now (because upstream does not read the rest of the
            // request), hyper can't learn of the end, so the connection fails here.
            if this.ending.is_overdue {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            this.ending.is_overdue = true;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.closes();
        if this.ending.lingering.is_none() {
            ready!(this.send_queued(cx))?;
            let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.watch_write(cx, shut))?;
        }
        // An HTTP/2 connection is ended by `http2`, so the wire does not linger.
        let is_http1 = this.refuse.is_some();
        if is_http1 && (this.ending.has_refused || this.activity.may_be_sending()) {
            let linger = this.ending.lingering.get_or_insert_with(Linger::new);
            return linger.poll(&mut this.stream, cx).map(Ok);
        }
        Poll::Ready(Ok(()))
    }
}
