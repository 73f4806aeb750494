//! A stored certificate: its names and its life.

use jiff::{SignedDuration, Timestamp};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::{GeneralName, ParsedExtension};

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Life {
    pub(crate) not_before: Timestamp,
    pub(crate) not_after: Timestamp,
    /// The names that it is for, in lower case.
    pub(crate) names: Vec<String>,
}

impl Life {
    /// Reads a certificate; `None` if it is none.
    pub(crate) fn of(leaf: &CertificateDer<'_>) -> Option<Self> {
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
        let at = |time: x509_parser::time::ASN1Time| Timestamp::from_second(time.timestamp()).ok();
        let mut names = Vec::new();
        for extension in parsed.iter_extensions() {
            if let ParsedExtension::SubjectAlternativeName(alternative) = extension.parsed_extension() {
                names.extend(alternative.general_names.iter().filter_map(|name| match name {
                    GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                    _ => None,
                }));
            }
        }
        let validity = parsed.validity();
        Some(Life { not_before: at(validity.not_before)?, not_after: at(validity.not_after)?, names })
    }

    /// Returns the number of `domains` that the certificate is for.
    pub(crate) fn covers(&self, domains: &[String]) -> usize {
        domains.iter().filter(|domain| self.names.contains(domain)).count()
    }

    pub(crate) fn has_ended(&self, now: Timestamp) -> bool {
        self.not_after <= now
    }

    pub(crate) fn length(&self) -> SignedDuration {
        self.not_after.duration_since(self.not_before)
    }
}
