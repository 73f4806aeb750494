//! The certificate that a client has presented in a handshake.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::ServerConnection;
use rustls::pki_types::{CertificateDer, UnixTime};

use super::tls::{ListenerTls, Serving};
use crate::identity::ClientCertificate;

/// Longest time between two checks of the chain of a connection that is in use, in seconds.
const CHECK_INTERVAL: u64 = 30;

/// Returns the certificate that the client of a connection has presented, which the handshake has verified.
pub(super) fn presented(session: &ServerConnection, tls: &Serving) -> Option<Arc<ClientCertificate>> {
    let chain = session.peer_certificates()?;
    let owned: Vec<CertificateDer<'static>> = chain.iter().map(|one| one.clone().into_owned()).collect();
    let (current, checked_by) = (tls.current.clone(), AtomicU64::new(tls.tls.number));
    let checked_at = AtomicU64::new(UnixTime::now().as_secs());
    // A reload may bring other authorities, or revoke the certificate. Lists of revocations and the other
    // certificates of the chain may end.
    let is_accepted = move || {
        let (tls, now) = (current.load(), UnixTime::now().as_secs());
        let is_recent = now.abs_diff(checked_at.load(Ordering::Relaxed)) < CHECK_INTERVAL;
        if is_recent && checked_by.load(Ordering::Relaxed) == tls.number {
            return true;
        }
        let is_accepted = accepts(&tls, &owned);
        if is_accepted {
            checked_by.store(tls.number, Ordering::Relaxed);
            checked_at.store(now, Ordering::Relaxed);
        }
        is_accepted
    };
    ClientCertificate::of(chain.first()?, is_accepted).map(Arc::new)
}

/// Whether a listener accepts the chain of a client now. One that asks for no certificates accepts none.
fn accepts(tls: &ListenerTls, chain: &[CertificateDer<'static>]) -> bool {
    let (Some(trust), Some((leaf, others))) = (&tls.client_trust, chain.split_first()) else {
        return false;
    };
    trust.verifier.verify_client_cert(leaf, others, UnixTime::now()).is_ok()
}
