//! `acme`: certificates that bearward gets from a certificate authority by itself (RFC 8555).

use std::net::IpAddr;
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Uri;
use zeroize::Zeroizing;

use crate::config::decode::Decoder;
use crate::config::files::ReadFile;
use crate::config::form::{Form, non_empty, one_of, own_directory, path, text, word};
use crate::config::secret::{SecretValue, env_or_file};
use crate::config::section::{nested, section};
use crate::config::tree::Node;
use crate::host_pattern::HostPattern;

section! {
    /// A certificate that bearward gets from an authority by ACME, and renews.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct Acme in "acme" {
        /// The names of the certificate, at least one and at most 100. The authority has to reach
        /// bearward under each of them.
        domains: Vec<String> = domains().required();
        /// The address to which the authority may write about the account.
        email: Option<String> = text(email).optional();
        /// The authority: the URL of its directory. The default is Let's Encrypt.
        directory: String = text(directory).shown().or(LETS_ENCRYPT.to_owned());
        /// The authorities that may have signed the certificate of the directory's server, PEM. Left
        /// out: the system's authorities.
        ca: Option<PathBuf> = path().optional();
        /// The directory for the account and the certificates. bearward creates it, with mode 0700.
        /// Replicas with the same directory ask the authority once.
        storage: PathBuf = own_directory().written_as(|path| path.display().to_string().into()).or(STORAGE.into());
        /// How the authority sees that the names belong to this server. `tls-alpn-01`: it connects to
        /// port 443, at which this listener has to be reached. `http-01`: it asks on port 80, at which
        /// a listener without `tls` has to be reached.
        challenge: Challenge = one_of(&CHALLENGES).or(Challenge::TlsAlpn01);
        /// What an authority gives to customers, so that it knows whose account this is.
        external_account: Option<ExternalAccount> = nested().optional();
    }
}

/// The directory of Let's Encrypt.
const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
const STORAGE: &str = "/var/lib/bearward/acme";
/// The highest number of names of a certificate, as at Let's Encrypt.
const MOST_DOMAINS: usize = 100;
/// Longest name that a certificate may have (RFC 1035, section 2.3.4, without the final dot).
const LONGEST_DOMAIN: usize = 253;
/// Least length of the secret of an external account, in bytes. Authorities give at least 32.
const LEAST_HMAC_KEY: usize = 16;

/// How the authority sees that a name belongs to this server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// A TLS handshake on port 443 (RFC 8737).
    TlsAlpn01,
    /// A request on port 80 (RFC 8555, section 8.3).
    Http01,
}

const CHALLENGES: [(&str, Challenge); 2] =
    [("tls-alpn-01", Challenge::TlsAlpn01), ("http-01", Challenge::Http01)];

impl Challenge {
    /// Returns the challenge's name in configurations and in the protocol.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Challenge::TlsAlpn01 => "tls-alpn-01",
            Challenge::Http01 => "http-01",
        }
    }
}

section! {
    /// An account at the authority's own customer service (RFC 8555, section 7.3.4).
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct ExternalAccount in "external_account" {
        /// The id of the key, as the authority gives it.
        key_id: String = word().required();
        /// The secret of the key, in base64 as the authority gives it.
        hmac_key: HmacSecret = nested::<WrittenSecret>().then(hmac_key).required();
    }
}

section! {
    /// The secret of an external account.
    #[derive(Clone, Debug)]
    struct WrittenSecret in "hmac_key" {
        secret: SecretValue = env_or_file("hmac_key");
    }
}

/// The secret of an external account, decoded.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HmacSecret {
    value: Zeroizing<Vec<u8>>,
    /// The file that the secret was read from, so that a reload notices a change of the file.
    pub(crate) file: Option<ReadFile>,
}

impl HmacSecret {
    pub(crate) fn value(&self) -> &[u8] {
        &self.value
    }
}

impl std::fmt::Debug for HmacSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HmacSecret").field("file", &self.file).finish_non_exhaustive()
    }
}

fn domains() -> Form<Vec<String>> {
    non_empty(text(domain)).checked(|d, node, domains| {
        if domains.len() > MOST_DOMAINS {
            let message = format!("{} names, and a certificate has at most {MOST_DOMAINS}", domains.len());
            return d.hinted(node.at, message, "several listeners, each with some of them");
        }
        let mut sorted: Vec<&String> = domains.iter().collect();
        sorted.sort_unstable();
        match sorted.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => {
                let name = pair.first().map(|name| name.as_str()).unwrap_or_default();
                d.hinted(node.at, format!("`{name}` is named twice"), "each name once")
            }
            None => Some(domains),
        }
    })
}

fn domain(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.word(node)?;
    let name = match HostPattern::parse(&text) {
        Ok(HostPattern::Exact(name)) => name,
        Ok(HostPattern::Under(_)) => {
            let message = format!("`{text}`: authorities give wildcard names by the challenge dns-01 alone");
            return d.hinted(
                node.at,
                message,
                "each name by itself; or a certificate from elsewhere, as `certificate` and `private_key`",
            );
        }
        Err(fault) => {
            d.fault(node.at, fault.message).hint = fault.hint;
            return None;
        }
    };
    if name.starts_with('[') || name.parse::<IpAddr>().is_ok() {
        return d.hinted(node.at, format!("`{text}` is an address"), "a name, as in api.example.com");
    }
    let is_sound = |label: &str| {
        label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-') && !label.contains('_')
    };
    if name.len() > LONGEST_DOMAIN || !name.split('.').all(is_sound) {
        return d.hinted(
            node.at,
            format!("no authority certifies the name `{text}`"),
            "as in api.example.com",
        );
    }
    Some(name)
}

fn email(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.word(node)?;
    let is_address = text.split_once('@').is_some_and(|(user, host)| {
        !user.is_empty()
            && crate::host_pattern::is_name(host)
            && text.bytes().all(|byte| byte.is_ascii_graphic())
    });
    match is_address {
        true => Some(text),
        false => d.hinted(node.at, format!("`{text}` is no address of mail"), "as in ops@example.com"),
    }
}

/// Decodes the URL of a directory. Without TLS, anybody on the way could answer for the authority.
fn directory(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.word(node)?;
    let is_sound = text.parse::<Uri>().is_ok_and(|uri| {
        let host = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        uri.scheme_str() == Some("https") && host && uri.host().is_some_and(|host| !host.is_empty())
    });
    match is_sound {
        true => Some(text),
        false => d.hinted(
            node.at,
            format!("`{text}` is no directory"),
            "a URL with https://, as in https://acme-staging-v02.api.letsencrypt.org/directory for tests",
        ),
    }
}

fn hmac_key(d: &mut Decoder<'_>, node: &Node, written: WrittenSecret) -> Option<HmacSecret> {
    let secret = written.secret.trimmed();
    // Authorities write base64 for URLs, with or without the padding.
    let plain: Zeroizing<String> = Zeroizing::new(
        secret
            .text()
            .trim_end_matches('=')
            .chars()
            .map(|c| match c {
                '+' => '-',
                '/' => '_',
                other => other,
            })
            .collect(),
    );
    let value = URL_SAFE_NO_PAD.decode(plain.as_bytes()).map(Zeroizing::new);
    match value.ok().filter(|value| value.len() >= LEAST_HMAC_KEY) {
        Some(value) => Some(HmacSecret { value, file: secret.file }),
        None => d.hinted(
            node.at,
            format!("hmac_key is not base64 of {LEAST_HMAC_KEY} bytes or more"),
            "as the authority gives it",
        ),
    }
}
