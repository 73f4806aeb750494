//! What verifies the client certificates of a listener: its authorities, and lists of revoked certificates.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};

use super::kept::Kept;
use crate::config::Tls;
use crate::config::fault::Fault;
use crate::pem;

/// What verifies the client certificates of a listener.
#[derive(Clone, Debug)]
pub(super) struct ClientTrust {
    pub(super) verifier: Arc<dyn ClientCertVerifier>,
    authorities: Arc<RootCertStore>,
    revocations: Revocations,
}

/// Lists of revoked certificates; `None` if revocations are not checked.
type Revocations = Option<Arc<Vec<CertificateRevocationListDer<'static>>>>;

impl ClientTrust {
    /// Makes what verifies client certificates, if the listener asks for them. With revocations, each certificate
    /// of a chain needs a list of its authority that has not ended. `before`: what stays in service for a file at
    /// fault. Returns `None` if it can't be made.
    pub(super) fn read(
        tls: &Tls,
        provider: &Arc<CryptoProvider>,
        before: Option<&ClientTrust>,
        kept: &mut Kept,
    ) -> Option<Option<Self>> {
        let Some(path) = &tls.client_ca else { return Some(None) };
        let authorities =
            kept.unless_read(pem::authorities(path), before.map(|before| before.authorities.clone()));
        let revocations = match &tls.client_crl {
            Some(lists) => {
                let read = pem::revocations(lists).map(Arc::new);
                kept.unless_read(read, before.and_then(|before| before.revocations.clone())).map(Some)
            }
            None => Some(None),
        };
        let (authorities, revocations) = (authorities?, revocations?);
        let fault_in = tls.client_crl.as_ref().unwrap_or(path);
        let make = |revocations: Revocations| {
            let made = ClientTrust::of(authorities.clone(), revocations, provider);
            made.map_err(|error| Fault::of_file(fault_in, error.to_string()))
        };
        // Lists that can't be used are a fault of their file alone: the authorities hold as they are now.
        let with_lists_before = || make(before?.revocations.clone()).ok().or_else(|| before.cloned());
        let made = make(revocations);
        let otherwise = if made.is_err() { with_lists_before() } else { None };
        kept.unless_read(made, otherwise).map(Some)
    }

    fn of(
        authorities: Arc<RootCertStore>,
        revocations: Revocations,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, VerifierBuilderError> {
        let builder = WebPkiClientVerifier::builder_with_provider(authorities.clone(), provider.clone());
        let builder = match &revocations {
            Some(lists) => builder.with_crls(lists.iter().cloned()).enforce_revocation_expiration(),
            None => builder,
        };
        Ok(ClientTrust { verifier: builder.build()?, authorities, revocations })
    }
}
