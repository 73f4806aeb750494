//! A load of a steady rate, for the bench: an open loop, so that a slow answer delays no other request.
//!
//! pace URL RATE SECONDS CONNECTIONS TOKENS: sends RATE requests a second, each at its own time, over
//! CONNECTIONS connections that are kept, with the tokens of a file in turn. Prints JSON: the number of
//! answers and of wrong ones, and percentiles of the latency in microseconds. A request whose connection was
//! still busy at its time counts from that time on, so no wait is left out. wrk and h2load wait for an answer
//! before they send again; the programs that do not (wrk2, vegeta, oha) know one token or are no longer kept.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    missing_docs,
    reason = "a tool of the bench, which ends with the first surprise"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Accepts the certificates that the bench has made a moment ago.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// Connects to `authority`. `tls`: the configuration of TLS; `None` for a plain connection.
fn connect(authority: &str, tls: Option<&Arc<ClientConfig>>) -> Box<dyn Stream> {
    let stream = TcpStream::connect(authority).expect("the server listens");
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let Some(tls) = tls else { return Box::new(stream) };
    let name = ServerName::try_from("localhost").unwrap();
    Box::new(StreamOwned::new(ClientConnection::new(tls.clone(), name).unwrap(), stream))
}

/// Reads an answer. Returns whether its status is 200.
fn is_answered(stream: &mut dyn Stream, buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    let mut part = [0; 8192];
    loop {
        let bytes = stream.read(&mut part).unwrap_or(0);
        if bytes == 0 {
            return false;
        }
        buffer.extend_from_slice(&part[..bytes]);
        let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
        let length: usize = length.expect("an answer has a length").trim().parse().unwrap();
        if buffer.len() >= end + 4 + length {
            return head.contains(" 200 ");
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, rate, seconds, connections, tokens] = &arguments[..] else {
        panic!("pace URL RATE SECONDS CONNECTIONS TOKENS")
    };
    let (scheme, rest) = url.split_once("://").expect("a URL");
    let (authority, path) = rest.split_once('/').expect("a path");
    let (rate, seconds): (f64, f64) = (rate.parse().unwrap(), seconds.parse().unwrap());
    let connections: usize = connections.parse().unwrap();
    let requests: Vec<String> = std::fs::read_to_string(tokens)
        .unwrap()
        .lines()
        .map(|token| {
            format!("GET /{path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nUser-Agent: bench\r\nAccept: application/json\r\n\r\n")
        })
        .collect();
    let requests = Arc::new(requests);
    let tls = (scheme == "https").then(|| {
        // As wrk in this bench: the same suite with each server.
        let provider = CryptoProvider { cipher_suites: vec![TLS13_AES_128_GCM_SHA256], ..default_provider() };
        let config = ClientConfig::builder_with_provider(Arc::new(provider));
        let config = config.with_safe_default_protocol_versions().unwrap().dangerous();
        Arc::new(config.with_custom_certificate_verifier(Arc::new(Anyone)).with_no_client_auth())
    });
    let all = (rate * seconds) as usize;
    let streams: Vec<_> = (0..connections).map(|_| (authority.to_owned(), tls.clone())).collect();
    let beginning = Instant::now() + Duration::from_millis(200);
    let threads: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(first, (authority, tls))| {
            let requests = requests.clone();
            spawn(move || {
                let mut stream = connect(&authority, tls.as_ref());
                let (mut latencies, mut wrong, mut buffer) = (Vec::new(), 0, Vec::new());
                for number in (first..all).step_by(connections) {
                    let due = beginning + Duration::from_secs_f64(number as f64 / rate);
                    // What came too late because this program was late is no latency of the server.
                    let is_idle = due > Instant::now();
                    sleep(due.saturating_duration_since(Instant::now()));
                    let sent = if is_idle { Instant::now() } else { due };
                    stream.write_all(requests[number * 7 % requests.len()].as_bytes()).unwrap();
                    wrong += usize::from(!is_answered(&mut *stream, &mut buffer));
                    latencies.push(sent.elapsed());
                }
                (latencies, wrong)
            })
        })
        .collect();
    let (mut latencies, mut wrong) = (Vec::new(), 0);
    for thread in threads {
        let (of_thread, wrong_of_thread) = thread.join().unwrap();
        latencies.extend(of_thread);
        wrong += wrong_of_thread;
    }
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!(
        "{{\"answers\": {}, \"wrong\": {wrong}, \"p50\": {:.1}, \"p99\": {:.1}}}",
        latencies.len(),
        at(0.5),
        at(0.99)
    );
}
