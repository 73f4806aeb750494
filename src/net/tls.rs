//! TLS: certificates chosen by server name, 1.2 and later, optional client certificates.

use std::path::Path;
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};

use crate::config::fault::{Fault, Faults};
use crate::config::{CertificatePair, Tls, TlsVersion};

/// Makes a listener's TLS configuration, or says all that is wrong with its files.
pub(crate) fn server_config(tls: &Tls) -> Result<Arc<ServerConfig>, Faults> {
    let provider = Arc::new(aws_lc_rs::default_provider());
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
    let mut config = builder.with_cert_resolver(Arc::new(BySni(certificates)));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Resumption without state of ours for each client; the ticket's key is made anew every few hours.
    config.ticketer = aws_lc_rs::Ticketer::new().map_err(of_library)?;
    Ok(Arc::new(config))
}

/// A certificate with its key, and its parsed form to match server names with.
#[derive(Debug)]
struct Certificate {
    key: Arc<CertifiedKey>,
    leaf: CertificateDer<'static>,
}

impl Certificate {
    fn load(pair: &CertificatePair, provider: &CryptoProvider) -> Result<Self, Fault> {
        let CertificatePair { certificate, private_key } = pair;
        let chain = read_certificates(certificate)?;
        let Some(leaf) = chain.first().cloned() else {
            return Err(Fault::of_file(certificate, "holds no certificate")
                .hint("a PEM file, the server's own first"));
        };
        ParsedCertificate::try_from(&leaf).map_err(|error| {
            Fault::of_file(certificate, format!("is not a certificate for servers: {error}"))
        })?;
        let key = PrivateKeyDer::from_pem_file(private_key).map_err(|error| {
            Fault::of_file(private_key, format!("holds no private key: {error}"))
                .hint("a PEM file, not encrypted")
        })?;
        let key = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| Fault::of_file(private_key, format!("the private key is of no use: {error}")))?;
        let key = CertifiedKey::new(chain, key);
        key.keys_match().map_err(|error| {
            let message = format!("does not belong to the certificate {}: {error}", certificate.display());
            Fault::of_file(private_key, message)
        })?;
        Ok(Certificate { key: Arc::new(key), leaf })
    }

    fn is_for(&self, name: &ServerName<'_>) -> bool {
        ParsedCertificate::try_from(&self.leaf).is_ok_and(|leaf| verify_server_name(&leaf, name).is_ok())
    }
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let unreadable = |error: rustls::pki_types::pem::Error| {
        Fault::of_file(path, format!("certificates can't be read: {error}")).hint("a PEM file is needed")
    };
    CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)
}

fn client_verifier(
    path: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>, Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in read_certificates(path)? {
        roots.add(certificate).map_err(|error| {
            Fault::of_file(path, format!("holds a certificate that is no authority: {error}"))
        })?;
    }
    if roots.is_empty() {
        return Err(Fault::of_file(path, "holds no certificate"));
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| Fault::of_file(path, error.to_string()))
}

/// Chooses the certificate by the client's server name; the first one where none fits.
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
