//! The configuration as it is written, with every default filled in.
//!
//! [`Config::load`] reads it; the modules that own a part convert it into what they run on.

mod address;
pub(crate) mod decode;
mod endpoint;
pub(crate) mod fault;
mod keys;
mod limits;
pub(crate) mod load;
mod log;
pub(crate) mod network;
pub(crate) mod presets;
pub(crate) mod schema;
pub(crate) mod tree;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::HeaderName;
use http::uri::{Authority, PathAndQuery};
use ipnet::IpNet;

pub(crate) use address::Address;
pub(crate) use fault::NamedFiles;
pub use fault::{Fault, Faults, Position};
pub(crate) use keys::{AgeAction, Auth, Conflict, ID_SECRET_LENGTH, Keys, MaxAge, SecretValue, Watch};
pub(crate) use limits::{AttemptQuota, LONGEST_METHOD, Limits, PublicLimits, Quota};
pub(crate) use log::{Log, LogFormat, LogTarget, Metrics, Traces};
pub(crate) use presets::Preset;

use crate::bom;
use crate::digest::sha256;
use crate::host_pattern::HostPattern;
use crate::path_pattern::PathPattern;
use crate::path_pattern::reading::PathReading;
use crate::permission::Permission;
use crate::regular_file;

/// A whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file that it was read from, if any: what a reload reads again.
    pub(crate) source: Option<ReadFile>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) admin: Option<Admin>,
    pub(crate) keys: Keys,
    pub(crate) auth: Auth,
    pub(crate) rate_limits: Vec<Quota>,
    pub(crate) max_concurrent: Option<u32>,
    /// `None` where they are not counted.
    pub(crate) failed_attempts: Option<AttemptQuota>,
    pub(crate) upstreams: Vec<Upstream>,
    /// In order, presets spelled out.
    pub(crate) routes: Vec<Route>,
    pub(crate) limits: Limits,
    pub(crate) trusted_proxies: TrustedProxies,
    pub(crate) log: Log,
    pub(crate) metrics: Metrics,
    /// `None` where requests are not traced.
    pub(crate) traces: Option<Traces>,
    pub(crate) workers: Option<usize>,
    /// Where the files that it names are named.
    pub(crate) named_files: NamedFiles,
}

/// A file, and the digest of what was read from it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct ReadFile {
    pub(crate) path: PathBuf,
    digest: [u8; 32],
}

impl ReadFile {
    pub(crate) fn new(path: &Path, content: &str) -> Self {
        ReadFile { path: path.to_owned(), digest: sha256(content) }
    }

    /// Whether the file still holds what was read. What can be read but once (a pipe) is no file to compare with.
    pub(crate) fn is_current(&self) -> bool {
        if !std::fs::metadata(&self.path).is_ok_and(|metadata| metadata.is_file()) {
            return true;
        }
        let content = regular_file::read(&self.path);
        content.is_ok_and(|content| sha256(&*content) == self.digest)
    }
}

impl std::fmt::Debug for ReadFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ReadFile({})", self.path.display())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Listener {
    pub(crate) address: Address,
    pub(crate) tls: Option<Tls>,
}

/// The admin listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admin {
    pub(crate) address: Address,
    /// Holds the token that changes demand, and off loopback everything but the probes.
    pub(crate) token_file: Option<PathBuf>,
    /// Names that the listener is asked by, beside addresses and `localhost`; in lower case, without a port.
    pub(crate) hosts: Vec<String>,
    /// Whether it takes, for every upstream, an endpoint that can be connected to, to be ready.
    pub(crate) ready_with_upstreams: bool,
}

impl Default for Admin {
    fn default() -> Self {
        let address = Address::Tcp("127.0.0.1:9090".to_owned());
        Admin { address, token_file: None, hosts: Vec::new(), ready_with_upstreams: false }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// At least one; the first serves clients whose server name matches none.
    pub(crate) certificates: Vec<CertificatePair>,
    /// Clients must present a certificate that one of these authorities signed.
    pub(crate) client_ca: Option<PathBuf>,
    pub(crate) min_version: TlsVersion,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CertificatePair {
    pub(crate) certificate: PathBuf,
    pub(crate) private_key: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TlsVersion {
    V1_2,
    V1_3,
}

#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    pub(crate) name: String,
    /// At least one.
    pub(crate) endpoints: Vec<EndpointAddress>,
    pub(crate) balance: Balance,
    /// For `https://` endpoints.
    pub(crate) tls: UpstreamTls,
    /// Other endpoints that a request may be given to while nothing of it was sent.
    pub(crate) retries: usize,
    pub(crate) credential: Option<UpstreamCredential>,
    pub(crate) timeouts: Timeouts,
    pub(crate) pool: Pool,
    /// How its endpoints are asked how they are; `None`: requests alone tell.
    pub(crate) health: Option<HealthCheck>,
    /// The Host that it gets; `None`: what the client named.
    pub(crate) host: Option<Authority>,
    /// What the path of a request may hold beyond what is unambiguous.
    pub(crate) accept_in_path: Vec<Ambiguity>,
    /// Whether an HTTP/1.1 connection that carried a request's body may serve another request.
    pub(crate) reuse_after_body: bool,
    /// How often the names of its endpoints are looked up.
    pub(crate) resolve: Duration,
    /// What it does not tell apart in paths; `None` where the configuration does not say.
    pub(crate) reading: Option<PathReading>,
}

/// Which of several endpoints gets a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Balance {
    /// The one of two random ones that has fewer requests in flight.
    #[default]
    LeastRequests,
    /// Each in turn.
    RoundRobin,
}

/// How an upstream is proved to be the right one, and who we are to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UpstreamTls {
    /// The authorities that upstream's certificate may be of, or the very certificate; the system's authorities where left
    /// out.
    pub(crate) ca: Option<PathBuf>,
    /// The name that upstream's certificate must have; the endpoint's host where left out.
    pub(crate) server_name: Option<String>,
    /// What we present.
    pub(crate) client: Option<CertificatePair>,
}

/// A part of a path that servers read in different ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ambiguity {
    /// `%2F`
    EncodedSlash,
    /// `%5C`
    EncodedBackslash,
    /// `;`
    Semicolon,
}

impl Ambiguity {
    pub(crate) const ALL: [(&'static str, Ambiguity); 3] = [
        ("encoded-slash", Ambiguity::EncodedSlash),
        ("encoded-backslash", Ambiguity::EncodedBackslash),
        ("semicolon", Ambiguity::Semicolon),
    ];

    /// As it stands in a canonical path.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Ambiguity::EncodedSlash => "%2F",
            Ambiguity::EncodedBackslash => "%5C",
            Ambiguity::Semicolon => ";",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EndpointAddress {
    /// `http://host:port`, HTTP/1.1: the authority.
    Http(String),
    /// `https://host:port`, HTTP/2 or HTTP/1.1 as ALPN has it: the authority.
    Https(String),
    /// `h2c://host:port`, HTTP/2 with prior knowledge: the authority.
    H2c(String),
    /// `unix:/path`, HTTP/1.1.
    Unix(PathBuf),
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            EndpointAddress::Http(authority) => write!(f, "http://{authority}"),
            EndpointAddress::Https(authority) => write!(f, "https://{authority}"),
            EndpointAddress::H2c(authority) => write!(f, "h2c://{authority}"),
            EndpointAddress::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// What upstream gets in the place of the caller's key.
#[derive(Clone)]
pub(crate) struct UpstreamCredential {
    pub(crate) header: HeaderName,
    pub(crate) value: http::HeaderValue,
    /// Where it was read from, so that a change of it can be noticed.
    pub(crate) file: Option<ReadFile>,
}

impl std::fmt::Debug for UpstreamCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpstreamCredential").field("header", &self.header).finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) connect: Duration,
    /// From the end of the request until the head of the answer.
    pub(crate) response_headers: Duration,
    /// Between bytes of an answer.
    pub(crate) idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Timeouts {
            connect: Duration::from_secs(5),
            // An answer that is not streamed has its head only when all of it is generated;
            // ten minutes is what the OpenAI clients wait.
            response_headers: Duration::from_secs(600),
            idle: Duration::from_secs(300),
        }
    }
}

/// A route's own timeouts, in the place of its upstream's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RouteTimeouts {
    pub(crate) connect: Option<Duration>,
    pub(crate) response_headers: Option<Duration>,
    pub(crate) idle: Option<Duration>,
}

impl Timeouts {
    pub(crate) fn overridden(self, by: RouteTimeouts) -> Self {
        Timeouts {
            connect: by.connect.unwrap_or(self.connect),
            response_headers: by.response_headers.unwrap_or(self.response_headers),
            idle: by.idle.unwrap_or(self.idle),
        }
    }
}

/// A question that each endpoint is asked again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    /// What a GET asks for. 2xx and 3xx are well.
    pub(crate) path: PathAndQuery,
    pub(crate) interval: Duration,
    /// The longest that an answer's head may take, from the connection on.
    pub(crate) timeout: Duration,
    /// So many failures one after the other, and the endpoint gets no requests;
    pub(crate) failures: u32,
    /// … and so many successes, and it gets them again.
    pub(crate) successes: u32,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Pool {
    /// Less than the five seconds after which uvicorn closes.
    pub(crate) idle: Duration,
    /// Idle connections that a worker keeps for an endpoint.
    pub(crate) max_idle: usize,
    /// A connection that is older takes no new request.
    pub(crate) max_age: Duration,
}

impl Default for Pool {
    fn default() -> Self {
        Pool { idle: Duration::from_secs(4), max_idle: 256, max_age: Duration::from_secs(300) }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) name: String,
    /// At least one.
    pub(crate) paths: Vec<PathPattern>,
    /// `None`: all; else at least one.
    pub(crate) methods: Option<Vec<http::Method>>,
    /// `None`: all; else at least one.
    pub(crate) hosts: Option<Vec<HostPattern>>,
    pub(crate) access: Access,
    /// The upstream's name; the first one where left out.
    pub(crate) upstream: Option<String>,
    pub(crate) rate_limits: Vec<Quota>,
    pub(crate) strip_prefix: Option<String>,
    pub(crate) max_body: Option<u64>,
    pub(crate) timeouts: RouteTimeouts,
    /// Protocols that a request may be upgraded to, in lower case: `websocket`, say.
    pub(crate) upgrades: Vec<String>,
    /// Whether GET and HEAD may have a body.
    pub(crate) body_on_get: bool,
    /// Request headers that do not pass, in any spelling that folds to them.
    pub(crate) removes: Vec<HeaderName>,
    /// What its paths may hold, beside what its upstream takes everywhere.
    pub(crate) accept_in_path: Vec<Ambiguity>,
    /// What its server does not tell apart in paths, beside what is said of its upstream.
    pub(crate) reading: PathReading,
}

/// Who may use a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody, without a key.
    Public,
    /// Keys with this permission.
    Needs(Permission),
}

/// Peers whose word on the client's address is taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct TrustedProxies {
    pub(crate) networks: Vec<IpNet>,
    /// Whoever reaches a unix listener.
    pub(crate) unix: bool,
}

impl TrustedProxies {
    /// Whether a peer is trusted; `None` is one behind a unix socket.
    pub(crate) fn trusts(&self, peer: Option<IpAddr>) -> bool {
        match peer {
            Some(address) => self.networks.iter().any(|network| network.contains(&address)),
            None => self.unix,
        }
    }
}

impl Config {
    /// Reads a configuration file, with `${VAR}` taken from the process's environment.
    ///
    /// # Errors
    ///
    /// All faults of the file in one go; a syntax error ends the reading.
    pub fn load(path: &Path) -> Result<Config, Faults> {
        Config::of(path, std::fs::read_to_string(path))
    }

    /// The same, of a file that is there: a pipe, which a command may well be given, is not waited for.
    pub(crate) fn load_again(path: &Path) -> Result<Config, Faults> {
        Config::of(path, regular_file::read_text(path).map(|text| text.to_string()))
    }

    fn of(path: &Path, source: std::io::Result<String>) -> Result<Config, Faults> {
        let source = source
            .map_err(|error| Fault::of_file(path, format!("the configuration can't be read: {error}")))?;
        let config = Config::parse(path, &source, &|name| std::env::var(name).ok())?;
        Ok(Config { source: Some(ReadFile::new(path, &source)), ..config })
    }

    /// The admin listener of a file, whatever else is wrong with it; `None` where it can't be made out.
    pub(crate) fn admin_of(path: &Path) -> Option<Option<Admin>> {
        let source = std::fs::read_to_string(path).ok()?;
        load::admin_of(path, bom::without(&source), &|name| std::env::var(name).ok())
    }

    /// Reads a configuration from text; `path` names it in faults.
    ///
    /// # Errors
    ///
    /// As [`Config::load`].
    pub fn parse(
        path: &Path,
        source: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, Faults> {
        load::parse(path, bom::without(source), environment)
    }
}
