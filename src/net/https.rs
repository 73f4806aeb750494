//! The HTTPS client for certificate authorities.
//!
//! Invariants: each request has a connection of its own, a time limit, and a bound on its answer; the server's
//! certificate is always verified.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::send_on;
use super::tls::crypto_provider;
use crate::acme::Connected;
use crate::config::Acme;
use crate::config::fault::{Fault, Faults};
use crate::pem;
use crate::system_authorities::system_authorities;

/// Time limit of a request, from the lookup of the name to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// Time limit of a connection to one address of a host.
const OF_ADDRESS: Duration = Duration::from_secs(4);
/// The most bytes of an answer's body.
const MAX_ANSWER: usize = 1024 * 1024;
/// Number of characters of a refusal that are shown.
const SHOWN: usize = 200;
/// Longest wait that is passed on, in seconds. A longer one would overflow the client's reckoning.
const LONGEST_WAIT: u64 = 86_400;
/// Time for which renewal information holds if its authority does not say, in seconds.
const INFO_HOLDS: u64 = 21_600;
const OWN_NAME: &str = concat!("bearward/", env!("CARGO_PKG_VERSION"));

/// Checks that a client for an authority can be made.
///
/// # Errors
///
/// As [`connect`].
pub(crate) fn check(acme: &Acme) -> Result<(), Faults> {
    connect(acme).map(drop)
}

/// Makes the client for an authority.
///
/// # Errors
///
/// The file of the authorities that may have signed its certificate can't be read.
pub(crate) fn connect(acme: &Acme) -> Result<Connected, Faults> {
    let roots = match &acme.ca {
        Some(path) => pem::authorities(path)?,
        None => Arc::new(system_authorities()),
    };
    let builder = ClientConfig::builder_with_provider(crypto_provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::of_file(std::path::Path::new("acme"), error.to_string()))?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let client = HttpsClient { config: Arc::new(config), asked_to_wait: Arc::default() };
    let asked = client.asked_to_wait.clone();
    Ok(Connected {
        http: Box::new(move || Box::new(client.clone())),
        retry_after: Box::new(move || *asked.lock().unwrap_or_else(PoisonError::into_inner)),
    })
}

/// A client that verifies the server's certificate.
#[derive(Clone)]
struct HttpsClient {
    config: Arc<ClientConfig>,
    /// The time that the last answer asked to wait, if it was a refusal.
    asked_to_wait: Arc<Mutex<Option<Duration>>>,
}

impl HttpClient for HttpsClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let client = self.clone();
        Box::pin(async move {
            let sent = timeout(PATIENCE, client.send(request)).await;
            let late = || Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs()));
            let response = sent.unwrap_or_else(|_elapsed| late());
            response.map(BytesResponse::from).map_err(|error| Error::Other(error.into()))
        })
    }
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

/// Returns the seconds of a Retry-After, which may be a date (RFC 9110, section 10.2.3).
fn seconds(wait: &str) -> Option<u64> {
    wait.parse().ok().or_else(|| {
        let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(wait).ok()?;
        u64::try_from(at.duration_since(jiff::Timestamp::now()).as_secs()).ok()
    })
}

impl HttpsClient {
    async fn send(&self, request: Request<BodyWrapper<Bytes>>) -> anyhow::Result<Response<Full<Bytes>>> {
        let (mut parts, body) = request.into_parts();
        let is_get = parts.method == http::Method::GET;
        let uri = std::mem::take(&mut parts.uri);
        let (host, authority) = (uri.host().unwrap_or_default(), uri.authority());
        anyhow::ensure!(uri.scheme_str() == Some("https") && !host.is_empty(), "`{uri}` is no https:// URL");
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = connected(bare, uri.port_u16().unwrap_or(443)).await;
        let stream = stream.map_err(|error| anyhow::anyhow!("can't connect to {host}: {error}"))?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(bare.to_owned())?;
        let stream = TlsConnector::from(self.config.clone()).connect(name, stream).await;
        let stream = stream.map_err(|error| anyhow::anyhow!("no TLS with {host}: {error}"))?;
        if let Some(authority) = authority {
            parts.headers.insert(HOST, HeaderValue::try_from(authority.as_str())?);
        }
        parts.headers.insert(USER_AGENT, HeaderValue::from_static(OWN_NAME));
        let root = || PathAndQuery::from_static("/");
        parts.uri = Uri::from(uri.path_and_query().cloned().unwrap_or_else(root));
        let response = send_on(stream, Request::from_parts(parts, body)).await?;
        let (mut head, body) = response.into_parts();
        self.take_wait(&mut head, is_get);
        let body = Limited::new(body, MAX_ANSWER).collect().await;
        let body =
            body.map_err(|error| anyhow::anyhow!("the answer of {host} broke off: {error}"))?.to_bytes();
        // A refusal of another method has a form of its own, which the caller knows.
        if is_get && !head.status.is_success() {
            let text: String = String::from_utf8_lossy(&body).chars().take(SHOWN).collect();
            anyhow::bail!("{host} answers {}: {text}", head.status);
        }
        Ok(Response::from_parts(head, Full::new(body)))
    }

    /// Notes how long a refusal asks to wait, and bounds the wait.
    fn take_wait(&self, head: &mut http::response::Parts, is_get: bool) {
        let wait = head.headers.get(RETRY_AFTER).and_then(|wait| seconds(wait.to_str().ok()?.trim()));
        let is_refusal = head.status.is_client_error() || head.status.is_server_error();
        let asked = wait.filter(|_| is_refusal).map(Duration::from_secs);
        *self.asked_to_wait.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        if wait.is_some_and(|wait| wait > LONGEST_WAIT) {
            head.headers.insert(RETRY_AFTER, HeaderValue::from(LONGEST_WAIT));
        } else if is_get && !head.headers.contains_key(RETRY_AFTER) {
            head.headers.insert(RETRY_AFTER, HeaderValue::from(INFO_HOLDS));
        }
    }
}
