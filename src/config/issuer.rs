//! `auth.jwt`: issuers whose tokens (RFC 7519) identify their holders.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde_json::json;

use crate::config::decode::Decoder;
use crate::config::form::{
    Form, duration, duration_of_at_least, list_of, non_empty, one_of, path, secret_path, text, word,
};
use crate::config::identity::{Identity, claim, identities};
use crate::config::section::{nested, section};
use crate::config::tree::{Kind, Node};

section! {
    /// An issuer whose tokens identify their holders.
    #[derive(Clone, Debug)]
    pub(crate) struct Issuer in "an issuer" {
        /// The issuer, exactly as its tokens name it in `iss`.
        issuer: String = word().required();
        /// What the tokens have to be for: one of these is in their `aud`.
        audience: Vec<String> = one_or_several().required();
        /// The issuer's keys: a URL, or `{file: PATH}`. Left out: the issuer's own discovery says it
        /// (`/.well-known/openid-configuration` below the issuer).
        jwks: KeysPlace = keys_place().or(KeysPlace::Discovery);
        /// The authorities that may have signed the certificate of the issuer's server, PEM. Left out: the
        /// system's authorities.
        ca: Option<PathBuf> = path().optional();
        /// A file whose content is sent to the issuer's server as `Authorization: Bearer`, read anew each
        /// time. The API server of Kubernetes asks for it.
        token_file: Option<PathBuf> = secret_path().optional();
        /// The time limit of a request for the keys. No request of a client waits longer for them.
        timeout: Duration = timeout().or(Duration::from_secs(5));
        /// The signature algorithms that are accepted.
        algorithms: Vec<Algorithm> = non_empty(one_of(&Algorithm::ALL)).or(Algorithm::DEFAULT.to_vec());
        /// The claim that names the holder in logs and in headers.
        name: String = text(claim).shown().or("sub".to_owned());
        /// The longest time between two requests for the keys.
        refresh: Duration = duration_of_at_least(Duration::from_secs(1), "too often").or(Duration::from_secs(300));
        /// How long the known keys are used while the issuer's server can't be reached.
        max_stale: Duration = duration().or(Duration::from_secs(3600));
        /// What the tokens' holders may do: the first identity whose conditions hold.
        identities: Vec<Identity> = identities().required();
    }
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KeysPlace {
    Url(String),
    File(PathBuf),
    /// The issuer's configuration (OpenID Connect Discovery 1.0, section 4) has the URL.
    Discovery,
}

/// A signature algorithm (RFC 7518, section 3.1; RFC 8037, section 3.1). There are only asymmetric ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Algorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    EdDsa,
}

impl Algorithm {
    pub(crate) const ALL: [(&'static str, Algorithm); 9] = [
        ("RS256", Algorithm::Rs256),
        ("RS384", Algorithm::Rs384),
        ("RS512", Algorithm::Rs512),
        ("PS256", Algorithm::Ps256),
        ("PS384", Algorithm::Ps384),
        ("PS512", Algorithm::Ps512),
        ("ES256", Algorithm::Es256),
        ("ES384", Algorithm::Es384),
        ("EdDSA", Algorithm::EdDsa),
    ];
    const DEFAULT: [Algorithm; 3] = [Algorithm::Rs256, Algorithm::Es256, Algorithm::EdDsa];

    /// Returns the algorithm with this name. Names have one case (RFC 7515, section 4.1.1).
    pub(crate) fn named(name: &str) -> Option<Self> {
        Algorithm::ALL.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }
}

/// The longest time limit of a request for keys. Requests of clients wait as long.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);

fn timeout() -> Form<Duration> {
    duration().checked(|d, node, timeout| match timeout > LONGEST_TIMEOUT {
        true => d.hinted(node.at, "requests of clients would wait so long for the keys", "at most 30s"),
        false => Some(timeout),
    })
}

/// Returns the `Form` of one word, or a list of words with at least one.
fn one_or_several() -> Form<Vec<String>> {
    let schema = || json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]});
    Form::new(
        |d, node| match node.kind {
            Kind::List(_) => non_empty(word()).decode(d, node),
            _ => Some(vec![d.word(node)?]),
        },
        schema,
    )
}

section! {
    /// The file of an issuer's keys.
    #[derive(Clone, Debug)]
    struct KeysFile in "jwks" {
        /// The file: a set of keys in JSON (RFC 7517, section 5).
        file: PathBuf = path().required();
    }
}

fn keys_place() -> Form<KeysPlace> {
    let of_file = nested::<KeysFile>();
    let schema_of_file = nested::<KeysFile>();
    Form::new(
        move |d, node| match node.kind {
            Kind::Map(_) => of_file.decode(d, node).map(|keys| KeysPlace::File(keys.file)),
            _ => url(d, node).map(KeysPlace::Url),
        },
        move || json!({"anyOf": [{"type": "string"}, schema_of_file.schema()]}),
    )
}

/// Decodes the URL of an issuer's keys. Without TLS, anybody on the way could make tokens; so plain HTTP is for
/// servers on this machine alone.
fn url(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.word(node)?;
    match is_trustworthy(&text) {
        true => Some(text),
        false => d.hinted(
            node.at,
            format!("`{text}` is no place for keys: without TLS, anybody on the way could make tokens"),
            "a URL with https:// (http:// on loopback alone), or {file: PATH}",
        ),
    }
}

/// Whether keys may be asked for at a URL: with TLS, or on this machine.
pub(crate) fn is_trustworthy(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else { return false };
    let Some(host) = uri.host().filter(|host| !host.is_empty()) else { return false };
    let authority = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let has_port = authority.len() > host.len();
    if authority.contains('@') || (has_port && uri.port_u16().is_none()) {
        return false;
    }
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_local =
        bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    match uri.scheme_str() {
        Some("https") => true,
        Some("http") => is_local,
        _ => false,
    }
}

/// Returns the form of the list of issuers.
pub(super) fn issuers() -> Form<Vec<Issuer>> {
    list_of(nested::<Issuer>()).then(|d, node, issuers| {
        for (number, issuer) in issuers.iter().enumerate() {
            let item = node.item(number);
            let at = |field: &str| item.map_or(node.at, |item| item.position_of(field));
            if issuers.iter().take(number).any(|earlier| earlier.issuer == issuer.issuer) {
                let message = format!("the issuer `{}` is given twice", issuer.issuer);
                return d.hinted(at("issuer"), message, "one entry, with all audiences and identities");
            }
            if issuer.jwks == KeysPlace::Discovery && !is_trustworthy(&issuer.issuer) {
                let message =
                    format!("`{}` is no URL at which the issuer's keys could be found", issuer.issuer);
                return d.hinted(
                    at("issuer"),
                    message,
                    "`jwks` with a URL or {file: PATH}, or an issuer with https://",
                );
            }
            if issuer.max_stale < issuer.refresh {
                let message = "the keys would end before they are asked for again";
                return d.hinted(at("max_stale"), message, "at least as long as `refresh`");
            }
            let is_file = matches!(issuer.jwks, KeysPlace::File(_));
            for (field, is_given) in
                [("ca", issuer.ca.is_some()), ("token_file", issuer.token_file.is_some())]
            {
                if is_given && is_file {
                    let message = format!("`{field}` has no effect with keys in a file");
                    return d.hinted(at(field), message, "leave it out");
                }
            }
        }
        Some(issuers)
    })
}
