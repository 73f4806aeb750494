//! Listening sockets, and the loop that accepts from one.
//!
//! One thread accepts for all listeners and hands each connection to the worker that has the
//! fewest. That spreads few connections as evenly as many, on unix sockets too
//! (docs/decisions/002). A single worker accepts itself.
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

use rustix::net::SocketFlags;
use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::sleep;

use super::connections_by_address::{ConnectionsByAddress, Member};
use super::inherited::Inherited;
use super::local::Local;
use super::tls::Swappable;
use crate::activity::ConnectionActivity;
use crate::config::Address;
use crate::proxy::Gateway;

/// The length of the kernel's queue of connections that are not accepted yet.
const BACKLOG: i32 = 4096;
const MIN_BACKOFF: Duration = Duration::from_millis(5);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Poll interval while no connection could make room: a key holder's may be at rest by then.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// A bound socket. Dropping it removes the file of a unix socket.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: Socket,
    tls: Option<Swappable>,
    local: Local,
    /// Another process has bound the socket, and may go on with it.
    is_inherited: bool,
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    /// The client's address; `None` behind a unix socket.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// The permit among all connections, returned when the connection ends.
    pub(crate) permit: OwnedSemaphorePermit,
    /// The count of its address, where it is limited.
    pub(crate) member: Option<Member>,
    /// The limit of its address, where that is exceeded: every request is refused.
    pub(crate) over_limit: Option<usize>,
    /// The requests that will be in service on the connection.
    pub(crate) activity: Arc<ConnectionActivity>,
    /// The connection is a trusted proxy's, which many clients share: it makes room for no other
    /// one.
    pub(crate) is_trusted: bool,
}

/// A connection that belongs to no runtime yet.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(StdTcpStream),
    Unix(StdUnixStream),
}

impl Bound {
    /// Takes the socket that was handed down for this address, else binds one.
    pub(crate) fn bind(
        address: &Address,
        tls: Option<Swappable>,
        inherited: &mut Inherited,
    ) -> io::Result<Self> {
        let handed_down = inherited.take(address);
        let is_inherited = handed_down.is_some();
        let (socket, local) = match (handed_down, address) {
            (Some(handed_down), _) => handed_down,
            (None, Address::Tcp(address)) => bind_tcp(address)?,
            (None, Address::Unix(path)) => (bind_unix(path)?, Local::Unix(path.clone())),
        };
        socket.set_nonblocking(true)?;
        if matches!(local, Local::Tcp(_)) {
            // Small writes of a stream must not wait for an acknowledgement. Connections inherit
            // this from the listener.
            socket.set_tcp_nodelay(true)?;
        }
        Ok(Bound { socket, tls, local, is_inherited })
    }

    pub(crate) fn local(&self) -> &Local {
        &self.local
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Moves the socket to the current runtime, without TLS: for the admin listener.
    pub(crate) fn into_listener(self) -> io::Result<Listener> {
        Listener::new(self.socket, &self.local, self.is_inherited)
    }
}

fn bind_tcp(address: &str) -> io::Result<(Socket, Local)> {
    let no_address = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let resolved = address.to_socket_addrs()?.next().ok_or_else(no_address)?;
    let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the last minutes of old connections in the kernel.
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

/// Whether the process that made a socket's file is gone.
fn is_abandoned(path: &Path) -> bool {
    matches!(StdUnixStream::connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// The limits on the connections of all listeners, and the function that takes connections.
pub(crate) struct Intake<A> {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) permits: Arc<Semaphore>,
    pub(crate) crowd: Arc<ConnectionsByAddress>,
    pub(crate) assign: A,
}

impl<A: Fn(Accepted)> Intake<A> {
    fn take(
        &self,
        stream: Stream,
        peer: Option<IpAddr>,
        tls: Option<&Swappable>,
        permit: OwnedSemaphorePermit,
    ) {
        let snapshot = self.gateway.snapshot.load();
        // All clients of a trusted proxy have its address.
        let is_trusted = snapshot.trusted_proxies.trusts(peer.map(|peer| peer.to_canonical()));
        let counted = peer.filter(|_| !is_trusted);
        let limit = snapshot.limits.connections_per_address.filter(|_| counted.is_some());
        let member = counted.filter(|_| limit.is_some()).map(|peer| self.crowd.enter(peer));
        let count = member.as_ref().map_or(0, |member| member.count);
        let over_limit = limit.filter(|limit| count > *limit);
        // A connection past the limit gets a refusal, but no address holds more than twice as many
        // permits for that.
        if over_limit.is_some_and(|limit| count > limit.saturating_mul(2)) {
            return;
        }
        let tls = tls.map(|tls| tls.load().config.clone());
        let activity = Arc::<ConnectionActivity>::default();
        if !is_trusted {
            self.gateway.unauthenticated.enter(peer, &activity);
        }
        (self.assign)(Accepted { stream, peer, tls, permit, member, over_limit, activity, is_trusted });
    }

    /// A permit for a queued connection, if one is free; `None` where a connection would make room
    /// for it.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let unauthenticated = &self.gateway.unauthenticated;
        loop {
            let one_more = unauthenticated.one_more();
            match self.permits.clone().try_acquire_owned() {
                Ok(permit) => return Some(permit),
                Err(_) if unauthenticated.may_make_room() => return None,
                Err(_) => {}
            }
            // Under overload, callers queue in the kernel, not in our memory.
            if let Some(permit) = self.free_permit(one_more).await {
                return permit;
            }
        }
    }

    /// A permit for a connection from this address, for which another connection makes room.
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

    /// Waits for a free permit. The outer `None` means that it is time to search again for a
    /// connection that makes room; the inner one that no connection is taken any more. `others`:
    /// another connection that may make room. A connection that comes to rest, and key holders'
    /// connections that may be searched again, are no events, so they are polled for.
    async fn free_permit(&self, others: impl Future<Output = ()>) -> Option<Option<OwnedSemaphorePermit>> {
        tokio::select! {
            permit = self.permits.clone().acquire_owned() => Some(permit.ok()),
            () = others => None,
            () = sleep(LOOK_AGAIN) => None,
        }
    }
}

/// Accepts until `shutdown` is set, and then what the kernel has queued until then.
pub(crate) async fn accept_loop<A: Fn(Accepted)>(
    bound: Bound,
    intake: Intake<A>,
    mut shutdown: watch::Receiver<bool>,
) {
    let Bound { socket, tls, local, is_inherited } = bound;
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
        () = accept_all(&listener, &intake, tls.as_ref(), &local) => {}
    }
    // An inherited socket stays open: the next process finds its queue.
    if is_inherited {
        return;
    }
    // Without its file, no new client finds a unix socket.
    if let Local::Unix(path) = &local {
        let _gone_already = std::fs::remove_file(path);
    }
    serve_out(&listener, &intake, tls.as_ref()).await;
}

async fn accept_all<A: Fn(Accepted)>(
    listener: &Listener,
    intake: &Intake<A>,
    tls: Option<&Swappable>,
    local: &Local,
) {
    let mut backoff = Duration::ZERO;
    loop {
        // A listener without clients holds no permit: permits are for connections.
        let Ok(queued) = listener.queued().await else { return };
        intake.gateway.hooks.takes_up_work("listener");
        // The permit comes before accept. Where a connection is to make room, the choice depends on
        // the newcomer's address.
        let permit = intake.permit().await;
        let Some(accepted) = queued.accept() else { continue };
        match accepted {
            Ok((stream, peer)) => {
                backoff = Duration::ZERO;
                let permit = match permit {
                    Some(permit) => Some(permit),
                    None => intake.permit_of_another(peer).await,
                };
                let Some(permit) = permit else { return };
                intake.take(stream, peer, tls, permit);
            }
            // Only this connection is gone; the listener is fine.
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

/// Accepts every connection in the kernel's queue: closing the socket would reset them.
async fn serve_out<A: Fn(Accepted)>(listener: &Listener, intake: &Intake<A>, tls: Option<&Swappable>) {
    loop {
        let Ok(permit) = intake.permits.clone().acquire_owned().await else { return };
        match listener.accept_now() {
            Ok((stream, peer)) => intake.take(stream, peer, tls, permit),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            // Most likely no descriptor is free. Connections end all the time now, and the drain's
            // end bounds this loop, too.
            Err(_) => sleep(MIN_BACKOFF).await,
        }
    }
}

/// A listening socket on a runtime. Its accepted connections are on none yet: a worker takes each
/// onto its own.
pub(crate) struct Listener {
    socket: AsyncFd<Socket>,
    is_tcp: bool,
    /// The socket is older than this process: connections in its queue have the socket options of
    /// their time.
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

    /// Waits until a connection is queued, and leaves it there.
    async fn queued(&self) -> io::Result<Queued<'_>> {
        Ok(Queued { ready: self.socket.readable().await?, listener: self })
    }

    /// Accepts at once, whatever the runtime knows of the queue, which may be out of date.
    /// `WouldBlock` where the queue is empty.
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
        // A peer without an address would be taken for a client on a unix socket.
        let peer = peer.ok_or(io::ErrorKind::ConnectionAborted)?;
        let stream = StdTcpStream::from(connection);
        if self.is_inherited {
            stream.set_nodelay(true)?;
        }
        Ok((Stream::Tcp(stream), Some(peer.ip())))
    }
}

/// A connection in the kernel's queue.
struct Queued<'l> {
    ready: AsyncFdReadyGuard<'l, Socket>,
    listener: &'l Listener,
}

impl Queued<'_> {
    /// Accepts the connection; `None` where it has gone.
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
        Bound::bind(&address, None, &mut Inherited::default()).unwrap()
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
        // Neither a read that finds nothing nor a small write behind another one.
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
