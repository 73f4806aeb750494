//! `listeners`: addresses for clients, or for proxies that ask, with or without TLS.

use std::path::PathBuf;

use crate::config::address::Address;
use crate::config::decode::Decoder;
use crate::config::door::{self, Door, Served};
use crate::config::form::{non_empty, one_of, path, text};
use crate::config::section::{fields_of, nested, section};
use crate::config::tree::Node;

section! {
    /// A listener: an address that clients connect to, or a proxy that asks, with or without TLS.
    #[derive(Clone, Debug)]
    pub(crate) struct Listener in "a listener" {
        /// The address of the listener: host:port, or unix:/path.
        address: Address = text(own_address).required();
        tls: Option<Tls> = nested().optional();
        door: Option<Door> = fields_of::<Served>().then(door::door);
    }
}

section! {
    /// TLS for clients of this listener.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Tls in "a listener's tls" {
        /// The certificates, at least one. A client whose server name matches none of them gets the
        /// first.
        certificates: Vec<CertificatePair> = fields_of::<Certificates>().then(certificates);
        /// The authority that must have signed the certificate of each client, PEM. Left out:
        /// clients need no certificate.
        client_ca: Option<PathBuf> = path().optional();
        /// The lowest version of TLS that is accepted.
        min_version: TlsVersion = one_of(&VERSIONS).or(TlsVersion::V1_2);
    }
}

section! {
    /// The certificates of a listener: either one certificate, or a list of certificates.
    #[derive(Clone, Debug)]
    struct Certificates in "a listener's tls" {
        /// The certificate chain, PEM, with the server's own certificate first.
        certificate: Option<PathBuf> = path().optional();
        /// The private key of the certificate, PEM.
        private_key: Option<PathBuf> = path().optional();
        /// Several certificates. The client's server name selects one, by default the first.
        certificates: Option<Vec<CertificatePair>> = non_empty(nested()).optional();
    }
}

section! {
    /// A certificate with its private key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct CertificatePair in "a certificate" {
        /// The certificate chain, PEM, with the server's own certificate first.
        certificate: PathBuf = path().required();
        /// The private key of the certificate, PEM.
        private_key: PathBuf = path().required();
    }
}

impl CertificatePair {
    /// Makes the pair of the fields `client_certificate` and `client_key`, which are needed together.
    pub(super) fn of_client(
        d: &mut Decoder<'_>,
        node: &Node,
        (certificate, private_key): (Option<PathBuf>, Option<PathBuf>),
    ) -> Option<Option<Self>> {
        match (certificate, private_key) {
            (Some(certificate), Some(private_key)) => {
                Some(Some(CertificatePair { certificate, private_key }))
            }
            (None, None) => Some(None),
            _ => {
                d.fault(node.at, "`client_certificate` and `client_key` are needed together");
                None
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    V1_2,
    V1_3,
}

const VERSIONS: [(&str, TlsVersion); 2] = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];

fn certificates(d: &mut Decoder<'_>, node: &Node, given: Certificates) -> Option<Vec<CertificatePair>> {
    match (given.certificate, given.private_key, given.certificates) {
        (Some(certificate), Some(private_key), None) => {
            Some(vec![CertificatePair { certificate, private_key }])
        }
        (None, None, Some(several)) => Some(several),
        _ => d.hinted(
            node.at,
            "tls needs `certificate` and `private_key`, or `certificates` alone",
            "as in {certificate: tls.crt, private_key: tls.key}",
        ),
    }
}

/// Decodes the address of one of bearward's listeners. An overlap with another listener is a fault.
pub(super) fn own_address(d: &mut Decoder<'_>, node: &Node) -> Option<Address> {
    let address = address(d, node)?;
    if let Some((other, at)) = d.context.listening.iter().find(|(other, _)| other.overlaps(&address)) {
        let message = format!("`{address}` is already listened on, by `{other}` in line {}", at.line);
        return d.hinted(node.at, message, "one listener for each address and port");
    }
    d.context.listening.push((address.clone(), node.at));
    Some(address)
}

fn address(d: &mut Decoder<'_>, node: &Node) -> Option<Address> {
    let text = d.word(node)?;
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') {
            true => Some(Address::Unix(path.into())),
            false => {
                d.hinted(node.at, "a unix socket needs an absolute path", "as in unix:/run/bearward.sock")
            }
        };
    }
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    if port.and_then(|port| port.parse::<u16>().ok()).is_none() {
        let hint = "as in 127.0.0.1:8080, [::1]:8080 or unix:/run/bearward.sock";
        return d.hinted(node.at, format!("`{text}` is not an address"), hint);
    }
    Some(Address::Tcp(text))
}
