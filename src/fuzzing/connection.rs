//! Fuzzes a whole connection: a client sends any bytes, and an upstream parses the forwarded bytes
//! strictly.
//!
//! The clock is paused: it stands still while any task can run, and then jumps to the next
//! deadline. A client that stalls therefore costs no real time.

use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{Semaphore, watch};

use super::reference::{self, Manner, Message, Read};
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::hooks::Hooks;
use crate::keys::KeyHash;
use crate::net::conn;
use crate::net::listen::{Accepted, Stream};
use crate::net::standing::Standing;
use crate::proxy::{Gateway, Peer};
use crate::upstream::pool::WorkerPool;

/// The only valid key. It is short, so that a fuzzer's mutations often keep it whole.
pub(crate) const KEY: &str = "sk-1";

/// The gateway that handles all inputs, and the listening socket of its upstream.
struct Stage {
    gateway: Arc<Gateway>,
    upstream: UnixListener,
    _directory: tempfile::TempDir,
}

fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).display().to_string();
        let hash = KeyHash::of(KEY.as_bytes()).to_stored();
        let keys = format!(
            "keys:\n  - {{id: key_fuzz, name: fuzz, environment: test, hash: \"{hash}\", permissions: [read, write]}}\n"
        );
        std::fs::write(path("keys.yaml"), keys).unwrap();
        let config = format!(
            "listeners: [{{address: \"unix:{}\"}}]\nadmin: off\nroutes: any\nkeys: {{path: {}}}\n\
             upstreams: [{{name: model, endpoints: [\"unix:{}\"]}}]\n\
             auth: {{headers: [authorization, x-own-key]}}\n\
             max_concurrent: 1000000\nrate_limits: [{{requests: 4000000000, per: 1d}}]\n",
            path("listener"),
            path("keys.yaml"),
            path("upstream"),
        );
        let config = Config::parse("fuzz.yaml".as_ref(), &config, &|_| None).unwrap();
        let upstream = UnixListener::bind(path("upstream")).unwrap();
        upstream.set_nonblocking(true).unwrap();
        let app = App::bind(&config, Clock::system(), Hooks::default()).unwrap();
        Stage { gateway: app.gateway(), upstream, _directory: directory }
    })
}

pub(crate) fn gateway() -> Arc<Gateway> {
    stage().gateway.clone()
}

/// Sends the bytes as a client does, and checks what arrives at upstream and at the client. The
/// first byte is the size of each write; 0 sends everything in one write.
pub fn connection(bytes: &[u8]) {
    let Some((&piece, bytes)) = bytes.split_first() else { return };
    let piece = if piece == 0 { bytes.len().max(1) } else { usize::from(piece) };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (arrived, answered) = runtime.block_on(exchange(bytes, piece));
    drop(runtime);

    let arrived = arrived.lock().unwrap();
    let mut requests = Vec::new();
    for connection in arrived.iter() {
        requests.extend(read_all(connection));
    }
    for request in &requests {
        check_head(request);
    }
    let is_in = |needle: &[u8], hay: &[u8]| hay.windows(needle.len()).any(|part| part == needle);
    assert!(answered.is_empty() || answered.starts_with(b"HTTP/1.") || bytes.starts_with(b"PRI * HTTP/2.0"));
    assert!(!is_in(format!("Bearer {KEY}").as_bytes(), &answered), "the key is echoed");
    if bytes.starts_with(b"PRI * HTTP/2.0") {
        return;
    }
    // Each request at upstream must be one that a second parser finds in the client's bytes, in the
    // same order.
    let mut said = said(bytes).into_iter();
    for request in requests {
        let target = request.target.clone();
        let is_same = |said: &Message| {
            said.method == request.method
                && said.body == request.body
                && canonical(&said.target) == Some(target.clone())
        };
        assert!(said.any(|said| is_same(&said)), "nobody said {request:?}");
    }
}

/// Sends the bytes in pieces of `piece` bytes. Returns the bytes that arrived at upstream on each
/// connection, and the bytes that the client received.
async fn exchange(bytes: &[u8], piece: usize) -> (Arc<Mutex<Vec<Vec<u8>>>>, Vec<u8>) {
    let Stage { gateway, upstream, .. } = stage();
    let listener = tokio::net::UnixListener::from_std(upstream.try_clone().unwrap()).unwrap();
    let arrived = Arc::new(Mutex::new(Vec::new()));
    let accepting = tokio::spawn(serve_upstream(listener, arrived.clone()));
    let (client, server) = UnixStream::pair().unwrap();
    for side in [&client, &server] {
        side.set_nonblocking(true).unwrap();
    }
    let pool = Arc::new(WorkerPool::default());
    let peer = Peer {
        gateway: gateway.clone(),
        pool: pool.clone(),
        observer: gateway.observers.join(),
        address: None,
        address_value: None,
        is_tls: false,
        certificate: None,
        door: None,
        edge: Arc::default(),
        activity: Arc::default(),
        tunnel: Arc::default(),
        over_limit: None,
        is_trusted: true,
    };
    let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
    let accepted = Accepted {
        stream: Stream::Unix(server),
        peer: None,
        tls: None,
        door: None,
        edge: Arc::default(),
        permit,
        standing: Standing { is_trusted: true, ..Standing::default() },
        activity: Arc::default(),
        proxied: None,
    };
    let (_stop, shutdown) = watch::channel(false);
    let serving = tokio::spawn(conn::serve(accepted, peer, shutdown));
    let (mut reader, mut writer) = tokio::net::UnixStream::from_std(client).unwrap().into_split();
    let pieces: Vec<Vec<u8>> = bytes.chunks(piece).map(<[u8]>::to_vec).collect();
    let writing = tokio::spawn(async move {
        for piece in pieces {
            if writer.write_all(&piece).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        // The client does not close the connection: the gateway closes the connection, after an
        // answer or at a deadline.
        std::future::pending::<()>().await;
        drop(writer);
    });
    let mut answered = Vec::new();
    let _reset = reader.read_to_end(&mut answered).await;
    // A panic of the connection's task is a finding.
    serving.await.unwrap();
    drop(pool);
    // The upstream's tasks may still have to read bytes that were sent. The clock is paused, so
    // this sleep ends only when these tasks have nothing left to do.
    tokio::time::sleep(Duration::from_secs(1)).await;
    writing.abort();
    accepting.abort();
    (arrived, answered)
}

async fn serve_upstream(listener: tokio::net::UnixListener, arrived: Arc<Mutex<Vec<Vec<u8>>>>) {
    while let Ok((mut stream, _)) = listener.accept().await {
        let number = {
            let mut arrived = arrived.lock().unwrap();
            arrived.push(Vec::new());
            arrived.len() - 1
        };
        let arrived = arrived.clone();
        tokio::spawn(async move {
            let (mut bytes, mut answered) = ([0u8; 16 * 1024], 0);
            while let Ok(length @ 1..) = stream.read(&mut bytes).await {
                arrived.lock().unwrap()[number].extend_from_slice(&bytes[..length]);
                loop {
                    let all = arrived.lock().unwrap()[number].clone();
                    let Read::Whole(_, length) = reference::read(&all[answered..], Manner::Strict) else {
                        break;
                    };
                    answered += length;
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    if stream.write_all(answer).await.is_err() {
                        return;
                    }
                }
            }
        });
    }
}

/// Parses the whole requests on one connection to upstream. Bytes that are no request are a
/// finding. An incomplete request at the end is allowed.
fn read_all(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    loop {
        match reference::read(bytes, Manner::Strict) {
            Read::Whole(message, length) => {
                messages.push(message);
                bytes = &bytes[length..];
            }
            Read::Part => return messages,
            Read::Bad(why) => panic!("upstream got what is no request: {why}"),
        }
    }
}

fn check_head(request: &Message) {
    assert_eq!(request.values("x-bearward-key-id"), ["key_fuzz"], "{request:?}");
    assert_eq!(request.values("x-bearward-permissions"), ["read,write"]);
    assert_eq!(request.values("host").len(), 1, "{request:?}");
    for name in ["authorization", "x-own-key", "expect", "x-api-key"] {
        assert!(request.values(name).is_empty(), "{request:?}");
    }
    let upgrade = (request.values("connection"), request.values("upgrade"));
    let is_websocket = |values: &[&str]| matches!(values, [value] if value.eq_ignore_ascii_case("websocket"));
    // After the answer to a HEAD request, and after an unusual body, the gateway does not reuse the
    // connection to upstream.
    let is_last = upgrade == (vec!["close"], vec![]) && !matches!(&*request.method, "POST" | "PUT" | "PATCH");
    assert!(
        is_last || upgrade == (vec![], vec![]) || (upgrade.0 == ["upgrade"] && is_websocket(&upgrade.1)),
        "{request:?}"
    );
    let path = request.target.split('?').next().unwrap();
    assert_eq!(reference::canonical_path(path).as_deref(), Some(path), "{request:?}");
}

/// Parses the requests in the client's bytes, up to the first bytes that are no whole request.
fn said(mut bytes: &[u8]) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Read::Whole(message, length) = reference::read(bytes, Manner::Lenient) {
        let is_last = message.is_last;
        messages.push(message);
        bytes = if is_last { &[] } else { &bytes[length..] };
    }
    messages
}

/// Returns the request target in the form in which upstream receives it; `None` if the gateway must
/// refuse the target.
fn canonical(target: &str) -> Option<String> {
    let target = target.split('#').next().unwrap_or_default();
    let target = match target.find("://") {
        Some(end) if !target.starts_with('/') => {
            let rest = &target[end + 3..];
            let path = rest.find(['/', '?']).map_or("", |start| &rest[start..]);
            if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
        }
        _ => target.to_owned(),
    };
    // The bytes were decoded one by one, so a byte beyond ASCII is one character.
    let encoded = |path: &str| -> String {
        let encode = |c: char| if c.is_ascii() { c.to_string() } else { format!("%{:02X}", u32::from(c)) };
        path.chars().map(encode).collect()
    };
    match target.split_once('?') {
        Some((path, query)) => Some(format!("{}?{query}", reference::canonical_path(&encoded(path))?)),
        None => reference::canonical_path(&encoded(&target)),
    }
}
