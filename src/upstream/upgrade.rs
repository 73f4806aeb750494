//! Connections that leave HTTP (RFC 9110, section 7.8): a client's, and an upstream's.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Extensions;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A connection that HTTP may give up. Ready with its bytes once the head of a 101 has passed.
#[derive(Debug)]
pub(crate) struct PendingUpgrade(OnUpgrade);

/// A connection that HTTP has given up.
#[derive(Debug)]
pub(crate) struct UpgradedIo(TokioIo<Upgraded>);

impl PendingUpgrade {
    /// Takes it off a head, of a request or of an answer. HTTP/2 has none.
    pub(crate) fn take_from(extensions: &mut Extensions) -> Option<Self> {
        extensions.remove::<OnUpgrade>().map(PendingUpgrade)
    }
}

impl Future for PendingUpgrade {
    type Output = io::Result<UpgradedIo>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<UpgradedIo>> {
        let upgraded = Pin::new(&mut self.0).poll(cx);
        upgraded.map_ok(|io| UpgradedIo(TokioIo::new(io))).map_err(io::Error::other)
    }
}

impl AsyncRead for UpgradedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for UpgradedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
