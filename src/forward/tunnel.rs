//! Bytes of another protocol, both ways, behind an upgrade.
//!
//! Invariant: the key's place among the requests in flight, the place at the endpoint and the record live exactly
//! as long as the tunnel.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::Instant;

use super::failure::DownloadFailure;
use crate::activity::RequestInService;
use crate::activity::cut::CutReason;
use crate::gate::{Permit, Revocation};
use crate::observe::RequestRecord;
use crate::upstream::health::AtEndpoint;
use crate::upstream::upgrade::{PendingUpgrade, UpgradedIo};

/// A tunnel that upstream has agreed to.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(super) client: PendingUpgrade,
    pub(super) upstream: PendingUpgrade,
    /// The longest time without a byte either way.
    pub(super) idle: Duration,
    pub(super) revocation: Option<Revocation>,
    pub(super) permit: Permit,
    pub(super) at: AtEndpoint,
}

/// A tunnel together with the exchange that it is.
#[derive(Debug)]
pub(crate) struct OpenTunnel {
    tunnel: Tunnel,
    record: RequestRecord,
    in_service: RequestInService,
}

impl Tunnel {
    pub(crate) fn open(self, record: RequestRecord, in_service: RequestInService) -> OpenTunnel {
        in_service.becomes_tunnel();
        OpenTunnel { tunnel: self, record, in_service }
    }
}

impl OpenTunnel {
    /// Passes bytes on until both sides have ended, one of them broke, nothing moved for too long, the key is gone,
    /// or `over` is ready.
    pub(crate) async fn run(self, over: impl Future<Output = ()>) {
        let OpenTunnel { tunnel, record, in_service } = self;
        let Tunnel { client, upstream, idle, mut revocation, permit, at } = tunnel;
        let Ok((client, upstream)) = futures_util::future::try_join(client, upstream).await else { return };
        let traffic = Arc::new(Traffic::new());
        let mut told = Told { record, traffic: traffic.clone() };
        let mut client = Watched::new(client, Side::Client, &traffic);
        let mut upstream = Watched::new(upstream, Side::Upstream, &traffic);
        let revoked = std::future::poll_fn(|cx| match &mut revocation {
            Some(revocation) => revocation.poll(cx),
            None => Poll::Pending,
        });
        let ended = tokio::select! {
            copied = copy_bidirectional(&mut client, &mut upstream) => Ended::Copied(copied),
            () = traffic.has_ceased(idle) => Ended::CutReason(DownloadFailure::Stalled),
            ended = revoked => Ended::CutReason(ended.into()),
            () = over => Ended::Drained,
        };
        match (ended, in_service.cut_for()) {
            (Ended::Drained, _) => told.record.cut(CutReason::Drained),
            (Ended::CutReason(why), _) => told.record.failed(why.outcome(), &why),
            // The client's side broke because the server had given it up.
            (Ended::Copied(Err(_)), Some(why)) => told.record.cut(why),
            // Tunnels end by a broken connection as often as by a clean one.
            (Ended::Copied(_), _) => told.record.completed(),
        }
        drop((client, upstream, permit, at, told, in_service));
    }
}

enum Ended {
    Copied(io::Result<(u64, u64)>),
    CutReason(DownloadFailure),
    Drained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

/// The record of a tunnel, with what passed, however it ends.
struct Told {
    record: RequestRecord,
    traffic: Arc<Traffic>,
}

impl Drop for Told {
    fn drop(&mut self) {
        let (up, down) = self.traffic.passed();
        self.record.tunnelled(up, down);
    }
}

/// What has passed, and when a byte last moved.
struct Traffic {
    started: Instant,
    /// Nanoseconds from `started`.
    moved: AtomicU64,
    up: AtomicU64,
    down: AtomicU64,
    /// The client takes nothing at the moment.
    client_is_blocked: AtomicBool,
}

impl Traffic {
    fn new() -> Self {
        let zero = || AtomicU64::new(0);
        Traffic {
            started: Instant::now(),
            moved: zero(),
            up: zero(),
            down: zero(),
            client_is_blocked: AtomicBool::new(false),
        }
    }

    fn note(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.moved.store(elapsed, Ordering::Relaxed);
    }

    /// Notes a write to one side.
    fn wrote(&self, side: Side, written: &Poll<io::Result<usize>>) {
        if side == Side::Client {
            self.client_is_blocked.store(written.is_pending(), Ordering::Relaxed);
        }
        let Poll::Ready(Ok(bytes)) = written else { return };
        let passed = if side == Side::Client { &self.down } else { &self.up };
        passed.fetch_add(*bytes as u64, Ordering::Relaxed);
        self.note();
    }

    /// Bytes to upstream, and to the client.
    fn passed(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }

    /// Ready when nothing has moved for `limit`. A client that takes nothing has a longer time, which the wire watches:
    /// upstream's silence is no sign of upstream then.
    async fn has_ceased(&self, limit: Duration) {
        loop {
            let moved = self.moved.load(Ordering::Relaxed);
            tokio::time::sleep_until(self.started + Duration::from_nanos(moved) + limit).await;
            if self.client_is_blocked.load(Ordering::Relaxed) {
                tokio::time::sleep(limit).await;
            } else if self.moved.load(Ordering::Relaxed) == moved {
                return;
            }
        }
    }
}

/// One side of a tunnel, whose reads are noted and whose writes are counted.
struct Watched {
    inner: UpgradedIo,
    side: Side,
    traffic: Arc<Traffic>,
}

impl Watched {
    fn new(inner: UpgradedIo, side: Side, traffic: &Arc<Traffic>) -> Self {
        Watched { inner, side, traffic: traffic.clone() }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.traffic.note();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.traffic.wrote(self.side, &written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
