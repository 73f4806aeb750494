//! A client that sends given bytes.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;

use super::in_time;

pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

pub struct Raw {
    stream: Box<dyn Duplex>,
    buffer: Vec<u8>,
}

/// An HTTP/1.1 answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Asserts that this is an answer of bearward's own with this status and code, in the one shape.
    #[track_caller]
    pub fn assert_denied(&self, status: u16, code: &str) {
        let text = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{text}");
        assert_shape(&self.json());
        assert_eq!(self.json()["error"]["code"], code, "{text}");
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()));
    }
}

/// `{"success": false, "error": {"code", "message", "details"}}`, and no further members.
#[track_caller]
pub fn assert_shape(body: &Value) {
    let names = |value: &Value| {
        value.as_object().map(|map| map.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut top = names(body);
    top.sort();
    assert_eq!(top, ["error", "success"], "{body}");
    assert_eq!(body["success"], false);
    let mut error = names(&body["error"]);
    error.sort();
    assert_eq!(error, ["code", "details", "message"], "{body}");
    assert!(body["error"]["code"].is_string() && body["error"]["message"].is_string());
    assert!(body["error"]["details"].is_object(), "{body}");
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = in_time("connect", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Raw { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// A client on a connection that a test has made itself.
    pub fn over(stream: TcpStream) -> Self {
        Raw { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// A client that reads what comes on a connection that another part of the test writes to.
    pub fn over_half(read: OwnedReadHalf) -> Self {
        Raw { stream: Box::new(tokio::io::join(read, tokio::io::sink())), buffer: Vec::new() }
    }

    pub async fn connect_tls(address: SocketAddr, ca: &str, protocol: &str) -> Self {
        let stream = in_time("connect", TcpStream::connect(address)).await.unwrap();
        Self::over_tls(stream, ca, protocol).await
    }

    /// As [`Self::over`], with TLS, for a server that `ca` vouches for.
    pub async fn over_tls(stream: TcpStream, ca: &str, protocol: &str) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("localhost").unwrap();
        let stream = in_time("handshake", connector.connect(name, stream)).await.unwrap();
        Raw { stream: Box::new(stream), buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        // What is refused may be closed before all of it was sent.
        let _closed = in_time("send", self.stream.write_all(bytes.as_ref())).await;
        let _closed = self.stream.flush().await;
    }

    /// One answer, by its own framing. Panics if the connection ends before it.
    pub async fn answer(&mut self) -> Answer {
        match in_time("answer", self.next(false)).await {
            Some(answer) => answer,
            None => panic!("closed without an answer; got {:?}", String::from_utf8_lossy(&self.buffer)),
        }
    }

    /// The answer to a HEAD request: a head alone.
    pub async fn answer_to_head(&mut self) -> Answer {
        in_time("answer", self.next(true)).await.expect("closed without an answer")
    }

    /// One answer, or `None` where the connection ends first.
    pub async fn answer_or_end(&mut self) -> Option<Answer> {
        in_time("answer or end", self.next(false)).await
    }

    async fn next(&mut self, bodyless: bool) -> Option<Answer> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end);
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let mut answer = Answer { status, headers, body: Vec::new() };
        if bodyless || matches!(status, 100..200 | 204 | 304) {
            return Some(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            while let Some(chunk) = self.chunk().await {
                answer.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) =
            answer.header("content-length").map(|length| length.parse::<usize>().unwrap())
        {
            while self.buffer.len() < length {
                self.more().await?;
            }
            answer.body = self.buffer.drain(..length).collect();
        } else {
            while self.more().await.is_some() {}
            answer.body = std::mem::take(&mut self.buffer);
        }
        Some(answer)
    }

    /// The head of an answer whose body is read in pieces.
    pub async fn head(&mut self) -> Answer {
        in_time("head", self.next(true)).await.expect("closed without an answer")
    }

    /// The next chunk of a chunked body; `None` at its end, and where the connection broke.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        let line = self.line().await?;
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        if size == 0 {
            // Trailers, up to the empty line.
            while !self.line().await?.is_empty() {}
            return None;
        }
        while self.buffer.len() < size + 2 {
            self.more().await?;
        }
        let chunk = self.buffer.drain(..size).collect();
        self.buffer.drain(..2);
        Some(chunk)
    }

    pub async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
                self.buffer.drain(..end + 2);
                return Some(line);
            }
            self.more().await?;
        }
    }

    /// So many bytes; `None` where the connection ends first.
    pub async fn bytes(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            self.more().await?;
        }
        Some(self.buffer.drain(..count).collect())
    }

    async fn more(&mut self) -> Option<()> {
        let mut bytes = [0u8; 16 * 1024];
        match self.stream.read(&mut bytes).await {
            Ok(0) | Err(_) => None,
            Ok(length) => {
                self.buffer.extend_from_slice(&bytes[..length]);
                Some(())
            }
        }
    }

    /// Waits for the end of the connection, whatever comes before it.
    pub async fn assert_ended(&mut self) {
        in_time("end", async { while self.more().await.is_some() {} }).await;
    }

    /// Asserts that the server closes, with nothing more to say.
    pub async fn assert_closed(&mut self) {
        let end = in_time("close", self.more()).await;
        assert!(end.is_none() && self.buffer.is_empty(), "got {:?}", String::from_utf8_lossy(&self.buffer));
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
