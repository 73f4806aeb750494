//! A worker's own connections to upstream: HTTP/1.1 one request at a time, kept alive, last in first out; HTTP/2
//! many at a time.
//!
//! Invariant: an HTTP/1.1 connection on which anything at all has arrived since its last answer is never used
//! again, so no byte of one answer can reach the next caller.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::Either;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::connect::{Connected, Socket, Tap, connect};
use super::driver::Driver;
use super::health::AtEndpoint;
use super::multiplexed::{Multiplexed, Place, Turn};
use super::unconnected::{LeaseError, is_shortage};
use super::upload::Upload;
use super::{Endpoint, Upstream};

/// Past this, an answer's head is no answer.
pub(super) const MAX_HEAD_BYTES: usize = 128 * 1024;
/// A read of a large answer takes this much at once; it starts small and grows only where it pays.
pub(super) const MAX_READ_BYTES: usize = 256 * 1024;
/// The connections of one worker, by the endpoint's id.
#[derive(Debug, Default)]
pub(crate) struct WorkerPool {
    idle: Mutex<HashMap<u64, Vec<Idle>>>,
    multiplexed: Mutex<HashMap<u64, Vec<Arc<Multiplexed>>>>,
    /// Held while a connection is made that others may share, so that a burst of requests makes one.
    connecting: Mutex<HashMap<u64, Arc<tokio::sync::Mutex<()>>>>,
}

/// An HTTP/1.1 connection between two requests.
#[derive(Debug)]
struct Idle {
    sender: http1::SendRequest<Upload>,
    driver: Driver,
    socket: Arc<Socket>,
    since: Instant,
    limit: Duration,
}

impl Idle {
    /// Ends it as one does, with a word where there is TLS.
    fn close(mut self) {
        self.driver.detach();
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
        driver: Driver,
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
            true => {
                let multiplexed = Multiplexed::start(socket, upstream.pool.idle, turn).await?;
                let mut all = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
                all.entry(endpoint.id).or_default().push(multiplexed.clone());
                Ok(Way::Http2(Arc::new(Place(multiplexed))))
            }
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
                let Idle { sender, driver, socket, .. } = candidate;
                return Some(Way::Http1 { written_before: socket.written(), sender, driver, socket });
            }
            candidate.close();
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
        Ok(Way::Http1 { sender, driver: Driver::new(connection), socket, written_before: 0 })
    }

    /// Closes what has been idle for too long. Called now and then by the worker.
    pub(crate) fn sweep(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        for connections in idle.values_mut() {
            for gone in connections
                .extract_if(.., |idle| idle.since.elapsed() >= idle.limit || !idle.socket.is_quiet())
            {
                gone.close();
            }
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
            Way::Http1 { sender, driver, socket, .. } => {
                socket.expects_head();
                let answer = sender.try_send_request(request);
                Either::Left(async move {
                    let mut answer = pin!(answer);
                    let sent = poll_fn(|cx| driver.poll_with(cx, |cx| answer.as_mut().poll(cx))).await;
                    socket.head_came();
                    sent
                })
            }
            Way::Http2(place) => {
                // An upload that upstream takes no more of still has its stream, whatever became of the answer.
                request.body_mut().hold(place.clone());
                let answer = place.send(request);
                Either::Right(answer.inspect(|_| place.progressed()))
            }
        }
    }

    /// Polls what waits for something of the connection, and has the connection get on meanwhile.
    pub(crate) fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut waiting: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        match &mut self.way {
            Way::Http1 { driver, .. } => driver.poll_with(cx, waiting),
            Way::Http2(_) => waiting(cx),
        }
    }

    /// Has the connection get on by itself, whoever waits for it.
    pub(crate) fn detach(&mut self) {
        if let Way::Http1 { driver, .. } = &mut self.way {
            driver.detach();
        }
    }

    /// A frame of the answer has come.
    pub(crate) fn progressed(&self) {
        if let Way::Http2(place) = &self.way {
            place.progressed();
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
        let Way::Http1 { sender, mut driver, socket, .. } = self.way else { return };
        let settings = self.upstream.pool;
        if !self.may_be_kept || sender.is_closed() {
            return;
        }
        driver.rest();
        let idle = Idle { sender, driver, socket, since: Instant::now(), limit: settings.idle };
        let mut all = self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = all.entry(self.endpoint.id).or_default();
        if connections.len() < settings.max_idle {
            connections.push(idle);
        } else {
            idle.close();
        }
    }

    /// The connection is a tunnel from here on; what is left of the lease is the place at its endpoint.
    pub(crate) fn into_tunnel(self) -> AtEndpoint {
        self.at
    }
}
