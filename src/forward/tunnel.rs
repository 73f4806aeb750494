//! Bytes of another protocol, both ways, behind an upgrade.
//!
//! Invariant: the key's place among the requests in flight, the place at the endpoint and the record live exactly
//! as long as the tunnel.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::time::Instant;

use super::body::DownloadFailed;
use crate::exchange::InService;
use crate::gate::{Permit, Revocation};
use crate::observe::RequestRecord;
use crate::upstream::health::AtEndpoint;

/// A tunnel that upstream has agreed to.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) upstream: OnUpgrade,
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
    in_service: InService,
}

impl Tunnel {
    pub(crate) fn open(self, record: RequestRecord, in_service: InService) -> OpenTunnel {
        in_service.becomes_tunnel();
        OpenTunnel { tunnel: self, record, in_service }
    }
}

impl OpenTunnel {
    /// Passes bytes on until both sides have ended, one of them broke, nothing moved for too long, the key is gone,
    /// or `over` is ready.
    pub(crate) async fn run(self, over: impl Future<Output = ()>) {
        let OpenTunnel { tunnel, mut record, in_service } = self;
        let Tunnel { client, upstream, idle, mut revocation, permit, at } = tunnel;
        let Ok((client, upstream)) = futures_util::future::try_join(client, upstream).await else { return };
        let activity = Arc::new(Activity { started: Instant::now(), moved: AtomicU64::new(0) });
        let (mut client, mut upstream) = (Watched::new(client, &activity), Watched::new(upstream, &activity));
        let revoked = std::future::poll_fn(|cx| match &mut revocation {
            Some(revocation) => revocation.poll(cx),
            None => Poll::Pending,
        });
        let ended = tokio::select! {
            copied = copy_bidirectional(&mut client, &mut upstream) => Ended::Copied(copied),
            () = activity.has_ceased(idle) => Ended::Cut(DownloadFailed::Stalled),
            ended = revoked => Ended::Cut(ended.into()),
            () = over => Ended::Copied(Ok((0, 0))),
        };
        match ended {
            Ended::Copied(Ok((_up, down))) => {
                record.sent(usize::try_from(down).unwrap_or(usize::MAX));
                record.completed();
            }
            // Tunnels end by a broken connection as often as by a clean one.
            Ended::Copied(Err(_)) => record.completed(),
            Ended::Cut(why) => record.failed(&why),
        }
        drop((client, upstream, permit, at, record, in_service));
    }
}

enum Ended {
    Copied(io::Result<(u64, u64)>),
    Cut(DownloadFailed),
}

/// When a byte last moved.
struct Activity {
    started: Instant,
    /// Nanoseconds from `started`.
    moved: AtomicU64,
}

impl Activity {
    fn note(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.moved.store(elapsed, Ordering::Relaxed);
    }

    /// Ready when nothing has moved for `limit`.
    async fn has_ceased(&self, limit: Duration) {
        loop {
            let moved = self.moved.load(Ordering::Relaxed);
            tokio::time::sleep_until(self.started + Duration::from_nanos(moved) + limit).await;
            if self.moved.load(Ordering::Relaxed) == moved {
                return;
            }
        }
    }
}

/// One side of a tunnel, whose reads are noted.
struct Watched {
    inner: TokioIo<Upgraded>,
    activity: Arc<Activity>,
}

impl Watched {
    fn new(side: Upgraded, activity: &Arc<Activity>) -> Self {
        Watched { inner: TokioIo::new(side), activity: activity.clone() }
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
            self.activity.note();
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
