//! The HTTPS client for certificate authorities.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderValue, RETRY_AFTER};
use http::{Request, Response};
use http_body_util::Full;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::ClientConfig;
use tokio::time::timeout;

use super::https::{exchange, start_of, tls_config};
use crate::acme::Connected;
use crate::config::Acme;
use crate::config::fault::Faults;

/// Time limit of a request, from the lookup of the name to the end of the answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most bytes of an answer's body.
const MAX_ANSWER: usize = 1024 * 1024;
/// Longest wait that is passed on, in seconds. A longer one would overflow the client's reckoning.
const LONGEST_WAIT: u64 = 86_400;
/// Time for which renewal information holds if its authority does not say, in seconds.
const INFO_HOLDS: u64 = 21_600;

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
    let client = HttpsClient { config: tls_config(acme.ca.as_deref())?, asked_to_wait: Arc::default() };
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

/// Returns the seconds of a Retry-After, which may be a date (RFC 9110, section 10.2.3).
fn seconds(wait: &str) -> Option<u64> {
    wait.parse().ok().or_else(|| {
        let at = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(wait).ok()?;
        u64::try_from(at.duration_since(jiff::Timestamp::now()).as_secs()).ok()
    })
}

impl HttpsClient {
    async fn send(&self, request: Request<BodyWrapper<Bytes>>) -> anyhow::Result<Response<Full<Bytes>>> {
        let (is_get, uri) = (request.method() == http::Method::GET, request.uri());
        anyhow::ensure!(uri.scheme_str() == Some("https"), "`{uri}` is no https:// URL");
        let host = uri.host().unwrap_or_default().to_owned();
        let (mut head, body) = exchange(&self.config, request, MAX_ANSWER).await?.into_parts();
        self.take_wait(&mut head, is_get);
        // A refusal of another method has a form of its own, which the caller knows.
        if is_get && !head.status.is_success() {
            anyhow::bail!("{host} answers {}: {}", head.status, start_of(&body));
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
