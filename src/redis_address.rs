//! The address of a Redis or Valkey server, as a URL or a list of URLs.
//!
//! | URL | server |
//! |---|---|
//! | `redis://host:6379/0`, `rediss://…` | one server, without TLS and with TLS |
//! | `redis+sentinel://host:26379,other:26379/mymaster/0`, `rediss+sentinel://…` | the master of a Sentinel group |
//! | a list of `redis://…` or `rediss://…` | a cluster; some of its nodes |
//!
//! The form follows the provisional IANA registrations of `redis` and `rediss`. A user stands before
//! `@`. A password has no place in a URL, because URLs are shown in messages and logs.

use std::fmt;

/// Port of a server, and of a sentinel, if the URL names none.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;

/// A server, a Sentinel group or a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RedisAddress {
    /// Host and port of the server, of the sentinels, or of nodes of the cluster; at least one.
    pub(crate) hosts: Vec<(String, u16)>,
    pub(crate) kind: RedisKind,
    pub(crate) is_tls: bool,
    pub(crate) user: Option<String>,
    /// Number of the database; always 0 in a cluster.
    pub(crate) database: u32,
}

/// What is at the address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum RedisKind {
    Server,
    /// Sentinels, which know the server with this name.
    Sentinel(String),
    Cluster,
}

/// Reason why a URL is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AddressFault {
    Scheme,
    Password,
    Host,
    Port,
    Database,
    /// The URL of a Sentinel group names no master.
    Master,
    /// The URLs of a cluster differ in more than the host.
    Mixed,
    /// A build without the feature `redis`.
    NotBuilt,
}

impl fmt::Display for AddressFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AddressFault::Scheme => {
                "not the URL of a Redis server: redis://, rediss://, redis+sentinel:// or rediss+sentinel://"
            }
            AddressFault::Password => "a password has no place in a URL; set `password`",
            AddressFault::Host => "the URL names no host",
            AddressFault::Port => "not a port",
            AddressFault::Database => "not the number of a database",
            AddressFault::Master => "the URL names no master, as in redis+sentinel://host:26379/mymaster",
            AddressFault::NotBuilt => "bearward was built without the feature `redis`",
            AddressFault::Mixed => "the URLs of a cluster have the same scheme and user, and no database",
        })
    }
}

impl RedisAddress {
    /// Parses the URL of a server or of a Sentinel group.
    ///
    /// # Errors
    ///
    /// What is wrong with the URL.
    pub(crate) fn parse(url: &str) -> Result<Self, AddressFault> {
        let (scheme, rest) = url.split_once("://").ok_or(AddressFault::Scheme)?;
        let (is_tls, is_sentinel) = match scheme {
            "redis" => (false, false),
            "rediss" => (true, false),
            "redis+sentinel" => (false, true),
            "rediss+sentinel" => (true, true),
            _ => return Err(AddressFault::Scheme),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if rest.contains(['?', '#', ' ']) || path.ends_with('/') {
            return Err(AddressFault::Database);
        }
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, _)) if user.is_empty() || user.contains(':') => return Err(AddressFault::Password),
            Some((user, hosts)) => (Some(user.to_owned()), hosts),
            None => (None, authority),
        };
        let port = if is_sentinel { SENTINEL_PORT } else { PORT };
        let hosts = hosts.split(',').map(|host| parse_host(host, port)).collect::<Result<Vec<_>, _>>()?;
        if hosts.len() > 1 && !is_sentinel {
            return Err(AddressFault::Host);
        }
        let (kind, database) = match (is_sentinel, path.split_once('/')) {
            (false, None) => (RedisKind::Server, path),
            (true, None) if !path.is_empty() => (RedisKind::Sentinel(path.to_owned()), ""),
            (true, Some((master, database))) if !master.is_empty() => {
                (RedisKind::Sentinel(master.to_owned()), database)
            }
            (true, _) => return Err(AddressFault::Master),
            (false, Some(_)) => return Err(AddressFault::Database),
        };
        let database = match database {
            "" => 0,
            number => number.parse().map_err(|_| AddressFault::Database)?,
        };
        if cfg!(not(feature = "redis")) {
            return Err(AddressFault::NotBuilt);
        }
        Ok(RedisAddress { hosts, kind, is_tls, user, database })
    }

    /// Makes the address of a cluster from the URLs of some of its nodes.
    ///
    /// # Errors
    ///
    /// What is wrong with one of the URLs, with its index.
    pub(crate) fn cluster(urls: &[String]) -> Result<Self, (usize, AddressFault)> {
        let mut cluster: Option<RedisAddress> = None;
        for (index, url) in urls.iter().enumerate() {
            let node = RedisAddress::parse(url).map_err(|fault| (index, fault))?;
            let same = |of: &RedisAddress| (of.is_tls, of.user.clone());
            let is_mixed = cluster.as_ref().is_some_and(|cluster| same(cluster) != same(&node));
            if is_mixed || node.kind != RedisKind::Server || node.database != 0 {
                return Err((index, AddressFault::Mixed));
            }
            match &mut cluster {
                Some(cluster) => cluster.hosts.extend(node.hosts),
                None => cluster = Some(RedisAddress { kind: RedisKind::Cluster, ..node }),
            }
        }
        cluster.ok_or((0, AddressFault::Host))
    }
}

impl fmt::Display for RedisAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.hosts.iter().map(|(host, port)| match host.contains(':') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        });
        let hosts = hosts.collect::<Vec<_>>().join(",");
        match &self.kind {
            RedisKind::Server => write!(f, "redis at {hosts}"),
            RedisKind::Sentinel(master) => write!(f, "redis {master} of the sentinels at {hosts}"),
            RedisKind::Cluster => write!(f, "redis cluster at {hosts}"),
        }
    }
}

fn parse_host(text: &str, default_port: u16) -> Result<(String, u16), AddressFault> {
    let (host, port) = match text.strip_prefix('[') {
        Some(address) => {
            let (host, behind) = address.split_once(']').ok_or(AddressFault::Host)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| AddressFault::Host)?;
            (host, behind.strip_prefix(':').or(behind.is_empty().then_some("")).ok_or(AddressFault::Port)?)
        }
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
    if host.is_empty() || !host.bytes().all(is_plain) {
        return Err(AddressFault::Host);
    }
    let port = match port {
        "" if !text.ends_with(':') => default_port,
        port => port.parse().ok().filter(|port| *port > 0).ok_or(AddressFault::Port)?,
    };
    Ok((host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_all_kinds_are_understood() {
        let parse = |url: &str| RedisAddress::parse(url).unwrap();
        assert_eq!(parse("redis://redis").to_string(), "redis at redis:6379");
        let tls = parse("rediss://bearward@redis.svc:6380/3");
        assert_eq!((tls.is_tls, tls.user.as_deref(), tls.database), (true, Some("bearward"), 3));
        assert_eq!(parse("redis://[::1]:7000").to_string(), "redis at [::1]:7000");
        let sentinel = parse("redis+sentinel://a,b:1234/mymaster/2");
        assert_eq!(sentinel.to_string(), "redis mymaster of the sentinels at a:26379,b:1234");
        assert_eq!(sentinel.database, 2);
        let urls = ["redis://a:7000".to_owned(), "redis://b:7001".to_owned()];
        assert_eq!(RedisAddress::cluster(&urls).unwrap().to_string(), "redis cluster at a:7000,b:7001");
    }

    #[test]
    fn what_is_no_url_of_a_server_is_refused() {
        for (url, fault) in [
            ("http://redis", AddressFault::Scheme),
            ("redis:6379", AddressFault::Scheme),
            ("redis://", AddressFault::Host),
            ("redis://:secret@redis", AddressFault::Password),
            ("redis://user:secret@redis", AddressFault::Password),
            ("redis://@redis", AddressFault::Password),
            ("redis://a,b", AddressFault::Host),
            ("redis://a b", AddressFault::Database),
            ("redis://a:0", AddressFault::Port),
            ("redis://a:", AddressFault::Port),
            ("redis://a:70000", AddressFault::Port),
            ("redis://a/x", AddressFault::Database),
            ("redis://a/0/1", AddressFault::Database),
            ("redis://a?db=1", AddressFault::Database),
            ("redis+sentinel://a", AddressFault::Master),
            ("redis+sentinel://a/", AddressFault::Master),
            ("redis://[::1", AddressFault::Host),
            ("redis://[zz]", AddressFault::Host),
        ] {
            assert_eq!(RedisAddress::parse(url), Err(fault), "{url}");
        }
        for urls in
            [["redis://a", "rediss://b"], ["redis://a", "redis://b/1"], ["redis://a", "redis+sentinel://b/m"]]
        {
            let urls = urls.map(str::to_owned);
            assert_eq!(RedisAddress::cluster(&urls), Err((1, AddressFault::Mixed)));
        }
        assert!(RedisAddress::cluster(&[]).is_err());
    }
}
