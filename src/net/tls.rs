//! TLS: certificates chosen by server name, version 1.2 and later, optional client certificates.
//!
//! When a listener's files change, its whole configuration is swapped. A handshake that has begun
//! keeps the earlier configuration. A listener that asks for client certificates resumes no sessions: a
//! resumed one would skip the check of the certificate and of its revocation. A listener that gets its
//! certificate by itself has none at first: its handshakes fail, except those of the certificate authority
//! (`net/authority.rs`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, NoServerSessionStorage, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};

use super::client_trust::ClientTrust;
use super::kept::Kept;
use crate::acme::{self, Life, Storage, Stored};
use crate::config::fault::{Fault, Faults};
use crate::config::{Acme, CertificatePair, Tls, TlsVersion};
use crate::pem;

/// A listener's TLS configuration, which a reload can replace.
pub(crate) type Swappable = Arc<ArcSwap<ListenerTls>>;

/// A listener's TLS configuration, and the data about its certificates that is reported.
#[derive(Debug)]
pub(crate) struct ListenerTls {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) certificates: Vec<Served>,
    /// The name of the certificate that bearward gets by itself for the listener; `None` if it is from
    /// files.
    pub(crate) acme: Option<String>,
    /// What verifies client certificates; `None` if the listener asks for none.
    pub(super) client_trust: Option<ClientTrust>,
    /// Distinguishes the configuration from all others of the process.
    pub(super) number: u64,
    chosen: Arc<BySni>,
}

/// The TLS configuration with which a connection begins, and the one that its listener has at any time.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    pub(super) tls: Arc<ListenerTls>,
    pub(super) current: Swappable,
}

impl Serving {
    pub(super) fn of(current: &Swappable) -> Self {
        Serving { tls: current.load_full(), current: current.clone() }
    }
}

/// The number of configurations that were made so far.
static MADE: AtomicU64 = AtomicU64::new(0);

impl ListenerTls {
    /// Returns for how many of these domains the listener has a certificate that has not ended; `None` if all of
    /// its certificates have.
    fn coverage(&self, domains: &[String], now: Timestamp) -> Option<usize> {
        let lives = self.chosen.0.iter().filter_map(|certificate| Life::of(&certificate.leaf));
        let valid: Vec<Life> = lives.filter(|life| !life.has_ended(now)).collect();
        let is_covered =
            |domain: &&String| valid.iter().any(|life| life.covers(std::slice::from_ref(*domain)) == 1);
        (!valid.is_empty()).then(|| domains.iter().filter(is_covered).count())
    }

    /// Returns the certificate that was read from this file.
    fn served_from(&self, file: &Path) -> Option<(Certificate, Served)> {
        let mut all = self.chosen.0.iter().zip(&self.certificates);
        all.find(|(_, served)| served.file == file).map(|(one, served)| (one.clone(), served.clone()))
    }

    /// Whether the listener has no certificate yet.
    pub(crate) fn is_waiting(&self) -> bool {
        self.chosen.0.is_empty()
    }
}

/// A certificate that a listener serves, as it is reported to operators.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    pub(crate) file: PathBuf,
    /// The end of the certificate's validity; `None` if the certificate could not be parsed.
    pub(crate) not_after: Option<Timestamp>,
}

/// Makes a listener's TLS configuration. `before`: the configuration that it replaces, whose certificates go on
/// being served where bearward gets the next one by itself.
///
/// # Errors
///
/// All faults of its files.
pub(crate) fn server_config(tls: &Tls, before: Option<&ListenerTls>) -> Result<Arc<ListenerTls>, Faults> {
    let mut kept = Kept::default();
    match made(tls, before, None, &mut kept) {
        Some(made) if kept.faults.is_empty() => Ok(made),
        _ => Err(Faults(kept.faults)),
    }
}

/// Makes the TLS configuration of a listener again, as its files are now, and returns it with the faults of the
/// files. Of a file at fault, what was read before stays in service. Returns `None` if it can't be made.
pub(crate) fn renewed(tls: &Tls, before: &ListenerTls) -> (Option<Arc<ListenerTls>>, Vec<Fault>) {
    let mut kept = Kept::default();
    let made = made(tls, Some(before), Some(before), &mut kept);
    (made, kept.faults)
}

/// `fallback`: what stays in service for a file at fault; `None` if such a file is to be refused.
fn made(
    tls: &Tls,
    before: Option<&ListenerTls>,
    fallback: Option<&ListenerTls>,
    kept: &mut Kept,
) -> Option<Arc<ListenerTls>> {
    let provider = Arc::new(provider());
    // All files are read, so that all faults are told at once.
    let certificates = match tls.acme() {
        Some(acme) => Some(stored(acme, before, &provider)),
        None => loaded(tls, &provider, fallback, kept),
    };
    let trusted = fallback.and_then(|fallback| fallback.client_trust.as_ref());
    let client_trust = ClientTrust::read(tls, &provider, trusted, kept);
    let (certificates, client_trust) = (certificates?, client_trust?);
    let assembled = assembled(tls, provider, certificates, client_trust);
    kept.unless_read(assembled, None)
}

/// Reads the certificates of a listener from its files.
fn loaded(
    tls: &Tls,
    provider: &CryptoProvider,
    fallback: Option<&ListenerTls>,
    kept: &mut Kept,
) -> Option<(Vec<Certificate>, Vec<Served>)> {
    let load = |pair: &CertificatePair| {
        let known = fallback.and_then(|fallback| fallback.served_from(&pair.certificate));
        let loaded = Certificate::load(pair, provider).map(|certificate| {
            let not_after = end_of(&certificate.leaf);
            (certificate, Served { file: pair.certificate.clone(), not_after })
        });
        kept.unless_read(loaded, known)
    };
    let loaded: Vec<Option<_>> = tls.files().iter().map(load).collect();
    Some(loaded.into_iter().collect::<Option<Vec<_>>>()?.into_iter().unzip())
}

fn assembled(
    tls: &Tls,
    provider: Arc<CryptoProvider>,
    (certificates, served): (Vec<Certificate>, Vec<Served>),
    client_trust: Option<ClientTrust>,
) -> Result<Arc<ListenerTls>, Fault> {
    let versions: &[&rustls::SupportedProtocolVersion] = match tls.min_version {
        TlsVersion::V1_2 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsVersion::V1_3 => &[&rustls::version::TLS13],
    };
    let of_library = |error: rustls::Error| Fault::of_file(Path::new("tls"), error.to_string());
    let builder =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(versions).map_err(of_library)?;
    let builder = match &client_trust {
        Some(trust) => builder.with_client_cert_verifier(trust.verifier.clone()),
        None => builder.with_no_client_auth(),
    };
    let chosen = Arc::new(BySni(certificates));
    let mut config = builder.with_cert_resolver(chosen.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Our order of cipher suites takes precedence over the client's.
    config.ignore_client_order = true;
    match client_trust {
        None => {
            // Sessions are resumed by tickets, so the server stores nothing for each client. The key of
            // the tickets is replaced every few hours. One ticket per connection is enough, because each
            // connection gets another ticket.
            config.send_tls13_tickets = 1;
            config.ticketer = aws_lc_rs::Ticketer::new().map_err(of_library)?;
        }
        Some(_) => {
            config.send_tls13_tickets = 0;
            config.session_storage = Arc::new(NoServerSessionStorage {});
        }
    }
    Ok(Arc::new(ListenerTls {
        config: Arc::new(config),
        certificates: served,
        acme: tls.acme().map(acme::name_of),
        client_trust,
        number: MADE.fetch_add(1, Ordering::Relaxed),
        chosen,
    }))
}

/// Returns the certificate that bearward has got by itself: the one for all domains; until that is there, what
/// the listener served before, or another one of the storage.
fn stored(
    acme: &Acme,
    before: Option<&ListenerTls>,
    provider: &CryptoProvider,
) -> (Vec<Certificate>, Vec<Served>) {
    let (storage, now) = (Storage::of(acme), Timestamp::now());
    let own = storage.certificate(&acme::name_of(acme), &acme.domains, provider, now);
    let other = own.or_else(|| {
        let substitute = storage.substitute(&acme.domains, provider, now);
        // What is in service stays, unless there is something better.
        let least = before.and_then(|before| before.coverage(&acme.domains, now));
        substitute.filter(|other| least.is_none_or(|least| other.life.covers(&acme.domains) > least))
    });
    let Some(Stored { file, key, life }) = other else {
        return before
            .map_or_else(Default::default, |before| (before.chosen.0.clone(), before.certificates.clone()));
    };
    let Some(leaf) = key.cert.first().cloned() else { return (Vec::new(), Vec::new()) };
    let served = Served { file, not_after: Some(life.not_after) };
    (vec![Certificate { key: Arc::new(key), leaf }], vec![served])
}

/// Returns the cryptography for TLS.
pub(crate) fn crypto_provider() -> Arc<CryptoProvider> {
    Arc::new(provider())
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
#[derive(Clone, Debug)]
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
