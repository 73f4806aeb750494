//! An HTTPS client for servers that are asked seldom: certificate authorities, and issuers of tokens.
//!
//! Invariants: each request has a connection of its own, and a bound on its answer; the server's certificate is
//! always verified. Plain HTTP is for the caller to allow.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::{Answer, Error, send_on};
use super::tls::crypto_provider;
use crate::config::fault::{Fault, Faults};
use crate::pem;
use crate::system_authorities::system_authorities;

/// Time limit of a connection to one address of a host.
const OF_ADDRESS: Duration = Duration::from_secs(4);
/// Number of characters of a refusal that are shown.
const SHOWN: usize = 200;
const OWN_NAME: &str = concat!("bearward/", env!("CARGO_PKG_VERSION"));

/// Makes the TLS configuration of a client. `ca`: the authorities that may have signed the server's certificate;
/// `None`: the system's.
///
/// # Errors
///
/// The file of the authorities can't be read.
pub(super) fn tls_config(ca: Option<&Path>) -> Result<Arc<ClientConfig>, Faults> {
    let roots = match ca {
        Some(path) => pem::authorities(path)?,
        None => Arc::new(system_authorities()),
    };
    let builder = ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::of_file(Path::new("tls"), error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Returns the beginning of a refusal, for a message.
pub(super) fn start_of(body: &[u8]) -> String {
    String::from_utf8_lossy(body).chars().take(SHOWN).collect()
}

/// Connects to the first address of a host that accepts a connection. One that is silent delays the others by a
/// bounded time.
async fn connected(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        let connecting = timeout(OF_ADDRESS, TcpStream::connect(address)).await;
        match connecting.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Sends a request to the host of its URL, and returns the whole answer, of at most `most` bytes.
///
/// # Errors
///
/// The host can't be reached, its certificate is not accepted, or its answer is not valid HTTP or too long.
pub(super) async fn exchange<B>(
    config: &Arc<ClientConfig>,
    request: Request<B>,
    most: usize,
) -> anyhow::Result<Response<Bytes>>
where
    B: Body<Data = Bytes, Error: Into<Error>> + Send + 'static,
{
    let host = request.uri().host().unwrap_or_default().to_owned();
    let (head, body) = send(config, request).await?.into_parts();
    let body = Limited::new(body, most).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("the answer of {host} broke off: {error}"))?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// Sends a request to the host of its URL, and returns the answer as soon as its head is there.
///
/// # Errors
///
/// The host can't be reached, its certificate is not accepted, or its answer is not valid HTTP.
pub(super) async fn send<B>(
    config: &Arc<ClientConfig>,
    request: Request<B>,
) -> anyhow::Result<Response<Answer>>
where
    B: Body<Data = Bytes, Error: Into<Error>> + Send + 'static,
{
    let (mut parts, body) = request.into_parts();
    let uri = std::mem::take(&mut parts.uri);
    let (host, authority) = (uri.host().unwrap_or_default(), uri.authority());
    let is_tls = uri.scheme_str() == Some("https");
    anyhow::ensure!(is_tls || uri.scheme_str() == Some("http"), "`{uri}` is no https:// URL");
    anyhow::ensure!(!host.is_empty(), "`{uri}` names no host");
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let stream = connected(bare, uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 })).await;
    let stream = stream.map_err(|error| anyhow::anyhow!("can't connect to {host}: {error}"))?;
    stream.set_nodelay(true)?;
    if let Some(authority) = authority {
        parts.headers.insert(HOST, HeaderValue::try_from(authority.as_str())?);
    }
    parts.headers.insert(USER_AGENT, HeaderValue::from_static(OWN_NAME));
    let root = || PathAndQuery::from_static("/");
    parts.uri = Uri::from(uri.path_and_query().cloned().unwrap_or_else(root));
    let request = Request::from_parts(parts, body);
    if !is_tls {
        return send_on(stream, request).await;
    }
    let name = ServerName::try_from(bare.to_owned())?;
    let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
    let stream = stream.map_err(|error| {
        let message = format!("no TLS with {host}: {error}");
        anyhow::Error::new(error).context(message)
    })?;
    send_on(stream, request).await
}
