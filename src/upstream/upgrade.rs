//! Upgraded connections (RFC 9110, section 7.8), of a client or an upstream.
//!
//! `forward` gets the client's upgraded connection from the head of the request, and upstream's
//! from the head of the 101 answer, and joins these two connections into a tunnel.
//! Invariant: hyper's upgrade types do not leave the `upstream` module.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Extensions;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http1::Tunnelled;

/// Future of an upgraded connection. The future is ready when the head of the 101 answer was sent
/// or received.
#[derive(Debug)]
pub(crate) enum PendingUpgrade {
    /// A client's, which is ready when the 101 answer was sent.
    Client(OnUpgrade),
    /// Upstream's, whose 101 answer was read.
    Upstream(Tunnelled),
}

/// An upgraded connection, whose bytes are no longer HTTP.
#[derive(Debug)]
pub(crate) enum UpgradedIo {
    Client(TokioIo<Upgraded>),
    Upstream(Tunnelled),
}

impl PendingUpgrade {
    /// Removes and returns the upgrade in the extensions of a request's or an answer's head; `None`
    /// on HTTP/2, which has no upgrades.
    pub(crate) fn take_from(extensions: &mut Extensions) -> Option<Self> {
        let of_client = extensions.remove::<OnUpgrade>().map(PendingUpgrade::Client);
        of_client.or_else(|| extensions.remove::<Tunnelled>().map(PendingUpgrade::Upstream))
    }
}

impl Future for PendingUpgrade {
    type Output = io::Result<UpgradedIo>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<UpgradedIo>> {
        match &mut *self {
            PendingUpgrade::Client(upgrade) => {
                let upgraded = Pin::new(upgrade).poll(cx);
                upgraded.map_ok(|io| UpgradedIo::Client(TokioIo::new(io))).map_err(io::Error::other)
            }
            PendingUpgrade::Upstream(tunnel) => Poll::Ready(Ok(UpgradedIo::Upstream(tunnel.clone()))),
        }
    }
}

impl AsyncRead for UpgradedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut *self {
            UpgradedIo::Client(io) => Pin::new(io).poll_read(cx, buf),
            UpgradedIo::Upstream(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpgradedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut *self {
            UpgradedIo::Client(io) => Pin::new(io).poll_write(cx, buf),
            UpgradedIo::Upstream(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            UpgradedIo::Client(io) => Pin::new(io).poll_flush(cx),
            UpgradedIo::Upstream(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut *self {
            UpgradedIo::Client(io) => Pin::new(io).poll_shutdown(cx),
            UpgradedIo::Upstream(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
