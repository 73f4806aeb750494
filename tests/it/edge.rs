//! The edge: HSTS, the redirect to https, PROXY headers, and listeners that wait for a certificate.

use std::net::SocketAddr;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Answer, Gateway, Raw, Running, Upstream, answer_of, in_time};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2 that states this client.
fn v2(client: [u8; 4]) -> Vec<u8> {
    [V2, &[0x21, 0x11, 0, 12], &client, &[10, 0, 0, 1, 0x1f, 0x90, 1, 187]].concat()
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 10.0.0.1 8080 443\r\n").into_bytes()
}

async fn behind_balancer(upstream: &Upstream, config: &str) -> Running {
    Gateway::guarding(upstream)
        .key("here", "permissions: [read], allow_from: [192.0.2.0/24]")
        .key("anywhere", "permissions: [read]")
        .listener("proxy_protocol: [127.0.0.0/8]")
        .config("routes: [{name: health, paths: [/health], public: true}, {name: all, paths: ['/**'], permission: read}]")
        .config(config)
        .start()
        .await
}

/// Sends a header, and a request behind it.
async fn asks(gateway: &Running, header: &[u8], key: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(gateway.address).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nHost: a\r\n{}\r\n", gateway.bearer(key));
    stream.write_all(&[header, request.as_bytes()].concat()).await.unwrap();
    Raw::over(stream).answer_or_end().await
}

#[tokio::test]
async fn the_header_of_a_balancer_states_the_client() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = behind_balancer(&upstream, "").await;
    for (header, key, status) in [
        (v1("192.0.2.7"), "here", 200),
        (v2([192, 0, 2, 7]), "here", 200),
        (v1("198.51.100.7"), "here", 401),
        (v2([198, 51, 100, 7]), "here", 401),
        (v2([198, 51, 100, 7]), "anywhere", 200),
        // The balancer speaks for itself, and its address is not in `allow_from`.
        (b"PROXY UNKNOWN\r\n".to_vec(), "here", 401),
        ([V2, &[0x20, 0, 0, 0]].concat(), "here", 401),
        ([V2, &[0x20, 0, 0, 0]].concat(), "anywhere", 200),
    ] {
        upstream.forget();
        let answer = asks(&gateway, &header, key).await.unwrap();
        assert_eq!(answer.status, status, "{}", String::from_utf8_lossy(&header));
        if status == 200 && key == "here" {
            assert_eq!(upstream.only_request().header("x-forwarded-for"), Some("192.0.2.7"));
        }
    }
}

#[tokio::test]
async fn a_connection_of_a_balancer_without_a_header_is_closed() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = behind_balancer(&upstream, "limits: {header_timeout: 300ms}").await;
    for header in [&b""[..], b"PROXY TCP4 192.0.2.7\r\n", b"PROXY UDP4 1.1.1.1 2.2.2.2 1 1\r\n", V2] {
        assert!(asks(&gateway, header, "anywhere").await.is_none(), "{:?}", String::from_utf8_lossy(header));
    }
    // One that sends nothing, or only the beginning of a header, is closed in time.
    for begun in [&b""[..], b"PROXY TCP4", b"PROXY TCP4 192.0.2.7 10.0.0.1", V2] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(begun).await.unwrap();
        let mut rest = Vec::new();
        let _closed_or_reset = in_time("the end", stream.read_to_end(&mut rest)).await;
        assert!(rest.is_empty());
    }
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn from_elsewhere_a_header_is_bytes_like_any_others() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("here", "permissions: [read], allow_from: [192.0.2.0/24]")
        .key("anywhere", "permissions: [read]")
        .listener("proxy_protocol: [10.0.0.0/8]")
        .start()
        .await;
    let answer = asks(&gateway, &v1("192.0.2.7"), "here").await.unwrap();
    answer.assert_denied(400, "BAD_REQUEST");
    assert!(asks(&gateway, &v2([192, 0, 2, 7]), "here").await.is_none_or(|answer| answer.status == 400));
    assert_eq!(gateway.get("/v1/models", "anywhere").await.status, 200);
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn connections_are_counted_by_the_client_and_not_by_the_balancer() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = behind_balancer(&upstream, "limits: {connections_per_address: 2}").await;
    let mut open = Vec::new();
    for client in 1..=6 {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&v2([192, 0, 2, client])).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut raw = Raw::over(stream);
        assert_eq!(raw.answer().await.status, 200, "client {client}");
        open.push(raw);
    }
    // Two of one client are enough, whichever way they came.
    for (number, status) in [(2, Some(200)), (3, Some(503)), (4, Some(503))] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&v2([192, 0, 2, 1])).await.unwrap();
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut raw = Raw::over(stream);
        let answer = raw.answer_or_end().await;
        assert_eq!(answer.map(|answer| answer.status), status, "connection {number}");
        open.push(raw);
    }
}

#[tokio::test]
async fn a_trusted_proxy_behind_the_balancer_is_one() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = behind_balancer(&upstream, "trusted_proxies: [198.51.100.0/24]").await;
    for (client, expected) in [([198, 51, 100, 1], 200), ([203, 0, 113, 1], 401)] {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let bearer = gateway.bearer("here");
        let request = format!("GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\n{bearer}\r\n");
        stream.write_all(&[&v2(client)[..], request.as_bytes()].concat()).await.unwrap();
        assert_eq!(Raw::over(stream).answer().await.status, expected, "{client:?}");
    }
}

#[tokio::test]
async fn a_client_that_nobody_knows_has_nobodys_trust() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let unspecified = [V2, &[0x21, 0, 0, 0]].concat();
    let of_unix = [V2, &[0x21, 0x31, 0, 216], &[0; 216]].concat();
    let local = [V2, &[0x20, 0, 0, 0]].concat();
    // The balancer is trusted itself, and so are the clients of unix listeners.
    let gateway = behind_balancer(&upstream, "trusted_proxies: [127.0.0.0/8, unix]").await;
    for (header, expected) in
        [(b"PROXY UNKNOWN\r\n".to_vec(), 401), (unspecified, 401), (of_unix, 401), (local, 200)]
    {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        let bearer = gateway.bearer("here");
        let request = format!("GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\n{bearer}\r\n");
        stream.write_all(&[&header[..], request.as_bytes()].concat()).await.unwrap();
        let shown = String::from_utf8_lossy(&header[..header.len().min(16)]).into_owned();
        assert_eq!(Raw::over(stream).answer().await.status, expected, "{shown:?}");
    }
}

/// A gateway whose listener redirects. It ends no TLS itself, so https is at its standard port.
async fn that_redirects(upstream: &Upstream) -> Running {
    Gateway::guarding(upstream)
        .key("ci", "permissions: [read]")
        .listener("redirect_to_https: true")
        .config("trusted_proxies: [10.0.0.0/8]\nauth: {headers: [authorization, x-team-key]}")
        .start()
        .await
}

#[tokio::test]
async fn requests_are_redirected_unless_their_key_is_lost_already() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = that_redirects(&upstream).await;
    let redirected = [
        ("GET /v1/models?limit=1", "Host: api.example.com", "https://api.example.com/v1/models?limit=1"),
        (
            "POST /v1/chat/completions",
            "Host: API.example.com:80",
            "https://api.example.com/v1/chat/completions",
        ),
        ("GET /", "Host: api.example.com\r\nAuthorization: ", "https://api.example.com/"),
        ("GET /", "Host: api.example.com\r\nCookie: theme=dark", "https://api.example.com/"),
        ("GET //evil.example/", "Host: api.example.com", "https://api.example.com/evil.example/"),
        ("GET /a/../b", "Host: [2001:db8::1]", "https://[2001:db8::1]/b"),
        // Nobody but a trusted proxy can say that the request came over TLS.
        ("GET /", "Host: a\r\nX-Forwarded-Proto: https", "https://a/"),
    ];
    for (line, headers, location) in redirected {
        let answer =
            gateway.sends(format!("{line} HTTP/1.1\r\n{headers}\r\nConnection: close\r\n\r\n")).await;
        assert_eq!((answer.status, answer.header("location")), (308, Some(location)), "{line} {headers}");
        assert!(answer.body.is_empty());
    }
    // What is ambiguous is redirected nowhere.
    let answer = gateway.sends("GET /a%2fb HTTP/1.1\r\nHost: a b\r\n\r\n").await;
    assert_eq!(answer.status, 400);
    let in_clear = [
        ("GET /", gateway.bearer("ci").trim_end().to_owned()),
        ("GET /", "Authorization: Basic eDp5".to_owned()),
        ("GET /", "X-Team-Key: abc".to_owned()),
        ("GET /", "X-Api-Key: abc".to_owned()),
        ("GET /", "X_Api_Key: abc".to_owned()),
        ("GET /", "api-key: abc".to_owned()),
        ("GET /", "X-Goog-Api-Key: abc".to_owned()),
        ("GET /?a=1&access_token=abc", "A: b".to_owned()),
        ("GET /?API_KEY=abc", "A: b".to_owned()),
        ("GET /?key=abc", "A: b".to_owned()),
        ("GET /?k%65y=abc", "A: b".to_owned()),
        ("GET /?token=abc", "A: b".to_owned()),
        ("GET /", "Proxy-Authorization: Basic eDp5".to_owned()),
        // A key of bearward's own, in any place.
        ("GET /", format!("X-Team: {}", gateway.token("ci"))),
        ("GET /", format!("Cookie: key={}", gateway.token("ci"))),
        ("GET /", "Sec-WebSocket-Protocol: realtime, openai-insecure-api-key.abc".to_owned()),
    ];
    let own = gateway.token("ci");
    for line in
        [format!("GET /v1/{own}"), format!("GET /?{own}"), format!("GET /?x={}", own.replace('_', "%5f"))]
    {
        let answer = gateway.sends(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        answer.assert_denied(403, "CREDENTIAL_IN_CLEAR");
    }
    for (line, header) in in_clear {
        let answer = gateway.sends(format!("{line} HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n")).await;
        match header.contains('_') {
            // The guard refuses such names first, by default.
            true => assert!([400, 403].contains(&answer.status), "{header}"),
            false => answer.assert_denied(403, "CREDENTIAL_IN_CLEAR"),
        }
        assert_eq!(answer.header("location"), None);
    }
    let answer = gateway.sends("GET / HTTP/1.0\r\n\r\n").await;
    assert_eq!(answer.status, 400, "without a host, there is nowhere to send the client");
    assert!(upstream.requests().is_empty());
}

#[tokio::test]
async fn what_came_over_tls_to_a_trusted_proxy_is_served() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .listener("redirect_to_https: true")
        .config("trusted_proxies: [127.0.0.0/8]")
        .start()
        .await;
    let bearer = gateway.bearer("ci");
    for (proto, status) in [
        ("X-Forwarded-Proto: https\r\n", 200),
        ("X-Forwarded-Proto: HTTPS\r\n", 200),
        ("X-Forwarded-Proto: http\r\n", 403),
        ("X-Forwarded-Proto: http, https\r\n", 403),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", 403),
        ("", 403),
    ] {
        let request =
            format!("GET /v1/models HTTP/1.1\r\nHost: a\r\n{proto}{bearer}Connection: close\r\n\r\n");
        assert_eq!(gateway.sends(request).await.status, status, "{proto}");
    }
}

#[tokio::test]
async fn every_answer_over_tls_tells_browsers_to_stay_there() {
    let upstream = Upstream::answering(
        "HTTP/1.1 200 OK\r\nStrict-Transport-Security: max-age=1; preload\r\nContent-Length: 2\r\n\r\nhi",
    )
    .await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .tls()
        .listener("hsts: 180d")
        .start()
        .await;
    for http2 in [false, true] {
        let client = gateway.client(http2);
        for (path, key, status) in
            [("/v1/models", true, 200), ("/v1/models", false, 401), ("/nothing", true, 404)]
        {
            let request = client.get(gateway.url(path));
            let request = if key { request.bearer_auth(gateway.token("ci")) } else { request };
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status);
            let told: Vec<_> = answer.headers().get_all("strict-transport-security").iter().collect();
            assert_eq!(told, ["max-age=15552000"], "{path}");
        }
    }
    // Also what is refused before it is a request.
    let answer = gateway.sends("nonsense\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("strict-transport-security")), (400, Some("max-age=15552000")));
}

#[tokio::test]
async fn a_listener_without_its_first_certificate_completes_no_handshake_and_is_not_ready() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let storage = tempfile::tempdir().unwrap();
    let acme = format!(
        "tls: {{acme: {{domains: [a.example], directory: \"https://127.0.0.1:1/dir\", storage: {}}}}}",
        storage.path().display()
    );
    let gateway = Gateway::guarding(&upstream).key("ci", "permissions: [read]").listener(&acme).start().await;
    let provider: std::sync::Arc<_> = rustls::crypto::aws_lc_rs::default_provider().into();
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(std::sync::Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    for protocols in [vec![], vec![b"acme-tls/1".to_vec()], vec![b"h2".to_vec(), b"acme-tls/1".to_vec()]] {
        config.alpn_protocols = protocols;
        assert!(shaken(gateway.address, config.clone()).await.is_err());
    }
    let ready = gateway.admin("GET /readyz", "").await;
    ready.assert_denied(503, "CERTIFICATE_MISSING");
    let waiting = &ready.json()["error"]["details"]["certificates"][0];
    assert_eq!(waiting["domains"][0], "a.example");
    assert_eq!(gateway.admin("GET /livez", "").await.status, 200);
}

/// Whoever shows any certificate is believed.
#[derive(Debug)]
struct AnyCertificate(std::sync::Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

async fn shaken(address: SocketAddr, config: rustls::ClientConfig) -> std::io::Result<()> {
    let stream = TcpStream::connect(address).await?;
    let name = "a.example".try_into().unwrap();
    let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
    in_time("the handshake", connector.connect(name, stream)).await.map(drop)
}
