//! Listening sockets, and the loop that accepts from one.
//!
//! One thread accepts for all listeners and hands each connection to the worker that has the fewest: that
//! spreads few connections as evenly as many, on unix sockets too (docs/decisions/002).
//! Invariant: no error of accept ends a listener.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::config::Address;

/// The kernel's queue of connections that nobody has accepted yet.
const BACKLOG: i32 = 4096;
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A bound socket. A unix socket's file goes with it.
#[derive(Debug)]
pub(crate) struct Bound {
    socket: Socket,
    tls: Option<Arc<ServerConfig>>,
    local: Local,
}

/// Where a listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// A TCP address, with the port that the system chose where the configuration said 0.
    Tcp(SocketAddr),
    /// A unix socket's path.
    Unix(PathBuf),
}

impl std::fmt::Display for Local {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Local::Tcp(address) => address.fmt(f),
            Local::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A connection on its way to a worker.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) stream: Stream,
    /// `None` behind a unix socket.
    pub(crate) peer: Option<IpAddr>,
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// The connection's place among all; given back when it ends.
    pub(crate) permit: OwnedSemaphorePermit,
}

/// A connection that belongs to no runtime yet.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(StdTcpStream),
    Unix(StdUnixStream),
}

impl Bound {
    pub(crate) fn bind(address: &Address, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let (socket, local) = match address {
            Address::Tcp(address) => bind_tcp(address)?,
            Address::Unix(path) => (bind_unix(path)?, Local::Unix(path.clone())),
        };
        socket.set_nonblocking(true)?;
        Ok(Bound { socket, tls, local })
    }

    pub(crate) fn local(&self) -> &Local {
        &self.local
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The socket on the runtime that this is called on, without TLS: for the admin listener.
    pub(crate) fn into_listener(self) -> io::Result<Listener> {
        Listener::new(self.socket, &self.local)
    }
}

fn bind_tcp(address: &str) -> io::Result<(Socket, Local)> {
    let no_address = || io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    let resolved = address.to_socket_addrs()?.next().ok_or_else(no_address)?;
    let socket = Socket::new(Domain::for_address(resolved), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the old connections' last minutes in the kernel.
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

/// Whether a socket's file was left behind by a process that is gone.
fn is_abandoned(path: &Path) -> bool {
    matches!(StdUnixStream::connect(path), Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Accepts until `shutdown` says stop, and gives each connection to `assign`.
pub(crate) async fn accept_loop(
    bound: Bound,
    permits: Arc<Semaphore>,
    assign: impl Fn(Accepted),
    mut shutdown: watch::Receiver<bool>,
) {
    let Bound { socket, tls, local } = bound;
    let listener = match Listener::new(socket, &local) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(listener = %local, %error, "a listener can't be watched");
            return;
        }
    };
    let accepting = async {
        let mut backoff = Duration::ZERO;
        loop {
            // The permit comes before accept: under overload, callers queue in the kernel, not in our memory.
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, peer)) => {
                    backoff = Duration::ZERO;
                    assign(Accepted { stream, peer, tls: tls.clone(), permit });
                }
                // The one connection is gone; the listener is well.
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if backoff.is_zero() {
                        tracing::error!(listener = %local, %error, "accept failed; trying again, ever more slowly");
                    }
                    backoff = (backoff * 2).clamp(Duration::from_millis(5), MAX_BACKOFF);
                    tokio::time::sleep(backoff).await;
                }
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        _stopped = shutdown.wait_for(|stop| *stop) => {}
    }
    if let Local::Unix(path) = &local {
        let _gone_already = std::fs::remove_file(path);
    }
}

/// A listening socket of either kind, on a runtime.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn new(socket: Socket, local: &Local) -> io::Result<Self> {
        match local {
            Local::Tcp(_) => TcpListener::from_std(socket.into()).map(Listener::Tcp),
            Local::Unix(_) => UnixListener::from_std(socket.into()).map(Listener::Unix),
        }
    }

    /// Accepts, and takes the connection off this runtime again: it is another one's from here on.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, Option<IpAddr>)> {
        match self {
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Stream::Tcp(stream.into_std()?), Some(peer.ip())))
            }
            Listener::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok((Stream::Unix(stream.into_std()?), None))
            }
        }
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
