//! `shared`: the Redis or Valkey server by which all replicas have one limit together.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;

use crate::config::decode::Decoder;
use crate::config::form::{Form, duration_of_at_least, number, one_of, path, secret_path, text, with};
use crate::config::listener::CertificatePair;
use crate::config::secret::{SecretValue, env_or_file};
use crate::config::section::{fields_of, nested, section};
use crate::config::tree::{Kind, Node};
use crate::redis_address::{AddressFault, RedisAddress};

section! {
    /// A Redis or Valkey server by which all replicas have their limits together.
    #[derive(Clone, Debug)]
    pub(crate) struct Shared in "shared" {
        /// The server: `redis://` or `rediss://` (TLS), with an optional user, host, port and number
        /// of the database; `redis+sentinel://host:26379/MASTER` for a Sentinel group; a list of URLs
        /// for a cluster.
        redis: RedisAddress = address().required();
        /// The password of the server's user.
        password: Option<SecretValue> = nested::<Password>().then(password).optional();
        /// TLS of connections to a server with `rediss://`.
        tls: RedisTls = nested().or_default();
        /// The beginning of the names of all keys in the server. Installations with different
        /// prefixes share nothing.
        prefix: String = text(prefix).shown().or("bw".to_owned());
        /// The time after which the server counts as unavailable. No request waits longer for it.
        timeout: Duration = timeout().or(Duration::from_millis(50));
        /// The number of replicas that a replica assumes which has never reached the server. Left
        /// out: such a replica refuses requests of keys with limits.
        replicas: Option<u32> = number(1).optional();
        /// What happens while the server is unavailable. share: each replica grants its part of each
        /// limit. refuse: requests of keys with limits are refused with 503. Requests of keys with
        /// budgets are refused in both cases.
        when_unavailable: WhenUnavailable = one_of(&CHOICES).or(WhenUnavailable::Share);
    }
}

/// What happens while the server is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WhenUnavailable {
    /// Each replica grants its part of each limit.
    Share,
    /// Requests of keys with limits are refused.
    Refuse,
}

const CHOICES: [(&str, WhenUnavailable); 2] =
    [("share", WhenUnavailable::Share), ("refuse", WhenUnavailable::Refuse)];

section! {
    /// TLS of connections to a Redis server.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct RedisTls: Default in "tls of a Redis server" {
        /// The authorities that may have signed the server's certificate, PEM. Left out: the
        /// system's authorities.
        ca: Option<PathBuf> = path().optional();
        client: Option<CertificatePair> = fields_of::<ClientCertificate>()
            .then(|d, node, given| CertificatePair::of_client(d, node, (given.client_certificate, given.client_key)));
    }
}

section! {
    /// The certificate that bearward shows to the server.
    #[derive(Clone, Debug)]
    struct ClientCertificate in "tls of a Redis server" {
        /// The certificate that bearward shows to the server.
        client_certificate: Option<PathBuf> = path().optional();
        /// The private key of `client_certificate`.
        client_key: Option<PathBuf> = secret_path().optional();
    }
}

section! {
    /// The password of a user of the server.
    #[derive(Clone, Debug)]
    pub(crate) struct Password in "a password" {
        secret: SecretValue = env_or_file("the password");
    }
}

/// Longest prefix of names, in bytes.
const LONGEST_PREFIX: usize = 64;

/// Returns the `Form` of a server's address.
pub(super) fn address() -> Form<RedisAddress> {
    let url = || json!({"type": "string", "pattern": "^rediss?(\\+sentinel)?://"});
    let schema = move || {
        let urls = with(json!({"type": "array", "items": url()}), "minItems", json!(1));
        json!({"anyOf": [url(), urls]})
    };
    Form::new(decode_address, schema)
}

fn decode_address(d: &mut Decoder<'_>, node: &Node) -> Option<RedisAddress> {
    let refuse = |d: &mut Decoder<'_>, node: &Node, fault: AddressFault| {
        d.hinted(node.at, fault.to_string(), "as in redis://redis:6379/0")
    };
    let Kind::List(items) = &node.kind else {
        let url = d.word(node)?;
        return RedisAddress::parse(&url).or_else(|fault| refuse(d, node, fault).ok_or(fault)).ok();
    };
    let urls = items.iter().map(|item| d.word(item)).collect::<Option<Vec<String>>>()?;
    match RedisAddress::cluster(&urls) {
        Ok(cluster) => Some(cluster),
        Err((index, fault)) => refuse(d, items.get(index).unwrap_or(node), fault),
    }
}

/// Refuses an empty password.
pub(super) fn password(d: &mut Decoder<'_>, node: &Node, given: Password) -> Option<SecretValue> {
    let secret = given.secret.trimmed();
    if secret.text().is_empty() {
        return d.hinted(node.at, "the password is empty", "leave `password` out if the server needs none");
    }
    Some(secret)
}

fn prefix(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let prefix = d.word(node)?;
    // Braces would change which slot of a cluster a name belongs to.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if prefix.is_empty() || prefix.len() > LONGEST_PREFIX || !prefix.bytes().all(is_plain) {
        let message = "a prefix has 1 to 64 letters, digits or any of `-_.:`";
        return d.hinted(node.at, message, "as in bw");
    }
    Some(prefix)
}

fn timeout() -> Form<Duration> {
    duration_of_at_least(Duration::from_millis(1), "too short a timeout")
}
