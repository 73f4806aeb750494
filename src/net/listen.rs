//! Listening sockets, and the loop that accepts the connections of a listening socket.
//!
//! One thread accepts for all listeners and passes each connection to the worker with the fewest
//! connections. This spreads few connections as evenly as many, also on unix sockets
//! (docs/decisions/002). If there is only one worker, it accepts connections itself.
//!
//! Invariants: no error of accept ends a listener; a connection that is in the kernel's queue when
//! the process stops is served.

use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use rustix::net::SocketFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;

use super::connections_by_address::ConnectionsByAddress;
use super::inherited::Inherited;
use super::local::Local;
use super::proxied::Proxied;
use super::standing::Standing;
use super::tls::{Serving, Swappable};
use crate::activity::ConnectionActivity;
use crate::config::{Address, Door};
use crate::proxy::{Edge, Gateway};

/// The length of the kernel's queue of connections that are not accepted yet.
const BACKLOG: i32 = 4096;
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Interval between searches for a connection to close while every permit is in use. A key holder's
/// connection may have become idle in the meantime.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The bound socket of a listener.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: Socket,
    service: Service,
    local: Local,
    /// Whether another process has bound the socket and may continue to use it.
    is_inherited: bool,
}

/// What a listener serves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Service {
    pub(crate) tls: Option<Swappable>,
    /// Whether other proxies ask here, and which; `None` where clients are served.
    pub(crate) door: Option<Door>,
    pub(crate) edge: Arc<Edge>,
    /// The networks of balancers whose connections begin with a PROXY header.
    pub(crate) balancers: Arc<[IpNet]>,
}

impl Service {
    /// Whether a connection from `peer` begins with a PROXY header.
    fn expects_header(&self, peer: Option<IpAddr>) -> bool {
        !self.balancers.is_empty()
            && peer.is_some_and(|peer| {
                let peer = peer.to_canonical();
                self.balancers.iter().any(|network| network.contains(&peer))
            })
    }
}

/// An accepted connection that is passed to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    /// The client's address; `None` on a unix socket.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) tls: Option<Serving>,
    /// Whether the peer is another proxy that asks, and which; `None` for a client.
    pub(crate) door: Option<Door>,
    pub(crate) edge: Arc<Edge>,
    /// The connection's permit (`limits.connections`), released when the connection ends.
    pub(crate) permit: OwnedSemaphorePermit,
    pub(crate) standing: Standing,
    /// The activity of the connection.
    pub(crate) activity: Arc<ConnectionActivity>,
    /// What reads the PROXY header with which the connection begins; `None` for a client's own connection.
    pub(crate) proxied: Option<Proxied>,
}

/// The socket of an accepted connection, which no runtime polls yet.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(StdTcpStream),
    Unix(StdUnixStream),
}

impl Bound {
    /// Uses the inherited socket for `address` if there is one, and binds a new one otherwise.
    pub(crate) fn bind(address: &Address, service: Service, inherited: &mut Inherited) -> io::Result<Self> {
        let handed_down = inherited.take(address);
        let is_inherited = handed_down.is_some();
        let (socket, local) = match (handed_down, address) {
            (Some(handed_down), _) => handed_down,
            (None, Address::Tcp(address)) => bind_tcp(address)?,
            (None, Address::Unix(path)) => (bind_unix(path)?, Local::Unix(path.clone())),
        };
        socket.set_nonblocking(true)?;
        if matches!(local, Local::Tcp(_)) {
            // Small writes must not wait for the acknowledgement of earlier ones. Accepted
            // connections inherit this option from the listening socket.
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Bound { socket, service, local, is_inherited })
    }

    pub(crate) fn local(&self) -> &Local {
        &self.local
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.service.tls.is_some()
    }

    /// Returns which proxy asks at this listener; `None` if it serves clients.
    pub(crate) fn door(&self) -> Option<Door> {
        self.service.door
    }

    /// Sets what the listener does beside serving requests.
    pub(crate) fn set_edge(&mut self, edge: Edge) {
        self.service.edge = Arc::new(edge);
    }

    /// Registers the socket with the current runtime, without TLS: for the admin listener.
    pub(crate) fn into_listener(self) -> io::Result<Listener> {
        Listener::new(self.socket, &self.local, self.is_inherited)
    }
}

fn bind_tcp(address: &str) -> io::Result<(Socket, Local)> {
    let no_address = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let resolved = address.to_socket_addrs()?.next().ok_or_else(no_address)?;
    let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must be able to bind while the kernel still keeps closed connections (TIME_WAIT).
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(resolved))?;
    socket.listen(BACKLOG)?;
    let local = socket.local_addr()?.as_socket().unwrap_or(resolved);
    Ok((socket, Local::Tcp(local)))
}

fn bind_unix(path: &Path) -> io::Result<Socket> {
    let address = SockAddr::unix(path)?;
    let bind = || -> io::Result<Socket> {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&address)?;
        socket.listen(BACKLOG)?;
        Ok(socket)
    };
    match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            std::fs::remove_file(path)?;
            bind()
        }
        bound => bound,
    }
}

/// Whether no process listens on the unix socket at `path` any more.
fn is_abandoned(path: &Path) -> bool {
    matches!(StdUnixStream::connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The limits on the connections of all listeners, and the function that passes connections to
/// workers.
pub(crate) struct Intake<A> {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) crowd: Arc<ConnectionsByAddress>,
    pub(crate) assign: A,
}

impl<A: Fn(Accepted)> Intake<A> {
    fn take(&self, stream: Stream, peer: Option<IpAddr>, service: &Service, permit: OwnedSemaphorePermit) {
        let activity = Arc::<ConnectionActivity>::default();
        let (gateway, crowd, door) = (&self.gateway, &self.crowd, service.door);
        // Behind a balancer, the client is known only when the worker has read the header.
        let proxied = service.expects_header(peer).then(|| Proxied { crowd: crowd.clone() });
        let standing = match proxied {
            Some(_) => {
                gateway.unauthenticated.enter(None, &activity);
                Some(Standing::default())
            }
            None => Standing::of(peer, door, gateway, crowd, &activity),
        };
        let Some(standing) = standing else { return };
        let (tls, edge) = (service.tls.as_ref().map(Serving::of), service.edge.clone());
        (self.assign)(Accepted { stream, peer, tls, door, edge, permit, standing, activity, proxied });
    }

    /// Waits for a permit for a queued connection. Returns `None` if no permit is free but an open
    /// connection may be closed to make room.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let unauthenticated = &self.gateway.unauthenticated;
        loop {
            let one_more = unauthenticated.one_more();
            match self.permits.clone().try_acquire_owned() {
                Ok(permit) => return Some(permit),
                Err(_) if unauthenticated.may_make_room() => return None,
                Err(_) => {}
            }
            // Under overload, clients wait in the kernel's queue, not in our memory.
            if let Some(permit) = self.free_permit(one_more).await {
                return permit;
            }
        }
    }

    /// Closes another connection to make room for one from `peer`, and returns the freed permit.
    async fn permit_of_another(&self, peer: Option<IpAddr>) -> Option<OwnedSemaphorePermit> {
        let unauthenticated = &self.gateway.unauthenticated;
        loop {
            let one_more = unauthenticated.one_more();
            let makes_room = unauthenticated.make_room(peer);
            let others = async { if makes_room { pending().await } else { one_more.await } };
            if let Some(permit) = self.free_permit(others).await {
                return permit;
            }
        }
    }

    /// Waits for a free permit. Returns `None` when the caller must search again for a connection
    /// to close, and `Some(None)` when no more connections are accepted. `others` completes when
    /// another connection that may be closed is listed. No event reports that a connection has
    /// become idle, or that key holders' connections may be searched again, so the wait also ends
    /// after [`LOOK_AGAIN`].
    async fn free_permit(&self, others: impl Future<Output = ()>) -> Option<Option<OwnedSemaphorePermit>> {
        tokio::select! {
            permit = self.permits.clone().acquire_owned() => Some(permit.ok()),
            () = others => None,
            () = sleep(LOOK_AGAIN) => None,
        }
    }
}

/// Accepts connections until `shutdown` is set, and then the connections that the kernel has queued
/// by that time.
pub(crate) async fn accept_loop<A: Fn(Accepted)>(
    bound: Bound,
    intake: Intake<A>,
    mut shutdown: watch::Receiver<bool>,
) {
    let Bound { socket, service, local, is_inherited } = bound;
    let listener = match Listener::new(socket, &local, is_inherited) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(listener = %local, %error, "a listener can't be watched");
            return;
        }
    };
    tokio::select! {
        biased;
        _stopped = shutdown.wait_for(|stop| *stop) => {}
        () = accept_all(&listener, &intake, &service, &local) => {}
    }
    // An inherited socket stays open, and the next process accepts the connections that are queued
    // in it.
    if is_inherited {
        return;
    }
    // Once its file is removed, no new client can connect to a unix socket.
    if let Local::Unix(path) = &local {
        let _gone_already = std::fs::remove_file(path);
    }
    serve_out(&listener, &intake, &service).await;
}

async fn accept_all<A: Fn(Accepted)>(
    listener: &Listener,
    intake: &Intake<A>,
    service: &Service,
    local: &Local,
) {
    let mut backoff = Duration::ZERO;
    loop {
        // The loop waits for a queued connection before it acquires a permit, so a listener without
        // clients uses no permit.
        let Ok(queued) = listener.queued().await else { return };
        intake.gateway.hooks.takes_up_work("listener");
        // The permit is acquired before accept, except if another connection must be closed to free
        // a permit: which connection is closed depends on the new client's address, known only
        // after accept.
        let permit = intake.permit().await;
        let Some(accepted) = queued.accept() else { continue };
        match accepted {
            Ok((stream, peer)) => {
                backoff = Duration::ZERO;
                let permit = match permit {
                    Some(permit) => Some(permit),
                    // A balancer's address is not that of its client.
                    None => intake.permit_of_another(peer.filter(|_| !service.expects_header(peer))).await,
                };
                let Some(permit) = permit else { return };
                intake.take(stream, peer, service, permit);
            }
            // The error concerns this connection only; the listener still works.
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if backoff.is_zero() {
                    tracing::error!(listener = %local, %error, "accept failed; trying again, ever more slowly");
                }
                backoff = (backoff * 2).clamp(MIN_BACKOFF, MAX_BACKOFF);
                sleep(backoff).await;
            }
        }
    }
}

/// Accepts every connection in the kernel's queue, because closing the listening socket would reset
/// these connections.
async fn serve_out<A: Fn(Accepted)>(listener: &Listener, intake: &Intake<A>, service: &Service) {
    loop {
        let Ok(permit) = intake.permits.clone().acquire_owned().await else { return };
        match listener.accept_now() {
            Ok((stream, peer)) => intake.take(stream, peer, service, permit),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Most likely no file descriptor is free. Connections that end during the drain free
            // file descriptors, and the end of the drain also ends this loop.
            Err(_) => sleep(MIN_BACKOFF).await,
        }
    }
}

/// A listening socket that is registered with a runtime. Accepted connections are not registered
/// here: each worker registers the connections that it serves.
pub(crate) struct Listener {
    socket: AsyncFd<Socket>,
    is_tcp: bool,
    /// Whether the socket is inherited. Connections that were queued before this process began lack
    /// the socket options that this process sets on the listening socket.
    is_inherited: bool,
}

impl Listener {
    #[allow(
        deprecated,
        reason = "in favour of an unsafe constructor, for types that could change descriptors: a `Socket` can't"
    )]
    fn new(socket: Socket, local: &Local, is_inherited: bool) -> io::Result<Self> {
        let socket = AsyncFd::with_interest(socket, Interest::READABLE)?;
        Ok(Listener { socket, is_tcp: matches!(local, Local::Tcp(_)), is_inherited })
    }

    pub(crate) async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        self.socket.async_io(Interest::READABLE, |socket| self.accept_from(socket)).await
    }

    /// Waits until a connection is queued, without accepting it.
    async fn queued(&self) -> io::Result<Queued<'_>> {
        Ok(Queued { ready: self.socket.readable().await?, listener: self })
    }

    /// Accepts a connection without asking the runtime, whose knowledge of the queue may be out of
    /// date. Fails with `WouldBlock` if the queue is empty.
    fn accept_now(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        self.accept_from(self.socket.get_ref())
    }

    fn accept_from(&self, socket: &Socket) -> io::Result<(Stream, Option<IpAddr>)> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (connection, peer) = rustix::net::acceptfrom_with(socket, flags)?;
        if !self.is_tcp {
            return Ok((Stream::Unix(connection.into()), None));
        }
        let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
        // A TCP client without an address would be treated like a client on a unix socket, so it is
        // refused.
        let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
        let stream = StdTcpStream::from(connection);
        if self.is_inherited {
            stream.set_nodelay(true)?;
        }
        Ok((Stream::Tcp(stream), Some(peer.ip())))
    }
}

/// A connection in the kernel's queue that is not accepted yet.
struct Queued<'l> {
    ready: AsyncFdReadyGuard<'l, Socket>,
    listener: &'l Listener,
}

impl Queued<'_> {
    /// Accepts the connection. Returns `None` if it is no longer in the queue.
    fn accept(mut self) -> Option<io::Result<(Stream, Option<IpAddr>)>> {
        let listener = self.listener;
        self.ready.try_io(|socket| listener.accept_from(socket.get_ref())).ok()
    }
}

fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;

    use super::*;

    fn bound(address: Address) -> Bound {
        Bound::bind(&address, Service::default(), &mut Inherited::default()).unwrap()
    }

    #[tokio::test]
    async fn accepting_waits_for_no_other_connection() {
        let bound = bound(Address::Tcp("127.0.0.1:0".into()));
        let Local::Tcp(address) = bound.local().clone() else { panic!("{:?}", bound.local()) };
        let listener = bound.into_listener().unwrap();
        assert_eq!(listener.accept_now().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let client = StdTcpStream::connect(address).unwrap();
        let (Stream::Tcp(stream), peer) = listener.accept().await.unwrap() else { panic!("a unix socket") };
        assert_eq!(stream.peer_addr().unwrap(), client.local_addr().unwrap());
        assert_eq!(peer, Some(address.ip()));
        // A read without data returns at once (nonblocking), and a small write is sent at once
        // (nodelay).
        assert!(SockRef::from(&stream).nonblocking().unwrap());
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn nor_does_a_connection_in_an_inherited_queue_wait() {
        let handed_down = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        handed_down.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        handed_down.listen(1).unwrap();
        handed_down.set_nonblocking(true).unwrap();
        let address = handed_down.local_addr().unwrap().as_socket().unwrap();
        let _client = StdTcpStream::connect(address).unwrap();
        let listener = Listener::new(handed_down, &Local::Tcp(address), true).unwrap();
        let (Stream::Tcp(stream), _) = listener.accept().await.unwrap() else { panic!("a unix socket") };
        assert!(stream.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_neighbour_on_a_unix_socket_has_no_address() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = bound(Address::Unix(path.clone())).into_listener().unwrap();
        let _client = StdUnixStream::connect(&path).unwrap();
        let (Stream::Unix(stream), peer) = listener.accept().await.unwrap() else { panic!("TCP") };
        assert!(SockRef::from(&stream).nonblocking().unwrap());
        assert_eq!(peer, None);
    }
}
