//! The connection pool of one worker. For each request, `forward` leases a connection from the
//! pool.
//!
//! An HTTP/1.1 connection serves one request at a time; the most recently used idle connection is
//! reused first. An HTTP/2 connection serves many requests at a time.
//! Invariant: an HTTP/1.1 connection is never reused if a byte has arrived on it after its last
//! answer. This keeps bytes of one client's answer from reaching the next client.

mod idle;
mod lease;
mod multiplexed;

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::compiled::Upstream;
use super::connect::{Connected, connect, over_tcp};
use super::connect_error::{ConnectError, is_shortage};
use super::dial::{attempt_delay, dial};
use super::endpoints::Endpoint;
use super::health::InFlightGuard;
use super::http1::Http1;
use super::socket::Socket;
use idle::{ByEndpoint, IdleConnections};
use lease::Connection;
pub(crate) use lease::Lease;
use multiplexed::{ConnectingGuard, Multiplexed};

/// What a request requires of its connection to upstream.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConnectionNeeds {
    /// Whether the request can't be sent over HTTP/2.
    pub(crate) http1_only: bool,
    /// Whether the request has a body, so that an HTTP/2 connection's window must have room for it.
    pub(crate) has_body: bool,
    /// Whether the connection must not have served a request before.
    pub(crate) new_only: bool,
}

/// The pooled connections of one worker, by endpoint id.
#[derive(Debug, Default)]
pub(crate) struct WorkerPool {
    idle: Arc<IdleConnections>,
    multiplexed: Mutex<ByEndpoint<Vec<Arc<Multiplexed>>>>,
    /// Locks by endpoint id. A request holds its endpoint's lock while it makes a connection that
    /// other requests may share, so a burst of requests makes only one connection.
    connecting: Mutex<ByEndpoint<Arc<tokio::sync::Mutex<()>>>>,
}

/// An endpoint to which no connection could be made, and the error.
type ConnectFailure = (Arc<Endpoint>, io::Error);

impl WorkerPool {
    /// Leases a pooled connection to this endpoint; `None` if the pool has no live connection for
    /// the request.
    pub(crate) fn reuse(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
        needs: ConnectionNeeds,
    ) -> Option<Lease> {
        if needs.new_only {
            return None;
        }
        let connection = self.existing(upstream, endpoint, needs)?;
        Some(self.make_lease(connection, true, endpoint.health.start_request(), upstream, endpoint))
    }

    /// Leases a new connection to this endpoint, or a connection that another request has made in
    /// the meantime.
    ///
    /// If the endpoint is one of several addresses of a host name and does not accept the
    /// connection soon, the other addresses are tried in parallel, without those in `tried`. Each
    /// failure is recorded in the health of its address. If no address accepts, all of these
    /// addresses are added to `tried`.
    ///
    /// # Errors
    ///
    /// Returns the system's error, or a timeout after `limit`. The timeout includes the time to
    /// connect, and the time to wait for another request that connects to the endpoint.
    pub(crate) async fn lease(
        self: &Arc<Self>,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
        needs: ConnectionNeeds,
        limit: Duration,
        tried: &mut Vec<Arc<Endpoint>>,
    ) -> Result<Lease, ConnectError> {
        let in_flight = endpoint.health.start_request();
        let may_share = !needs.http1_only && endpoint.may_speak_http2() && !endpoint.chose_http1();
        let guard = match may_share {
            true => match timeout(limit, self.connecting_lock(endpoint).lock_owned()).await {
                Ok(guard) => Some(guard),
                Err(_elapsed) => {
                    tried.push(endpoint.clone());
                    return Err(ConnectError::Waiting);
                }
            },
            false => None,
        };
        // The previous holder of the lock may have made a connection that this request can share.
        let can_share = may_share && !needs.new_only;
        if can_share && let Some(connection) = self.existing(upstream, endpoint, needs) {
            return Ok(self.make_lease(connection, true, in_flight, upstream, endpoint));
        }
        let delay = |count| attempt_delay(limit, count);
        let connecting = async {
            match self.connect(upstream, endpoint, needs, guard, &delay, tried).await {
                // A connection needs a descriptor. Closing all idle connections frees descriptors
                // for the new connection.
                Err((_, error)) if is_shortage(&error) && self.close_idle() => {
                    let guard = match may_share {
                        true => Some(self.connecting_lock(endpoint).lock_owned().await),
                        false => None,
                    };
                    // Another request may have made a connection meanwhile.
                    let existing = if can_share { self.existing(upstream, endpoint, needs) } else { None };
                    match existing {
                        Some(connection) => Ok((connection, endpoint.clone())),
                        None => self.connect(upstream, endpoint, needs, guard, &delay, tried).await,
                    }
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
                // If a server offers no HTTP/1.1 for an upgrade, the server may still be healthy
                // for requests over HTTP/2, so the failure does not change the endpoint's health.
                if !needs.http1_only && error.is_caused_by_endpoint() {
                    upstream.note_failure(&failed, &error);
                }
                tried.push(failed);
                return Err(error);
            }
        };
        let in_flight =
            if Arc::ptr_eq(&reached, endpoint) { in_flight } else { reached.health.start_request() };
        Ok(self.make_lease(connection, false, in_flight, upstream, &reached))
    }

    /// Closes all idle HTTP/1.1 connections. Returns whether any were closed.
    fn close_idle(&self) -> bool {
        self.idle.close_all()
    }

    /// Makes a connection, and returns it with the endpoint that accepted it.
    async fn connect(
        &self,
        upstream: &Upstream,
        endpoint: &Arc<Endpoint>,
        needs: ConnectionNeeds,
        guard: Option<ConnectingGuard>,
        delay: &(dyn Fn(usize) -> Duration + Sync),
        tried: &mut Vec<Arc<Endpoint>>,
    ) -> Result<(Connection, Arc<Endpoint>), ConnectFailure> {
        let alternatives = upstream.alternatives(endpoint, tried);
        let (reached, connected) = match alternatives.is_empty() {
            true => (endpoint.clone(), connect(endpoint, needs.http1_only).await),
            false => connect_to_one_of(upstream, endpoint, alternatives, needs, delay, tried).await?,
        };
        let failed = |error| (reached.clone(), error);
        let Connected { socket, protocol } = connected.map_err(failed)?;
        if !needs.http1_only {
            reached.is_http1.store(!protocol.has_streams(), Ordering::Relaxed);
        }
        if !protocol.has_streams() {
            return Ok((start_http1(socket), reached));
        }
        let permit = Multiplexed::start(socket, upstream.connections.pool, guard).await.map_err(failed)?;
        let mut all = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(reached.id).or_default().push(permit.connection.clone());
        Ok((Connection::Http2 { permit: Arc::new(permit), copy: None }, reached))
    }

    fn make_lease(
        self: &Arc<Self>,
        connection: Connection,
        is_reused: bool,
        in_flight: InFlightGuard,
        upstream: &Arc<Upstream>,
        endpoint: &Arc<Endpoint>,
    ) -> Lease {
        let (endpoint, upstream, idle) = (endpoint.clone(), upstream.clone(), self.idle.clone());
        Lease { connection, is_reused, is_reusable: true, in_flight, turn: None, endpoint, upstream, idle }
    }

    /// Finds a live connection for the request: an HTTP/2 connection with a free stream, or else an
    /// idle HTTP/1.1 connection.
    fn existing(
        &self,
        upstream: &Upstream,
        endpoint: &Endpoint,
        needs: ConnectionNeeds,
    ) -> Option<Connection> {
        let multiplexed = (endpoint.may_speak_http2() && !needs.http1_only)
            .then(|| self.shared(upstream, endpoint, needs))
            .flatten();
        multiplexed.or_else(|| self.idle.take(endpoint).map(Connection::from))
    }

    /// Acquires a stream permit on the first HTTP/2 connection that has a free stream.
    ///
    /// A request with a body skips a connection whose send window is used up by other bodies. If
    /// the pool has reached its limit of connections, the request uses such a connection all the
    /// same.
    fn shared(&self, upstream: &Upstream, endpoint: &Endpoint, needs: ConnectionNeeds) -> Option<Connection> {
        let multiplexed = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
        let all = multiplexed.get(&endpoint.id)?;
        let open = || all.iter().filter(|connection| connection.is_open());
        let permit = match needs.has_body {
            false => open().find_map(Multiplexed::try_acquire),
            true => {
                let mut with_room = open().filter(|connection| connection.takes_bodies());
                let is_full = || open().count() >= upstream.connections.pool.max_idle.max(1);
                let first = with_room.find_map(Multiplexed::try_acquire);
                first.or_else(|| is_full().then(|| open().find_map(Multiplexed::try_acquire)).flatten())
            }
        };
        permit.map(|permit| Connection::Http2 { permit: Arc::new(permit), copy: None })
    }

    /// Returns the lock that a request holds while it connects to the endpoint.
    fn connecting_lock(&self, endpoint: &Endpoint) -> Arc<tokio::sync::Mutex<()>> {
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        connecting.entry(endpoint.id).or_default().clone()
    }

    /// Closes connections that have been idle for too long. The worker calls this function at
    /// intervals.
    pub(crate) fn sweep(&self) {
        self.idle.sweep();
        let mut multiplexed = self.multiplexed.lock().unwrap_or_else(PoisonError::into_inner);
        for connections in multiplexed.values_mut() {
            connections.retain(|connection| connection.is_open() && !connection.is_idle_for_too_long());
        }
        multiplexed.retain(|_, connections| !connections.is_empty());
        drop(multiplexed);
        let mut connecting = self.connecting.lock().unwrap_or_else(PoisonError::into_inner);
        connecting.retain(|_, guard| Arc::strong_count(guard) > 1);
    }
}

/// Connects to the endpoint or to another address of its host name, whichever accepts the
/// connection first.
async fn connect_to_one_of(
    upstream: &Upstream,
    endpoint: &Arc<Endpoint>,
    alternatives: Vec<Arc<Endpoint>>,
    needs: ConnectionNeeds,
    delay: &(dyn Fn(usize) -> Duration + Sync),
    tried: &mut Vec<Arc<Endpoint>>,
) -> Result<(Arc<Endpoint>, io::Result<Connected>), ConnectFailure> {
    let mut candidates = alternatives;
    candidates.insert(0, endpoint.clone());
    let addresses: Vec<_> = candidates.iter().filter_map(|candidate| candidate.socket).collect();
    debug_assert_eq!(addresses.len(), candidates.len(), "addresses of a name are socket addresses");
    let mut failed = Vec::new();
    let dialled = dial(&addresses, delay(addresses.len()), |index, error| failed.push((index, error))).await;
    // The failures are recorded in the health of their addresses. If all addresses have failed, the
    // caller records the failure of the first address.
    let is_recorded_here = |index: usize| index > 0 || dialled.is_ok();
    for (index, error) in failed {
        let Some(candidate) = candidates.get(index) else { continue };
        if is_recorded_here(index) && !is_shortage(&error) {
            upstream.note_failure(candidate, &ConnectError::Connecting(error));
        }
        if dialled.is_err() {
            tried.push(candidate.clone());
        }
    }
    let (stream, index) = dialled.map_err(|error| (endpoint.clone(), error))?;
    let reached = candidates.get(index).unwrap_or(endpoint).clone();
    let connected = over_tcp(&reached, stream, needs.http1_only).await;
    Ok((reached, connected))
}

fn start_http1(socket: Arc<Socket>) -> Connection {
    Connection::Http1 { http1: Arc::new(Http1::new(socket)), written_before: 0, made: Instant::now() }
}

impl Endpoint {
    /// Whether connections to the endpoint may speak HTTP/2.
    fn may_speak_http2(&self) -> bool {
        use crate::config::EndpointAddress;
        matches!(self.address, EndpointAddress::H2c(_) | EndpointAddress::Https(_))
    }

    /// Whether ALPN chose HTTP/1.1 for the last connection to the endpoint. Requests can't share an
    /// HTTP/1.1 connection, so no request waits for the connection of another request.
    fn chose_http1(&self) -> bool {
        self.is_http1.load(Ordering::Relaxed)
    }
}
