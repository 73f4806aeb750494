//! TLS to upstream: trusted certificates, and bearward's own client certificate.
//!
//! [`ClientTls`] is loaded with a configuration, and `connect` uses it for each connection.
//! Invariant: a server's certificate is always verified; no setting turns verification off.

mod pinned;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, SignatureScheme};

use crate::config::UpstreamTls;
use crate::config::fault::{Fault, Faults};
use crate::digest::Sha256;
use crate::pem;
use crate::regular_file;
use crate::system_authorities::system_authorities;
pub(crate) use pinned::CertificateProblem;
use pinned::{Pinned, PinnedVerifier, Trust};

/// TLS settings of an upstream, ready for use. Two values are equal if the settings and the
/// contents of their files are equal.
#[derive(Clone)]
pub(crate) struct ClientTls {
    fingerprint: [u8; 32],
    /// rustls configuration that offers HTTP/2 and HTTP/1.1 by ALPN.
    any: Arc<ClientConfig>,
    /// rustls configuration that offers only HTTP/1.1 by ALPN, for upgrades.
    http1: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    /// Server certificates that are accepted without a chain to an authority.
    pinned: Pinned,
}

impl PartialEq for ClientTls {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Reads the certificate and key files that the configuration names.
    ///
    /// # Errors
    ///
    /// Returns all faults of the certificate and key files.
    pub(crate) fn load(tls: &UpstreamTls) -> Result<Self, Faults> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let fingerprint = fingerprint(tls);
        let mut faults = Vec::new();
        let trust = match &tls.ca {
            Some(path) => Trust::of_file(path),
            None => Ok(Trust { roots: Arc::new(system_authorities()), pinned: Arc::default() }),
        };
        let trust = trust.map_err(|fault| faults.push(fault));
        let client = tls.client.as_ref().map(|pair| pem::certified_key(pair, &provider)).transpose();
        let client = client.map_err(|fault| faults.push(fault));
        let (Ok(trust), Ok(client)) = (trust, client) else { return Err(Faults(faults)) };
        let client = client.map(|key| Arc::new(ClientCertificate(Arc::new(key))));
        let config = |protocols: &[&[u8]]| client_config(&provider, &trust, client.as_ref(), protocols);
        let server_name = tls.server_name.clone().map(ServerName::try_from).transpose();
        debug_assert!(server_name.is_ok(), "the configuration accepts valid server names alone");
        Ok(ClientTls {
            fingerprint,
            any: config(&[b"h2", b"http/1.1"])?,
            http1: config(&[b"http/1.1"])?,
            server_name: server_name.ok().flatten(),
            pinned: trust.pinned.clone(),
        })
    }

    /// Returns those problems of the trusted certificates that will make TLS handshakes with the
    /// servers `hosts` fail.
    pub(crate) fn certificate_problems(&self, hosts: &[&str]) -> Vec<CertificateProblem> {
        let names: Vec<_> = hosts.iter().filter_map(|host| self.name_for(host)).collect();
        pinned::certificate_problems(&self.pinned, &names)
    }

    /// Returns the rustls configuration for a new connection. With `needs_http1`, ALPN offers only
    /// HTTP/1.1.
    pub(super) fn config(&self, needs_http1: bool) -> Arc<ClientConfig> {
        if needs_http1 { self.http1.clone() } else { self.any.clone() }
    }

    /// Returns the name that the server's certificate must have: the configured `server_name`, or
    /// else the host of the endpoint.
    pub(super) fn name_for(&self, host: &str) -> Option<ServerName<'static>> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        self.server_name.clone().or_else(|| ServerName::try_from(bare.to_owned()).ok())
    }
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    trust: &Trust,
    client: Option<&Arc<ClientCertificate>>,
    protocols: &[&[u8]],
) -> Result<Arc<ClientConfig>, Fault> {
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::of_file(Path::new("tls"), error.to_string()))?
        .with_root_certificates(trust.roots.clone());
    let mut config = match client {
        Some(client) => builder.with_client_cert_resolver(client.clone()),
        None => builder.with_no_client_auth(),
    };
    if !trust.pinned.is_empty() {
        let verifier = PinnedVerifier::new(trust, provider).map_err(|error| {
            Fault::of_file(Path::new("tls"), format!("the authorities can't be used: {error}"))
        })?;
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
    }
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// Returns a digest of the settings and of the files' contents. A file that can't be read is
/// treated as empty here, because loading the file reports a fault.
fn fingerprint(tls: &UpstreamTls) -> [u8; 32] {
    let mut digest = Sha256::new();
    let client = tls.client.iter().flat_map(|pair| [&pair.certificate, &pair.private_key]);
    for path in tls.ca.iter().chain(client) {
        let content = regular_file::read(path).unwrap_or_default();
        digest.update((content.len() as u64).to_be_bytes());
        digest.update(&content);
    }
    digest.update(tls.server_name.as_deref().unwrap_or_default());
    digest.update([u8::from(tls.ca.is_some()), u8::from(tls.client.is_some())]);
    digest.finish()
}

/// Bearward's client certificate, sent to every server that requests one.
#[derive(Debug)]
struct ClientCertificate(Arc<CertifiedKey>);

impl ResolvesClientCert for ClientCertificate {
    fn resolve(&self, _hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_signer| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
