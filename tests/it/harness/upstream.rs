//! A server behind the gateway that records what really arrived, and answers as a test asks.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it came over the wire.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub head: String,
    pub body: Vec<u8>,
    /// Whether the body came to its end.
    pub is_complete: bool,
    pub trailers: String,
}

impl Recorded {
    pub fn request_line(&self) -> &str {
        self.head.lines().next().unwrap_or_default()
    }

    pub fn target(&self) -> &str {
        self.request_line().split(' ').nth(1).unwrap_or_default()
    }

    pub fn headers(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers(name).first().copied()
    }
}

type Answering = Pin<Box<dyn Future<Output = Option<TcpStream>> + Send>>;
type Behaviour = Arc<dyn Fn(Recorded, TcpStream) -> Answering + Send + Sync>;

pub struct Upstream {
    pub address: SocketAddr,
    recorded: Arc<Mutex<Vec<Recorded>>>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

/// An answer with a body and its length.
pub fn answer_of(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

impl Upstream {
    /// Answers every request with these bytes, and keeps the connection.
    pub async fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Vec<u8> = bytes.into();
        Self::acting(move |_, mut stream| {
            let bytes = bytes.clone();
            async move {
                stream.write_all(&bytes).await.ok()?;
                Some(stream)
            }
        })
        .await
    }

    /// Answers every request with these bytes, and closes.
    pub async fn answering_once(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes: Vec<u8> = bytes.into();
        Self::acting(move |_, mut stream| {
            let bytes = bytes.clone();
            async move {
                stream.write_all(&bytes).await.ok()?;
                stream.shutdown().await.ok();
                None
            }
        })
        .await
    }

    /// Does anything at all with a request and its connection; `Some` keeps the connection for the next one.
    pub async fn acting<F>(act: impl Fn(Recorded, TcpStream) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Option<TcpStream>> + Send + 'static,
    {
        Self::acting_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), act)
    }

    /// As [`Self::acting`], on a listener.
    pub fn acting_on<F>(
        listener: TcpListener,
        act: impl Fn(Recorded, TcpStream) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Option<TcpStream>> + Send + 'static,
    {
        let behaviour: Behaviour = Arc::new(move |recorded, stream| Box::pin(act(recorded, stream)));
        let address = listener.local_addr().unwrap();
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let (connections, open) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let accepting = tokio::spawn({
            let (recorded, connections, open) = (recorded.clone(), connections.clone(), open.clone());
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    stream.set_nodelay(true).unwrap();
                    connections.fetch_add(1, Ordering::SeqCst);
                    open.fetch_add(1, Ordering::SeqCst);
                    let (recorded, behaviour, open) = (recorded.clone(), behaviour.clone(), open.clone());
                    tokio::spawn(async move {
                        serve(stream, &recorded, &behaviour).await;
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Upstream { address, recorded, connections, open, accepting }
    }

    pub fn requests(&self) -> Vec<Recorded> {
        self.recorded.lock().unwrap().clone()
    }

    pub fn forget(&self) {
        self.recorded.lock().unwrap().clear();
    }

    pub fn only_request(&self) -> Recorded {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:#?}");
        requests[0].clone()
    }

    /// Connections that were ever made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(mut stream: TcpStream, recorded: &Mutex<Vec<Recorded>>, behaviour: &Behaviour) {
    let mut buffer = Vec::new();
    while let Some(request) = read_request(&mut stream, &mut buffer).await {
        let is_complete = request.is_complete;
        recorded.lock().unwrap().push(request.clone());
        if !is_complete {
            return;
        }
        match behaviour(request, stream).await {
            Some(kept) => stream = kept,
            None => return,
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Recorded> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        more(stream, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end);
    let mut request = Recorded { head, body: Vec::new(), is_complete: true, trailers: String::new() };
    if request.header("transfer-encoding").is_some() {
        request.is_complete = read_chunks(stream, buffer, &mut request).await.is_some();
    } else if let Some(length) =
        request.header("content-length").and_then(|length| length.parse::<usize>().ok())
    {
        while buffer.len() < length && request.is_complete {
            request.is_complete = more(stream, buffer).await.is_some();
        }
        let available = length.min(buffer.len());
        request.body = buffer.drain(..available).collect();
    }
    Some(request)
}

async fn read_chunks(stream: &mut TcpStream, buffer: &mut Vec<u8>, request: &mut Recorded) -> Option<()> {
    loop {
        let line = line(stream, buffer).await?;
        let size = usize::from_str_radix(line.trim(), 16).ok()?;
        if size == 0 {
            loop {
                let trailer = self::line(stream, buffer).await?;
                if trailer.is_empty() {
                    return Some(());
                }
                request.trailers.push_str(&trailer);
                request.trailers.push('\n');
            }
        }
        while buffer.len() < size + 2 {
            more(stream, buffer).await?;
        }
        request.body.extend(buffer.drain(..size));
        buffer.drain(..2);
    }
}

async fn line(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
            let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
            buffer.drain(..end + 2);
            return Some(line);
        }
        more(stream, buffer).await?;
    }
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let mut bytes = [0u8; 64 * 1024];
    match stream.read(&mut bytes).await {
        Ok(0) | Err(_) => None,
        Ok(length) => {
            buffer.extend_from_slice(&bytes[..length]);
            Some(())
        }
    }
}
