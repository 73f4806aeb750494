//! The upstreams of a configuration.

use http::{HeaderValue, Uri};

use super::{header_name, non_empty};
use crate::config::decode::Decoder;
use crate::config::tree::Node;
use crate::config::{Ambiguity, Endpoint, Pool, Timeouts, Upstream, UpstreamCredential};

pub(super) fn upstreams(d: &mut Decoder<'_>, node: &Node) -> Option<Vec<Upstream>> {
    let mut names: Vec<String> = Vec::new();
    non_empty(d, node, |d, node| {
        let upstream = upstream(d, node)?;
        if names.contains(&upstream.name) {
            d.fault(node.at, format!("the upstream `{}` stands twice", upstream.name));
        }
        names.push(upstream.name.clone());
        Some(upstream)
    })
}

fn upstream(d: &mut Decoder<'_>, node: &Node) -> Option<Upstream> {
    let mut fields = d.fields(node, "an upstream")?;
    let f = &mut fields;
    let name = d.required(f, "name", Decoder::word);
    let endpoint = d.required(f, "endpoints", endpoints);
    let credential = d.optional(f, "credential", |d, node| Some(credential(d, node)));
    let timeouts = d.optional(f, "timeouts", timeouts);
    let pool = d.optional(f, "pool", pool);
    let accept_in_path =
        d.optional(f, "accept_in_path", |d, node| d.list(node, |d, node| d.one_of(node, &Ambiguity::ALL)));
    d.done(fields);
    let credential = match credential {
        Some(section) => Some(section?),
        None => None,
    };
    Some(Upstream {
        name: name?,
        endpoint: endpoint?,
        credential,
        timeouts: timeouts.unwrap_or_default(),
        pool: pool.unwrap_or_default(),
        accept_in_path: accept_in_path.unwrap_or_default(),
    })
}

fn endpoints(d: &mut Decoder<'_>, node: &Node) -> Option<Endpoint> {
    let mut endpoints = non_empty(d, node, endpoint)?;
    if endpoints.len() > 1 {
        d.fault(node.at, "this version takes one endpoint an upstream").hint =
            Some("put a load balancer behind it, or name several upstreams".to_owned());
        return None;
    }
    endpoints.pop()
}

/// Reads `http://host:port` or `unix:/path`.
fn endpoint(d: &mut Decoder<'_>, node: &Node) -> Option<Endpoint> {
    let text = d.word(node)?;
    match parse_endpoint(&text) {
        Ok(endpoint) => Some(endpoint),
        Err(message) => {
            d.fault(node.at, message).hint =
                Some("as in http://127.0.0.1:8000 or unix:/run/model.sock".to_owned());
            None
        }
    }
}

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path.starts_with('/') {
            true => Ok(Endpoint::Unix(path.into())),
            false => Err("a unix socket needs an absolute path".to_owned()),
        };
    }
    let uri: Uri = text.parse().map_err(|_| format!("`{text}` is not an endpoint"))?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(authority)) if authority.as_str().contains('@') => {
            Err("an endpoint takes no user info; `credential` sets a header".to_owned())
        }
        (Some("http"), Some(authority)) if matches!(uri.path(), "" | "/") && uri.query().is_none() => {
            Ok(Endpoint::Http(authority.as_str().to_owned()))
        }
        (Some("http"), Some(_)) => Err(format!("`{text}`: an endpoint has no path")),
        (Some(scheme @ ("https" | "h2c")), _) => {
            Err(format!("{scheme}:// endpoints are not in this version"))
        }
        _ => Err(format!("`{text}` is not an endpoint")),
    }
}

/// `{header: authorization, env: UPSTREAM_KEY}` or `{header: x-api-key, file: /run/secrets/key}`.
fn credential(d: &mut Decoder<'_>, node: &Node) -> Option<UpstreamCredential> {
    let mut fields = d.fields(node, "an upstream's credential")?;
    let header = d.optional(&mut fields, "header", header_name);
    let from_env = d.optional(&mut fields, "env", |d, node| Some(secret_in_variable(d, node)));
    let from_file = d.optional(&mut fields, "file", |d, node| Some(secret_in_file(d, node)));
    d.done(fields);
    let header = header.unwrap_or(http::header::AUTHORIZATION);
    let ((Some(secret), None) | (None, Some(secret))) = (from_env, from_file) else {
        d.fault(node.at, "a credential needs one of `env` and `file`");
        return None;
    };
    let secret = secret?;
    let secret = secret.trim();
    if secret.is_empty() {
        d.fault(node.at, "the credential is empty");
        return None;
    }
    let is_bare = header == http::header::AUTHORIZATION && !secret.contains(' ');
    let value = if is_bare { format!("Bearer {secret}") } else { secret.to_owned() };
    let Ok(mut value) = HeaderValue::try_from(value) else {
        d.fault(node.at, "the credential is not a header's value");
        return None;
    };
    value.set_sensitive(true);
    Some(UpstreamCredential { header, value })
}

fn secret_in_variable(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = d.word(node)?;
    let value = d.variable(&name);
    if value.is_none() {
        d.fault(node.at, format!("the environment variable {name} is not set"));
    }
    value
}

fn secret_in_file(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let path = d.path(node)?;
    match std::fs::read_to_string(&path) {
        Ok(value) => Some(value),
        Err(error) => {
            d.fault(node.at, format!("{} can't be read: {error}", path.display()));
            None
        }
    }
}

fn timeouts(d: &mut Decoder<'_>, node: &Node) -> Option<Timeouts> {
    let mut fields = d.fields(node, "timeouts")?;
    let f = &mut fields;
    let default = Timeouts::default();
    let timeouts = Timeouts {
        connect: d.optional(f, "connect", Decoder::duration).unwrap_or(default.connect),
        response_headers: d
            .optional(f, "response_headers", Decoder::duration)
            .unwrap_or(default.response_headers),
        idle: d.optional(f, "idle", Decoder::duration).unwrap_or(default.idle),
    };
    d.done(fields);
    Some(timeouts)
}

fn pool(d: &mut Decoder<'_>, node: &Node) -> Option<Pool> {
    let mut fields = d.fields(node, "a pool")?;
    let default = Pool::default();
    let pool = Pool {
        idle: d.optional(&mut fields, "idle", Decoder::duration).unwrap_or(default.idle),
        max_idle: d
            .optional(&mut fields, "max_idle", |d, node| d.number(node, 0))
            .unwrap_or(default.max_idle),
    };
    d.done(fields);
    Some(pool)
}
