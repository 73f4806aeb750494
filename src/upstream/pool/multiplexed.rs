//! HTTP/2 connections of the pool, each shared by many requests.
//!
//! Invariant: a stream is opened only while the connection has fewer streams than upstream's limit.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::config::Pool;
use crate::upstream::bounds::{CONNECTION_WINDOW, MAX_HEAD_BYTES, MAX_STREAMS, STREAM_WINDOW};
use crate::upstream::socket::{Socket, SocketIo};
use crate::upstream::upload::Upload;

/// hyper's limit of concurrent streams until upstream's SETTINGS arrive. A server is unlikely to
/// choose this number, so any other value means that hyper has read the SETTINGS.
const INITIAL_MAX_STREAMS: usize = 7;
/// Poll interval while waiting for upstream's `MAX_CONCURRENT_STREAMS`.
const SETTINGS_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Number of polls after which the wait for upstream's `MAX_CONCURRENT_STREAMS` ends.
const SETTINGS_POLLS: usize = 500;

/// Number of abandoned streams after which a connection accepts no more requests.
///
/// A server closes a connection on which too many streams were reset, and thereby ends all other
/// streams of the connection. Envoy does this after 500 resets. Without this limit, a client that
/// cancels all its requests would break the requests of other clients.
const MAX_ABANDONED: usize = 64;

/// Guard of the lock that a request holds while it makes a connection that other requests may
/// share.
pub(super) type ConnectingGuard = tokio::sync::OwnedMutexGuard<()>;

/// An HTTP/2 connection to upstream.
#[derive(Debug)]
pub(super) struct Multiplexed {
    pub(super) sender: http2::SendRequest<Upload>,
    pub(super) socket: Arc<Socket>,
    streams: AtomicUsize,
    /// Limit of concurrent streams that upstream's SETTINGS contain.
    max_streams: AtomicUsize,
    has_ended: AtomicBool,
    /// Number of streams that were dropped before their answer was read to its end.
    abandoned: AtomicUsize,
    /// Start of the most recent period without an open stream.
    idle_since: Mutex<Instant>,
    made: Instant,
    limits: Pool,
}

/// Permit for one stream of an HTTP/2 connection. Dropping the permit frees the stream.
#[derive(Debug)]
pub(super) struct StreamPermit {
    pub(super) connection: Arc<Multiplexed>,
    /// Whether the stream's answer was read to its end.
    is_whole: AtomicBool,
}

impl StreamPermit {
    fn new(connection: Arc<Multiplexed>) -> Self {
        StreamPermit { connection, is_whole: AtomicBool::new(false) }
    }

    /// Records that the stream's answer was read to its end.
    pub(super) fn complete(&self) {
        self.is_whole.store(true, Ordering::Relaxed);
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        if !self.is_whole.load(Ordering::Relaxed) {
            self.connection.abandoned.fetch_add(1, Ordering::Relaxed);
        }
        if self.connection.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.connection.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

impl Multiplexed {
    /// Starts HTTP/2 on a socket, and returns the permit of the connection's first stream.
    ///
    /// `guard` is held until upstream's SETTINGS have arrived, because they contain the number of
    /// concurrent requests that the connection may have.
    pub(super) async fn start(
        socket: Arc<Socket>,
        limits: Pool,
        guard: Option<ConnectingGuard>,
    ) -> io::Result<StreamPermit> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(INITIAL_MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32);
        let handshake = builder.handshake(TokioIo::new(SocketIo(socket.clone())));
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        let multiplexed = Arc::new(Multiplexed {
            sender,
            socket,
            streams: AtomicUsize::new(1),
            // Until upstream's SETTINGS are read, only one stream is allowed, which the connecting
            // request uses.
            max_streams: AtomicUsize::new(1),
            has_ended: AtomicBool::new(false),
            abandoned: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            made: Instant::now(),
            limits,
        });
        tokio::spawn(drive(connection, Arc::downgrade(&multiplexed), guard));
        Ok(StreamPermit::new(multiplexed))
    }

    /// Acquires a stream permit; `None` if upstream's limit of streams is reached.
    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<StreamPermit> {
        let before = self.streams.load(Ordering::Relaxed);
        if before >= self.max_streams.load(Ordering::Relaxed) {
            return None;
        }
        // Upstream may have closed this connection while it had no streams, and hyper may not have
        // noticed the close yet.
        if before == 0 && self.socket.has_hung_up() {
            self.has_ended.store(true, Ordering::Relaxed);
            return None;
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        Some(StreamPermit::new(self.clone()))
    }

    /// Whether the connection accepts new requests: it has not ended, got no GOAWAY, is not too
    /// old, and has few abandoned streams. Streams that are already open continue in any case.
    pub(super) fn is_open(&self) -> bool {
        let is_young = self.made.elapsed() < self.limits.max_age;
        let is_reliable = self.abandoned.load(Ordering::Relaxed) < MAX_ABANDONED;
        is_young && is_reliable && !self.has_ended.load(Ordering::Relaxed) && !self.sender.is_closed()
    }

    /// Whether the connection's window has room for another body. A body that upstream does not
    /// read uses up the window, which all streams of the connection share.
    pub(super) fn takes_bodies(&self) -> bool {
        self.socket.has_window()
    }

    /// Whether the connection has had no open stream for longer than its idle limit.
    pub(super) fn is_idle_for_too_long(&self) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.streams.load(Ordering::Relaxed) == 0 && since.elapsed() >= self.limits.idle
    }
}

/// Drives an HTTP/2 connection until it ends, and records the stream limit of upstream's SETTINGS.
async fn drive(
    mut connection: http2::Connection<TokioIo<SocketIo>, Upload, TokioExecutor>,
    watched: Weak<Multiplexed>,
    mut guard: Option<ConnectingGuard>,
) {
    // hyper wakes no task when it reads upstream's SETTINGS, so the limit is polled.
    let mut interval = tokio::time::interval(SETTINGS_POLL_INTERVAL);
    let mut polls_left = SETTINGS_POLLS;
    let _ended = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        if ended.is_pending() {
            let allowed = connection.current_max_send_streams();
            while guard.is_some() && interval.poll_tick(cx).is_ready() {
                polls_left -= 1;
                // Requests that wait for the guard's lock continue when the limit is known, or
                // after the last poll.
                guard = guard.take().filter(|_| allowed == INITIAL_MAX_STREAMS && polls_left > 0);
            }
            if guard.is_none()
                && let Some(watched) = watched.upgrade()
            {
                watched.max_streams.store(allowed.min(MAX_STREAMS), Ordering::Relaxed);
            }
        }
        ended
    })
    .await;
    if let Some(watched) = watched.upgrade() {
        watched.has_ended.store(true, Ordering::Relaxed);
    }
}
