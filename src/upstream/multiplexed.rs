//! HTTP/2 connections to upstream, which several requests share.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use http::Request;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::connect::{Socket, Tap};
use super::pool::{MAX_HEAD_BYTES, Sent};
use super::upload::Upload;

/// Requests at once on one HTTP/2 connection, where upstream does not say less.
const MAX_STREAMS: usize = 100;
/// … until it has said anything: a number that no server is likely to say.
const UNTOLD_STREAMS: usize = 7;
/// Who waits to share a connection waits for upstream's word on how many may: it is looked for so often,
const SETTINGS_LOOK: Duration = Duration::from_millis(1);
/// … and so many times.
const SETTINGS_LOOKS: usize = 500;

/// What upstream may send of one answer ahead of a slow client.
const STREAM_WINDOW: u32 = 256 * 1024;
/// Room for all streams at once: a client that stops reading must not hold up the others on its connection.
pub(super) const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;

/// The right to make a connection that others will share.
pub(super) type Turn = tokio::sync::OwnedMutexGuard<()>;

/// An HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Multiplexed {
    sender: http2::SendRequest<Upload>,
    socket: Arc<Socket>,
    streams: AtomicUsize,
    /// What upstream's settings allow.
    max_streams: AtomicUsize,
    has_ended: AtomicBool,
    /// When it last had no stream, and how long it may stay so.
    idle_since: Mutex<Instant>,
    limit: Duration,
}

/// A place on an HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Place(pub(super) Arc<Multiplexed>);

impl Place {
    pub(super) fn send(&self, request: Request<Upload>) -> impl Future<Output = Sent> + use<> {
        self.0.sender.clone().try_send_request(request)
    }

    /// Something has come of what was read.
    pub(super) fn progressed(&self) {
        self.0.socket.progressed();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

impl Multiplexed {
    /// Begins to speak HTTP/2, and takes the first place. `turn` is held until it is known how many requests the connection
    /// takes, `limit` how long it may have none.
    pub(super) async fn start(
        socket: Arc<Socket>,
        limit: Duration,
        turn: Option<Turn>,
    ) -> io::Result<Arc<Self>> {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .initial_max_send_streams(UNTOLD_STREAMS)
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
            idle_since: Mutex::new(Instant::now()),
            limit,
        });
        tokio::spawn(drive(connection, Arc::downgrade(&multiplexed), turn));
        Ok(multiplexed)
    }

    /// Takes a place, unless all that upstream allows are taken.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
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
        Some(Place(self.clone()))
    }

    /// Closed, or told to go away: nothing new is begun on it.
    pub(super) fn is_alive(&self) -> bool {
        !self.has_ended.load(Ordering::Relaxed) && !self.sender.is_closed()
    }

    pub(super) fn is_idle_for_too_long(&self) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.streams.load(Ordering::Relaxed) == 0 && since.elapsed() >= self.limit
    }
}

/// Drives an HTTP/2 connection until it ends, and notes what upstream's settings allow.
async fn drive(
    mut connection: http2::Connection<TokioIo<Tap>, Upload, TokioExecutor>,
    watched: Weak<Multiplexed>,
    mut turn: Option<Turn>,
) {
    // hyper reads upstream's settings in a task of its own, and wakes nobody for them.
    let mut looks = tokio::time::interval(SETTINGS_LOOK);
    let mut patience = SETTINGS_LOOKS;
    let _ended = poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        if ended.is_pending() {
            let allowed = connection.current_max_send_streams();
            while turn.is_some() && looks.poll_tick(cx).is_ready() {
                patience -= 1;
                // The others come when it is known how many this connection takes.
                turn = turn.take().filter(|_| allowed == UNTOLD_STREAMS && patience > 0);
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
