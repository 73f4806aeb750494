//! Tests of upstreams with host names, through a running server whose resolver the test controls.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use super::*;
use crate::app::App;
use crate::clock::Clock;
use crate::config::Config;
use crate::hooks::Hooks;
use crate::net::local::Local;

/// What the test's resolver returns for `model.test`: addresses or an error.
type Zone = Arc<Mutex<Result<Vec<&'static str>, &'static str>>>;

struct Running {
    address: SocketAddr,
    gateway: Arc<Gateway>,
    _stop: oneshot::Sender<()>,
    _directory: tempfile::TempDir,
}

fn zone(addresses: &[&'static str]) -> Zone {
    Arc::new(Mutex::new(Ok(addresses.to_vec())))
}

/// Starts a server whose upstream is `http://model.test:PORT`. `zone` has the addresses of
/// `model.test`.
fn start(zone: &Zone, port: u16, fields: &str) -> Running {
    start_before(zone, &format!("\"http://model.test:{port}\""), fields)
}

/// Starts a server whose upstream has these endpoints. `zone` has the addresses of `model.test`.
/// The lookup of `unknown.test` always fails.
fn start_before(zone: &Zone, endpoints: &str, fields: &str) -> Running {
    let zone = zone.clone();
    let (refused, other_is_refused) = std::sync::mpsc::channel();
    let other_is_refused = Mutex::new(endpoints.contains("unknown.test").then_some(other_is_refused));
    let resolve = move |name: &str| {
        if name == "unknown.test" {
            refused.send(()).unwrap_or_default();
            return Err(io::Error::other("no such host"));
        }
        assert_eq!(name, "model.test");
        // The first lookup of `model.test` waits until the lookup of `unknown.test` has failed.
        if let Some(other_is_refused) = other_is_refused.lock().unwrap().take() {
            other_is_refused.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        let answer = zone.lock().unwrap().clone();
        answer
            .map(|addresses| addresses.iter().map(|address| address.parse().unwrap()).collect())
            .map_err(io::Error::other)
    };
    let source = format!(
        "routes: [{{name: all, paths: [/**], public: true}}]\n\
         upstreams: [{{name: model, endpoints: [{endpoints}], {fields}}}]\n"
    );
    run(&source, Hooks::resolving(resolve))
}

/// Starts a server with these routes and upstreams, and one worker.
fn run(source: &str, hooks: Hooks) -> Running {
    let directory = tempfile::tempdir().unwrap();
    let keys = key_file(&directory);
    let source = format!(
        "listeners: [{{address: 127.0.0.1:0}}]\nadmin: off\nworkers: 1\nkeys: {{path: {}}}\n{source}",
        keys.display()
    );
    let config = Config::parse("c.yaml".as_ref(), &source, &|_| None).unwrap();
    let app = App::bind(&config, Clock::system(), hooks).unwrap();
    let Some(Local::Tcp(address)) = app.addresses().into_iter().next() else { panic!("no address") };
    let gateway = app.gateway();
    let (stop, stopping) = oneshot::channel::<()>();
    tokio::spawn(app.run(async { drop(stopping.await) }));
    Running { address, gateway, _stop: stop, _directory: directory }
}

/// Writes a key file, because no server starts without a key file.
fn key_file(directory: &tempfile::TempDir) -> std::path::PathBuf {
    let (path, hash) = (directory.path().join("keys.yaml"), crate::keys::KeyHash::of(b"nobody").to_stored());
    let keys = format!("keys:\n  - {{id: key_nobody, hash: \"{hash}\", permissions: [read]}}\n");
    std::fs::write(&path, keys).unwrap();
    path
}

impl Running {
    /// Sends a GET, and returns the status and the body of the answer.
    async fn get(&self) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(20), read).await.unwrap().unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split("\r\n\r\n").nth(1).unwrap().to_owned())
    }

    /// Sends 40 requests, and returns the addresses of the servers that answered them.
    async fn answering(&self) -> BTreeSet<String> {
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            let (status, body) = self.get().await;
            assert_eq!(status, 200, "{body}");
            seen.insert(body);
        }
        seen
    }

    fn endpoints(&self) -> Vec<String> {
        let upstream = self.gateway.snapshot.load().upstreams[0].clone();
        upstream
            .endpoints()
            .iter()
            .map(|endpoint| endpoint.resolved_address().unwrap().ip().to_string())
            .collect()
    }
}

async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < until, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Starts a server that answers each request with its own address, and keeps connections open.
async fn serve(ip: &'static str, port: u16) -> u16 {
    let listener = TcpListener::bind((ip, port)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{ip}", ip.len());
                while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

fn seen(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test]
async fn each_address_of_a_name_gets_requests_and_a_name_that_moves_is_followed() {
    let port = serve("127.0.0.1", 0).await;
    serve("127.0.0.2", port).await;
    serve("127.0.0.3", port).await;
    let zone = zone(&["127.0.0.1", "127.0.0.2"]);
    let running = start(&zone, port, "resolve: 100ms");
    assert_eq!(running.answering().await, seen(&["127.0.0.1", "127.0.0.2"]));
    *zone.lock().unwrap() = Ok(vec!["127.0.0.3"]);
    eventually("the name has moved", async || running.endpoints() == ["127.0.0.3"]).await;
    assert_eq!(running.answering().await, seen(&["127.0.0.3"]), "kept connections are not used either");
}

#[tokio::test]
async fn a_look_up_that_fails_keeps_the_last_addresses_and_is_reported() {
    let port = serve("127.0.0.1", 0).await;
    let zone = zone(&["127.0.0.1"]);
    let running = start(&zone, port, "resolve: 100ms");
    assert_eq!(running.get().await.0, 200);
    for failure in [Err("no answer from 10.0.0.53"), Ok(Vec::new())] {
        *zone.lock().unwrap() = failure;
        let fault = || {
            let upstream = running.gateway.snapshot.load().upstreams[0].clone();
            upstream.sets[0].named().unwrap().fault()
        };
        eventually("the failure is reported", async || fault().is_some()).await;
        assert_eq!(running.answering().await, seen(&["127.0.0.1"]));
        *zone.lock().unwrap() = Ok(vec!["127.0.0.1"]);
        eventually("it is over", async || fault().is_none()).await;
    }
}

#[tokio::test]
async fn a_name_that_was_never_found_is_a_502_until_it_is() {
    let port = serve("127.0.0.1", 0).await;
    let zone: Zone = Arc::new(Mutex::new(Err("no such host")));
    let running = start(&zone, port, "resolve: 1h");
    let (status, body) = running.get().await;
    assert_eq!(status, 502, "{body}");
    assert!(body.contains("UPSTREAM_UNREACHABLE") && !body.contains("model.test"), "{body}");
    *zone.lock().unwrap() = Ok(vec!["127.0.0.1"]);
    eventually("it is found", async || running.get().await.0 == 200).await;
}

#[tokio::test]
async fn a_look_up_that_hangs_holds_up_nobody_but_the_first_requests() {
    let (let_go, hanging) = std::sync::mpsc::channel::<()>();
    let hanging = Mutex::new(hanging);
    let port = serve("127.0.0.1", 0).await;
    let source = format!(
        "routes: [{{name: named, paths: [/named], public: true}}, {{name: all, paths: [/**], public: true, upstream: b}}]\n\
         upstreams:\n\
         \x20 - {{name: a, endpoints: [\"http://model.test:{port}\"], timeouts: {{connect: 200ms}}}}\n\
         \x20 - {{name: b, endpoints: [\"http://127.0.0.1:{port}\"]}}\n"
    );
    let hooks = Hooks::resolving(move |_| {
        let _let_go = hanging.lock().unwrap().recv();
        Err(io::Error::other("too late"))
    });
    let running = run(&source, hooks);
    let mut waiting = TcpStream::connect(running.address).await.unwrap();
    waiting.write_all(b"GET /named HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert_eq!(running.get().await.0, 200, "the one worker serves others");
    let mut answer = String::new();
    waiting.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    drop(let_go);
}

#[tokio::test]
async fn a_dead_address_does_not_use_up_the_time_to_connect() {
    // The accept queue of this socket has one place, and the connection `_filling` occupies it, so
    // the kernel drops all further connections.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&"127.0.0.9:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.listen(0).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    let _filling = std::net::TcpStream::connect(("127.0.0.9", port)).unwrap();
    serve("127.0.0.1", port).await;
    // Nothing listens on 127.0.0.8, so it refuses connections.
    let zone = zone(&["127.0.0.9", "127.0.0.8", "127.0.0.1"]);
    let running = start(&zone, port, "retries: 0, timeouts: {connect: 30s}");
    let began = Instant::now();
    assert_eq!(running.answering().await, seen(&["127.0.0.1"]));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_name_of_many_dead_addresses_is_one_endpoint_that_was_tried() {
    let port = serve("127.0.0.1", 0).await;
    let zone = zone(&["127.0.0.5", "127.0.0.6", "127.0.0.7", "127.0.0.8"]);
    let endpoints = format!("\"http://model.test:{port}\", \"http://127.0.0.1:{port}\"");
    for balance in ["round_robin", "least_requests"] {
        let running = start_before(&zone, &endpoints, &format!("retries: 1, balance: {balance}"));
        assert_eq!(running.answering().await, seen(&["127.0.0.1"]), "{balance}");
    }
}

#[tokio::test]
async fn the_first_request_waits_for_whichever_name_is_found() {
    let (port, zone) = (serve("127.0.0.1", 0).await, zone(&["127.0.0.1"]));
    let endpoints = format!("\"http://unknown.test:{port}\", \"http://model.test:{port}\"");
    let running = start_before(&zone, &endpoints, "retries: 0");
    assert_eq!(running.answering().await, seen(&["127.0.0.1"]));
}
