//! TLS: certificates chosen by server name, version 1.2 and later, optional client certificates.
//!
//! When a listener's files change, its whole configuration is swapped. A handshake that has begun
//! keeps the earlier configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};

use crate::config::fault::{Fault, Faults};
use crate::config::{CertificatePair, Tls, TlsVersion};
use crate::pem;

/// A listener's TLS configuration, which a reload can replace.
pub(crate) type Swappable = Arc<ArcSwap<ListenerTls>>;

/// A listener's TLS configuration, and the data about its certificates that is reported.
#[derive(Debug)]
pub(crate) struct ListenerTls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) certificates: Vec<Served>,
}

/// A certificate that a listener serves, as it is reported to operators.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) file: PathBuf,
    /// The end of the certificate's validity; `None` if the certificate could not be parsed.
    pub(crate) not_after: Option<Timestamp>,
}

/// Makes a listener's TLS configuration, or returns all faults of its files.
pub(crate) fn server_config(tls: &Tls) -> Result<Arc<ListenerTls>, Faults> {
    let provider = Arc::new(provider());
    let mut faults = Vec::new();
    let mut certificates = Vec::new();
    for pair in &tls.certificates {
        match Certificate::load(pair, &provider) {
            Ok(certificate) => certificates.push(certificate),
            Err(fault) => faults.push(fault),
        }
    }
    let verifier = match tls.client_ca.as_deref().map(|path| client_verifier(path, &provider)).transpose() {
        Ok(verifier) => verifier,
        Err(fault) => {
            faults.push(fault);
            None
        }
    };
    if !faults.is_empty() {
        return Err(Faults(faults));
    }
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let of_library = |error: rustls::Error| Faults(vec![Fault::of_file(Path::new("tls"), error.to_string())]);
    let builder =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(of_library)?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let served = tls.certificates.iter().zip(&certificates).map(|(pair, certificate)| Served {
        file: pair.certificate.clone(),
        not_after: end_of(&certificate.leaf),
    });
    let served = served.collect();
    let mut config = builder.with_cert_resolver(Arc::new(BySni(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Our order of cipher suites takes precedence over the client's.
    config.ignore_client_order = true;
    // Sessions are resumed by tickets, so the server stores nothing for each client. The key of the
    // tickets is replaced every few hours. One ticket per connection is enough, because each
    // connection gets another ticket.
    config.send_tls13_tickets = 1;
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(of_library)?;
    Ok(Arc::new(ListenerTls { config: Arc::new(config), certificates: served }))
}

/// Returns the cipher suites of the TLS library, with AES-128 and SHA-256 moved to the front
/// (docs/decisions/021). Suites with AES-256 cost much more CPU time, and don't make the connection
/// safer: the key exchange and the certificate are no stronger than AES-128.
fn provider() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    let is_first = |suite: CipherSuite| {
        matches!(
            suite,
            CipherSuite::TLS13_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        )
    };
    provider.cipher_suites.sort_by_key(|suite| !is_first(suite.suite()));
    provider
}

/// Returns the end of a certificate's validity; `None` if the certificate can't be parsed.
fn end_of(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    Timestamp::from_second(parsed.validity().not_after.timestamp()).ok()
}

/// A certificate with its private key, and the certificate's DER form (`leaf`), with which server
/// names are compared.
#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    leaf: CertificateDer<'static>,
}

impl Certificate {
    fn load(pair: &CertificatePair, provider: &CryptoProvider) -> Result<Self, Fault> {
        let key = Arc::new(pem::certified_key(pair, provider)?);
        let Some(leaf) = key.cert.first().cloned() else {
            return Err(Fault::of_file(&pair.certificate, "holds no certificate"));
        };
        Ok(Certificate { key, leaf })
    }

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        ParsedCertificate::try_from(&self.leaf).is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
    }
}

fn client_verifier(
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Fault> {
    let roots = pem::authorities(path)?;
    WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .build()
        .map_err(|error| Fault::of_file(path, error.to_string()))
}

/// Chooses the certificate by the server name that the client sends. If none matches, the first
/// certificate is used.
#[derive(Debug)]
struct BySni(Vec<Certificate>);

impl ResolvesServerCert for BySni {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let first = self.0.first()?;
        // With one certificate there is nothing to choose.
        if self.0.len() == 1 {
            return Some(first.key.clone());
        }
        let name = hello.server_name().and_then(|name| ServerName::try_from(name).ok());
        let matching = name.and_then(|name| self.0.iter().find(|certificate| certificate.is_for(&name)));
        Some(matching.unwrap_or(first).key.clone())
    }
}
