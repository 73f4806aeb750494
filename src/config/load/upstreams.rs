//! The upstreams of a configuration.

use std::time::Duration;

use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Uri};

use super::keys::{has_other_meaning, header_name};
use super::{Taken, non_empty};
use crate::bom;
use crate::config::decode::Decoder;
use crate::config::tree::Node;
use crate::config::{
    Ambiguity, Balance, CertificatePair, EndpointAddress, HealthCheck, Pool, ReadFile, RouteTimeouts,
    Timeouts, Upstream, UpstreamCredential, UpstreamTls,
};
use crate::path_pattern::reading::PathReading;
use crate::placeholder;
use crate::regular_file;

/// Between the look-ups of a name.
const DEFAULT_RESOLVE: Duration = Duration::from_secs(10);
/// Of health checks and look-ups.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
/// Two more endpoints that a request may go to.
const DEFAULT_RETRIES: usize = 2;

/// `taken`: the addresses that we listen on ourselves.
pub(super) fn upstreams(d: &mut Decoder<'_>, node: &Node, taken: &Taken) -> Option<Vec<Upstream>> {
    let mut names: Vec<String> = Vec::new();
    non_empty(d, node, |d, node| {
        let upstream = upstream(d, node, taken)?;
        if names.contains(&upstream.name) {
            d.fault(node.at, format!("the upstream `{}` stands twice", upstream.name)).hint =
                Some("one upstream with several endpoints, or a name of its own".to_owned());
        }
        names.push(upstream.name.clone());
        Some(upstream)
    })
}

fn upstream(d: &mut Decoder<'_>, node: &Node, taken: &Taken) -> Option<Upstream> {
    let mut fields = d.fields(node, "an upstream")?;
    let f = &mut fields;
    let name = d.required(f, "name", Decoder::word);
    let endpoints = d.required(f, "endpoints", |d, node| endpoints(d, node, taken));
    let balances = [("least_requests", Balance::LeastRequests), ("round_robin", Balance::RoundRobin)];
    let balance = d.optional(f, "balance", |d, node| d.one_of(node, &balances));
    let is_https = |endpoint: &EndpointAddress| matches!(endpoint, EndpointAddress::Https(_));
    let has_https = endpoints.as_ref().is_none_or(|endpoints: &Vec<_>| endpoints.iter().any(is_https));
    let tls = d.optional(f, "tls", |d, node| Some(tls(d, node, has_https)));
    let retries = d.optional(f, "retries", |d, node| d.number(node, 0));
    let credential = d.optional(f, "credential", |d, node| Some(credential(d, node)));
    let timeouts = d.optional(f, "timeouts", route_timeouts);
    let pool = d.optional(f, "pool", pool);
    let health = d.optional(f, "health", |d, node| Some(health(d, node)));
    let host = d.optional(f, "host", host);
    let accept_in_path =
        d.optional(f, "accept_in_path", |d, node| d.list(node, |d, node| d.one_of(node, &Ambiguity::ALL)));
    let reuse_after_body = d.optional(f, "reuse_after_body", Decoder::boolean);
    let resolve = d.optional(f, "resolve", pause);
    let reading = d.optional(f, "paths", path_reading);
    d.done(fields);
    // A faulty section must not turn into none: `?` on the inner option.
    let credential = credential.map_or(Some(None), |section| section.map(Some))?;
    let health = health.map_or(Some(None), |section| section.map(Some))?;
    let tls = tls.unwrap_or_else(|| Some(UpstreamTls::default()))?;
    Some(Upstream {
        name: name?,
        endpoints: endpoints?,
        balance: balance.unwrap_or_default(),
        tls,
        retries: retries.unwrap_or(DEFAULT_RETRIES),
        credential,
        timeouts: Timeouts::default().overridden(timeouts.unwrap_or_default()),
        pool: pool.unwrap_or_default(),
        health,
        host,
        accept_in_path: accept_in_path.unwrap_or_default(),
        reuse_after_body: reuse_after_body.unwrap_or(true),
        resolve: resolve.unwrap_or(DEFAULT_RESOLVE),
        reading,
    })
}

/// `{ignore_case: true, ignore_trailing_slash: true}`.
fn path_reading(d: &mut Decoder<'_>, node: &Node) -> Option<PathReading> {
    let mut fields = d.fields(node, "an upstream's paths")?;
    let ignore_case = d.optional(&mut fields, "ignore_case", Decoder::boolean);
    let ignore_trailing_slash = d.optional(&mut fields, "ignore_trailing_slash", Decoder::boolean);
    d.done(fields);
    Some(PathReading {
        ignore_case: ignore_case.unwrap_or(false),
        ignore_trailing_slash: ignore_trailing_slash.unwrap_or(false),
    })
}

fn host(d: &mut Decoder<'_>, node: &Node) -> Option<Authority> {
    let example = "as in localhost or model.internal:8000";
    let host: Authority = d.parsed(node, "a host", example)?;
    let is_named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
    let (name, port) = (host.host(), host.as_str().strip_prefix(host.host()));
    let has_port = port.is_some_and(|port| port.is_empty() || host.port_u16().is_some());
    if name.is_empty() || !name.chars().all(is_named) || !has_port {
        d.fault(node.at, "this is no host").hint = Some(example.to_owned());
        return None;
    }
    Some(host)
}

fn endpoints(d: &mut Decoder<'_>, node: &Node, taken: &Taken) -> Option<Vec<EndpointAddress>> {
    let endpoints = non_empty(d, node, |d, node| endpoint(d, node, taken))?;
    let is_repeated = endpoints
        .iter()
        .enumerate()
        .any(|(index, endpoint)| endpoints.iter().take(index).any(|e| e == endpoint));
    if is_repeated {
        d.fault(node.at, "the same endpoint stands twice").hint = Some("keep one of them".to_owned());
        return None;
    }
    Some(endpoints)
}

/// Reads `http://host:port`, `https://…`, `h2c://…` or `unix:/path`.
fn endpoint(d: &mut Decoder<'_>, node: &Node, taken: &Taken) -> Option<EndpointAddress> {
    let text = d.word(node)?;
    match parse_endpoint(&text) {
        Ok(endpoint) => {
            if let Some((own, _)) = taken.iter().find(|(own, _)| endpoint.leads_to(own)) {
                d.fault(node.at, format!("`{text}` is bearward's own listener `{own}`")).hint =
                    Some("the address of the server behind bearward, on a port of its own".to_owned());
                return None;
            }
            Some(endpoint)
        }
        Err(message) => {
            d.fault(node.at, message).hint = Some(
                "as in http://127.0.0.1:8000, https://model:8443, h2c://127.0.0.1:8001 or unix:/run/model.sock"
                    .to_owned(),
            );
            None
        }
    }
}

fn parse_endpoint(text: &str) -> Result<EndpointAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') {
            true => Ok(EndpointAddress::Unix(path.into())),
            false => Err("a unix socket needs an absolute path".to_owned()),
        };
    }
    let uri: Uri = text.parse().map_err(|_| format!("`{text}` is not an endpoint"))?;
    let (Some(scheme @ ("http" | "https" | "h2c")), Some(authority)) = (uri.scheme_str(), uri.authority())
    else {
        return Err(format!("`{text}` is not an endpoint"));
    };
    if authority.as_str().contains('@') {
        return Err("an endpoint takes no user info; `credential` sets a header".to_owned());
    }
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
        return Err(format!("`{text}`: an endpoint has no path"));
    }
    if text.contains('#') {
        return Err(format!("`{text}`: an endpoint has no fragment"));
    }
    let host = authority.host();
    let is_of_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let mut labels = host.strip_suffix('.').unwrap_or(host).split('.');
    let is_name = labels.all(|label| !label.is_empty() && label.chars().all(is_of_label));
    if !is_name && !host.starts_with('[') {
        return Err(format!("`{text}`: the host is no name and no address"));
    }
    let port = authority.as_str().rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    let is_port = |port: &str| {
        port.is_empty() || port.ends_with(']') || port.parse::<u16>().is_ok_and(|port| port != 0)
    };
    if !port.is_none_or(is_port) {
        return Err(format!("`{text}`: a port is a number from 1 to 65535"));
    }
    let authority = authority.as_str().to_owned();
    Ok(match scheme {
        "https" => EndpointAddress::Https(authority),
        "h2c" => EndpointAddress::H2c(authority),
        _ => EndpointAddress::Http(authority),
    })
}

/// `{ca: …, server_name: …, client_certificate: …, client_key: …}`.
fn tls(d: &mut Decoder<'_>, node: &Node, has_https: bool) -> Option<UpstreamTls> {
    let mut fields = d.fields(node, "an upstream's tls")?;
    let f = &mut fields;
    let ca = d.optional(f, "ca", Decoder::path);
    let server_name = d.optional(f, "server_name", server_name);
    let certificate = d.optional(f, "client_certificate", Decoder::path);
    let private_key = d.optional(f, "client_key", Decoder::path);
    d.done(fields);
    if !has_https {
        d.fault(node.at, "tls is for endpoints that begin with https://").hint =
            Some("write the endpoint so, or take `tls` away".to_owned());
        return None;
    }
    let client = match (certificate, private_key) {
        (Some(certificate), Some(private_key)) => Some(CertificatePair { certificate, private_key }),
        (None, None) => None,
        _ => {
            d.fault(node.at, "`client_certificate` and `client_key` go together");
            return None;
        }
    };
    Some(UpstreamTls { ca, server_name, client })
}

fn server_name(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?;
    if rustls::pki_types::ServerName::try_from(name.as_str()).is_err() {
        d.fault(node.at, format!("`{name}` is not a server's name")).hint =
            Some("a host name or an address, without a port".to_owned());
        return None;
    }
    Some(name)
}

/// `{header: authorization, env: UPSTREAM_KEY}` or `{header: x-api-key, file: /run/secrets/key}`.
fn credential(d: &mut Decoder<'_>, node: &Node) -> Option<UpstreamCredential> {
    let mut fields = d.fields(node, "an upstream's credential")?;
    let header = d.optional(&mut fields, "header", header_name);
    let from_env = d.optional(&mut fields, "env", |d, node| Some(secret_in_variable(d, node)));
    let from_file = d.optional(&mut fields, "file", |d, node| Some(secret_in_file(d, node)));
    d.done(fields);
    let header = header.unwrap_or(http::header::AUTHORIZATION);
    if has_other_meaning(&header) {
        d.fault(node.at, format!("`{header}` has another meaning: no credential stands there")).hint =
            Some("as in authorization or x-api-key".to_owned());
        return None;
    }
    let file = from_file.as_ref().and_then(|read| read.as_ref().map(|(file, _)| file.clone()));
    let from_file = from_file.map(|read| read.map(|(_, secret)| secret));
    let ((Some(secret), None) | (None, Some(secret))) = (from_env, from_file) else {
        d.fault(node.at, "a credential needs one of `env` and `file`");
        return None;
    };
    let secret = secret?;
    let secret = bom::without(&secret).trim();
    if secret.is_empty() {
        d.fault(node.at, "the credential is empty");
        return None;
    }
    if let Some(found) = placeholder::find_in_header(secret) {
        d.fault(node.at, format!("the credential is {}", found.what)).hint = Some(found.hint.to_owned());
        return None;
    }
    let is_bare = header == http::header::AUTHORIZATION && !secret.contains(' ');
    let value = if is_bare { format!("Bearer {secret}") } else { secret.to_owned() };
    let Ok(mut value) = HeaderValue::try_from(value) else {
        d.fault(node.at, "the credential is not a header's value");
        return None;
    };
    value.set_sensitive(true);
    Some(UpstreamCredential { header, value, file })
}

pub(super) fn secret_in_variable(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?;
    let value = d.variable(&name);
    if value.is_none() {
        d.fault(node.at, format!("the environment variable {name} is not set")).hint =
            Some("set it where bearward is started, or name a `file`".to_owned());
    }
    value
}

pub(super) fn secret_in_file(d: &mut Decoder<'_>, node: &Node) -> Option<(ReadFile, String)> {
    let path = d.path(node)?;
    match regular_file::read_text(&path) {
        Ok(value) => Some((ReadFile::new(&path, &value), String::clone(&value))),
        Err(error) => {
            d.fault(node.at, format!("{} can't be read: {error}", path.display()));
            None
        }
    }
}

/// Those that are named, of an upstream or of a route.
pub(super) fn route_timeouts(d: &mut Decoder<'_>, node: &Node) -> Option<RouteTimeouts> {
    let mut fields = d.fields(node, "timeouts")?;
    let f = &mut fields;
    let timeouts = RouteTimeouts {
        connect: d.optional(f, "connect", Decoder::duration),
        response_headers: d.optional(f, "response_headers", Decoder::duration),
        idle: d.optional(f, "idle", Decoder::duration),
    };
    d.done(fields);
    Some(timeouts)
}

/// `{path: /health, interval: 5s, timeout: 2s, failures: 2, successes: 1}`.
fn health(d: &mut Decoder<'_>, node: &Node) -> Option<HealthCheck> {
    let mut fields = d.fields(node, "a health check")?;
    let f = &mut fields;
    let path = d.required(f, "path", |d, node| {
        let path: PathAndQuery = d.parsed(node, "a path", "as in /health")?;
        if !path.as_str().starts_with('/') || !path.as_str().is_ascii() {
            d.fault(node.at, "a path begins with `/`, and is ASCII").hint = Some("as in /health".to_owned());
            return None;
        }
        if path.path().starts_with("/grpc.") {
            let hint =
                "leave `health` out for gRPC: that an endpoint can be connected to is seen by requests";
            d.fault(node.at, "a health check is a GET, which gRPC does not have").hint =
                Some(hint.to_owned());
            return None;
        }
        Some(path)
    });
    let interval = d.optional(f, "interval", pause).unwrap_or(Duration::from_secs(5));
    let timeout = d.optional(f, "timeout", pause).unwrap_or(Duration::from_secs(2));
    let failures = d.optional(f, "failures", |d, node| d.number(node, 1)).unwrap_or(2);
    let successes = d.optional(f, "successes", |d, node| d.number(node, 1)).unwrap_or(1);
    d.done(fields);
    Some(HealthCheck { path: path?, interval, timeout, failures, successes })
}

/// The pause between two questions to a server, or its time to answer: never none.
fn pause(d: &mut Decoder<'_>, node: &Node) -> Option<Duration> {
    let pause = d.duration(node)?;
    if pause < SHORTEST_PAUSE {
        d.fault(node.at, "too short a pause").hint = Some("at least 100ms".to_owned());
        return None;
    }
    Some(pause)
}

fn pool(d: &mut Decoder<'_>, node: &Node) -> Option<Pool> {
    let mut fields = d.fields(node, "a pool")?;
    let default = Pool::default();
    let pool = Pool {
        idle: d.optional(&mut fields, "idle", Decoder::duration).unwrap_or(default.idle),
        max_idle: d
            .optional(&mut fields, "max_idle", |d, node| d.number(node, 0))
            .unwrap_or(default.max_idle),
        max_age: d.optional(&mut fields, "max_age", Decoder::duration).unwrap_or(default.max_age),
    };
    d.done(fields);
    Some(pool)
}
