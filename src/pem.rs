//! Reads PEM files: bearward's own certificates and private keys, and the certificates of the
//! authorities that bearward trusts.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;

use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::bom;
use crate::config::CertificatePair;
use crate::config::fault::Fault;
use crate::regular_file;

/// Makes the fault of a file whose content could not be had.
fn unopened(path: &Path, what: &str, error: &io::Error) -> Fault {
    let fault = Fault::unreadable(path, what, error);
    if fault.hint.is_none() { fault.hint("a PEM file is needed") } else { fault }
}

/// Reads all certificates of a file.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let unreadable = |error: pem::Error| {
        Fault::of_file(path, format!("certificates can't be read: {error}")).hint("a PEM file is needed")
    };
    let content = regular_file::read(path).map_err(|error| unopened(path, "certificates", &error))?;
    // A byte order mark before the first line would hide the first certificate.
    CertificateDer::pem_slice_iter(bom::without_in(&content)).collect::<Result<_, _>>().map_err(unreadable)
}

/// Reads a certificate chain with its private key.
pub(crate) fn certified_key(
    pair: &CertificatePair,
    provider: &CryptoProvider,
) -> Result<CertifiedKey, Fault> {
    let CertificatePair { certificate, private_key } = pair;
    let chain = certificates(certificate)?;
    let Some(leaf) = chain.first() else {
        return Err(Fault::of_file(certificate, "holds no certificate").hint("a PEM file, the leaf first"));
    };
    ParsedCertificate::try_from(leaf)
        .map_err(|error| Fault::of_file(certificate, format!("is not a certificate: {error}")))?;
    let content =
        regular_file::read(private_key).map_err(|error| unopened(private_key, "the private key", &error))?;
    let key = PrivateKeyDer::from_pem_slice(bom::without_in(&content)).map_err(|error| {
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
    Ok(key)
}

/// Reads lists of revoked certificates from a file, which must contain at least one.
pub(crate) fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, Fault> {
    let unreadable = |error: pem::Error| {
        let fault = Fault::of_file(path, format!("lists of revoked certificates can't be read: {error}"));
        fault.hint("a PEM file is needed, as `openssl ca -gencrl` writes it")
    };
    let content =
        regular_file::read(path).map_err(|error| unopened(path, "lists of revoked certificates", &error))?;
    let lists = CertificateRevocationListDer::pem_slice_iter(bom::without_in(&content));
    let mut lists: Vec<_> = lists.collect::<Result<_, _>>().map_err(unreadable)?;
    // Of several lists of one authority, only the first is looked at: the newest has to be.
    lists.sort_by_key(|list: &CertificateRevocationListDer<'_>| {
        let parsed = CertificateRevocationList::from_der(list).ok();
        std::cmp::Reverse(parsed.map(|(_, list)| list.last_update().timestamp()))
    });
    // Without a list, nothing would be checked.
    if lists.is_empty() {
        return Err(Fault::of_file(path, "holds no list of revoked certificates"));
    }
    Ok(lists)
}

/// Reads certificate authorities from a file, which must contain at least one authority.
pub(crate) fn authorities(path: &Path) -> Result<Arc<RootCertStore>, Fault> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|error| {
            Fault::of_file(path, format!("holds a certificate that is no authority: {error}"))
        })?;
    }
    if roots.is_empty() {
        return Err(Fault::of_file(path, "holds no certificate"));
    }
    Ok(Arc::new(roots))
}
