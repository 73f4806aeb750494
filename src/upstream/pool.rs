//! A worker's own connections to upstream: HTTP/1.1 one request at a time, kept alive, last in first out; HTTP/2
//! many at a time.
//!
//! Invariant: an HTTP/1.1 connection on which anything at all has arrived since its last answer is never used
//! again, so no byte of one answer can reach the next caller.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use super::connect::{Connected, Socket, Tap, connect};
use super::health::AtEndpoint;
use super::unconnected::{LeaseError, is_shortage};
use super::upload::Upload;
use super::{Endpoint, Upstream};

/// Past this, an answer's head is no answer.
pub(super) const MAX_HEAD_BYTES: usize = 128 * 1024;
/// A read of a large answer takes this much at once; it starts small and grows only where it pays.
pub(super) const MAX_READ_BYTES: usize = 256 * 1024;
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

/// The connections of one worker, by the endpoint's id.
#[derive(Debug, Default)]
pub(crate) struct WorkerPool {
    idle: Mutex<ByEndpoint<Vec<Idle>>>,
    multiplexed: Mutex<ByEndpoint<Vec<Arc<Multiplexed>>>>,
    /// Held while a connection is made that others may share, so that a burst of requests makes one.
    connecting: Mutex<ByEndpoint<Arc<tokio::sync::Mutex<()>>>>,
}

/// Ids are numbers of ours: nobody chooses them so that they collide.
type ByEndpoint<T> = HashMap<u64, T, foldhash::fast::RandomState>;

/// The right to make a connection that others will share.
type Turn = tokio::sync::OwnedMutexGuard<()>;

/// An HTTP/1.1 connection between two requests.
#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Upload>,
    socket: Arc<Socket>,
    since: Instant,
    limit: Duration,
}

/// An HTTP/2 connection.
#[derive(Debug)]
struct Multiplexed {
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
struct Place(Arc<Multiplexed>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::Relaxed) == 1 {
            *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

/// What becomes of a request that was sent: the head of its answer, or itself again if nothing of it was written.
pub(crate) type Sent = Result<Response<Incoming>, TrySendError<Request<Upload>>>;

/// A connection in use by one request. Unless it is given back, dropping it closes it, or ends its stream.
#[derive(Debug)]
pub(crate) struct Lease {
    way: Way,
    /// Whether it served a request before, so that it may have died unseen.
    pub(crate) is_reused: bool,
    /// Whether another request may follow on the connection.
    may_be_kept: bool,
    at: AtEndpoint,
    endpoint: Arc<Endpoint>,
    upstream: Arc<Upstream>,
    pool: Arc<WorkerPool>,
}

#[derive(Debug)]
enum Way {
    Http1 {
        sender: http1::SendRequest<Upload>,
        socket: Arc<Socket>,
        /// Bytes that had been written before this request.
        written_before: u64,
    },
    Http2(Arc<Place>),
}

impl WorkerPool {
    /// A connection to this endpoint that is there and alive; `None` where there is none.
    pub(crate) fn reuse(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
        needs_http1: bool,
    ) -> Option<Lease> {
        let way = self.way(endpoint, needs_http1)?;
        Some(self.leased(way, true, endpoint.health.enter(), upstream, endpoint))
    }

    /// A new connection to this endpoint, or one that somebody makes meanwhile.
    ///
    /// # Errors
    ///
    /// What the system said, or that it took longer than `limit`: to be made, or to wait for another request that
    /// makes one.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
        needs_http1: bool,
        limit: Duration,
    ) -> Result<Lease, LeaseError> {
        let at = endpoint.health.enter();
        let may_share = !needs_http1 && endpoint.may_speak_http2() && !endpoint.chose_http1();
        let turn = match may_share {
            true => match timeout(limit, self.turn(endpoint).lock_owned()).await {
                Ok(turn) => Some(turn),
                Err(_elapsed) => return Err(LeaseError::Waiting),
            },
            false => None,
        };
        // Whoever had the turn before may have made one.
        if may_share && let Some(way) = self.way(endpoint, needs_http1) {
            return Ok(self.leased(way, true, at, upstream, endpoint));
        }
        let connecting = async {
            match self.connect(upstream, endpoint, needs_http1, turn).await {
                // What is kept for later has what is needed now.
                Err(error) if is_shortage(&error) && self.let_go().await => {
                    self.connect(upstream, endpoint, needs_http1, None).await
                }
                connected => connected,
            }
        };
        let way = match timeout(limit, connecting).await {
            Ok(connected) => connected?,
            Err(_elapsed) => return Err(LeaseError::Connecting(io::ErrorKind::TimedOut.into())),
        };
        Ok(self.leased(way, false, at, upstream, endpoint))
    }

    /// Closes all connections that wait for a request. Says whether there were any.
    async fn let_go(&self) -> bool {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        let has_any = idle.values().any(|connections| !connections.is_empty());
        drop(idle);
        // Each is closed by a task of its own.
        tokio::task::yield_now().await;
        has_any
    }

    async fn connect(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        needs_http1: bool,
        turn: Option<Turn>,
    ) -> io::Result<Way> {
        let Connected { socket, is_http2 } = connect(endpoint, needs_http1).await?;
        if !needs_http1 {
            endpoint.is_http1.store(!is_http2, Ordering::Relaxed);
        }
        match is_http2 {
            true => self.start_http2(socket, upstream, endpoint, turn).await,
            false => self.start_http1(socket).await,
        }
    }

    fn leased(
        self: &Arc<Self>,
        way: Way,
        is_reused: bool,
        at: AtEndpoint,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
    ) -> Lease {
        let (endpoint, upstream, pool) = (endpoint.clone(), upstream.clone(), self.clone());
        Lease { way, is_reused, may_be_kept: true, at, endpoint, upstream, pool }
    }

    fn way(&self, endpoint: &Endpoint, needs_http1: bool) -> Option<Way> {
        let multiplexed =
            (endpoint.may_speak_http2() && !needs_http1).then(|| self.place(endpoint)).flatten();
        multiplexed.or_else(|| self.idle(endpoint))
    }

    /// The HTTP/1.1 connection that was used last, of those that are alive.
    fn idle(&self, endpoint: &Endpoint) -> Option<Way> {
        loop {
            let candidate = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                idle.get_mut(&endpoint.id)?.pop()?
            };
            let is_fresh = candidate.since.elapsed() < candidate.limit;
            if is_fresh && candidate.sender.is_ready() && candidate.socket.is_quiet() {
                let Idle { sender, socket, .. } = candidate;
                return Some(Way::Http1 { written_before: socket.written(), sender, socket });
            }
        }
    }

    /// A place on the first HTTP/2 connection that has one.
    fn place(&self, endpoint: &Endpoint) -> Option<Way> {
        let multiplexed = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut alive = multiplexed.get(&endpoint.id)?.iter().filter(|connection| connection.is_alive());
        alive.find_map(|connection| connection.enter()).map(|place| Way::Http2(Arc::new(place)))
    }

    fn turn(&self, endpoint: &Endpoint) -> Arc<tokio::sync::Mutex<()>> {
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        connecting.entry(endpoint.id).or_default().clone()
    }

    async fn start_http1(&self, socket: Arc<Socket>) -> io::Result<Way> {
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEAD_BYTES).max_buf_size(MAX_READ_BYTES);
        let handshake = builder.handshake(TokioIo::new(Tap(socket.clone())));
        let (sender, connection) = handshake.await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // How it ended is told to the request that was on it; between requests nobody is concerned.
            let _ended = connection.with_upgrades().await;
        });
        Ok(Way::Http1 { sender, socket, written_before: 0 })
    }

    /// `turn` is held until it is known how many requests the connection takes.
    async fn start_http2(
        &self,
        socket: Arc<Socket>,
        upstream: &Upstream,
        endpoint: &Endpoint,
        turn: Option<Turn>,
    ) -> io::Result<Way> {
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
            limit: upstream.pool.idle,
        });
        tokio::spawn(drive(connection, Arc::downgrade(&multiplexed), turn));
        let mut all = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(endpoint.id).or_default().push(multiplexed.clone());
        Ok(Way::Http2(Arc::new(Place(multiplexed))))
    }

    /// Closes what has been idle for too long. Called now and then by the worker.
    pub(crate) fn sweep(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for connections in idle.values_mut() {
            connections.retain(|idle| idle.since.elapsed() < idle.limit && !idle.sender.is_closed());
        }
        idle.retain(|_, connections| !connections.is_empty());
        drop(idle);
        let mut multiplexed = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
        for connections in multiplexed.values_mut() {
            connections.retain(|connection| connection.is_alive() && !connection.is_idle_for_too_long());
        }
        multiplexed.retain(|_, connections| !connections.is_empty());
        drop(multiplexed);
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        connecting.retain(|_, turn| Arc::strong_count(turn) > 1);
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

impl Endpoint {
    fn may_speak_http2(&self) -> bool {
        use crate::config::Endpoint;
        matches!(self.address, Endpoint::H2c(_) | Endpoint::Https(_))
    }

    /// Whether it chose HTTP/1.1 last, where it had the choice: its connections are not shared.
    fn chose_http1(&self) -> bool {
        self.is_http1.load(Ordering::Relaxed)
    }
}

impl Multiplexed {
    /// Takes a place, unless all that upstream allows are taken.
    fn enter(self: &Arc<Self>) -> Option<Place> {
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
    fn is_alive(&self) -> bool {
        !self.has_ended.load(Ordering::Relaxed) && !self.sender.is_closed()
    }

    fn is_idle_for_too_long(&self) -> bool {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.streams.load(Ordering::Relaxed) == 0 && since.elapsed() >= self.limit
    }
}

impl Lease {
    pub(crate) fn is_http2(&self) -> bool {
        matches!(self.way, Way::Http2(_))
    }

    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Sends the request at once; the head of its answer follows.
    pub(crate) fn send(&mut self, mut request: Request<Upload>) -> impl Future<Output = Sent> + use<'_> {
        match &mut self.way {
            Way::Http1 { sender, socket, .. } => {
                socket.expects_head();
                let answer = sender.try_send_request(request);
                Either::Left(answer.inspect(|_| socket.head_came()))
            }
            Way::Http2(place) => {
                // An upload that upstream takes no more of still has its stream, whatever became of the answer.
                request.body_mut().hold(place.clone());
                let answer = place.0.sender.clone().try_send_request(request);
                Either::Right(answer.inspect(|_| place.0.socket.progressed()))
            }
        }
    }

    /// A frame of the answer has come.
    pub(crate) fn progressed(&self) {
        if let Way::Http2(place) = &self.way {
            place.0.socket.progressed();
        }
    }

    /// Whether upstream may have acted on this request: whether any byte of it was written. On a connection that
    /// others write to as well, it is said to be so once it was begun.
    pub(crate) fn has_written(&self) -> bool {
        match &self.way {
            Way::Http1 { socket, written_before, .. } => socket.written() > *written_before,
            Way::Http2(_) => true,
        }
    }

    /// No other request follows on the connection.
    pub(crate) fn is_last_use(&mut self) {
        self.may_be_kept = false;
    }

    /// The answer is whole: the connection may serve the next request, if it is still one.
    pub(crate) fn give_back(self) {
        let Way::Http1 { sender, socket, .. } = self.way else { return };
        let settings = self.upstream.pool;
        if !self.may_be_kept || sender.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(self.endpoint.id).or_default();
        if connections.len() < settings.max_idle {
            connections.push(Idle { sender, socket, since: Instant::now(), limit: settings.idle });
        }
    }

    /// The connection is a tunnel from here on; what is left of the lease is the place at its endpoint.
    pub(crate) fn into_tunnel(self) -> AtEndpoint {
        self.at
    }
}
