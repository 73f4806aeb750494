//! A worker's own connections to upstream: HTTP/1.1 one request at a time, kept alive, last in first out; HTTP/2
//! many at a time.
//!
//! Invariant: an HTTP/1.1 connection on which anything at all has arrived since its last answer is never used
//! again, so no byte of one answer can reach the next caller.

mod idle;
mod lease;
mod multiplexed;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::bounds::{MAX_HEAD_BYTES, MAX_READ_BYTES};
use super::compiled::Upstream;
use super::connect::{Connected, connect, over_tcp};
use super::connect_error::{ConnectError, is_shortage};
use super::dial::{attempt_delay, dial};
use super::endpoints::Endpoint;
use super::health::AtEndpoint;
use super::socket::{Socket, Tap};
use idle::{ByEndpoint, IdleConnections};
use lease::Connection;
pub(crate) use lease::Lease;
use multiplexed::{ConnectingTurn, Multiplexed};

/// What a request needs of its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// HTTP/2 will not do.
    pub(crate) http1: bool,
    /// Room for a body.
    pub(crate) body: bool,
    /// None that was used before.
    pub(crate) new: bool,
}

/// The connections of one worker, by the endpoint's id.
#[derive(Debug, Default)]
pub(crate) struct WorkerPool {
    idle: Arc<IdleConnections>,
    multiplexed: Mutex<ByEndpoint<Vec<Arc<Multiplexed>>>>,
    /// Held while a connection is made that others may share, so that a burst of requests makes one.
    connecting: Mutex<ByEndpoint<Arc<tokio::sync::Mutex<()>>>>,
}

/// An endpoint that can't be connected to, and why.
type Unreached = (Arc<Endpoint>, io::Error);

impl WorkerPool {
    /// A connection to this endpoint that is there and alive; `None` where there is none.
    pub(crate) fn reuse(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
        needs: Needs,
    ) -> Option<Lease> {
        if needs.new {
            return None;
        }
        let connection = self.kept(upstream, endpoint, needs)?;
        Some(self.leased(connection, true, endpoint.health.enter(), upstream, endpoint))
    }

    /// A new connection to this endpoint or, where it is an address of a name and can't be connected to soon, to another
    /// one of that name; or one that another request makes meanwhile. `tried`: endpoints that are out of the question;
    /// those that can't be connected to are added, and it is noted of them.
    ///
    /// # Errors
    ///
    /// What the system said, or that it took longer than `limit`: to be made, or to wait for another request that
    /// makes one.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
        needs: Needs,
        limit: Duration,
        tried: &mut Vec<Arc<Endpoint>>,
    ) -> Result<Lease, ConnectError> {
        let at = endpoint.health.enter();
        let may_share = !needs.http1 && endpoint.may_speak_http2() && !endpoint.chose_http1();
        let turn = match may_share {
            true => match timeout(limit, self.turn(endpoint).lock_owned()).await {
                Ok(turn) => Some(turn),
                Err(_elapsed) => {
                    tried.push(endpoint.clone());
                    return Err(ConnectError::Waiting);
                }
            },
            false => None,
        };
        // Whoever had the turn before may have made one.
        if may_share
            && !needs.new
            && let Some(connection) = self.kept(upstream, endpoint, needs)
        {
            return Ok(self.leased(connection, true, at, upstream, endpoint));
        }
        let delay = |count| attempt_delay(limit, count);
        let connecting = async {
            match self.connect(upstream, endpoint, needs, turn, &delay, tried).await {
                // What is kept for later has what is needed now.
                Err((_, error)) if is_shortage(&error) && self.let_go().await => {
                    self.connect(upstream, endpoint, needs, None, &delay, tried).await
                }
                connected => connected,
            }
        };
        let connected = timeout(limit, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err((endpoint.clone(), io::ErrorKind::TimedOut.into())));
        let (connection, reached) = match connected {
            Ok(connected) => connected,
            Err((failed, error)) => {
                let error = ConnectError::Connecting(error);
                // A server that has no HTTP/1.1 for an upgrade is well otherwise, and one that we have no socket for was
                // not asked.
                if !needs.http1 && !error.is_not_its_fault() {
                    upstream.note_failure(&failed, &error);
                }
                tried.push(failed);
                return Err(error);
            }
        };
        let at = if Arc::ptr_eq(&reached, endpoint) { at } else { reached.health.enter() };
        Ok(self.leased(connection, false, at, upstream, &reached))
    }

    /// Closes all connections that wait for a request. Says whether there were any.
    async fn let_go(&self) -> bool {
        let has_any = self.idle.close_all();
        // Each is closed by a task of its own.
        tokio::task::yield_now().await;
        has_any
    }

    /// Makes a connection, and returns it with the endpoint that it leads to.
    async fn connect(
        &self,
        upstream: &Upstream,
        endpoint: &Arc<Endpoint>,
        needs: Needs,
        turn: Option<ConnectingTurn>,
        delay: &(dyn Fn(usize) -> Duration + Sync),
        tried: &mut Vec<Arc<Endpoint>>,
    ) -> Result<(Connection, Arc<Endpoint>), Unreached> {
        let stand_ins = upstream.stand_ins(endpoint, tried);
        let (reached, connected) = match stand_ins.is_empty() {
            true => (endpoint.clone(), connect(endpoint, needs.http1).await),
            false => connect_to_one_of(upstream, endpoint, stand_ins, needs, delay, tried).await?,
        };
        let failed = |error| (reached.clone(), error);
        let Connected { socket, protocol } = connected.map_err(failed)?;
        if !needs.http1 {
            reached.is_http1.store(!protocol.has_streams(), Ordering::Relaxed);
        }
        if !protocol.has_streams() {
            return Ok((start_http1(socket).await.map_err(failed)?, reached));
        }
        let permit = Multiplexed::start(socket, upstream.pool, turn).await.map_err(failed)?;
        let mut all = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(reached.id).or_default().push(permit.on.clone());
        Ok((Connection::Http2 { permit: Arc::new(permit), copy: None }, reached))
    }

    fn leased(
        self: &Arc<Self>,
        connection: Connection,
        is_reused: bool,
        at: AtEndpoint,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
    ) -> Lease {
        let (endpoint, upstream, idle) = (endpoint.clone(), upstream.clone(), self.idle.clone());
        Lease { connection, is_reused, may_be_kept: true, at, endpoint, upstream, idle }
    }

    fn kept(&self, upstream: &Upstream, endpoint: &Endpoint, needs: Needs) -> Option<Connection> {
        let multiplexed = (endpoint.may_speak_http2() && !needs.http1)
            .then(|| self.shared(upstream, endpoint, needs))
            .flatten();
        multiplexed.or_else(|| self.idle.take(endpoint).map(Connection::from))
    }

    /// A place on the first HTTP/2 connection that has one. A request with a body gets none where the bodies that are
    /// there already have used up what upstream takes, unless there are as many connections as may be.
    fn shared(&self, upstream: &Upstream, endpoint: &Endpoint, needs: Needs) -> Option<Connection> {
        let multiplexed = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
        let all = multiplexed.get(&endpoint.id)?;
        let open = || all.iter().filter(|connection| connection.is_open());
        let permit = match needs.body {
            false => open().find_map(Multiplexed::enter),
            true => {
                let mut with_room = open().filter(|connection| connection.takes_bodies());
                let is_full = || open().count() >= upstream.pool.max_idle.max(1);
                let first = with_room.find_map(Multiplexed::enter);
                first.or_else(|| is_full().then(|| open().find_map(Multiplexed::enter)).flatten())
            }
        };
        permit.map(|permit| Connection::Http2 { permit: Arc::new(permit), copy: None })
    }

    fn turn(&self, endpoint: &Endpoint) -> Arc<tokio::sync::Mutex<()>> {
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        connecting.entry(endpoint.id).or_default().clone()
    }

    /// Closes what has been idle for too long. Called now and then by the worker.
    pub(crate) fn sweep(&self) {
        self.idle.sweep();
        let mut multiplexed = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
        for connections in multiplexed.values_mut() {
            connections.retain(|connection| connection.is_open() && !connection.is_idle_for_too_long());
        }
        multiplexed.retain(|_, connections| !connections.is_empty());
        drop(multiplexed);
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        connecting.retain(|_, turn| Arc::strong_count(turn) > 1);
    }
}

/// Connects to the first of an endpoint and its stand-ins that takes the connection.
async fn connect_to_one_of(
    upstream: &Upstream,
    endpoint: &Arc<Endpoint>,
    stand_ins: Vec<Arc<Endpoint>>,
    needs: Needs,
    delay: &(dyn Fn(usize) -> Duration + Sync),
    tried: &mut Vec<Arc<Endpoint>>,
) -> Result<(Arc<Endpoint>, io::Result<Connected>), Unreached> {
    let mut candidates = stand_ins;
    candidates.insert(0, endpoint.clone());
    let addresses: Vec<_> = candidates.iter().filter_map(|candidate| candidate.socket).collect();
    let mut failed = Vec::new();
    let dialled = dial(&addresses, delay(addresses.len()), |index, error| failed.push((index, error))).await;
    // Where all have failed, the caller notes it of the first.
    let is_noted = |index: usize| index > 0 || dialled.is_ok();
    for (index, error) in failed {
        let Some(candidate) = candidates.get(index) else { continue };
        if is_noted(index) && !is_shortage(&error) {
            upstream.note_failure(candidate, &ConnectError::Connecting(error));
        }
        if dialled.is_err() {
            tried.push(candidate.clone());
        }
    }
    let (stream, index) = dialled.map_err(|error| (endpoint.clone(), error))?;
    let reached = candidates.get(index).unwrap_or(endpoint).clone();
    let connected = over_tcp(&reached, stream, needs.http1).await;
    Ok((reached, connected))
}

async fn start_http1(socket: Arc<Socket>) -> io::Result<Connection> {
    let mut builder = http1::Builder::new();
    builder.max_header_size(MAX_HEAD_BYTES).max_buf_size(MAX_READ_BYTES);
    let handshake = builder.handshake(TokioIo::new(Tap(socket.clone())));
    let (sender, connection) = handshake.await.map_err(io::Error::other)?;
    tokio::spawn(async move {
        // How it ended is told to the request that was on it; between requests nobody is concerned.
        let _ended = connection.with_upgrades().await;
    });
    Ok(Connection::Http1 { sender, socket, written_before: 0, made: Instant::now() })
}

impl Endpoint {
    fn may_speak_http2(&self) -> bool {
        use crate::config::EndpointAddress;
        matches!(self.address, EndpointAddress::H2c(_) | EndpointAddress::Https(_))
    }

    /// Whether it chose HTTP/1.1 last, where it had the choice: its connections are not shared.
    fn chose_http1(&self) -> bool {
        self.is_http1.load(Ordering::Relaxed)
    }
}
