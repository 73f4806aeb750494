//! Makes new connections to endpoints, over TCP, TLS, or a unix socket.
//!
//! Called by the pool, by health checks and by probes. This module puts no connection into the
//! pool.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::endpoints::Endpoint;
use super::socket::{Socket, Stream};
use crate::config;
use crate::protocol::Protocol;

/// A new connection to an endpoint, and its HTTP version.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) socket: Arc<Socket>,
    pub(crate) protocol: Protocol,
}

/// Connects to an endpoint. With `needs_http1`, ALPN offers only HTTP/1.1.
///
/// # Errors
///
/// Returns the error of the operating system, or of the TLS handshake.
pub(crate) async fn connect(endpoint: &Endpoint, needs_http1: bool) -> io::Result<Connected> {
    match endpoint.socket {
        Some(address) => over_tcp(endpoint, TcpStream::connect(address).await?, needs_http1).await,
        None => over_unix(endpoint).await,
    }
}

/// Tries whether a connection to an endpoint can be made within `limit`. The connection is closed at
/// once, and the result does not change the endpoint's health.
///
/// # Errors
///
/// Fails with the errors of [`connect`], and with `TimedOut` after `limit`.
pub(crate) async fn try_connection(endpoint: &Endpoint, limit: Duration) -> io::Result<()> {
    let late = || io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {limit:?}"));
    timeout(limit, connect(endpoint, false)).await.unwrap_or_else(|_elapsed| Err(late())).map(drop)
}

/// Makes a connected TCP stream ready for HTTP: sets socket options, does the TLS handshake of an
/// `https` endpoint, and finds out the HTTP version.
///
/// # Errors
///
/// Fails with the same errors as [`connect`].
pub(super) async fn over_tcp(
    endpoint: &Endpoint,
    stream: TcpStream,
    needs_http1: bool,
) -> io::Result<Connected> {
    // Nagle's algorithm would delay the small frames of a stream until the peer acknowledges
    // earlier frames.
    stream.set_nodelay(true)?;
    super::socket::detect_dead_peers(&SockRef::from(&stream))?;
    let Some(tls) = &endpoint.tls else {
        let is_http2 = matches!(endpoint.address, config::EndpointAddress::H2c(_));
        return Ok(connected(Stream::Tcp(stream), Protocol::of_connection(is_http2)));
    };
    let host = endpoint.address.host_and_port().map(|(host, _)| host);
    let name = host.and_then(|host| tls.name_for(host));
    let name =
        name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the endpoint has no server name"))?;
    let stream = TlsConnector::from(tls.config(needs_http1)).connect(name, stream).await?;
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    Ok(connected(Stream::Tls(Box::new(stream)), Protocol::of_connection(is_http2)))
}

async fn over_unix(endpoint: &Endpoint) -> io::Result<Connected> {
    match &endpoint.address {
        config::EndpointAddress::Unix(path) => {
            Ok(connected(Stream::Unix(UnixStream::connect(path).await?), Protocol::Http11))
        }
        address => {
            debug_assert!(false, "{address} has no socket address");
            Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "the endpoint has no address"))
        }
    }
}

fn connected(stream: Stream, protocol: Protocol) -> Connected {
    Connected { socket: Arc::new(Socket::new(stream, protocol)), protocol }
}
