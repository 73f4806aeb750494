//! A client certificate that a handshake has verified, and the names in it that identify its holder.
//!
//! The listener's own verifier has checked the chain, the times and the revocation. Each request checks the times
//! again, and the chain too after the listener's authorities or revocations have changed: a connection may last
//! for days.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

use super::reason::Reason;
use super::rules::{Rule, Rules};
use crate::key_cache::LiveKey;
use crate::keys::is_label;

/// The keywords of kinds of names (RFC 4514, section 3), and of two more that authorities use.
const KEYWORDS: [(&str, &str); 11] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("2.5.4.5", "serialNumber"),
];

/// A certificate that the client of a connection has presented.
pub(crate) struct ClientCertificate {
    names: Names,
    /// When the client's own certificate ends.
    ends: Timestamp,
    /// Whether the listener accepts the chain as its authorities and revocations are now.
    is_accepted: Box<dyn Fn() -> bool + Send + Sync>,
    judged: ArcSwapOption<Judged>,
}

impl std::fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientCertificate").field("names", &self.names).finish_non_exhaustive()
    }
}

/// Who the holder of a certificate is by some rules.
#[derive(Debug)]
pub(super) struct Judged {
    pub(super) rules: u64,
    pub(super) id: String,
    pub(super) holder: Result<Arc<LiveKey>, Reason>,
}

/// The names in a certificate.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// The subject as RFC 4514 writes it, the most specific part first, as in `CN=runner,O=Example`.
    subject: String,
    /// The subject's other names (RFC 5280, section 4.2.1.6). DNS names are in lower case.
    dns: Vec<String>,
    uri: Vec<String>,
    email: Vec<String>,
}

impl Names {
    /// Returns the names in a certificate, and its end. Returns `None` if it can't be parsed.
    fn of(certificate: &[u8]) -> Option<(Self, Timestamp)> {
        let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
        if !rest.is_empty() {
            return None;
        }
        // One that has no end by RFC 5280, section 4.1.2.5 ends later than any instant here.
        let ends = Timestamp::from_second(certificate.validity().not_after.timestamp());
        let ends = ends.unwrap_or(Timestamp::MAX);
        let mut names = Names { subject: subject_of(certificate.subject()), ..Names::default() };
        let others = certificate.subject_alternative_name().ok()?;
        for other in others.iter().flat_map(|others| &others.value.general_names) {
            match other {
                GeneralName::DNSName(name) => names.dns.push(name.to_ascii_lowercase()),
                GeneralName::URI(name) => names.uri.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => names.email.push((*name).to_owned()),
                _ => {}
            }
        }
        for list in [&mut names.dns, &mut names.uri, &mut names.email] {
            // Programs read names with such characters differently.
            list.retain(|name| is_label(name) && name.is_ascii());
        }
        Some((names, ends))
    }

    /// Returns the names of a kind.
    pub(super) fn of_kind<'n>(&'n self, kind: &str) -> impl Iterator<Item = &'n str> + use<'n> {
        let (subject, others): (Option<&str>, &[String]) = match kind {
            "subject" => (Some(&*self.subject).filter(|subject| !subject.is_empty()), &[]),
            "dns" => (None, &self.dns),
            "uri" => (None, &self.uri),
            "email" => (None, &self.email),
            _ => (None, &[]),
        };
        subject.into_iter().chain(others.iter().map(String::as_str))
    }

    /// Returns the id of the holder by these rules, which is made of all of these names.
    fn id_by(&self, rules: &Rules) -> String {
        let kinds = ["subject", "dns", "uri", "email"];
        // With their numbers, no two lists of names are the same texts.
        let numbers = kinds.map(|kind| self.of_kind(kind).count().to_string());
        let with_numbers = kinds.into_iter().zip(&numbers);
        let texts: Vec<&str> = with_numbers
            .flat_map(|(kind, number)| [kind, number.as_str()].into_iter().chain(self.of_kind(kind)))
            .collect();
        rules.id_of("crt_", &texts)
    }
}

/// The most bytes of a name in logs and headers. A longer one is left out.
const LONGEST_NAME: usize = 256;

impl ClientCertificate {
    /// Makes the certificate of a client that a handshake has verified. Returns `None` if it can't be parsed.
    /// `is_accepted`: whether the listener still accepts it with its chain.
    pub(crate) fn of(leaf: &[u8], is_accepted: impl Fn() -> bool + Send + Sync + 'static) -> Option<Self> {
        let (names, ends) = Names::of(leaf)?;
        Some(ClientCertificate {
            names,
            ends,
            is_accepted: Box::new(is_accepted),
            judged: ArcSwapOption::empty(),
        })
    }

    pub(crate) fn ends(&self) -> Timestamp {
        self.ends
    }

    /// Returns who the holder is by these rules. `holder`: finds or makes the holder of this id and name.
    pub(super) fn judged(
        &self,
        rules: &Rules,
        holder: impl FnOnce(&str, Option<&str>, &Rule) -> Option<Arc<LiveKey>>,
    ) -> Arc<Judged> {
        if let Some(known) = self.judged.load_full().filter(|known| known.rules == rules.number) {
            return known;
        }
        let id = self.id_by(rules);
        let holder = self.rule(rules).and_then(|(rule, name)| holder(&id, name, rule).ok_or(Reason::NoRoom));
        let is_final = !matches!(holder, Err(Reason::NoRoom));
        let judged = Arc::new(Judged { rules: rules.number, id, holder });
        if is_final {
            self.judged.store(Some(judged.clone()));
        }
        judged
    }

    /// Returns the id of the holder by these rules.
    pub(super) fn id_by(&self, rules: &Rules) -> String {
        self.names.id_by(rules)
    }

    /// Returns the rule that these rules have for the holder, and the holder's name if it can be shown.
    pub(super) fn rule<'r>(&self, rules: &'r Rules) -> Result<(&'r Rule, Option<&str>), Reason> {
        let named = |rule: &Rule| rule.name_among(|kind| self.names.of_kind(kind));
        let found = rules.certificates.iter().find_map(|rule| Some((rule, named(rule)?)));
        let (rule, name) = found.ok_or(Reason::NoIdentity)?;
        Ok((rule, Some(name).filter(|name| name.len() <= LONGEST_NAME && is_label(name))))
    }

    /// Checks whether the certificate still holds.
    pub(super) fn check(&self, now: Timestamp) -> Result<(), Reason> {
        match () {
            () if now >= self.ends => Err(Reason::CertificateExpired),
            () if !(self.is_accepted)() => Err(Reason::CertificateRevoked),
            () => Ok(()),
        }
    }
}

/// Writes a distinguished name as RFC 4514 does, section 2: the most specific part first.
fn subject_of(name: &X509Name<'_>) -> String {
    let parts: Vec<String> =
        name.iter().map(|part| part.iter().map(attribute).collect::<Vec<_>>().join("+")).collect();
    parts.into_iter().rev().collect::<Vec<_>>().join(",")
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type().to_id_string();
    let keyword =
        KEYWORDS.iter().find(|(known, _)| *known == oid).map_or(oid.as_str(), |(_, keyword)| keyword);
    match attribute.as_str() {
        Ok(value) => format!("{keyword}={}", escaped(value)),
        // A value of another type is written as its bytes (section 2.4).
        Err(_) => {
            let hex: String = attribute.as_slice().iter().map(|byte| format!("{byte:02x}")).collect();
            format!("{keyword}=#{hex}")
        }
    }
}

/// Escapes a value, so that no value looks like two, whatever a pattern takes for `*`. RFC 4514, section 2.4 has
/// each character escaped as its bytes, too.
fn escaped(value: &str) -> String {
    let last = value.chars().count().saturating_sub(1);
    let mut text = String::with_capacity(value.len());
    for (number, c) in value.chars().enumerate() {
        let is_special = matches!(c, '"' | '+' | ',' | ';' | '<' | '>' | '\\' | '=')
            || (number == 0 && matches!(c, ' ' | '#'))
            || (number == last && c == ' ')
            || c.is_control();
        match is_special {
            true => {
                c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| text.push_str(&format!("\\{byte:02x}")));
            }
            false => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        params.self_signed(&key).unwrap().der().to_vec()
    }

    #[test]
    fn the_names_of_a_certificate_are_found_and_escaped() {
        let der = certificate(|params| {
            params.distinguished_name.push(DnType::CountryName, "DE");
            params.distinguished_name.push(DnType::OrganizationName, "A, B+C");
            params.distinguished_name.push(DnType::CommonName, "#x,O=Admin ");
            params.subject_alt_names = vec![
                SanType::DnsName("Runner.Example".try_into().unwrap()),
                SanType::URI("spiffe://cluster/ns/evals/sa/runner".try_into().unwrap()),
                SanType::Rfc822Name("ops@example.com".try_into().unwrap()),
                SanType::IpAddress("192.0.2.1".parse().unwrap()),
            ];
        });
        let (names, _) = Names::of(&der).unwrap();
        assert_eq!(names.subject, "CN=\\23x\\2cO\\3dAdmin\\20,O=A\\2c B\\2bC,C=DE");
        assert_eq!(names.of_kind("dns").collect::<Vec<_>>(), ["runner.example"]);
        assert_eq!(names.of_kind("uri").collect::<Vec<_>>(), ["spiffe://cluster/ns/evals/sa/runner"]);
        assert_eq!(names.of_kind("email").collect::<Vec<_>>(), ["ops@example.com"]);
        assert_eq!(names.of_kind("ip").count(), 0);
    }

    #[test]
    fn holders_with_other_names_are_identified_otherwise() {
        let names = |dns: &[&str], uri: &[&str]| {
            let owned = |list: &[&str]| list.iter().map(|name| (*name).to_owned()).collect();
            Names { dns: owned(dns), uri: owned(uri), ..Names::default() }
        };
        let all = [
            names(&["a"], &[]),
            names(&[], &["a"]),
            names(&["a", "uri"], &[]),
            names(&["a"], &["uri"]),
            names(&["uri", "a"], &[]),
            names(&["uri", "1", "a"], &[]),
        ];
        let ids = Some(Arc::new(crate::keys::id_secret::IdSecret::kept(b"a secret")));
        let rules = Rules { ids, ..Rules::default() };
        let found: std::collections::HashSet<String> = all.iter().map(|names| names.id_by(&rules)).collect();
        assert_eq!(found.len(), all.len());
        assert!(found.iter().all(|id| id.len() == 14 && id.starts_with("crt_")));
    }

    #[test]
    fn a_certificate_has_the_end_that_it_states_and_garbage_is_none() {
        let der = certificate(|params| params.not_after = rcgen::date_time_ymd(2030, 1, 1));
        let of = |leaf: &[u8]| ClientCertificate::of(leaf, || true).map(|one| one.ends());
        assert_eq!(of(&der), Some("2030-01-01T00:00:00Z".parse().unwrap()));
        let endless = certificate(|params| params.not_after = rcgen::date_time_ymd(9999, 12, 31));
        assert!(of(&endless) > Some("9999-01-01T00:00:00Z".parse().unwrap()));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&der[..der.len() - 1]), None);
        let longer = [der.as_slice(), &[0]].concat();
        assert_eq!(of(&longer), None);
    }
}
