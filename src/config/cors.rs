//! `cors`: the web pages of other origins whose scripts may read the answers.
//!
//! Invariant: each origin is in the form that browsers send, and an empty `cors` allows nothing.

use std::time::Duration;

use http::{HeaderName, Method};
use serde_json::json;

use crate::config::decode::Decoder;
use crate::config::form::{Form, boolean, duration, list_of, non_empty, text};
use crate::config::header_name::header_name;
use crate::config::host::accepted;
use crate::config::method::method;
use crate::config::section::{nested, section};
use crate::config::tree::{Kind, Node};
use crate::web_origin::WebOrigin;

section! {
    /// The web pages of other origins whose scripts may read the answers.
    #[derive(Clone, Debug)]
    pub(crate) struct Cors in "cors" {
        /// The origins of the pages, each exactly as browsers send it; or `["*"]` for the pages of
        /// all origins.
        origins: CorsOrigins = origins().required();
        /// The methods that a preflight allows, at least one. Left out: those of the routes.
        methods: Option<Vec<Method>> = non_empty(text(method)).optional();
        /// The request headers that a preflight allows, at least one. Left out: those that the
        /// preflight asks for.
        headers: Option<Vec<HeaderName>> = non_empty(text(request_header)).optional();
        /// Headers of answers that scripts may read, in addition to the rate-limit headers,
        /// `retry-after`, `x-request-id`, `x-should-retry`, `www-authenticate` and `x-bearward-*`.
        expose: Vec<HeaderName> = list_of(text(answer_header).shown()).or_default();
        /// Whether scripts may read answers to requests with cookies or other credentials of the
        /// browser. A key that a script sends in a header needs no `credentials`.
        credentials: bool = boolean().or(false);
        /// The time for which browsers may keep the answer to a preflight, in whole seconds.
        max_age: Duration = duration().checked(whole_seconds).or(Duration::from_secs(600));
    }
}

/// The origins of the pages whose scripts may read the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CorsOrigins {
    /// All origins: `["*"]`.
    Any,
    /// These origins, at least one.
    Listed(Vec<WebOrigin>),
}

/// Headers that no script can set on a request (Fetch, "forbidden request-header"). Listing such a
/// header would allow nothing.
const FORBIDDEN_IN_REQUESTS: [&str; 20] = [
    "accept-charset",
    "accept-encoding",
    "access-control-request-headers",
    "access-control-request-method",
    "connection",
    "content-length",
    "cookie",
    "cookie2",
    "date",
    "dnt",
    "expect",
    "host",
    "keep-alive",
    "origin",
    "referer",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
];

pub(super) fn cors() -> Form<Cors> {
    nested::<Cors>().checked(|d, node, cors| {
        if cors.credentials && cors.origins == CorsOrigins::Any {
            // Browsers refuse `*` for requests with credentials (Fetch, "CORS check").
            return d.hinted(
                node.position_of("credentials"),
                "`credentials: true` needs origins: browsers refuse it together with `*`",
                "list the origins, or leave `credentials` out",
            );
        }
        Some(cors)
    })
}

fn origins() -> Form<CorsOrigins> {
    let decode = |d: &mut Decoder<'_>, node: &Node| {
        let is_any = |item: &Node| item.is_scalar("*");
        match &node.kind {
            Kind::List(items) if items.len() == 1 && items.iter().all(is_any) => Some(CorsOrigins::Any),
            Kind::List(items) if items.iter().any(is_any) => d.hinted(
                node.at,
                "`*` stands for all origins, so it stands alone",
                "[\"*\"], or the list without it",
            ),
            _ => non_empty(text(origin)).checked(unique).decode(d, node).map(CorsOrigins::Listed),
        }
    };
    Form::new(decode, || json!({"type": "array", "items": {"type": "string"}, "minItems": 1}))
}

fn origin(d: &mut Decoder<'_>, node: &Node) -> Option<WebOrigin> {
    let text = d.word(node)?;
    accepted(d, node.at, WebOrigin::parse(&text))
}

fn unique(d: &mut Decoder<'_>, node: &Node, origins: Vec<WebOrigin>) -> Option<Vec<WebOrigin>> {
    let is_repeated =
        |(index, origin): &(usize, &WebOrigin)| origins.iter().take(*index).any(|other| other == *origin);
    if let Some((_, repeated)) = origins.iter().enumerate().find(is_repeated) {
        let message = format!("the origin {} is given twice", repeated.as_str());
        return d.hinted(node.at, message, "keep one of them");
    }
    Some(origins)
}

fn request_header(d: &mut Decoder<'_>, node: &Node) -> Option<HeaderName> {
    let name = header_name(d, node)?;
    let text = name.as_str();
    if FORBIDDEN_IN_REQUESTS.contains(&text) || text.starts_with("sec-") || text.starts_with("proxy-") {
        let message = format!("`{name}` can't be allowed: browsers let no script set it");
        return d.hinted(node.at, message, "as in [authorization, content-type]");
    }
    Some(name)
}

fn answer_header(d: &mut Decoder<'_>, node: &Node) -> Option<HeaderName> {
    let name = header_name(d, node)?;
    if matches!(name.as_str(), "set-cookie" | "set-cookie2") {
        let message = format!("`{name}` can't be exposed: browsers let no script read it");
        return d.hinted(node.at, message, "as in [x-trace-id]");
    }
    Some(name)
}

fn whole_seconds(d: &mut Decoder<'_>, node: &Node, max_age: Duration) -> Option<Duration> {
    match max_age.subsec_nanos() {
        0 => Some(max_age),
        _ => d.hinted(node.at, "`max_age` is in whole seconds", "at least 1s"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::Config;

    use super::*;

    fn read(fields: &str) -> Result<Option<Cors>, String> {
        let source = format!(
            "listeners: [{{address: 127.0.0.1:1}}]\nupstreams: [{{name: m, endpoints: [http://127.0.0.1:2]}}]\nkeys: {{path: k.yaml}}\n{fields}\n"
        );
        match Config::parse(Path::new("c.yaml"), &source, &|_| None) {
            Ok(config) => Ok(config.cors),
            Err(faults) => Err(faults.to_string()),
        }
    }

    #[test]
    fn the_least_that_works_gets_the_documented_defaults() {
        let cors = read("cors: {origins: [https://app.example.com]}").unwrap().unwrap();
        let origin = WebOrigin::parse("https://app.example.com").unwrap();
        assert_eq!(cors.origins, CorsOrigins::Listed(vec![origin]));
        assert_eq!((cors.methods, cors.headers, cors.expose), (None, None, Vec::new()));
        assert_eq!((cors.credentials, cors.max_age.as_secs()), (false, 600));
        assert_eq!(read("cors: {origins: ['*']}").unwrap().unwrap().origins, CorsOrigins::Any);
        assert!(read("").unwrap().is_none());
    }

    #[test]
    fn a_cors_that_would_not_work_is_refused() {
        let route = |cors: &str| {
            format!(
                "routes: [{{name: a, paths: [/a], methods: [GET], public: true, cors: {{origins: ['*'], {cors}}}}}]"
            )
        };
        for (fields, fault) in [
            ("cors:".to_owned(), "has no value"),
            ("cors: {}".to_owned(), "needs the field `origins`"),
            ("cors: []".to_owned(), "must be a map"),
            ("cors: '*'".to_owned(), "must be a map"),
            ("cors: {origins: }".to_owned(), "needs the field `origins`"),
            ("cors: {origins: []}".to_owned(), "at least one"),
            ("cors: {origins: '*'}".to_owned(), "a list is needed"),
            ("cors: {origins: https://a.example}".to_owned(), "a list is needed"),
            ("cors: {origins: [~]}".to_owned(), "no value"),
            ("cors: {origins: ['']}".to_owned(), "empty"),
            ("cors: {origins: ['null']}".to_owned(), "sandboxed"),
            ("cors: {origins: ['*', https://a.example]}".to_owned(), "stands alone"),
            ("cors: {origins: ['*', '*']}".to_owned(), "stands alone"),
            ("cors: {origins: ['https://*.example']}".to_owned(), "patterns"),
            ("cors: {origins: [https://a.example/]}".to_owned(), "https://a.example is meant"),
            ("cors: {origins: [https://a.example, https://a.example]}".to_owned(), "twice"),
            ("cors: {origins: ['*'], credentials: true}".to_owned(), "together with `*`"),
            ("cors: {origins: ['*'], methods: []}".to_owned(), "at least one"),
            ("cors: {origins: ['*'], methods: [get]}".to_owned(), "GET is meant"),
            ("cors: {origins: ['*'], methods: ['*']}".to_owned(), "leave `methods` out"),
            ("cors: {origins: ['*'], headers: []}".to_owned(), "at least one"),
            ("cors: {origins: ['*'], headers: ['*']}".to_owned(), "patterns"),
            ("cors: {origins: ['*'], headers: [a b]}".to_owned(), "not the name of a header"),
            ("cors: {origins: ['*'], headers: [Cookie]}".to_owned(), "no script set"),
            ("cors: {origins: ['*'], headers: [sec-fetch-mode]}".to_owned(), "no script set"),
            ("cors: {origins: ['*'], expose: }".to_owned(), "has no value"),
            ("cors: {origins: ['*'], expose: ['*']}".to_owned(), "patterns"),
            ("cors: {origins: ['*'], expose: [set-cookie]}".to_owned(), "no script read"),
            ("cors: {origins: ['*'], max_age: 0s}".to_owned(), "not a duration"),
            ("cors: {origins: ['*'], max_age: 1500ms}".to_owned(), "whole seconds"),
            ("cors: {origins: ['*'], max_age: 600}".to_owned(), "not a duration"),
            ("cors: {origins: ['*'], origin: x}".to_owned(), "unknown field `origin`"),
            (route("credentials: true"), "together with `*`"),
            (route("methods: [POST]"), "does not match"),
        ] {
            let faults = read(&fields).unwrap_err();
            assert!(faults.contains(fault), "{fields}: {faults}");
        }
        assert!(read(&route("methods: [GET, HEAD]")).is_ok());
    }
}
