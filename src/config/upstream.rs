//! `upstreams`: the servers behind bearward.

use std::path::PathBuf;
use std::time::Duration;

use http::uri::Authority;

use crate::config::ambiguity::Ambiguity;
use crate::config::credential::{UpstreamCredential, credential};
use crate::config::decode::{Decoder, KnownUpstream};
use crate::config::endpoint::{ConfiguredEndpoint, EndpointAddress, endpoints};
use crate::config::fault::Position;
use crate::config::form::{
    Form, boolean, duration, list_of, non_empty, number, one_of, path, secret_path, text, word,
};
use crate::config::health::{HealthCheck, interval};
use crate::config::listener::CertificatePair;
use crate::config::model::{USAGE, Usage};
use crate::config::queue::{Queue, TELLS_PRIORITY, TellsPriority};
use crate::config::section::{fields_of, nested, section};
use crate::config::timeouts::Timeouts;
use crate::config::tree::Node;
use crate::path_pattern::reading::PathReading;

section! {
    /// An upstream: a named group of servers.
    #[derive(Clone, Debug)]
    pub(crate) struct Upstream in "an upstream" {
        /// The name of the upstream, for routes, logs and metrics.
        name: String = word().required();
        /// The addresses of the servers, at least one: http://, https:// or h2c:// with host and
        /// port, or unix:/path. In the form `{url, slots}`, each has a number of slots.
        endpoints: Vec<ConfiguredEndpoint> = endpoints().required();
        /// The choice of an endpoint for a request: the one with fewer requests in flight of two
        /// random endpoints, or each endpoint in turn.
        balance: Balance = one_of(&BALANCES).or(Balance::LeastRequests);
        tls: UpstreamTls = nested().or_default();
        /// The number of other endpoints that a request may be tried at, as long as no byte of it
        /// was sent.
        retries: usize = number(0).or(2);
        credential: Option<UpstreamCredential> = credential().optional();
        timeouts: Timeouts = nested().or_default();
        pool: Pool = nested().or_default();
        health: Option<HealthCheck> = nested().optional();
        /// The Host header of requests to the upstream. Left out: the client's Host header.
        host: Option<Authority> = text(host).optional();
        /// Whether an HTTP/1.1 connection that carried the body of a POST, PUT or PATCH may serve
        /// another request. `false` is for a server that leaves bodies unread;
        /// `bearward check --probe` finds such a server.
        reuse_after_body: bool = boolean().or(true);
        /// The interval between lookups of the endpoints' host names. Each address that a lookup
        /// finds is an endpoint of its own.
        resolve: Duration = interval().or(Duration::from_secs(10));
        /// Whether the upstream is asked for the usage of streams (`stream_options`), unseen by the
        /// client, or requests are forwarded as they are. Left out: ask, except on the routes of
        /// the sets llama-cpp and ollama.
        usage: Option<Usage> = one_of(&USAGE).optional();
        queue: Option<Queue> = nested().optional().narrowing();
        /// The server whose own queue is told the class of each request. vllm: the member `priority` of the
        /// body is set, 0 for interactive, 1 for standard and 2 for batch, and a client's own is taken out.
        /// The server needs `--scheduling-policy priority`.
        priority: Option<TellsPriority> = one_of(&TELLS_PRIORITY).optional().narrowing();
        paths: UpstreamPaths = fields_of();
    }
}

section! {
    /// The ambiguous parts that an upstream accepts in paths, and the differences between paths
    /// that the upstream ignores.
    #[derive(Clone, Debug)]
    pub(crate) struct UpstreamPaths in "an upstream" {
        /// Ambiguous parts that a request's path may have; a path with any other is refused with
        /// 400.
        accepted_parts as "accept_in_path": Vec<Ambiguity> = list_of(one_of(&Ambiguity::ALL)).or_default();
        reading as "paths": Option<PathReading> = nested::<Reading>().then(Reading::made).optional();
    }
}

/// How one of several endpoints is chosen for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Balance {
    /// The one of two random endpoints that has fewer requests in flight.
    #[default]
    LeastRequests,
    /// Each endpoint in turn.
    RoundRobin,
}

const BALANCES: [(&str, Balance); 2] =
    [("least_requests", Balance::LeastRequests), ("round_robin", Balance::RoundRobin)];

section! {
    /// TLS of connections to https:// endpoints.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub(crate) struct UpstreamTls: Default in "an upstream's tls" {
        /// The authorities that may have signed the upstream's certificate, or that certificate
        /// itself, PEM. Left out: the system's authorities.
        ca: Option<PathBuf> = path().optional();
        /// The name that the upstream's certificate must have. Left out: the host of the endpoint.
        server_name: Option<String> = text(server_name).optional();
        client: Option<CertificatePair> = fields_of::<ClientCertificate>()
            .then(|d, node, given| CertificatePair::of_client(d, node, (given.client_certificate, given.client_key)));
    }
}

section! {
    /// The certificate that bearward shows to the upstream.
    #[derive(Clone, Debug)]
    struct ClientCertificate in "an upstream's tls" {
        /// The certificate that bearward shows to the upstream.
        client_certificate: Option<PathBuf> = path().optional();
        /// The private key of `client_certificate`.
        client_key: Option<PathBuf> = secret_path().optional();
    }
}

section! {
    /// Idle connections to the upstream.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Pool: Default in "a pool" {
        /// The longest time that a connection is kept without a request. uvicorn closes an idle
        /// connection after 5 s.
        idle: Duration = duration().or(Duration::from_secs(4));
        /// The number of idle connections that each worker keeps for an endpoint.
        max_idle: usize = number(0).or(256);
        /// The age after which a connection gets no new request. Requests in flight on it finish.
        max_age: Duration = duration().or(Duration::from_secs(300));
    }
}

section! {
    /// Differences in paths that the upstream ignores, so that routes ignore them, too. If this
    /// section is given, `check` does not warn of paths that the upstream may read as another path.
    #[derive(Clone, Copy, Debug)]
    struct Reading in "an upstream's paths" {
        /// Whether the upstream reads /ADMIN as /admin.
        ignore_case: bool = boolean().or(false);
        /// Whether the upstream reads /admin/ as /admin.
        ignore_trailing_slash: bool = boolean().or(false);
    }
}

impl Reading {
    fn made(_: &mut Decoder<'_>, _: &Node, given: Reading) -> Option<PathReading> {
        let Reading { ignore_case, ignore_trailing_slash } = given;
        Some(PathReading { ignore_case, ignore_trailing_slash })
    }
}

/// Returns the `Form` of the list of upstreams. A repeated name is a fault. The decoded upstreams
/// are also stored in the decoder, because routes are checked against them.
pub(super) fn upstreams() -> Form<Vec<Upstream>> {
    non_empty(nested().checked(check_tls).checked(check_queue).positioned()).then(check_names)
}

fn check_names(d: &mut Decoder<'_>, _: &Node, upstreams: Vec<(Position, Upstream)>) -> Option<Vec<Upstream>> {
    for (index, (at, Upstream { name, .. })) in upstreams.iter().enumerate() {
        if upstreams.iter().take(index).any(|(_, earlier)| earlier.name == *name) {
            d.fault(*at, format!("the upstream `{name}` is given twice")).hint =
                Some("one upstream with several endpoints, or a name of its own".to_owned());
        }
    }
    let upstreams: Vec<Upstream> = upstreams.into_iter().map(|(_, upstream)| upstream).collect();
    let known = upstreams.iter().map(|upstream| KnownUpstream {
        name: upstream.name.clone(),
        accept_in_path: upstream.paths.accepted_parts.clone(),
    });
    d.context.upstreams = Some(known.collect());
    Some(upstreams)
}

fn check_tls(d: &mut Decoder<'_>, node: &Node, upstream: Upstream) -> Option<Upstream> {
    let is_https = |endpoint: &ConfiguredEndpoint| matches!(endpoint.url, EndpointAddress::Https(_));
    if node.field("tls").is_some() && !upstream.endpoints.iter().any(is_https) {
        return d.hinted(
            node.position_of("tls"),
            "tls is for endpoints that begin with https://",
            "write the endpoint so, or remove `tls`",
        );
    }
    Some(upstream)
}

/// Checks that the slots are given once. Endpoints with slots have a queue, also if none is written.
fn check_queue(d: &mut Decoder<'_>, node: &Node, mut upstream: Upstream) -> Option<Upstream> {
    let has_slots_of_endpoints = upstream.endpoints.iter().any(|endpoint| endpoint.slots.is_some());
    match (upstream.queue.as_ref().map(|queue| queue.slots), has_slots_of_endpoints) {
        (Some(None), false) => d.hinted(
            node.position_of("queue"),
            "a queue needs `slots`: how many requests may be at the upstream at once",
            "as in `queue: {slots: 32}`, or `endpoints: [{url: …, slots: 4}]`",
        ),
        (Some(Some(_)), true) => d.hinted(
            node.position_of("queue"),
            "both the queue and the endpoints have `slots`",
            "keep those of the endpoints, or those of the queue",
        ),
        (None, true) => {
            upstream.queue = Some(Queue::default());
            Some(upstream)
        }
        (Some(None), true) | (Some(Some(_)), false) | (None, false) => Some(upstream),
    }
}

fn server_name(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?;
    if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
        let message = format!("`{name}` is not the name of a server");
        return d.hinted(node.at, message, "a host name or an address, without a port");
    }
    Some(name)
}

fn host(d: &mut Decoder<'_>, node: &Node) -> Option<Authority> {
    const EXAMPLES: &str = "as in localhost or model.internal:8000";
    let host: Authority = d.parsed(node, "a host", EXAMPLES)?;
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
    let (name, port) = (host.host(), host.as_str().strip_prefix(host.host()));
    let has_port = port.is_some_and(|port| port.is_empty() || host.port_u16().is_some());
    if name.is_empty() || !name.chars().all(is_of_name) || !has_port {
        return d.hinted(node.at, "this is not a host", EXAMPLES);
    }
    Some(host)
}
