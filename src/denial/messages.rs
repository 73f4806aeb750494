//! The messages of all answers that bearward makes: for each, its code, its public sentence, its
//! details and its headers.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::answer::Denial;
use super::code::Code;
use crate::mask::masked;

impl Denial {
    /// 401: the request has no credential, an empty one, or one with another scheme than Bearer.
    pub(crate) fn missing_key(header: &str) -> Self {
        let challenge = HeaderValue::from_static(r#"Bearer realm="bearward""#);
        Denial::new(Code::MissingApiKey, "API key is required", json!({"header": header}))
            .header(WWW_AUTHENTICATE, challenge)
    }

    /// 401: no valid key matches the credential. The exact reason is only logged.
    pub(crate) fn invalid_key(key_id: &str) -> Self {
        let details = json!({"key_id": key_id});
        Denial::new(Code::InvalidApiKey, "The provided API key is invalid", details)
            .header(WWW_AUTHENTICATE, INVALID_TOKEN)
    }

    /// 401: the credential is the secret of a key that has expired.
    pub(crate) fn expired_key(expired_at: Timestamp) -> Self {
        let details = json!({"expired_at": expired_at.to_string()});
        Denial::new(Code::ExpiredApiKey, "The API key has expired", details)
            .header(WWW_AUTHENTICATE, INVALID_TOKEN)
    }

    /// 403: the key is valid, but lacks the route's permission (RFC 6750, section 3.1).
    pub(crate) fn insufficient_permissions(required: &str, granted: &[&str]) -> Self {
        let challenge = format!(r#"Bearer realm="bearward", error="insufficient_scope", scope="{required}""#);
        let details = json!({"required": required, "granted": granted});
        let denial =
            Denial::new(Code::InsufficientPermissions, "The API key lacks the required permission", details);
        match HeaderValue::try_from(challenge) {
            Ok(challenge) => denial.header(WWW_AUTHENTICATE, challenge),
            Err(_) => denial,
        }
    }

    /// 403: the key is restricted to a list of routes, and this route is not on it.
    pub(crate) fn route_not_allowed(route: &str, allowed: &[String]) -> Self {
        let details = json!({"route": route, "allowed": allowed});
        Denial::new(Code::RouteNotAllowed, "The API key may not use this route", details)
    }

    /// 403: the caller is no proxy that may ask here.
    pub(crate) fn untrusted_caller() -> Self {
        Denial::new(Code::UntrustedCaller, "This listener is for trusted proxies", json!({}))
    }

    /// 403: the key has a limit that can't be held by whoever sees only the beginning of a request.
    pub(crate) fn unenforceable_limit(limit: &str) -> Self {
        let message = "The key has a limit that cannot be held here";
        Denial::new(Code::UnenforceableLimit, message, json!({"limit": limit}))
    }

    /// 429: a rate limit is used up. A request after `retry_after` is accepted, if no other request
    /// is charged before.
    pub(crate) fn rate_limited(policy: &str, limit: u32, window: Duration, retry_after: Duration) -> Self {
        let seconds = whole_seconds(retry_after);
        let details = json!({
            "policy": policy,
            "limit": limit,
            "window_seconds": window.as_secs(),
            "retry_after_seconds": seconds,
        });
        Denial::new(Code::RateLimitExceeded, "Rate limit exceeded", details).retry_after(seconds)
    }

    /// 429: a budget is used up until its next period begins.
    pub(crate) fn budget_exceeded(
        policy: &str,
        limit: u64,
        resets_at: Timestamp,
        retry_after: Duration,
    ) -> Self {
        let details = json!({"policy": policy, "limit": limit, "resets_at": resets_at.to_string()});
        Denial::new(Code::BudgetExceeded, "The budget is used up", details)
            .retry_after(whole_seconds(retry_after))
    }

    /// 400: the request's input alone needs more tokens than a limit ever grants.
    pub(crate) fn tokens_exceed_limit(policy: &str, limit: u32, estimated: u32) -> Self {
        let details = json!({"policy": policy, "limit": limit, "estimated": estimated});
        let message = "The request alone needs more tokens than the limit";
        Denial::new(Code::TokensExceedLimit, message, details)
    }

    /// 400: the request asks for more output than its key or route allows. `field`: the name of the
    /// member that asks.
    pub(crate) fn output_limit(field: &str, limit: u32) -> Self {
        let message = "The request asks for more output than the key may";
        Denial::new(Code::OutputLimitExceeded, message, json!({"field": field, "limit": limit}))
    }

    /// 400: the key has a cap on output, and the configuration of the route does not say how its
    /// requests ask for output.
    pub(crate) fn output_hidden(route: &str, limit: u32) -> Self {
        let message = "The output of such requests on this route can't be limited";
        Denial::new(
            Code::OutputLimitExceeded,
            message,
            json!({"field": null, "limit": limit, "route": route}),
        )
    }

    /// 400: the answer would be made in the background, where its tokens are not seen.
    pub(crate) fn in_background() -> Self {
        let message = "The tokens of an answer that is made in the background can't be limited";
        Denial::new(Code::BadRequest, message, json!({"field": "background"}))
    }

    /// 400: the client picks the members of the answer, by whose counts its tokens are limited.
    pub(crate) fn picked_answer() -> Self {
        let message = "The tokens of an answer whose members are picked can't be limited";
        Denial::new(Code::BadRequest, message, json!({"field": "response_fields"}))
    }

    /// 400: servers might disagree on whether the answer is a stream with its usage, by which its tokens are
    /// limited.
    pub(crate) fn unclear_stream() -> Self {
        let message = "`stream` or `stream_options` can't be read in only one way, and the tokens of the answer are limited";
        Denial::new(Code::BadRequest, message, json!({"field": "stream"}))
    }

    /// 403: the key lists models, and `model` is none of them. `None`: the request names no model.
    pub(crate) fn model_not_allowed(model: Option<&str>, allowed: &[String]) -> Self {
        let details = json!({"model": model, "allowed": allowed});
        Denial::new(Code::ModelNotAllowed, "The API key may not use this model", details)
    }

    /// 400: servers might disagree on the model that the request names, or the model is behind the
    /// part of the body that is looked at.
    pub(crate) fn unclear_model() -> Self {
        let message = "The model of the request can't be read in only one way";
        Denial::new(Code::BadRequest, message, json!({"field": "model"}))
    }

    /// 400: the client asks for a class that does not exist.
    pub(crate) fn unknown_priority(header: &HeaderName) -> Self {
        let message = "The class of a request is interactive, standard or batch";
        Denial::new(Code::BadRequest, message, json!({"header": header.as_str()}))
    }

    /// 400: the body's `priority` can't be set, because servers might disagree on the body, or because it has
    /// one behind the part that is looked at.
    pub(crate) fn unclear_priority() -> Self {
        let message = "The priority of the request can't be set";
        Denial::new(Code::BadRequest, message, json!({"field": "priority"}))
    }

    /// 503: the limits of all replicas can't be read.
    pub(crate) fn limiter_unavailable() -> Self {
        Denial::new(Code::LimiterUnavailable, "The limits can't be checked now", json!({})).retry_after(1)
    }

    /// 503: the usage of all replicas can't be read.
    pub(crate) fn usage_unavailable() -> Self {
        Denial::new(Code::LimiterUnavailable, "The usage can't be read now", json!({})).retry_after(1)
    }

    /// 503: it is not known which keys are valid now.
    pub(crate) fn key_store_unavailable() -> Self {
        Denial::new(Code::KeyStoreUnavailable, "The API keys can't be checked now", json!({})).retry_after(1)
    }

    /// 503: the parts of bodies that are held back need more memory than they may.
    pub(crate) fn too_much_held_back() -> Self {
        Denial::new(Code::Overloaded, "Too many request bodies are being read", json!({})).retry_after(1)
    }

    /// 429: the key has as many requests in flight as its limit allows.
    pub(crate) fn concurrency(limit: u32) -> Self {
        Denial::new(Code::ConcurrencyExceeded, "Too many requests in flight", json!({"limit": limit}))
            .retry_after(1)
    }

    /// 429: the address has presented too many credentials that match no key.
    pub(crate) fn too_many_failed_attempts(retry_after: Duration) -> Self {
        let seconds = whole_seconds(retry_after);
        let details = json!({"retry_after_seconds": seconds});
        Denial::new(Code::TooManyFailedAttempts, "Too many failed attempts", details).retry_after(seconds)
    }

    /// 400: the request is ambiguous or malformed. The connection is closed after this answer,
    /// because it is uncertain where the next request begins.
    pub(crate) fn bad_request(message: impl Into<Cow<'static, str>>) -> Self {
        Denial::new(Code::BadRequest, message, Value::Null).closing()
    }

    /// 400: like [`Denial::bad_request`], and names the part of the request that is at fault.
    pub(crate) fn bad_part(message: impl Into<Cow<'static, str>>, part: &str, value: &str) -> Self {
        Denial::new(Code::BadRequest, message, json!({part: value})).closing()
    }

    /// 400: the target is not in its canonical form, and whoever asks would forward it as it is.
    pub(crate) fn not_canonical(canonical: &str) -> Self {
        let message = "The path is not in its canonical form";
        Denial::new(Code::BadRequest, message, json!({"canonical": masked(canonical)}))
    }

    /// 408: the time that the caller had set for its call is over.
    pub(crate) fn deadline_exceeded() -> Self {
        Denial::new(Code::RequestTimeout, "The deadline of the call has passed", json!({}))
    }

    /// 404: the key is valid, but no route matches.
    pub(crate) fn route_not_found(method: &str, path: &str) -> Self {
        let details = json!({"method": masked(method), "path": masked(path)});
        Denial::new(Code::RouteNotFound, "No route matches this request", details)
    }

    /// 405: the method is CONNECT or TRACE. RFC 9110, section 15.5.6 requires `Allow`.
    pub(crate) fn method_not_allowed(method: &str) -> Self {
        let allow = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS");
        let details = json!({"method": method});
        Denial::new(Code::MethodNotAllowed, "This method is never forwarded", details)
            .header(http::header::ALLOW, allow)
            .closing()
    }

    /// 500: handling this request panicked.
    pub(crate) fn internal() -> Self {
        Denial::new(Code::InternalError, "An internal error; the request id finds it in the log", Value::Null)
    }

    /// 408: no byte of the body arrived for the time of `limits.body_idle_timeout`.
    pub(crate) fn body_stalled(limit: Duration) -> Self {
        let details = json!({"limit_seconds": limit.as_secs_f64()});
        Denial::new(Code::RequestTimeout, "The request body stalled", details).closing()
    }

    /// 413: the body is longer than `limit` bytes.
    pub(crate) fn body_too_large(limit: u64) -> Self {
        let details = json!({"limit_bytes": limit});
        Denial::new(Code::PayloadTooLarge, "The request body is too large", details).closing()
    }

    /// 414: the request target is longer than `limits.uri_bytes`.
    pub(crate) fn uri_too_long(limit: u64) -> Self {
        Denial::new(Code::UriTooLong, "The request target is too long", json!({"limit_bytes": limit}))
            .closing()
    }

    /// 431: the headers have more than `limits.header_bytes` bytes, or their number exceeds
    /// `limits.header_count`.
    pub(crate) fn headers_too_large(limit_bytes: u64, limit_count: u64) -> Self {
        let details = json!({"limit_bytes": limit_bytes, "limit_count": limit_count});
        Denial::new(Code::HeadersTooLarge, "The request's headers are too large", details).closing()
    }

    /// 421: all routes name hosts, and no route names the request's host (RFC 9110, section
    /// 15.5.20).
    pub(crate) fn misdirected(host: &str) -> Self {
        let details = json!({"host": host});
        Denial::new(Code::MisdirectedRequest, "This host is not served here", details)
    }

    /// 502: the upstream refused or broke the connection. The upstream's address is only logged.
    pub(crate) fn upstream_unreachable(upstream: &str) -> Self {
        let details = json!({"upstream": upstream});
        Denial::new(Code::UpstreamUnreachable, "The upstream can't be reached", details)
    }

    /// 502: the upstream's answer is not HTTP, or is not safe to forward.
    pub(crate) fn upstream_protocol(upstream: &str) -> Self {
        let details = json!({"upstream": upstream});
        Denial::new(Code::UpstreamProtocolError, "The upstream's answer is not valid", details)
    }

    /// 504: the upstream took too long to accept a connection, or to answer.
    pub(crate) fn upstream_timeout(upstream: &str) -> Self {
        let details = json!({"upstream": upstream});
        Denial::new(Code::UpstreamTimeout, "The upstream did not answer in time", details)
    }

    /// 503: no endpoint of the upstream accepts a connection. Used by the readiness probe, which needs no credential:
    /// addresses and reasons are only logged.
    pub(crate) fn upstream_unavailable(upstream: &str) -> Self {
        let details = json!({"upstream": upstream});
        Denial::new(Code::UpstreamUnavailable, "No endpoint of an upstream can be connected to", details)
            .retry_after(1)
    }

    /// 503: all endpoints of the upstream fail their health checks.
    pub(crate) fn upstream_failing_checks(upstream: &str) -> Self {
        let details = json!({"upstream": upstream});
        Denial::new(Code::UpstreamUnavailable, "The upstream is failing its health checks", details)
            .retry_after(1)
    }

    /// 503: too many requests wait for a slot of the upstream. A request that comes after `wait` finds room, as
    /// far as is known.
    pub(crate) fn queue_full(upstream: &str, wait: Duration) -> Self {
        let details = json!({"upstream": upstream});
        Denial::new(Code::QueueFull, "Too many requests are waiting", details)
            .retry_after(whole_seconds(wait))
    }

    /// 503: the request has waited for `max_wait`. One that comes now would wait for `wait`, as far as is known.
    pub(crate) fn queue_timeout(upstream: &str, wait: Duration) -> Self {
        let details = json!({"upstream": upstream});
        Denial::new(Code::QueueTimeout, "The request waited too long", details)
            .retry_after(whole_seconds(wait))
    }

    /// 503: the address has as many connections as its limit allows.
    pub(crate) fn too_many_connections(limit: usize) -> Self {
        let details = json!({"connections_per_address": limit});
        Denial::new(Code::Overloaded, "Too many connections from this address", details)
            .retry_after(1)
            .closing()
    }

    /// 503: as many event streams are open as their limit allows. Used only by the admin API.
    pub(crate) fn too_many_streams(limit: usize) -> Self {
        let details = json!({"event_streams": limit});
        Denial::new(Code::Overloaded, "Too many streams of events are open", details).retry_after(5)
    }

    /// 503: the process has as many requests in flight as its limit allows.
    pub(crate) fn too_many_in_flight(limit: usize) -> Self {
        let details = json!({"in_flight": limit});
        Denial::new(Code::Overloaded, "Too many requests in flight for this server", details).retry_after(1)
    }

    /// 503: the process has no socket left for a connection to the upstream.
    pub(crate) fn out_of_sockets() -> Self {
        Denial::new(Code::Overloaded, "The server has no socket left for this request", Value::Null)
            .retry_after(1)
    }

    /// 405: the path exists, but does not allow the method. Used only by the admin API.
    pub(crate) fn other_methods(allow: &'static str) -> Self {
        Denial::new(Code::MethodNotAllowed, "This path takes other methods", json!({"allow": allow}))
            .header(http::header::ALLOW, HeaderValue::from_static(allow))
    }

    /// 404: no key has this id. Used only by the admin API.
    pub(crate) fn key_not_found() -> Self {
        Denial::new(Code::KeyNotFound, "No key has this id", Value::Null)
    }

    /// 409: the state of the key, or another key, prevents the change. Used only by the admin API.
    pub(crate) fn key_conflict(message: impl Into<Cow<'static, str>>) -> Self {
        Denial::new(Code::KeyConflict, message, Value::Null)
    }

    /// 409: this process can't write the key store. `command` makes the same change where the store
    /// is writable. Used only by the admin API.
    pub(crate) fn store_read_only(why: &str, advice: &str, command: &str) -> Self {
        let details = json!({"reason": why, "advice": advice, "command": command});
        Denial::new(Code::StoreReadOnly, "The key store can't be written from here", details)
    }

    /// 400: the request is well-formed, but a value in it is not acceptable.
    pub(crate) fn bad_content(message: impl Into<Cow<'static, str>>) -> Self {
        Denial::new(Code::BadRequest, message, Value::Null)
    }

    /// 400: like [`Denial::bad_content`], with a list of all faults.
    pub(crate) fn bad_fields(faults: Vec<String>) -> Self {
        Denial::new(Code::BadRequest, "The fields are not what a key has", json!({"faults": faults}))
    }

    /// 422: a reload found faults. The faulty parts keep their previous state. Used only by the
    /// admin API.
    pub(crate) fn reload_refused(details: Value) -> Self {
        Denial::new(
            Code::ReloadRefused,
            "The reload found faults; the faulty parts keep their state from before",
            details,
        )
    }

    /// 403: a request without TLS has a credential, at a listener that redirects to https.
    pub(crate) fn credential_in_clear() -> Self {
        let message = "The API key was sent without TLS; ask for a new one, and send it to https alone";
        Denial::new(Code::CredentialInClear, message, Value::Null).closing()
    }

    /// 503: a listener waits for its first certificate. Used only by the readiness probe. `waiting`: the
    /// names of each certificate, and why it is not there.
    pub(crate) fn certificate_missing(waiting: &Value) -> Self {
        let message = "A listener waits for its first certificate";
        Denial::new(Code::CertificateMissing, message, json!({"certificates": waiting})).retry_after(1)
    }

    /// 503: the process is shutting down.
    pub(crate) fn shutting_down() -> Self {
        Denial::new(Code::ShuttingDown, "The server is shutting down", Value::Null).retry_after(1)
    }
}

const INVALID_TOKEN: HeaderValue =
    HeaderValue::from_static(r#"Bearer realm="bearward", error="invalid_token""#);

/// Returns a duration in whole seconds, rounded up and at least one, because Retry-After must not
/// be too early.
fn whole_seconds(duration: Duration) -> u64 {
    let seconds = duration.as_secs() + u64::from(duration.subsec_nanos() > 0);
    seconds.max(1)
}
