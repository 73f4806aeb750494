//! Tunnels: after an upgrade, bytes of another protocol are copied in both directions.
//!
//! `forward` makes a [`Tunnel`], `proxy` opens it, and the client's connection runs it.
//! Invariant: the permit, the turn, the endpoint's count of this request in flight, and the record for the
//! access log end with the tunnel.

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
use crate::upstream::health::InFlightGuard;
use crate::upstream::turn::Turn;
use crate::upstream::upgrade::{PendingUpgrade, UpgradedIo};

/// A tunnel that upstream has accepted with a 101 answer.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(super) client: PendingUpgrade,
    pub(super) upstream: PendingUpgrade,
    /// Longest time for which a tunnel may move no byte in either direction.
    pub(super) idle: Duration,
    pub(super) revocation: Option<Revocation>,
    pub(super) permit: Permit,
    pub(super) in_flight: InFlightGuard,
    /// The request's turn at the upstream; `None` if that has no queue.
    pub(super) turn: Option<Box<Turn>>,
}

/// A tunnel with the access-log record of its request.
#[derive(Debug)]
pub(crate) struct OpenTunnel {
    tunnel: Tunnel,
    record: RequestRecord,
    in_service: RequestInService,
}

impl Tunnel {
    /// Binds the tunnel to the record of its request, so that the record ends with the tunnel.
    pub(crate) fn open(self, record: RequestRecord, in_service: RequestInService) -> OpenTunnel {
        in_service.becomes_tunnel();
        OpenTunnel { tunnel: self, record, in_service }
    }
}

impl OpenTunnel {
    /// Copies bytes in both directions. Ends when both sides have ended, one side broke, no byte
    /// moved for the idle timeout, the key ended, or `shutdown` is ready.
    pub(crate) async fn run(self, shutdown: impl Future<Output = ()>) {
        let OpenTunnel { tunnel, record, in_service } = self;
        let Tunnel { client, upstream, idle, mut revocation, permit, in_flight, turn } = tunnel;
        let Ok((client, upstream)) = futures_util::future::try_join(client, upstream).await else { return };
        let traffic = Arc::new(Traffic::new());
        let mut tunnel_record = TunnelRecord { record, traffic: traffic.clone() };
        let mut client = CountedIo::new(client, Side::Client, &traffic);
        let mut upstream = CountedIo::new(upstream, Side::Upstream, &traffic);
        let revoked = std::future::poll_fn(|cx| match &mut revocation {
            Some(revocation) => revocation.poll(cx),
            None => Poll::Pending,
        });
        let ended = tokio::select! {
            copied = copy_bidirectional(&mut client, &mut upstream) => Ended::Copied(copied),
            () = traffic.wait_until_idle(idle) => Ended::Failed(DownloadFailure::Stalled),
            ended = revoked => Ended::Failed(ended.into()),
            () = shutdown => Ended::Drained,
        };
        match (ended, in_service.cut_for()) {
            (Ended::Drained, _) => tunnel_record.record.cut(CutReason::Drained),
            (Ended::Failed(reason), _) => tunnel_record.record.failed(reason.outcome(), &reason),
            // The copying failed because bearward had cut the client's connection. The reason for
            // the cut is logged instead of the error.
            (Ended::Copied(Err(_)), Some(reason)) => tunnel_record.record.cut(reason),
            // Many clients end a tunnel by closing its connection, so an error is logged as a
            // normal end.
            (Ended::Copied(_), _) => tunnel_record.record.completed(),
        }
        drop((client, upstream, turn, permit, in_flight, tunnel_record, in_service));
    }
}

/// Reason why a tunnel ended.
enum Ended {
    Copied(io::Result<(u64, u64)>),
    Failed(DownloadFailure),
    Drained,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Upstream,
}

/// The access-log record of a tunnel. The byte counts are added when it is dropped, however the
/// tunnel ends.
struct TunnelRecord {
    record: RequestRecord,
    traffic: Arc<Traffic>,
}

impl Drop for TunnelRecord {
    fn drop(&mut self) {
        let (up, down) = self.traffic.passed();
        self.record.tunnelled(up, down);
    }
}

/// Byte counts of a tunnel, and the time at which its last byte moved.
struct Traffic {
    started: Instant,
    /// Nanoseconds from `started` to the last byte in either direction.
    moved: AtomicU64,
    /// Number of bytes copied to upstream.
    up: AtomicU64,
    /// Number of bytes copied to the client.
    down: AtomicU64,
    /// Whether the last write to the client could not complete because the client does not read.
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

    /// Records that a byte moved now.
    fn mark_activity(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.moved.store(elapsed, Ordering::Relaxed);
    }

    /// Records the result of a write to one side of the tunnel.
    fn wrote(&self, side: Side, written: &Poll<io::Result<usize>>) {
        if side == Side::Client {
            self.client_is_blocked.store(written.is_pending(), Ordering::Relaxed);
        }
        let Poll::Ready(Ok(bytes)) = written else { return };
        let passed = if side == Side::Client { &self.down } else { &self.up };
        passed.fetch_add(*bytes as u64, Ordering::Relaxed);
        self.mark_activity();
    }

    /// Returns the number of bytes copied to upstream, and to the client.
    fn passed(&self) -> (u64, u64) {
        (self.up.load(Ordering::Relaxed), self.down.load(Ordering::Relaxed))
    }

    /// Returns ready when no byte has moved for `limit`. While the client does not read, the wait
    /// continues, because upstream may be silent for that reason alone. `net` has its own, longer
    /// timeout for clients that do not read.
    async fn wait_until_idle(&self, limit: Duration) {
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

/// One side of a tunnel. Bytes written to it are counted, and reads from it are recorded as
/// activity.
struct CountedIo {
    inner: UpgradedIo,
    side: Side,
    traffic: Arc<Traffic>,
}

impl CountedIo {
    fn new(inner: UpgradedIo, side: Side, traffic: &Arc<Traffic>) -> Self {
        CountedIo { inner, side, traffic: traffic.clone() }
    }
}

impl AsyncRead for CountedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.traffic.mark_activity();
        }
        read
    }
}

impl AsyncWrite for CountedIo {
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
