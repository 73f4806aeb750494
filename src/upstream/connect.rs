//! Connections to upstream, made.

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

/// A connection whose protocol is agreed.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) socket: Arc<Socket>,
    pub(crate) protocol: Protocol,
}

/// Connects to an endpoint. `needs_http1`: HTTP/2 is not offered.
///
/// # Errors
///
/// What the system or the TLS handshake said.
pub(crate) async fn connect(endpoint: &Endpoint, needs_http1: bool) -> io::Result<Connected> {
    match endpoint.socket {
        Some(address) => over_tcp(endpoint, TcpStream::connect(address).await?, needs_http1).await,
        None => over_unix(endpoint).await,
    }
}

/// Whether a connection to an endpoint can be made within `limit`. It is closed again, and counts
/// for nothing.
pub(crate) async fn is_reachable(endpoint: &Endpoint, limit: Duration) -> bool {
    timeout(limit, connect(endpoint, false)).await.is_ok_and(|made| made.is_ok())
}

/// Agrees on the protocol of a connection to an endpoint.
///
/// # Errors
///
/// As [`connect`].
pub(super) async fn over_tcp(
    endpoint: &Endpoint,
    stream: TcpStream,
    needs_http1: bool,
) -> io::Result<Connected> {
    // Small writes of a stream must not wait for an acknowledgement.
    stream.set_nodelay(true)?;
    super::socket::watch_over(&SockRef::from(&stream))?;
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
        _ => Err(io::Error::new(io::ErrorKind::AddrNotAvailable, "the endpoint has no address")),
    }
}

fn connected(stream: Stream, protocol: Protocol) -> Connected {
    Connected { socket: Arc::new(Socket::new(stream, protocol)), protocol }
}
