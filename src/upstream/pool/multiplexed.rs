//! HTTP/2 connections: many requests at a time on each.

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
use crate::upstream::socket::{Socket, Tap};
use crate::upstream::upload::Upload;

/// Requests at once on a connection until upstream has said how many: a number that no server is likely to say.
const INITIAL_MAX_STREAMS: usize = 7;
/// Poll interval while waiting for upstream's `MAX_CONCURRENT_STREAMS`.
const SETTINGS_POLL_INTERVAL: Duration = Duration::from_millis(1);
/// Polls until the wait for it is given up.
const SETTINGS_POLLS: usize = 500;

/// Streams that were given up before a connection takes no more requests. Servers end one on which many were, with whatever else is
/// on it: Envoy after 500, and a caller who cancels all that he asks for would have it end for all others.
const MAX_GIVEN_UP: usize = 64;

/// The right to make a connection that others will share.
pub(super) type ConnectingTurn = tokio::sync::OwnedMutexGuard<()>;

/// An HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Multiplexed {
    pub(super) sender: http2::SendRequest<Upload>,
    pub(super) socket: Arc<Socket>,
    streams: AtomicUsize,
    /// What upstream's settings allow.
    max_streams: AtomicUsize,
    has_ended: AtomicBool,
    /// Streams whose answers were not waited for.
    given_up: AtomicUsize,
    /// When it last had no stream.
    idle_since: Mutex<Instant>,
    made: Instant,
    limits: Pool,
}

/// A place on an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct StreamPermit {
    pub(super) on: Arc<Multiplexed>,
    /// Its answer came to its end.
    is_whole: AtomicBool,
}

impl StreamPermit {
    fn new(on: Arc<Multiplexed>) -> Self {
        StreamPermit { on, is_whole: AtomicBool::new(false) }
    }

    /// The answer has come to its end.
    pub(super) fn note_whole(&self) {
        self.is_whole.store(true, Ordering::Relaxed);
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        if !self.is_whole.load(Ordering::Relaxed) {
            self.on.given_up.fetch_add(1, Ordering::Relaxed);
        }
        if self.on.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.on.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

impl Multiplexed {
    /// Begins HTTP/2 on a socket. `turn` is held until it is known how many requests the connection takes. The first
    /// place is the caller's.
    pub(super) async fn start(
        socket: Arc<Socket>,
        limits: Pool,
        turn: Option<ConnectingTurn>,
    ) -> io::Result<StreamPermit> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(INITIAL_MAX_STREAMS)
            .max_header_list_size(MAX_HEAD_BYTES as u32);
        let handshake = builder.handshake(TokioIo::new(Tap(socket.clone())));
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        let multiplexed = Arc::new(Multiplexed {
            sender,
            socket,
            streams: AtomicUsize::new(1),
            // Its maker's alone until upstream has said more.
            max_streams: AtomicUsize::new(1),
            has_ended: AtomicBool::new(false),
            given_up: AtomicUsize::new(0),
            idle_since: Mutex::new(Instant::now()),
            made: Instant::now(),
            limits,
        });
        tokio::spawn(drive(connection, Arc::downgrade(&multiplexed), turn));
        Ok(StreamPermit::new(multiplexed))
    }

    /// Takes a place, unless all that upstream allows are taken.
    pub(super) fn enter(self: &Arc<Self>) -> Option<StreamPermit> {
        let before = self.streams.load(Ordering::Relaxed);
        if before >= self.max_streams.load(Ordering::Relaxed) {
            return None;
        }
        // A connection without a stream may have been closed unseen.
        if before == 0 && self.socket.has_hung_up() {
            self.has_ended.store(true, Ordering::Relaxed);
            return None;
        }
        self.streams.fetch_add(1, Ordering::Relaxed);
        Some(StreamPermit::new(self.clone()))
    }

    /// Whether it takes new requests: it has not ended, was not told to go away, is not too old, and not many streams on it were
    /// given up. Streams on one that takes no more go on to their end.
    pub(super) fn is_open(&self) -> bool {
        let is_young = self.made.elapsed() < self.limits.max_age;
        let is_sound = self.given_up.load(Ordering::Relaxed) < MAX_GIVEN_UP;
        is_young && is_sound && !self.has_ended.load(Ordering::Relaxed) && !self.sender.is_closed()
    }

    /// Whether upstream takes more of bodies than those that are on their way already. What one caller's body holds of
    /// the connection's window would be missing to all others on the connection.
    pub(super) fn takes_bodies(&self) -> bool {
        self.socket.has_window()
    }

    pub(super) fn is_idle_for_too_long(&self) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.streams.load(Ordering::Relaxed) == 0 && since.elapsed() >= self.limits.idle
    }
}

/// Drives an HTTP/2 connection until it ends, and notes what upstream's settings allow.
async fn drive(
    mut connection: http2::Connection<TokioIo<Tap>, Upload, TokioExecutor>,
    watched: Weak<Multiplexed>,
    mut turn: Option<ConnectingTurn>,
) {
    // hyper reads upstream's settings in a task of its own, and wakes nobody for them.
    let mut looks = tokio::time::interval(SETTINGS_POLL_INTERVAL);
    let mut patience = SETTINGS_POLLS;
    let _ended = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        if ended.is_pending() {
            let allowed = connection.current_max_send_streams();
            while turn.is_some() && looks.poll_tick(cx).is_ready() {
                patience -= 1;
                // The others come when it is known how many this connection takes.
                turn = turn.take().filter(|_| allowed == INITIAL_MAX_STREAMS && patience > 0);
            }
            if turn.is_none()
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
