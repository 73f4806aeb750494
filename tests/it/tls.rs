//! TLS: versions, certificates by name, client certificates, and pairs that do not belong together.

use std::path::Path;
use std::sync::Arc;

use bearward::{App, Clock, Config, Hooks, Local};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Gateway, Upstream, answer_of, in_time};

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    /// Writes NAME.pem and NAME.key into the directory.
    fn issue(&self, directory: &Path, name: &str) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        std::fs::write(directory.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    fn roots(&self) -> rustls::RootCertStore {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.issuer.pem().as_bytes()).unwrap()).unwrap();
        roots
    }
}

fn bind(directory: &Path, tls: &str, upstream: &Upstream) -> Result<App, bearward::StartError> {
    let token = bearward::Token::generate().unwrap();
    let keys = format!(
        "keys: [{{id: {}, hash: \"{}\", permissions: [read]}}]\n",
        token.key_id(),
        token.hash().to_stored()
    );
    std::fs::write(directory.join("keys.yaml"), keys).unwrap();
    let tls = tls.replace("DIR", directory.to_str().unwrap());
    let source = format!(
        "listeners: [{{address: 127.0.0.1:0, tls: {tls}}}]\nupstreams: [{{name: m, endpoints: [\"http://{}\"]}}]\nkeys: {{path: {}/keys.yaml}}\nadmin: off\n",
        upstream.address,
        directory.display()
    );
    let config = Config::parse(Path::new("c.yaml"), &source, &|_| None).unwrap();
    App::bind(&config, Clock::system(), Hooks::default())
}

type Connected = tokio_rustls::client::TlsStream<TcpStream>;

async fn connect(
    address: std::net::SocketAddr,
    name: &str,
    config: rustls::ClientConfig,
) -> std::io::Result<Connected> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    in_time("handshake", tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream)).await
}

fn client(
    authority: &Authority,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
    builder.with_root_certificates(authority.roots())
}

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS12, &rustls::version::TLS13];

fn address(app: &App) -> std::net::SocketAddr {
    let Some(Local::Tcp(address)) = app.addresses().into_iter().next() else { panic!() };
    address
}

#[tokio::test]
async fn the_certificate_is_chosen_by_the_clients_server_name() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let upstream = Upstream::answering(answer_of("hi")).await;
    for name in ["a.example", "b.example"] {
        authority.issue(directory.path(), name);
    }
    let tls = "{certificates: [{certificate: DIR/a.example.pem, private_key: DIR/a.example.key}, {certificate: DIR/b.example.pem, private_key: DIR/b.example.key}]}";
    let app = bind(directory.path(), tls, &upstream).unwrap();
    let address = address(&app);
    tokio::spawn(app.run(std::future::pending()));
    for version in BOTH {
        for name in ["a.example", "b.example"] {
            let config = client(&authority, &[version]).with_no_client_auth();
            let stream = connect(address, name, config).await.unwrap();
            let (_, agreed) = stream.get_ref();
            assert_eq!(agreed.protocol_version(), Some(version.version));
            // What is quickest, though this client likes AES-256 better.
            let suite = agreed.negotiated_cipher_suite().unwrap().suite();
            assert!(format!("{suite:?}").contains("_AES_128_GCM_SHA256"), "{suite:?}");
        }
    }
    // A name that none has gets the first one, and the client decides.
    let config = client(&authority, BOTH).with_no_client_auth();
    assert!(connect(address, "c.example", config).await.is_err());
}

#[tokio::test]
async fn protocols_are_agreed_by_alpn() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let upstream = Upstream::answering(answer_of("hi")).await;
    authority.issue(directory.path(), "a.example");
    let app = bind(
        directory.path(),
        "{certificate: DIR/a.example.pem, private_key: DIR/a.example.key, min_version: '1.3'}",
        &upstream,
    )
    .unwrap();
    let address = address(&app);
    tokio::spawn(app.run(std::future::pending()));
    for (offered, chosen) in
        [(vec!["h2", "http/1.1"], Some("h2")), (vec!["http/1.1"], Some("http/1.1")), (vec![], None)]
    {
        let mut config = client(&authority, BOTH).with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = connect(address, "a.example", config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), chosen.map(str::as_bytes));
    }
    let old = client(&authority, &[&rustls::version::TLS12]).with_no_client_auth();
    assert!(connect(address, "a.example", old).await.is_err(), "1.3 was demanded");
    // HTTP/1.1 on a connection that agreed on h2 is closed.
    let mut config = client(&authority, BOTH).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut stream = connect(address, "a.example", config).await.unwrap();
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _cut = in_time("closed", stream.read_to_end(&mut rest)).await;
    assert!(upstream.requests().is_empty() && !rest.starts_with(b"HTTP/1"));
}

#[tokio::test]
async fn client_certificates_are_demanded_where_an_authority_is_named() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let upstream = Upstream::answering(answer_of("ok")).await;
    authority.issue(directory.path(), "a.example");
    authority.issue(directory.path(), "client");
    std::fs::write(directory.path().join("ca.pem"), authority.issuer.pem()).unwrap();
    let app = bind(
        directory.path(),
        "{certificate: DIR/a.example.pem, private_key: DIR/a.example.key, client_ca: DIR/ca.pem}",
        &upstream,
    )
    .unwrap();
    let address = address(&app);
    tokio::spawn(app.run(std::future::pending()));
    let ask = async |config: rustls::ClientConfig| -> std::io::Result<Vec<u8>> {
        let mut stream = connect(address, "a.example", config).await?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        in_time("answer", stream.read_to_end(&mut answer)).await?;
        Ok(answer)
    };
    let without = client(&authority, BOTH).with_no_client_auth();
    assert!(ask(without).await.is_err());
    let chain = vec![CertificateDer::from_pem_file(directory.path().join("client.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(directory.path().join("client.key")).unwrap();
    let with = client(&authority, BOTH).with_client_auth_cert(chain, key).unwrap();
    assert!(ask(with).await.unwrap().starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_pair_that_does_not_belong_together_does_not_start() {
    let (directory, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let upstream = Upstream::answering(answer_of("hi")).await;
    for name in ["a.example", "b.example"] {
        authority.issue(directory.path(), name);
    }
    std::fs::write(directory.path().join("half.pem"), "-----BEGIN CERTIFICATE-----\nMIIB").unwrap();
    for (tls, why) in [
        (
            "{certificate: DIR/a.example.pem, private_key: DIR/b.example.key}",
            "does not belong to the certificate",
        ),
        ("{certificate: DIR/half.pem, private_key: DIR/a.example.key}", "half.pem"),
        ("{certificate: DIR/none.pem, private_key: DIR/a.example.key}", "none.pem"),
        ("{certificate: DIR/a.example.pem, private_key: DIR/a.example.pem}", "holds no private key"),
        (
            "{certificate: DIR/a.example.pem, private_key: DIR/a.example.key, client_ca: DIR/a.example.key}",
            "holds no certificate",
        ),
    ] {
        let error = bind(directory.path(), tls, &upstream).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn a_silent_client_in_the_handshake_holds_up_nobody() {
    let upstream = Upstream::answering(answer_of("hi")).await;
    let gateway = Gateway::guarding(&upstream)
        .key("ci", "permissions: [read]")
        .config("limits: {handshake_timeout: 200ms}")
        .tls()
        .start()
        .await;
    let mut silent = Vec::new();
    for _ in 0..8 {
        silent.push(TcpStream::connect(gateway.address).await.unwrap());
    }
    assert_eq!(gateway.get("/v1/models", "ci").await.status, 200);
    for mut stream in silent {
        let mut end = [0u8; 16];
        assert_eq!(in_time("closed", stream.read(&mut end)).await.unwrap_or(0), 0);
    }
}
