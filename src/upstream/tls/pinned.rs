//! Accepts pinned certificates: servers' own certificates in the file of trusted certificates.
//!
//! Self-signed certificates are common on upstreams. A certificate made by `openssl req -x509`
//! claims to be an authority, and webpki refuses an authority as a server's certificate (RFC 5280,
//! section 4.2.1.9). A verifier of our own therefore accepts certificates that are pinned.
//! Invariant: a pinned certificate's name, validity, purpose and handshake signature are verified
//! like those of every other certificate. Only its chain is not verified.

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

/// Server certificates that are trusted without a chain.
pub(super) type Pinned = Arc<[CertificateDer<'static>]>;

/// Trusted authorities, and pinned server certificates.
pub(super) struct Trust {
    pub(super) roots: Arc<RootCertStore>,
    pub(super) pinned: Pinned,
}

impl Trust {
    /// Reads a file of certificates. Each certificate may belong to an authority or to a server.
    pub(super) fn of_file(path: &Path) -> Result<Self, Fault> {
        Ok(Trust { roots: pem::authorities(path)?, pinned: pem::certificates(path)?.into() })
    }
}

/// A verifier that accepts pinned certificates, and all certificates that webpki accepts.
#[derive(Debug)]
pub(super) struct PinnedVerifier {
    pinned: Pinned,
    chains: Arc<WebPkiServerVerifier>,
}

impl PinnedVerifier {
    pub(super) fn new(
        trust: &Trust,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, rustls::client::VerifierBuilderError> {
        let chains = WebPkiServerVerifier::builder_with_provider(trust.roots.clone(), provider.clone());
        Ok(PinnedVerifier { pinned: trust.pinned.clone(), chains: chains.build()? })
    }
}

impl ServerCertVerifier for PinnedVerifier {
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

/// Verifies a certificate's name and its validity, and that servers may use it.
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

/// Whether servers may use a certificate: it has no extended key usage, or one that allows servers
/// (RFC 5280, section 4.2.1.12).
fn is_for_servers(parsed: &X509Certificate<'_>) -> bool {
    match parsed.extended_key_usage() {
        Ok(None) => true,
        Ok(Some(usage)) => usage.value.any || usage.value.server_auth,
        Err(_) => false,
    }
}

/// A problem of a trusted certificate that will make TLS handshakes fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CertificateProblem {
    NotValidYet,
    Expired,
    /// The certificate belongs to a server (not to an authority), and has none of the names that
    /// connections require.
    OtherName,
    /// The certificate belongs to a server (not to an authority), but its extended key usage does
    /// not allow servers.
    OtherPurpose,
}

impl std::fmt::Display for CertificateProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            CertificateProblem::NotValidYet => "holds a certificate that is not valid yet",
            CertificateProblem::Expired => "holds a certificate that has ended",
            CertificateProblem::OtherName => {
                "holds a server's own certificate without the name that connections require; set its name as `server_name`"
            }
            CertificateProblem::OtherPurpose => "holds a certificate that is neither an authority nor for servers",
        })
    }
}

/// Returns those problems of pinned certificates that will make TLS handshakes with servers of
/// these names fail.
pub(super) fn certificate_problems(
    pinned: &Pinned,
    names: &[ServerName<'static>],
) -> Vec<CertificateProblem> {
    let now = UnixTime::now();
    let of_each = pinned.iter().filter_map(|certificate| {
        let parsed = parse(certificate)?;
        match verify_time(&parsed, now) {
            Err(CertificateError::Expired) => return Some(CertificateProblem::Expired),
            Err(_) => return Some(CertificateProblem::NotValidYet),
            Ok(()) => {}
        }
        // An authority's name does not have to match the servers for which it signs certificates.
        if parsed.is_ca() {
            return None;
        }
        let own = ParsedCertificate::try_from(certificate).ok()?;
        match names.iter().any(|name| verify_server_name(&own, name).is_ok()) {
            _ if !is_for_servers(&parsed) => Some(CertificateProblem::OtherPurpose),
            true => None,
            false => Some(CertificateProblem::OtherName),
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

    fn verifier(pinned: &CertificateDer<'static>) -> PinnedVerifier {
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone()).unwrap();
        let trust = Trust { roots: Arc::new(roots), pinned: vec![pinned.clone()].into() };
        PinnedVerifier::new(&trust, &Arc::new(rustls::crypto::aws_lc_rs::default_provider())).unwrap()
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
    fn a_pinned_certificate_needs_its_name_validity_and_purpose() {
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
        assert!(verdict(&no_name, &no_name).is_err(), "a common name does not count");
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
    fn certificates_that_will_fail_are_reported_beforehand() {
        let names = [ServerName::try_from("model.internal").unwrap()];
        let doubted = |certificate| certificate_problems(&vec![certificate].into(), &names);
        let no_ca = |params: &mut CertificateParams| params.is_ca = IsCa::ExplicitNoCa;
        assert_eq!(doubted(made(&["model.internal"], no_ca)), []);
        assert_eq!(
            doubted(made(&["other.internal"], |_| {})),
            [],
            "an authority signs for servers of other names"
        );
        assert_eq!(doubted(made(&["other.internal"], no_ca)), [CertificateProblem::OtherName]);
        assert_eq!(doubted(made(&[], no_ca)), [CertificateProblem::OtherName]);
        let ended = |params: &mut CertificateParams| params.not_after = date_time_ymd(2020, 1, 1);
        assert_eq!(doubted(made(&["model.internal"], ended)), [CertificateProblem::Expired]);
    }
}
