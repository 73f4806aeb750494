//! The catalogue of error codes: the meaning of each code, and advice for callers and operators.
//!
//! `explain`, the admin API and docs/errors.md show the texts of the catalogue. The answer to a
//! client does not contain these texts.

use super::code::Code;

/// The entry of one code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// When a request is answered with this code.
    pub(crate) meaning: &'static str,
    /// Advice for the caller.
    pub(crate) caller: &'static str,
    /// Advice for the operator of the server.
    pub(crate) operator: &'static str,
}

/// The entries of all error codes, in the order of the documentation.
const CATALOGUE: &[(Code, Entry)] = &[
    (
        Code::MissingApiKey,
        Entry {
            meaning: "The request has no credential, an empty one, or one of another scheme than Bearer.",
            caller: "Send `Authorization: Bearer <key>`.",
            operator: "If the clients use another header, add it to auth.headers. A route that needs no key has `public: true`.",
        },
    ),
    (
        Code::InvalidApiKey,
        Entry {
            meaning: "No valid key matches the credential: it is malformed, unknown, revoked, turned off, not valid yet, of \
             another environment, or used from an address that is not allowed.",
            caller: "Check that the whole key was copied; ask for a new one if it was revoked.",
            operator: "The audit log has the real reason. `bearward keys verify` shows which key a token belongs to; \
             `bearward explain METHOD PATH --jwt < TOKEN` says why a token of an issuer identifies nobody.",
        },
    ),
    (
        Code::ExpiredApiKey,
        Entry {
            meaning: "The credential is right, but the key, the grace period of this secret, the token or the certificate \
             has ended.",
            caller: "Ask the operator for a new key. If the key was rotated, use its new secret. Get a new token from its \
             issuer.",
            operator: "`bearward keys rotate ID --expires-in 90d` makes a new secret and gives the key a new end. Tokens \
             and certificates are renewed where they come from.",
        },
    ),
    (
        Code::InsufficientPermissions,
        Entry {
            meaning: "The key is valid, but it does not have the permission that the route needs.",
            caller: "Use a key with the permission in `details.required`.",
            operator: "Add the permission to the key, or change the route. `bearward explain METHOD PATH --key ID` shows the decision.",
        },
    ),
    (
        Code::RouteNotAllowed,
        Entry {
            meaning: "The key is restricted to a list of routes, and this route is not on it.",
            caller: "Use a key that may use the route in `details.route`.",
            operator: "Add the route's name to the key's `routes`, or remove `routes` from the key.",
        },
    ),
    (
        Code::ModelNotAllowed,
        Entry {
            meaning: "The key is restricted to a list of models, and the request names another model, or none.",
            caller: "Use a model that `details.allowed` matches. `GET /v1/models` lists the models of the key.",
            operator: "Add the model to the key's `models`. If the route's requests name no model, set the route's `model_in`, \
             or `models_free: true`.",
        },
    ),
    (
        Code::UntrustedCaller,
        Entry {
            meaning: "The listener is for another proxy that asks whether it may forward a request, and the caller is no such proxy.",
            caller: "Send the request to the proxy.",
            operator: "If the caller is the proxy, add its address to trusted_proxies.",
        },
    ),
    (
        Code::UnenforceableLimit,
        Entry {
            meaning: "The key, its group or the route has a limit that can't be held where another proxy forwards the request: `details.limit`.",
            caller: "Use bearward itself, or a key without this limit.",
            operator: "Remove the limit, serve such keys by a listener of bearward's own, or set `unenforceable: ignore` at the \
             listener. A rule for models always needs the body: let Envoy send it (with_request_body).",
        },
    ),
    (
        Code::CredentialInClear,
        Entry {
            meaning: "The request has a credential and came without TLS, at a listener that redirects to https. Whoever is on \
             the way could read the credential.",
            caller: "Ask for a new key, and send it only to https:// URLs.",
            operator: "Rotate the key that the client has sent, and correct the client's URL.",
        },
    ),
    (
        Code::RateLimitExceeded,
        Entry {
            meaning: "The key has used up a rate limit of its own, or one of the route.",
            caller: "Wait as long as Retry-After says. The request is accepted then.",
            operator: "If the limit is too low, raise the key's rate_limits, or their burst.",
        },
    ),
    (
        Code::BudgetExceeded,
        Entry {
            meaning: "A budget of the key, or of its group, has less left than the request may need, until its next period begins.",
            caller: "Ask for less output, or wait until `details.resets_at`.",
            operator: "Raise the budget. `bearward usage --by key,model` shows where it went.",
        },
    ),
    (
        Code::ConcurrencyExceeded,
        Entry {
            meaning: "The key has as many requests in flight as it may have. Open streams count.",
            caller: "End one of the requests in flight, or wait until one has ended.",
            operator: "Raise the key's max_concurrent, or the default one.",
        },
    ),
    (
        Code::TooManyFailedAttempts,
        Entry {
            meaning: "The address has presented too many credentials that match no key.",
            caller: "Correct the key, and wait as long as Retry-After says. A valid key that bearward made (bwk_…) is accepted at once. Any other key is accepted after the wait.",
            operator: "A client guesses keys, or uses an old key: the audit log shows which client. failed_attempts sets the limit. Behind \
             a proxy, trusted_proxies makes each client count by its own address.",
        },
    ),
    (
        Code::TokensExceedLimit,
        Entry {
            meaning: "The request's input alone needs more tokens than the limit grants at any time.",
            caller: "Send a shorter input. Waiting does not help.",
            operator: "Raise the limit, or its burst. `limits.media_tokens` is what an image or a recording counts.",
        },
    ),
    (
        Code::OutputLimitExceeded,
        Entry {
            meaning: "The request asks for more output tokens than its key or its route allows, or for no certain number of them.",
            caller: "Set the member in `details.field` to at most `details.limit`.",
            operator: "Raise `request.max_output_tokens`, or lower such requests with `on_excess: lower`.",
        },
    ),
    (
        Code::BadRequest,
        Entry {
            meaning: "The request is malformed, or two servers could read it differently.",
            caller: "Correct the part that the message names.",
            operator: "Such a request may hide another request. If the upstream needs such a path, its accept_in_path accepts it. \
             A route's body_on_get accepts a GET with a body.",
        },
    ),
    (
        Code::RouteNotFound,
        Entry {
            meaning: "The key is valid, but no route matches the method and the path.",
            caller: "Check the path and the method.",
            operator: "Add a route, or choose another preset. `bearward explain METHOD PATH --key ID` shows the nearest routes.",
        },
    ),
    (
        Code::MethodNotAllowed,
        Entry {
            meaning: "The method is CONNECT or TRACE, which are never forwarded, or a path of bearward's own admin listener does not accept the \
             method. A route's path with a method that no route takes is `ROUTE_NOT_FOUND`.",
            caller: "Use a method that the header `Allow` of the answer names.",
            operator: "Nothing is wrong with the server.",
        },
    ),
    (
        Code::InternalError,
        Entry {
            meaning: "bearward itself failed, in this one request.",
            caller: "Try again. If the request fails again, give the x-request-id of the answer to the operator.",
            operator: "The log has the panic under the request id. Please report it.",
        },
    ),
    (
        Code::RequestTimeout,
        Entry {
            meaning: "The client stopped sending the request's body.",
            caller: "Send the body without pauses.",
            operator: "Raise limits.body_idle_timeout for slow clients.",
        },
    ),
    (
        Code::PayloadTooLarge,
        Entry {
            meaning: "The request's body is longer than the limit.",
            caller: "Send less, or in parts.",
            operator: "Raise limits.body_bytes, or the route's max_body.",
        },
    ),
    (
        Code::UriTooLong,
        Entry {
            meaning: "The request target is longer than the limit.",
            caller: "Put the data into a body.",
            operator: "Raise limits.uri_bytes.",
        },
    ),
    (
        Code::HeadersTooLarge,
        Entry {
            meaning: "The headers are larger than the limit, or there are too many.",
            caller: "Send fewer and shorter headers. Headers are often too large because of cookies.",
            operator: "Raise limits.header_bytes or limits.header_count, or limits.public.header_bytes for requests without a key.",
        },
    ),
    (
        Code::MisdirectedRequest,
        Entry {
            meaning: "No route is served under this host, or the request reached the admin listener under a name that it does not have.",
            caller: "Check the host name.",
            operator: "Add the name to a route's `hosts`, or to admin.hosts.",
        },
    ),
    (
        Code::UpstreamUnreachable,
        Entry {
            meaning: "The upstream refused or broke the connection.",
            caller: "Try again later. With `x-should-retry: false`, the upstream may have done the work already.",
            operator: "Check that the upstream runs, listens on the address in `endpoints`, and that its name resolves. The log has the error.",
        },
    ),
    (
        Code::UpstreamProtocolError,
        Entry {
            meaning: "The upstream's answer is not valid HTTP, or it is not safe to forward.",
            caller: "Give the x-request-id to the operator.",
            operator: "The log has the reason. h2c:// and http:// are different protocols.",
        },
    ),
    (
        Code::UpstreamTimeout,
        Entry {
            meaning: "The upstream was too slow to connect, or to answer.",
            caller: "Ask for less at once, or stream the answer.",
            operator: "If the upstream is healthy but slow, raise the timeouts of the upstream or of the route.",
        },
    ),
    (
        Code::UpstreamUnavailable,
        Entry {
            meaning: "The health checks of all endpoints of the upstream fail. In an answer of the readiness probe: no \
             endpoint of the upstream accepts a connection.",
            caller: "Try again later.",
            operator: "The log has the reason why the checks fail. With admin.ready_with_upstreams, readiness depends on \
             upstreams.",
        },
    ),
    (
        Code::QueueFull,
        Entry {
            meaning: "As many requests wait for the upstream as may wait, and this one has no more right to wait than they.",
            caller: "Wait as long as Retry-After says.",
            operator: "If the wait would be short, raise the queue's max_waiting. bearward_queue_waiting shows who waits.",
        },
    ),
    (
        Code::QueueTimeout,
        Entry {
            meaning: "The request has waited for a slot of the upstream as long as it may.",
            caller: "Try again after Retry-After, or send fewer requests at once.",
            operator: "The upstream is too slow for all that is asked of it: add endpoints or slots, or raise the queue's max_wait.",
        },
    ),
    (
        Code::Overloaded,
        Entry {
            meaning: "The server, or this one address, has as many requests or connections as it may have.",
            caller: "Wait as long as Retry-After says.",
            operator: "Raise limits.in_flight or limits.connections_per_address, or the descriptors (`nofile`).",
        },
    ),
    (
        Code::LimiterUnavailable,
        Entry {
            meaning: "The server with the limits of all replicas can't be reached, and the configuration grants nothing \
             without it; or there are too many holders of tokens and certificates whose limits hold something back.",
            caller: "Wait as long as Retry-After says.",
            operator: "Restore the server of `shared.redis`. With shared.when_unavailable: share, each replica grants its \
             part of each limit meanwhile.",
        },
    ),
    (
        Code::KeyStoreUnavailable,
        Entry {
            meaning: "The server with the keys could not be read since the start, or for longer than keys.max_stale, so \
             that no key is accepted; or this is so of the keys of a token's issuer, and its max_stale.",
            caller: "Wait as long as Retry-After says.",
            operator: "Restore the server of `keys.path`; the log and /readyz have the reason. For a token, `bearward \
             check` asks its issuer, and says what is wrong.",
        },
    ),
    (
        Code::CertificateMissing,
        Entry {
            meaning: "A listener waits for its first certificate from the authority. Only /readyz has this answer.",
            caller: "Wait: bearward asks the authority again by itself.",
            operator: "`details.certificates` and the log say why there is none yet, and what to do.",
        },
    ),
    (
        Code::ShuttingDown,
        Entry {
            meaning: "The process is shutting down.",
            caller: "Try again on a new connection.",
            operator: "Nothing. Open requests are finished first.",
        },
    ),
    (
        Code::ReloadRefused,
        Entry {
            meaning: "A reload found faults. The faulty entry of the key store, or the faulty file, keeps its state from before.",
            caller: "Correct the files in `details.faults`, and reload.",
            operator: "`bearward check` reports the same faults without a reload.",
        },
    ),
    (
        Code::KeyNotFound,
        Entry {
            meaning: "No key has this id. For the admin API.",
            caller: "List the keys.",
            operator: "`bearward keys list` shows the ids of all keys.",
        },
    ),
    (
        Code::KeyConflict,
        Entry {
            meaning: "The key's state, another key, or a fault of the store prevents the change. For the admin API.",
            caller: "The message has the reason.",
            operator: "`bearward keys list` and `bearward check` show more.",
        },
    ),
    (
        Code::StoreReadOnly,
        Entry {
            meaning: "The key store can't be written from here: it is a mounted Secret, for example. For the admin API.",
            caller: "Run the command in `details.command` where the store is written.",
            operator: "Change the keys of a mounted Secret in the Secret itself: see details.advice.",
        },
    ),
];

/// Returns the catalogue's entry for an error code. A test verifies that each code has an entry.
pub(crate) fn entry(code: Code) -> Entry {
    let found = CATALOGUE.iter().find(|(known, _)| *known == code);
    debug_assert!(found.is_some(), "each code has an entry");
    found.map_or(Entry { meaning: "", caller: "", operator: "" }, |(_, entry)| *entry)
}

/// Returns the error code with this name. The case of letters does not matter.
pub(crate) fn find(name: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|code| code.name().eq_ignore_ascii_case(name))
}

/// Returns advice for the operator about a refusal with this error code and this real reason.
pub(crate) fn advice(code: &str, reason: &str) -> &'static str {
    match reason {
        "unknown" => "No key has this secret. Was it deleted, or is it of another server?",
        "mistyped" => {
            "The token's length or checksum is wrong: it was cut or changed on its way. Copy it again."
        }
        "malformed" => {
            "The text behind Bearer is more than one word. Check how the client builds the header."
        }
        "disabled" => {
            "The key was revoked. Give the client another one, or find the client that still uses it."
        }
        "not_yet_valid" => "The key's not_before is in the future. Wait, or change it.",
        "other_environment" => "The key's environment is not the one that keys.environment demands.",
        "address_not_allowed" => {
            "The client's address is not in the key's allow_from. Behind a proxy, see trusted_proxies."
        }
        "age_unknown" => {
            "The key has no created_at, or one in the future, and keys.max_age refuses keys that may be too old. Rotate it."
        }
        "expired" => "The key has ended: bearward keys rotate ID --expires-in 90d",
        "rotated_out" => {
            "The grace period of this secret is over. The client has not switched to the new one."
        }
        "past_max_age" => "The secret is older than keys.max_age allows: bearward keys rotate ID",
        _ => find(code).map_or("See the log.", |code| entry(code).operator),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_name_and_an_entry() {
        assert!(Code::ALL.len() > 20);
        for code in Code::ALL {
            let found = find(&code.name().to_lowercase()).unwrap();
            let Entry { meaning, caller, operator } = entry(found);
            assert_eq!(found, *code);
            assert!([meaning, caller, operator].iter().all(|text| text.ends_with(['.', '?'])), "{code:?}");
        }
    }

    #[test]
    fn the_real_reason_outranks_the_code() {
        assert!(advice("INVALID_API_KEY", "disabled").contains("revoked"));
        assert_eq!(
            advice("RATE_LIMIT_EXCEEDED", "Rate limit exceeded"),
            entry(Code::RateLimitExceeded).operator
        );
    }
}
