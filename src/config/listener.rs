//! `listeners`: addresses for clients, or for proxies that ask, with or without TLS.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::acme::Acme;
use crate::config::address::Address;
use crate::config::decode::Decoder;
use crate::config::door::{self, Door, Served};
use crate::config::form::{Form, boolean, duration_of_at_least, non_empty, one_of, path, secret_path, text};
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
        /// The networks of balancers whose connections begin with a PROXY header, of version 1 or 2. The
        /// address in that header is the client's. A connection from these networks without the header
        /// is closed. Left out: no connection begins with one.
        proxy_protocol: Option<Vec<IpNet>> = proxy_networks().optional();
        /// Whether each request to this listener without TLS is answered with a redirect (308) to https.
        /// A request with a credential is refused with 403: its key went over the network in clear.
        redirect_to_https: bool = boolean().or(false);
        /// The time for which browsers are told to use only https for the host, in whole seconds
        /// (`Strict-Transport-Security`). Left out: they are told nothing.
        hsts: Option<Duration> = duration_of_at_least(Duration::from_secs(1), "too short a time").optional();
    }
}

/// Returns the form of a listener.
pub(super) fn listener() -> Form<Listener> {
    nested::<Listener>()
        .checked(|d, node, listener| refuse_without_effect(d, node, &listener).map(|()| listener))
}

/// Refuses fields that have no effect at their listener.
fn refuse_without_effect(d: &mut Decoder<'_>, node: &Node, listener: &Listener) -> Option<()> {
    let Listener { address, tls, door, proxy_protocol, redirect_to_https, hsts } = listener;
    let faults = [
        (
            *redirect_to_https && (tls.is_some() || door.is_some()),
            "redirect_to_https",
            "`redirect_to_https` is for listeners of clients without TLS",
            "set it at the listener on port 80",
        ),
        (
            hsts.is_some() && (tls.is_none() || door.is_some()),
            "hsts",
            "`hsts` is for listeners of clients with TLS: browsers ignore it elsewhere",
            "set it beside `tls`",
        ),
        (
            proxy_protocol.is_some() && matches!(address, Address::Unix(_)),
            "proxy_protocol",
            "`proxy_protocol` names networks, and the peer of a unix socket has no address",
            "a TCP address",
        ),
        (
            tls.as_ref().is_some_and(|tls| tls.client_crl.is_some() && tls.client_ca.is_none()),
            "tls",
            "`client_crl` has no effect without `client_ca`",
            "`client_ca` with the authority that signs the clients' certificates",
        ),
    ];
    let before = d.faults.len();
    for (_, field, message, hint) in faults.into_iter().filter(|(is_fault, ..)| *is_fault) {
        d.fault(node.position_of(field), message).hint = Some(hint.to_owned());
    }
    (d.faults.len() == before).then_some(())
}

/// Returns the form of the networks of balancers. Networks that together include all addresses are
/// refused: every client could then choose the address that it seems to come from.
fn proxy_networks() -> Form<Vec<IpNet>> {
    non_empty(text(|d, node| d.network(node))).checked(|d, node, networks| {
        let includes_all = IpNet::aggregate(&networks).iter().any(|network| network.prefix_len() == 0);
        match includes_all {
            true => d.hinted(
                node.at,
                "these networks include all addresses: every client could choose its own",
                "the network of the balancer alone",
            ),
            false => Some(networks),
        }
    })
}

section! {
    /// TLS for clients of this listener.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Tls in "a listener's tls" {
        certificates: Certificates = fields_of::<WrittenCertificates>().then(certificates);
        /// The authority that must have signed the certificate of each client, PEM. Left out:
        /// clients need no certificate.
        client_ca: Option<PathBuf> = path().optional();
        /// The lists of revoked client certificates (CRLs), PEM, of each authority of `client_ca`. It is
        /// watched. A list that is past its end refuses all clients.
        client_crl: Option<PathBuf> = path().optional();
        /// The lowest version of TLS that is accepted.
        min_version: TlsVersion = one_of(&VERSIONS).or(TlsVersion::V1_2);
    }
}

/// Where a listener has its certificates from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Certificates {
    /// From files, at least one. A client whose server name matches none of them gets the first.
    Files(Vec<CertificatePair>),
    /// bearward gets the certificate from an authority, and renews it.
    Acme(Box<Acme>),
}

impl Tls {
    /// Returns what the configuration says of a certificate that bearward gets by itself.
    pub(crate) fn acme(&self) -> Option<&Acme> {
        match &self.certificates {
            Certificates::Files(_) => None,
            Certificates::Acme(acme) => Some(acme),
        }
    }

    /// Returns the files of the certificates that an operator provides.
    pub(crate) fn files(&self) -> &[CertificatePair] {
        match &self.certificates {
            Certificates::Files(pairs) => pairs,
            Certificates::Acme(_) => &[],
        }
    }
}

section! {
    /// The certificates of a listener: one certificate, a list of certificates, or `acme`.
    #[derive(Clone, Debug)]
    struct WrittenCertificates in "a listener's tls" {
        /// The certificate chain, PEM, with the server's own certificate first.
        certificate: Option<PathBuf> = path().optional();
        /// The private key of the certificate, PEM.
        private_key: Option<PathBuf> = secret_path().optional();
        /// Several certificates. The client's server name selects one, by default the first.
        certificates: Option<Vec<CertificatePair>> = non_empty(nested()).optional();
        /// A certificate that bearward gets from an authority, and renews, instead of one from a file.
        acme: Option<Acme> = nested().optional();
    }
}

section! {
    /// A certificate with its private key.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct CertificatePair in "a certificate" {
        /// The certificate chain, PEM, with the server's own certificate first.
        certificate: PathBuf = path().required();
        /// The private key of the certificate, PEM.
        private_key: PathBuf = secret_path().required();
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

fn certificates(d: &mut Decoder<'_>, node: &Node, given: WrittenCertificates) -> Option<Certificates> {
    match (given.certificate, given.private_key, given.certificates, given.acme) {
        (Some(certificate), Some(private_key), None, None) => {
            Some(Certificates::Files(vec![CertificatePair { certificate, private_key }]))
        }
        (None, None, Some(several), None) => Some(Certificates::Files(several)),
        (None, None, None, Some(acme)) => Some(Certificates::Acme(Box::new(acme))),
        _ => d.hinted(
            node.at,
            "tls needs `certificate` and `private_key`, or `certificates` alone, or `acme` alone",
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
