//! A server's own certificate as what is trusted: self-signed ones are common on upstreams, and made by `openssl req -x509`
//! they say that they are authorities, which no server may present otherwise (RFC 5280, section 4.2.1.9).
//!
//! Invariant: the name, the time and the signature of the handshake are verified for these as for all others; what falls
//! away is the chain alone.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::config::fault::Fault;
use crate::pem;

/// Certificates that are trusted as they are.
pub(super) type Pinned = Arc<[CertificateDer<'static>]>;

/// The authorities that a server's certificate may be signed by, and the certificates that are
/// trusted as they are.
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) pinned: Pinned,
}

impl Trust {
    /// The certificates of a file: each an authority, or the server's very own.
    pub(super) fn of_file(path: &Path) -> Result<Self, Fault> {
        Ok(Trust { roots: pem::authorities(path)?, pinned: pem::certificates(path)?.into() })
    }
}

/// Accepts a certificate that is pinned, and all that webpki accepts.
#[derive(Debug)]
pub(super) struct VeryCertificate {
    pinned: Pinned,
    chains: Arc<WebPkiServerVerifier>,
}

impl VeryCertificate {
    pub(super) fn new(
        trust: &Trust,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::client::VerifierBuilderError> {
        let chains = WebPkiServerVerifier::builder_with_provider(trust.roots.clone(), provider.clone());
        Ok(VeryCertificate { pinned: trust.pinned.clone(), chains: chains.build()? })
    }
}

impl ServerCertVerifier for VeryCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.pinned.iter().any(|pinned| pinned == end_entity) {
            verify(end_entity, server_name, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chains.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Verifies what a certificate says of itself: its name, its time, and that it is for servers.
fn verify(certificate: &CertificateDer<'_>, name: &ServerName<'_>, now: UnixTime) -> Result<(), Error> {
    verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
    let parsed = parse(certificate).ok_or(CertificateError::BadEncoding)?;
    verify_time(&parsed, now)?;
    match is_for_servers(&parsed) {
        true => Ok(()),
        false => Err(CertificateError::InvalidPurpose.into()),
    }
}

fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Option<X509Certificate<'c>> {
    X509Certificate::from_der(certificate).ok().map(|(_, parsed)| parsed)
}

fn verify_time(parsed: &X509Certificate<'_>, now: UnixTime) -> Result<(), CertificateError> {
    let (validity, now) = (parsed.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet);
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired);
    }
    Ok(())
}

/// Whether a certificate that says what it is for says that it is for servers (RFC 5280, section 4.2.1.12).
fn is_for_servers(parsed: &X509Certificate<'_>) -> bool {
    match parsed.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.any || usage.value.server_auth,
        Err(_) => false,
    }
}

/// What will keep a server from being connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    NotValidYet,
    Expired,
    /// It is no authority, so it is the server's own; and it has none of the names that are asked for.
    OtherName,
    /// It is no authority, and not for servers.
    OtherPurpose,
}

impl std::fmt::Display for Doubt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Doubt::NotValidYet => "holds a certificate that is not valid yet",
            Doubt::Expired => "holds a certificate that has ended",
            Doubt::OtherName => {
                "holds a server's own certificate without the name that is asked for; `server_name` says another one"
            }
            Doubt::OtherPurpose => "holds a certificate that is neither an authority nor for servers",
        })
    }
}

pub(super) fn doubts(pinned: &Pinned, names: &[ServerName<'static>]) -> Vec<Doubt> {
    let now = UnixTime::now();
    let of_each = pinned.iter().filter_map(|certificate| {
        let parsed = parse(certificate)?;
        match verify_time(&parsed, now) {
            Err(CertificateError::Expired) => return Some(Doubt::Expired),
            Err(_) => return Some(Doubt::NotValidYet),
            Ok(()) => {}
        }
        // An authority's own name says nothing of the servers that it vouches for.
        if parsed.is_ca() {
            return None;
        }
        let own = ParsedCertificate::try_from(certificate).ok()?;
        match names.iter().any(|name| verify_server_name(&own, name).is_ok()) {
            _ if !is_for_servers(&parsed) => Some(Doubt::OtherPurpose),
            true => None,
            false => Some(Doubt::OtherName),
        }
    });
    of_each.collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn made(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn verifier(pinned: &CertificateDer<'static>) -> VeryCertificate {
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone()).unwrap();
        let trust = Trust { roots: Arc::new(roots), pinned: vec![pinned.clone()].into() };
        VeryCertificate::new(&trust, &Arc::new(rustls::crypto::aws_lc_rs::default_provider())).unwrap()
    }

    fn verdict(
        pinned: &CertificateDer<'static>,
        presented: &CertificateDer<'static>,
    ) -> Result<(), CertificateError> {
        let name = ServerName::try_from("model.internal").unwrap();
        let now = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
        match verifier(pinned).verify_server_cert(presented, &[], &name, &[], now) {
            Ok(_) => Ok(()),
            Err(Error::InvalidCertificate(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn the_very_certificate_is_accepted_with_its_name_its_time_and_its_purpose() {
        let right = made(&["model.internal"], |_| {});
        assert_eq!(verdict(&right, &right), Ok(()));
        let other_key = made(&["model.internal"], |_| {});
        assert!(verdict(&right, &other_key).is_err(), "the same name is not the same certificate");
        let other_name = made(&["other.internal"], |_| {});
        assert!(matches!(
            verdict(&other_name, &other_name),
            Err(CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
        ));
        let no_name = made(&[], |_| {});
        assert!(verdict(&no_name, &no_name).is_err(), "a common name is none");
        let ended = made(&["model.internal"], |params| params.not_after = date_time_ymd(2020, 1, 1));
        assert_eq!(verdict(&ended, &ended), Err(CertificateError::Expired));
        let future = made(&["model.internal"], |params| params.not_before = date_time_ymd(2040, 1, 1));
        assert_eq!(verdict(&future, &future), Err(CertificateError::NotValidYet));
        let for_clients = made(&["model.internal"], |params| {
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        });
        assert_eq!(verdict(&for_clients, &for_clients), Err(CertificateError::InvalidPurpose));
    }

    #[test]
    fn what_will_not_connect_is_doubted_beforehand() {
        let names = [ServerName::try_from("model.internal").unwrap()];
        let doubted = |certificate| doubts(&vec![certificate].into(), &names);
        let no_ca = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
        assert_eq!(doubted(made(&["model.internal"], no_ca)), []);
        assert_eq!(doubted(made(&["other.internal"], |_| {})), [], "an authority vouches for others");
        assert_eq!(doubted(made(&["other.internal"], no_ca)), [Doubt::OtherName]);
        assert_eq!(doubted(made(&[], no_ca)), [Doubt::OtherName]);
        let ended = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
        assert_eq!(doubted(made(&["model.internal"], ended)), [Doubt::Expired]);
    }
}
