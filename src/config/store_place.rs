//! The place of a key store: a path, or a Redis or Valkey server.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::json;
use zeroize::Zeroizing;

use crate::config::decode::Decoder;
use crate::config::fault::Fault;
use crate::config::form::{Form, with};
use crate::config::listener::CertificatePair;
use crate::config::secret::SecretValue;
use crate::config::section::{nested, section};
use crate::config::shared::{Password, RedisTls, Shared, password};
use crate::config::tree::{Kind, Node};
use crate::redis_address::{AddressFault, RedisAddress};
use crate::regular_file;

/// The beginning of the names of a store in its server, if the configuration names no other.
const PREFIX: &str = "bw";

/// The place of a key store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StorePlace {
    /// A file or a directory.
    Path(PathBuf),
    Redis(Box<KeyServer>),
}

/// A Redis or Valkey server with a key store.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct KeyServer {
    /// The URL or URLs as they were given. They contain no password.
    pub(crate) url: PathBuf,
    pub(crate) address: RedisAddress,
    pub(crate) password: Option<SecretValue>,
    pub(crate) tls: RedisTls,
    /// The beginning of the names of the store in the server.
    pub(crate) prefix: String,
}

impl fmt::Debug for KeyServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyServer").field("url", &self.url).finish_non_exhaustive()
    }
}

section! {
    /// The access to a store in a Redis server that is not the server of `shared`.
    #[derive(Clone, Debug)]
    pub(crate) struct KeysRedis in "keys.redis" {
        /// The password of the server's user.
        password: Option<SecretValue> = nested::<Password>().then(password).optional();
        /// TLS of connections to a server with `rediss://`.
        tls: RedisTls = nested().or_default();
    }
}

impl StorePlace {
    /// Returns the path; for a server, its URL, which names the store in messages.
    pub(crate) fn path(&self) -> &Path {
        match self {
            StorePlace::Path(path) => path,
            StorePlace::Redis(server) => &server.url,
        }
    }

    /// Parses an argument: a path, a URL, or the URLs of a cluster with commas between them.
    ///
    /// # Errors
    ///
    /// The argument is a URL of a server, and the URL is at fault.
    pub(crate) fn parse(text: &Path) -> Result<Self, Fault> {
        let Some(url) = text.to_str().filter(|text| is_url(text)) else {
            return Ok(StorePlace::Path(text.to_owned()));
        };
        let parsed = parse_urls(url);
        // The message does not repeat the URL, because a URL at fault may contain a password.
        parsed.map(|address| StorePlace::of(url, address)).map_err(|fault| {
            Fault::of_file(Path::new("the key store's URL"), fault.to_string())
                .hint("as in redis://redis:6379/0")
        })
    }

    fn of(url: &str, address: RedisAddress) -> Self {
        let (url, prefix) = (PathBuf::from(url), PREFIX.to_owned());
        StorePlace::Redis(Box::new(KeyServer {
            url,
            address,
            password: None,
            tls: RedisTls::default(),
            prefix,
        }))
    }

    /// Takes the access to the server from a configuration, if it has the same server as its key
    /// store, `configured`, or in `shared`.
    pub(crate) fn reached_as(&mut self, configured: &StorePlace, shared: Option<&Shared>) {
        let StorePlace::Redis(server) = self else { return };
        match configured {
            StorePlace::Redis(known) if is_same(&known.address, &server.address) => {
                let (url, address) = (server.url.clone(), server.address.clone());
                **server = KeyServer { url, address, ..KeyServer::clone(known) };
            }
            _ => self.reached_by(None, shared),
        }
    }

    /// Replaces parts of the access to the server by those that are given.
    pub(crate) fn reached_with(
        &mut self,
        password: Option<String>,
        ca: Option<PathBuf>,
        client: Option<(PathBuf, PathBuf)>,
        prefix: Option<String>,
    ) {
        let StorePlace::Redis(server) = self else { return };
        server.password = password.map(SecretValue::given).or(server.password.take());
        server.tls.ca = ca.or(server.tls.ca.take());
        let client = client.map(|(certificate, private_key)| CertificatePair { certificate, private_key });
        server.tls.client = client.or(server.tls.client.take());
        server.prefix = prefix.unwrap_or_else(|| std::mem::take(&mut server.prefix));
    }

    /// Adds how to reach the server: by `own`, or as `shared` says if it is the same server.
    pub(super) fn reached_by(&mut self, own: Option<&KeysRedis>, shared: Option<&Shared>) {
        let StorePlace::Redis(server) = self else { return };
        if let Some(shared) = shared {
            server.prefix.clone_from(&shared.prefix);
        }
        if let Some(own) = own {
            (server.password, server.tls) = (own.password.clone(), own.tls.clone());
        } else if let Some(shared) = shared.filter(|shared| is_same(&shared.redis, &server.address)) {
            (server.password, server.tls) = (shared.password.clone(), shared.tls.clone());
        }
    }
}

/// Parses a URL, or the URLs of a cluster with commas between them.
fn parse_urls(text: &str) -> Result<RedisAddress, AddressFault> {
    // The sentinels of one URL have commas between them, too.
    if !text.split(',').skip(1).any(is_url) {
        return RedisAddress::parse(text);
    }
    let urls: Vec<String> = text.split(',').map(str::to_owned).collect();
    RedisAddress::cluster(&urls).map_err(|(_, fault)| fault)
}

/// Whether two addresses are of the same server. The number of the database may differ.
fn is_same(a: &RedisAddress, b: &RedisAddress) -> bool {
    (&a.hosts, &a.kind, a.is_tls, &a.user) == (&b.hosts, &b.kind, b.is_tls, &b.user)
}

impl KeyServer {
    /// Returns the password as it is now: a file is read anew.
    ///
    /// # Errors
    ///
    /// The file can't be read, or is empty.
    pub(crate) fn current_password(&self) -> Result<Option<Zeroizing<String>>, Fault> {
        let Some(secret) = &self.password else { return Ok(None) };
        let Some(file) = &secret.file else {
            return Ok(Some(Zeroizing::new(String::from_utf8_lossy(secret.value()).into_owned())));
        };
        match regular_file::read_text(&file.path) {
            Ok(text) if text.trim().is_empty() => Err(Fault::of_file(&file.path, "the password is empty")),
            Ok(text) => Ok(Some(Zeroizing::new(text.trim().to_owned()))),
            Err(error) => Err(Fault::unreadable(&file.path, "the password", &error)),
        }
    }

    /// Returns the PEM text of the authorities, and of bearward's certificate and its key, as they
    /// are now.
    ///
    /// # Errors
    ///
    /// One of the files can't be read.
    pub(crate) fn current_certificates(&self) -> Result<PemTexts, Fault> {
        let read = |path: &PathBuf| match regular_file::read_text(path) {
            Ok(text) => Ok(text.as_bytes().to_vec()),
            Err(error) => Err(Fault::unreadable(path, "the file", &error)),
        };
        let ca = self.tls.ca.as_ref().map(read).transpose()?;
        let client = match &self.tls.client {
            Some(CertificatePair { certificate, private_key }) => {
                Some((read(certificate)?, read(private_key)?))
            }
            None => None,
        };
        Ok((ca, client))
    }
}

/// The PEM text of authorities, and of a certificate and its key.
pub(crate) type PemTexts = (Option<Vec<u8>>, Option<(Vec<u8>, Vec<u8>)>);

fn is_url(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| scheme.starts_with("redis"))
}

/// Returns the `Form` of the place of a key store.
pub(super) fn store_place() -> Form<StorePlace> {
    let schema = || {
        let urls = with(json!({"type": "array", "items": {"type": "string"}}), "minItems", json!(1));
        json!({"anyOf": [{"type": "string"}, urls]})
    };
    Form::new(decode, schema)
}

fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<StorePlace> {
    let refuse = |d: &mut Decoder<'_>, node: &Node, fault: AddressFault| {
        d.hinted(node.at, fault.to_string(), "as in redis://redis:6379/0")
    };
    if let Kind::List(items) = &node.kind {
        let urls = items.iter().map(|item| d.word(item)).collect::<Option<Vec<String>>>()?;
        return match RedisAddress::cluster(&urls) {
            Ok(cluster) => Some(StorePlace::of(&urls.join(","), cluster)),
            Err((index, fault)) => refuse(d, items.get(index).unwrap_or(node), fault),
        };
    }
    let text = d.word(node)?;
    if !is_url(&text) {
        return d.secret_path(node).map(StorePlace::Path);
    }
    match parse_urls(&text) {
        Ok(address) => Some(StorePlace::of(&text, address)),
        Err(fault) => refuse(d, node, fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_paths_servers_or_clusters() {
        let parse = |text: &str| StorePlace::parse(Path::new(text)).unwrap();
        assert_eq!(parse("keys.yaml"), StorePlace::Path("keys.yaml".into()));
        assert_eq!(parse("./redis.yaml"), StorePlace::Path("./redis.yaml".into()));
        for (text, hosts) in [
            ("redis://a", 1),
            ("redis://a:1,redis://b:2", 2),
            ("redis+sentinel://a,b/m", 2),
            ("rediss://u@a:1/3", 1),
        ] {
            let StorePlace::Redis(server) = parse(text) else { panic!("{text}") };
            assert_eq!((server.address.hosts.len(), server.url.to_str()), (hosts, Some(text)));
        }
        for text in ["redis://", "redis://:hunter2@a", "redis://a,redis+sentinel://b/m"] {
            let message = StorePlace::parse(Path::new(text)).unwrap_err().to_string();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}
