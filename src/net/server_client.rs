//! A client that asks a model server as anybody can: without a key. For `bearward audit-upstream` and
//! `bearward init`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, SERVER};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use rustls::{CertificateError, ClientConfig};
use tokio::time::{Instant, timeout_at};

use super::https::{send, tls_config};
use crate::config::fault::Faults;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most bytes of an answer that are read.
const MOST: usize = 64 * 1024;

/// A client for one server.
#[derive(Debug)]
pub(crate) struct ServerClient {
    /// The URL without a path, and without a slash at its end.
    base: String,
    tls: Arc<ClientConfig>,
}

/// The answer of a server.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) status: u16,
    /// The header `Server`.
    pub(crate) server: Option<String>,
    /// The beginning of the body, as far as it came in time.
    pub(crate) body: Bytes,
}

/// Why the certificate of a server is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateFault {
    Expired,
    /// It is for other names than that of the URL.
    OtherName,
    /// No known authority has signed it.
    UnknownAuthority,
}

impl CertificateFault {
    /// Returns why the certificate of a server was not accepted; `None` if a request failed for another reason.
    pub(crate) fn of(error: &anyhow::Error) -> Option<Self> {
        let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?;
        let rustls::Error::InvalidCertificate(fault) = io.get_ref()?.downcast_ref::<rustls::Error>()? else {
            return None;
        };
        Some(match fault {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => CertificateFault::Expired,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                CertificateFault::OtherName
            }
            _ => CertificateFault::UnknownAuthority,
        })
    }
}

impl ServerClient {
    /// `base`: `http://HOST:PORT` or `https://HOST:PORT`. `ca`: the authorities that may have signed the server's
    /// certificate; `None`: the system's.
    ///
    /// # Errors
    ///
    /// The file of the authorities can't be read.
    pub(crate) fn new(base: &str, ca: Option<&Path>) -> Result<Self, Faults> {
        Ok(ServerClient { base: base.trim_end_matches('/').to_owned(), tls: tls_config(ca)? })
    }

    /// Sends a request, with a body of JSON if there is one, and without a credential.
    ///
    /// # Errors
    ///
    /// There is no answer in time, or none in HTTP.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        path: &str,
        body: Option<&'static str>,
    ) -> anyhow::Result<Seen> {
        let until = Instant::now() + PATIENCE;
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let request = request.body(Full::new(Bytes::from_static(body.unwrap_or_default().as_bytes())))?;
        let late = |_elapsed| anyhow::anyhow!("no answer within {PATIENCE:?}");
        let (head, mut body) = timeout_at(until, send(&self.tls, request)).await.map_err(late)??.into_parts();
        let mut read = Vec::new();
        // A stream of events may never end, and its head says enough.
        while read.len() < MOST
            && let Ok(Some(Ok(frame))) = timeout_at(until, body.frame()).await
        {
            read.extend(frame.into_data().unwrap_or_default());
        }
        let server = head.headers.get(SERVER).and_then(|server| server.to_str().ok()).map(str::to_owned);
        Ok(Seen { status: head.status.as_u16(), server, body: read.into() })
    }
}
