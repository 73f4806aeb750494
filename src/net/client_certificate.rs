//! The certificate that a client has presented in a handshake.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::ServerConnection;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::tls::{ListenerTls, Serving};
use crate::identity::ClientCertificate;

/// Returns the certificate that the client of a connection has presented, which the handshake has verified.
pub(super) fn presented(session: &ServerConnection, tls: &Serving) -> Option<Arc<ClientCertificate>> {
    let chain = session.peer_certificates()?;
    let owned: Vec<CertificateDer<'static>> = chain.iter().map(|one| one.clone().into_owned()).collect();
    let (current, checked_by) = (tls.current.clone(), AtomicU64::new(tls.tls.number));
    // A reload may bring other authorities, or revoke the certificate.
    let is_accepted = move || {
        let now = current.load();
        if checked_by.load(Ordering::Relaxed) == now.number {
            return true;
        }
        let is_accepted = accepts(&now, &owned);
        if is_accepted {
            checked_by.store(now.number, Ordering::Relaxed);
        }
        is_accepted
    };
    ClientCertificate::of(chain.iter().map(|one| one.as_ref()), is_accepted).map(Arc::new)
}

/// Whether a listener accepts the chain of a client now. One that asks for no certificates accepts none.
fn accepts(tls: &ListenerTls, chain: &[CertificateDer<'static>]) -> bool {
    let (Some(verifier), Some((leaf, others))) = (&tls.client_verifier, chain.split_first()) else {
        return false;
    };
    verifier.verify_client_cert(leaf, others, UnixTime::now()).is_ok()
}
