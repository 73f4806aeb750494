//! CORS: the web pages of other origins whose scripts may read the answers (Fetch, "CORS
//! protocol").
//!
//! `route` compiles the policies, `gate` chooses the policy of a request, and `proxy` writes the
//! headers of answers. Browsers enforce CORS, for the sake of their users: a policy decides which
//! pages may read an answer, and never whether a request is served.
//! Invariant: an origin that is not listed gets no header that lets its pages read an answer.

use std::sync::Arc;

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{HeaderMap, Method, Response, StatusCode};
use smallvec::SmallVec;

use crate::config::{self, CorsOrigins, LONGEST_METHOD};
use crate::web_origin::is_origin;

/// Headers of answers that scripts may read, in addition to those that Fetch always lets them read.
const EXPOSED: [&str; 12] = [
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "www-authenticate",
    "x-ratelimit-limit-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-requests",
    "x-ratelimit-reset-tokens",
    "x-request-id",
    "x-should-retry",
];
/// Beginnings of further names of headers that scripts may read if an answer has such a header.
/// `Access-Control-Expose-Headers` has no patterns, so these names are listed answer by answer.
const EXPOSED_PREFIXES: [&str; 3] = ["ratelimit", "x-bearward-", "x-ratelimit-"];
/// The length in bytes of the longest `Access-Control-Request-Headers` that a preflight's answer
/// repeats. Without this bound, a client without a key could make bearward send as many bytes as
/// the limit of a request's headers allows.
const LONGEST_REPEATED: usize = 2048;

/// A compiled `cors`: the pages that may read the answers of some routes.
#[derive(Debug)]
pub(crate) struct CorsPolicy {
    origins: Origins,
    /// CORS of the answer to a request of any other page, or of no page.
    unlisted: Arc<CorsAnswer>,
    methods: AllowedMethods,
    /// Value of `Access-Control-Allow-Headers`; `None` to repeat the names that a preflight asks
    /// for.
    headers: Option<HeaderValue>,
    max_age: HeaderValue,
}

/// The origins of a policy, each with the CORS of answers to its pages.
#[derive(Debug)]
enum Origins {
    Any(Arc<CorsAnswer>),
    Listed(Vec<(HeaderValue, Arc<CorsAnswer>)>),
}

/// The methods that preflights allow.
#[derive(Debug)]
enum AllowedMethods {
    /// Every method, because some route matches every method.
    Every,
    /// These methods; `None` if there are none.
    Listed(Option<HeaderValue>),
}

/// The CORS headers of the answer to one request.
#[derive(Debug)]
pub(crate) struct CorsAnswer(Option<Allowed>);

/// The headers that let the scripts of a listed page read an answer.
#[derive(Debug)]
struct Allowed {
    origin: HeaderValue,
    exposed: HeaderValue,
    credentials: bool,
}

impl CorsPolicy {
    /// Compiles a `cors`. `of_routes`: the methods of each route that the policy holds for; `None`
    /// for a route that matches every method.
    pub(crate) fn new<'m>(
        cors: &config::Cors,
        of_routes: impl Iterator<Item = Option<&'m [Method]>>,
    ) -> CorsPolicy {
        let exposed = EXPOSED.into_iter().chain(cors.expose.iter().map(HeaderName::as_str));
        let exposed = list(exposed);
        let answer = |origin: HeaderValue| {
            let exposed = exposed.clone().unwrap_or_else(|| HeaderValue::from_static(""));
            Arc::new(CorsAnswer(Some(Allowed { origin, exposed, credentials: cors.credentials })))
        };
        let origins = match &cors.origins {
            CorsOrigins::Any => Origins::Any(answer(HeaderValue::from_static("*"))),
            CorsOrigins::Listed(origins) => {
                let values = origins.iter().filter_map(|origin| HeaderValue::from_str(origin.as_str()).ok());
                Origins::Listed(values.map(|value| (value.clone(), answer(value))).collect())
            }
        };
        let methods = match &cors.methods {
            Some(methods) => AllowedMethods::Listed(list(methods.iter().map(Method::as_str))),
            None => AllowedMethods::of_routes(of_routes),
        };
        CorsPolicy {
            origins,
            unlisted: Arc::new(CorsAnswer::unlisted()),
            methods,
            headers: cors.headers.as_ref().and_then(|names| list(names.iter().map(HeaderName::as_str))),
            max_age: HeaderValue::from(cors.max_age.as_secs()),
        }
    }

    /// Returns the CORS of the answer to a request with these headers.
    pub(crate) fn answer_to(&self, headers: &HeaderMap) -> &Arc<CorsAnswer> {
        self.listed(headers).unwrap_or(&self.unlisted)
    }

    /// Whether the pages of the request's origin may read the answers.
    pub(crate) fn lists_origin_of(&self, headers: &HeaderMap) -> bool {
        self.listed(headers).is_some()
    }

    /// Whether the pages of the request's origin may send credentials of the browser.
    pub(crate) fn lists_for_credentials(&self, headers: &HeaderMap) -> bool {
        let allowed = self.listed(headers).and_then(|answer| answer.0.as_ref());
        allowed.is_some_and(|allowed| allowed.credentials)
    }

    /// Returns the CORS of an answer that the pages of no origin may read.
    pub(crate) fn unlisted(&self) -> &Arc<CorsAnswer> {
        &self.unlisted
    }

    fn listed(&self, headers: &HeaderMap) -> Option<&Arc<CorsAnswer>> {
        let origin = only(headers, &ORIGIN)?;
        match &self.origins {
            Origins::Any(answer) => origin.to_str().is_ok_and(is_origin).then_some(answer),
            Origins::Listed(origins) => {
                origins.iter().find(|(listed, _)| listed == origin).map(|(_, answer)| answer)
            }
        }
    }

    /// Returns the answer to a preflight for `method`; `None` if its origin is not listed.
    pub(crate) fn preflight(&self, headers: &HeaderMap, method: &Method) -> Option<Response<()>> {
        let Allowed { origin, credentials, .. } = self.listed(headers)?.0.as_ref()?;
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let answer = response.headers_mut();
        answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if *credentials {
            answer.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(methods) = self.methods.value(method) {
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
        }
        if let Some(names) = self.headers.clone().or_else(|| repeated_names(headers)) {
            answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
        }
        answer.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        const ALL: &str = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers";
        answer.insert(VARY, HeaderValue::from_static(ALL));
        Some(response)
    }

    /// Describes the pages, for people.
    pub(crate) fn pages(&self) -> String {
        match &self.origins {
            Origins::Any(_) => "all origins".to_owned(),
            Origins::Listed(origins) => {
                let origins = origins.iter().filter_map(|(origin, _)| origin.to_str().ok());
                origins.collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// Describes what preflights allow, for people.
    pub(crate) fn allowed(&self) -> String {
        let text = |value: &Option<HeaderValue>| {
            value.as_ref().and_then(|value| value.to_str().ok()).unwrap_or("none").to_owned()
        };
        let methods = match &self.methods {
            AllowedMethods::Every => "every method".to_owned(),
            AllowedMethods::Listed(methods) => text(methods),
        };
        match &self.headers {
            None => format!("{methods}, with the headers that it asks for"),
            headers => format!("{methods}, with the headers {}", text(headers)),
        }
    }
}

impl AllowedMethods {
    fn of_routes<'m>(routes: impl Iterator<Item = Option<&'m [Method]>>) -> Self {
        let mut all: Vec<&str> = Vec::new();
        for methods in routes {
            let Some(methods) = methods else { return AllowedMethods::Every };
            all.extend(methods.iter().map(Method::as_str));
            // A route that matches GET also matches HEAD.
            all.extend(methods.contains(&Method::GET).then_some("HEAD"));
        }
        all.sort_unstable();
        all.dedup();
        AllowedMethods::Listed(list(all.into_iter()))
    }

    /// Returns the value of `Access-Control-Allow-Methods` for a preflight that asks for `method`.
    fn value(&self, method: &Method) -> Option<HeaderValue> {
        match self {
            // `*` would not hold for requests with credentials of the browser (Fetch,
            // "CORS-preflight fetch"), so the requested method is repeated.
            AllowedMethods::Every => HeaderValue::from_str(method.as_str()).ok(),
            AllowedMethods::Listed(methods) => methods.clone(),
        }
    }
}

impl CorsAnswer {
    /// Makes the CORS of an answer that the pages of no other origin may read.
    pub(crate) fn unlisted() -> Self {
        CorsAnswer(None)
    }

    /// Writes the CORS headers of an answer, in place of the upstream's own. A 101 answer gets no
    /// CORS headers: browsers open WebSockets to any origin.
    pub(crate) fn write_to(&self, status: StatusCode, headers: &mut HeaderMap) {
        let is_of_cors = |name: &&HeaderName| name.as_str().starts_with("access-control-");
        let of_upstream: SmallVec<[HeaderName; 4]> = headers.keys().filter(is_of_cors).cloned().collect();
        for name in of_upstream {
            headers.remove(name);
        }
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return;
        }
        // Caches must keep the answers to different origins apart, also those without CORS headers.
        if !varies_by_origin(headers) {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        let Some(Allowed { origin, exposed, credentials }) = &self.0 else { return };
        let more = more_exposed(headers, exposed);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, more.unwrap_or_else(|| exposed.clone()));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if *credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
    }
}

/// Returns the method for which a preflight asks; `None` if the request is no preflight: an OPTIONS
/// request with one `Origin` and one `Access-Control-Request-Method` (Fetch, "CORS-preflight
/// request").
pub(crate) fn preflighted_method(parts: &Parts) -> Option<Method> {
    if parts.method != Method::OPTIONS {
        return None;
    }
    only(&parts.headers, &ORIGIN)?;
    let method = only(&parts.headers, &ACCESS_CONTROL_REQUEST_METHOD)?;
    // The answer may repeat the method, so its length is bounded like that of a request's method.
    Method::from_bytes(method.as_bytes()).ok().filter(|method| method.as_str().len() <= LONGEST_METHOD)
}

/// Returns the value of a header that is there once.
fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// Returns a list as the value of a header; `None` if the list is empty.
fn list<'n>(names: impl Iterator<Item = &'n str>) -> Option<HeaderValue> {
    let names: Vec<&str> = names.collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|value| !value.is_empty())
}

/// Returns the names of headers that a preflight asks for, as the value of a header; `None` if any
/// is not the name of a header, or if they are too long.
fn repeated_names(headers: &HeaderMap) -> Option<HeaderValue> {
    let values = headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS);
    if values.iter().map(HeaderValue::len).sum::<usize>() > LONGEST_REPEATED {
        return None;
    }
    let names = values.iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let names = names.map(|name| HeaderName::from_bytes(name.trim_ascii()));
    let names: Vec<HeaderName> = names.collect::<Result<_, _>>().ok()?;
    list(names.iter().map(HeaderName::as_str))
}

/// Whether the answer's `Vary` already has `Origin`, or `*`.
fn varies_by_origin(headers: &HeaderMap) -> bool {
    headers.get_all(VARY).iter().any(|value| {
        let mut names = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
        names.any(|name| name == b"*" || name.eq_ignore_ascii_case(b"origin"))
    })
}

/// Returns `exposed` with the answer's headers that have one of [`EXPOSED_PREFIXES`]; `None` if the
/// answer has no such header beside [`EXPOSED`].
fn more_exposed(headers: &HeaderMap, exposed: &HeaderValue) -> Option<HeaderValue> {
    let is_more = |name: &&str| {
        EXPOSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && !EXPOSED.contains(name)
    };
    let mut more = headers.keys().map(HeaderName::as_str).filter(is_more).peekable();
    more.peek()?;
    list(exposed.to_str().into_iter().chain(more))
}

#[cfg(test)]
mod tests;
