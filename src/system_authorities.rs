//! The certificate authorities that are trusted where the configuration names none.

use rustls::RootCertStore;

/// Returns the certificate authorities of the system. If the system has none (as in a container
/// from scratch), returns Mozilla's authorities, which are part of this program.
pub(crate) fn system_authorities() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let (_added, _unusable) = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
