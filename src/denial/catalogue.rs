//! The catalogue of error codes: what each means, and what to do about it. For `explain`, for the admin API and for
//! documentation; callers are told the message alone.

use super::Code;

/// What stands in the catalogue of one code.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    /// When it is answered.
    pub(crate) meaning: &'static str,
    /// What the caller can do.
    pub(crate) caller: &'static str,
    /// What whoever runs the server can do.
    pub(crate) operator: &'static str,
}

/// All codes, in the order of documentation.
const CATALOGUE: &[(Code, Entry)] = &[
    (
        Code::MissingApiKey,
        Entry {
            meaning: "The request has no credential, an empty one, or one of another scheme than Bearer.",
            caller: "Send `Authorization: Bearer <key>`.",
            operator: "If the clients use another header, add it to auth.headers. A route that needs no key says `public: true`.",
        },
    ),
    (
        Code::InvalidApiKey,
        Entry {
            meaning: "The credential opens nothing: it is malformed, unknown, revoked, turned off, not valid yet, of another \
             environment, or used from an address that it is not allowed from.",
            caller: "Check that the whole key was copied; ask for a new one if it was revoked.",
            operator: "The audit log has the real reason; `bearward keys verify` tells what a token is.",
        },
    ),
    (
        Code::ExpiredApiKey,
        Entry {
            meaning: "The secret is right, and the key, or the grace of this secret, has ended.",
            caller: "Ask for a new key, or for the secret that replaced this one.",
            operator: "`bearward keys rotate ID --expires-in 90d` makes a new secret and gives the key a new end.",
        },
    ),
    (
        Code::InsufficientPermissions,
        Entry {
            meaning: "The key is good, and lacks the permission that the route needs.",
            caller: "Use a key with the permission in `details.required`.",
            operator: "Add the permission to the key, or give the route another one; `bearward explain METHOD PATH --key ID` shows why.",
        },
    ),
    (
        Code::RouteNotAllowed,
        Entry {
            meaning: "The key is narrowed to named routes, and this is none of them.",
            caller: "Use a key that may use the route in `details.route`.",
            operator: "Add the route's name to the key's `routes`, or take the list away.",
        },
    ),
    (
        Code::RateLimitExceeded,
        Entry {
            meaning: "A rate limit of the key, or of the route for this key, is used up.",
            caller: "Wait as long as Retry-After says; the request is let in then.",
            operator: "Raise the key's rate_limits, or their burst, if this is not what was meant.",
        },
    ),
    (
        Code::ConcurrencyExceeded,
        Entry {
            meaning: "The key has as many requests in flight as it may; open streams count.",
            caller: "End one, or wait for one to end.",
            operator: "Raise the key's max_concurrent, or the default one.",
        },
    ),
    (
        Code::TooManyFailedAttempts,
        Entry {
            meaning: "The address has presented too many keys that open nothing.",
            caller: "Correct the key, and wait as long as Retry-After says. A good key of bearward's own (bwk_…) is let in at once, one from elsewhere after that.",
            operator: "Somebody guesses, or a client has an old key: the audit log shows which. failed_attempts sets the limit; behind a \
             proxy, trusted_proxies tells clients apart.",
        },
    ),
    (
        Code::BadRequest,
        Entry {
            meaning: "The request is malformed, or could be read in two ways.",
            caller: "Correct the part that the message names.",
            operator: "What looks harmless here may be a request within a request. A path that upstream needs can be let through by \
             its accept_in_path, and a GET with a body by its route's body_on_get.",
        },
    ),
    (
        Code::RouteNotFound,
        Entry {
            meaning: "The key was accepted, and no route matches method and path.",
            caller: "Check the path and the method.",
            operator: "Add a route, or choose another built-in set; `bearward explain METHOD PATH --key ID` shows what was compared.",
        },
    ),
    (
        Code::MethodNotAllowed,
        Entry {
            meaning: "The method is never forwarded (CONNECT, TRACE), or the path takes others.",
            caller: "Use one of those in `Allow`.",
            operator: "Nothing is wrong with the server.",
        },
    ),
    (
        Code::InternalError,
        Entry {
            meaning: "A fault of bearward's own, in this one request.",
            caller: "Try again; tell the operator the x-request-id if it stays.",
            operator: "The log has the place of the panic, by the request id. Please report it.",
        },
    ),
    (
        Code::RequestTimeout,
        Entry {
            meaning: "The request's body stalled.",
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
            meaning: "The headers are larger, or more, than the limit.",
            caller: "Send fewer and shorter headers; cookies are often the cause.",
            operator: "Raise limits.header_bytes or limits.header_count.",
        },
    ),
    (
        Code::MisdirectedRequest,
        Entry {
            meaning: "No route is served under this host; or the admin listener was asked by a name that is not its own.",
            caller: "Check the host name.",
            operator: "Add the name to a route's `hosts`, or to admin.hosts.",
        },
    ),
    (
        Code::UpstreamUnreachable,
        Entry {
            meaning: "The upstream refused or broke the connection.",
            caller: "Try again later; with `x-should-retry: false`, the work may have been done.",
            operator: "See whether the upstream runs and listens where `endpoints` says, and whether its name can be looked up; the log has the error.",
        },
    ),
    (
        Code::UpstreamProtocolError,
        Entry {
            meaning: "The upstream's answer is not valid, or not one that can be passed on safely.",
            caller: "Tell the operator the x-request-id.",
            operator: "The log says what is wrong with it. h2c:// and http:// are different protocols.",
        },
    ),
    (
        Code::UpstreamTimeout,
        Entry {
            meaning: "The upstream was too slow to connect, or to answer.",
            caller: "Ask for less at once, or stream the answer.",
            operator: "Raise the timeouts of the upstream or of the route, if the upstream is well and slow.",
        },
    ),
    (
        Code::UpstreamUnavailable,
        Entry {
            meaning: "The health checks of all endpoints of the upstream fail, or, for the readiness probe, none of them can be \
             connected to.",
            caller: "Try again later.",
            operator: "See why the upstream is not well: the log has what its checks found. Readiness depends on it by \
             admin.ready_with_upstreams.",
        },
    ),
    (
        Code::Overloaded,
        Entry {
            meaning: "The server, or this one address, has as many requests or connections as it may.",
            caller: "Wait as long as Retry-After says.",
            operator: "Raise limits.in_flight or limits.connections_per_address, or the descriptors (`nofile`).",
        },
    ),
    (
        Code::ShuttingDown,
        Entry {
            meaning: "The process is ending; another one takes over.",
            caller: "Try again on a new connection.",
            operator: "Nothing: this is a drain.",
        },
    ),
    (
        Code::ReloadRefused,
        Entry {
            meaning: "A reload found faults. What they are in stays as it was before: an entry of the key store, or a file as a whole.",
            caller: "Correct the files that `details.faults` names, and reload.",
            operator: "`bearward check` says the same faults before a reload does.",
        },
    ),
    (
        Code::KeyNotFound,
        Entry {
            meaning: "No key has this id. For the admin API.",
            caller: "List the keys.",
            operator: "`bearward keys list` shows them.",
        },
    ),
    (
        Code::KeyConflict,
        Entry {
            meaning: "The key's state, another key, or a fault of the store stands against the change. For the admin API.",
            caller: "The message says what.",
            operator: "`bearward keys list` and `bearward check` show more.",
        },
    ),
    (
        Code::StoreReadOnly,
        Entry {
            meaning: "The key store can't be written from here, as a mounted Secret can't. For the admin API.",
            caller: "Run the command in `details.command` where the store is made.",
            operator: "Keys in a mounted Secret are changed where the Secret comes from: see details.advice.",
        },
    ),
];

/// The entry of a code. A test holds that each has one.
pub(crate) fn entry(code: Code) -> Entry {
    let found = CATALOGUE.iter().find(|(known, _)| *known == code);
    found.map_or(Entry { meaning: "", caller: "", operator: "" }, |(_, entry)| *entry)
}

/// The code of this name, in any case.
pub(crate) fn find(name: &str) -> Option<Code> {
    Code::ALL.iter().copied().find(|code| code.name().eq_ignore_ascii_case(name))
}

/// What whoever runs the server can do about a refusal, by its code and its real reason.
pub(crate) fn advice(code: &str, reason: &str) -> &'static str {
    match reason {
        "unknown" => "No key has this secret. Was it deleted, or is it of another server?",
        "mistyped" => "The token's checksum is wrong: it was cut or changed on its way. Copy it again.",
        "malformed" => "What stands behind Bearer is no single word. Check how the client builds the header.",
        "disabled" => "The key was revoked. Give the client another one, or find out who still uses it.",
        "not_yet_valid" => "The key's not_before lies ahead. Wait, or change it.",
        "other_environment" => "The key's environment is not the one that keys.environment demands.",
        "address_not_allowed" => {
            "The client's address is not in the key's allow_from. Behind a proxy, see trusted_proxies."
        }
        "age_unknown" => {
            "The key has no created_at, or one that lies ahead, and keys.max_age refuses what may be too old. Rotate it."
        }
        "expired" => "The key has ended: bearward keys rotate ID --expires-in 90d",
        "rotated_out" => "The grace of this secret is over; the client has not taken the new one.",
        "past_max_age" => "The secret is older than keys.max_age allows: bearward keys rotate ID",
        _ => find(code).map_or("See the log.", |code| entry(code).operator),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_found_by_its_name_and_says_what_to_do() {
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
