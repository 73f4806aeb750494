//! Reserved header names: only bearward or a trusted proxy may send them to upstream.
//!
//! `headers` removes the reserved headers from requests.
//! Invariant: each lookup is given a plain name in lower case. Other spellings are folded before
//! the lookup.

/// The only sender that may set a reserved header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reserved {
    /// Only bearward may set the header. The header states an identity, describes forwarding, or
    /// overrides the method, path or host that was authorized.
    ///
    /// Headers in which API clients send keys are reserved for bearward, too, even if
    /// `auth.headers` does not list these headers. A client may send its key in several headers,
    /// and none of the headers with the key must reach the upstream.
    Ours,
    /// Only trusted proxies may set the header, which states the client's address or identity.
    Client,
}

/// Returns the only sender that may set a header; `None` if the name is not reserved. `name` is
/// plain and in lower case.
///
/// A request has about ten headers. For nearly all, the first letters of the name already show that
/// the name is not reserved.
pub(super) fn reserved(name: &str) -> Option<Reserved> {
    let (ours, clients): Names = match name.as_bytes() {
        [b'x', b'-', b'b', ..] if name.starts_with("x-bearward-") => return Some(Reserved::Ours),
        [b'x', b'-', b'f', ..] if name.starts_with("x-forwarded-") => return Some(Reserved::Ours),
        [b'x', b'-', b'r', ..] if name.starts_with("x-remote-extra-") => return Some(Reserved::Client),
        [b'x', b'-', third, ..] => behind_x(*third)?,
        [b'a', b'u' | b'l' | b'p', ..] => (&["authorization", "api-key", "apikey"], &["ali-cdn-real-ip"]),
        [b'c', b'f' | b'l' | b'd', ..] => (
            &["cf-aig-authorization"],
            &[
                "cf-connecting-ip",
                "cf-connecting-ipv6",
                "cf-pseudo-ipv4",
                "client-ip",
                "cloudfront-viewer-address",
                "cdn-src-ip",
                // RFC 9440, section 2, defines `Client-Cert` and `Client-Cert-Chain`.
                "client-cert",
                "client-cert-chain",
            ],
        ),
        // `Destination` is the target path of WebDAV's COPY and MOVE, and it was not authorized
        // (RFC 4918, section 10.3).
        [b'd', b'e', ..] => (&["destination"], &[]),
        [b'd', b'o', ..] => (&[], &["do-connecting-ip"]),
        [b'f', b'a' | b'l' | b'o', ..] => {
            (&["forwarded"], &["forwarded-for", "fastly-client-ip", "fly-client-ip"])
        }
        [b'h', b't', ..] => (&["http-method-override"], &[]),
        [b'h', b'e', b'l', ..] => (&["helicone-auth"], &[]),
        [b'k', b'n', ..] => (&["knative-serving-revision", "knative-serving-namespace"], &[]),
        [b'm', b'e', ..] => (&["method-override"], &[]),
        [b'o', b'c', ..] => (&["ocp-apim-subscription-key"], &[]),
        [b'i', b'n', ..] => (&[], &["incap-client-ip"]),
        // CGI turns a `Proxy` header into the variable HTTP_PROXY, and many HTTP libraries use that
        // variable as their proxy.
        [b'p', b'r', ..] => (&["proxy"], &["proxy-client-ip"]),
        // `Path-Info` and `Path-Translated` are CGI variables (RFC 3875, section 4.1) that servers
        // such as gunicorn read from headers.
        [b'p', b'a', ..] => (&["path-info", "path-translated"], &[]),
        [b's', b'c', ..] => (&["script-name"], &[]),
        [b'r', b'e', b'q', ..] => (&["request-uri", "request-method"], &[]),
        [b'r', b'e', b'm', ..] => (
            &[],
            &["remote-addr", "remote-host", "remote-user", "remote-groups", "remote-email", "remote-name"],
        ),
        [b't', b'a', b'i', ..] => (&[], &["tailscale-user-login", "tailscale-user-name"]),
        [b't', b'r', b'u', ..] => (&[], &["true-client-ip"]),
        [b'w', b'l', ..] => (&[], &["wl-proxy-client-ip"]),
        _ => return None,
    };
    match () {
        () if ours.contains(&name) => Some(Reserved::Ours),
        () if clients.contains(&name) => Some(Reserved::Client),
        () => None,
    }
}

/// Names of headers that carry keys of API clients. They are [reserved for bearward](Reserved::Ours).
pub(crate) const KEY_HEADERS: [&str; 11] = [
    "authorization",
    "api-key",
    "apikey",
    "cf-aig-authorization",
    "helicone-auth",
    "ocp-apim-subscription-key",
    "x-api-key",
    "x-auth-token",
    "x-goog-api-key",
    "x-litellm-api-key",
    "x-portkey-api-key",
];

/// Whether a header that is [reserved for proxies](Reserved::Client) states an address, and not who the client
/// is.
pub(super) fn states_address(name: &str) -> bool {
    !name.starts_with("x-remote-extra-")
        && (name.ends_with("ip")
            || name.contains("-ip")
            || name.contains("addr")
            || name.ends_with("forwarded-for")
            || name == "remote-host")
}

/// A pair of lists: header names that are reserved for bearward, and header names that are reserved
/// for trusted proxies.
type Names = (&'static [&'static str], &'static [&'static str]);

/// Returns the reserved header names that begin with `x-` and the letter `third`.
fn behind_x(third: u8) -> Option<Names> {
    match third {
        b'a' => Some(X_A),
        b'c' => Some(X_C),
        b'e' => Some(X_E),
        b'f' => Some(X_F),
        b'g' => Some(X_G),
        b'h' => Some(X_H),
        b'l' => Some(X_L),
        b'm' => Some(X_M),
        b'n' => Some(X_N),
        b'o' => Some(X_O),
        b'p' => Some(X_P),
        b'r' => Some(X_R),
        b's' => Some(X_S),
        b't' => Some(X_T),
        b'v' => Some(X_V),
        b'w' => Some(X_W),
        _ => None,
    }
}

const X_A: Names = (
    &["x-api-key", "x-auth-token", "x-accel-mapping"],
    &[
        "x-appengine-user-ip",
        "x-azure-clientip",
        "x-azure-socketip",
        "x-arr-clientcert",
        "x-auth-request-user",
        "x-auth-request-email",
        "x-auth-request-groups",
        "x-auth-request-preferred-username",
    ],
);
const X_C: Names = (
    &[],
    &[
        "x-client-ip",
        "x-cluster-client-ip",
        "x-client-address",
        "x-cf-connecting-ip",
        "x-client-cert",
        "x-consumer-id",
        "x-consumer-custom-id",
        "x-consumer-username",
    ],
);
/// Reserved header names that begin with `x-e`. From these headers, Envoy reads the target of a
/// request, and whether to retry the request.
const X_E: Names = (
    &[
        "x-envoy-original-path",
        "x-envoy-original-host",
        "x-envoy-original-dst-host",
        "x-envoy-max-retries",
        "x-envoy-retry-on",
        "x-envoy-retry-grpc-on",
        "x-envoy-upstream-alt-stat-name",
    ],
    &["x-envoy-external-address"],
);
const X_F: Names = (&["x-forwarded"], &[]);
const X_G: Names = (
    &["x-goog-api-key", "x-gateway-destination-endpoint"],
    &["x-goog-authenticated-user-email", "x-goog-authenticated-user-id", "x-goog-iap-jwt-assertion"],
);
const X_H: Names = (
    &[
        "x-http-method-override",
        "x-http-method",
        "x-http-verb",
        "x-http-host-override",
        "x-host",
        "x-host-override",
    ],
    &[],
);
const X_L: Names = (&["x-litellm-api-key"], &[]);
const X_M: Names = (&["x-method-override", "x-ms-original-url", "x-middleware-subrequest"], &[]);
const X_N: Names = (&[], &["x-nf-client-connection-ip"]);
const X_O: Names = (
    &[
        "x-original-url",
        "x-original-uri",
        "x-original-path",
        "x-original-host",
        "x-original-method",
        "x-override-url",
    ],
    &["x-original-forwarded-for", "x-originating-ip"],
);
const X_P: Names = (&["x-portkey-api-key"], &["x-proxyuser-ip", "x-proxy-client-ip"]);
const X_R: Names = (
    &["x-request-id", "x-real-ip", "x-rewrite-url", "x-rewrite-path", "x-request-uri"],
    &["x-remote-ip", "x-remote-addr", "x-remote-address", "x-remote-user", "x-remote-group"],
);
const X_S: Names = (
    &["x-script-name", "x-sendfile-type"],
    &["x-ssl-client-cert", "x-ssl-client-verify", "x-ssl-client-s-dn"],
);
const X_T: Names = (&[], &["x-true-client-ip"]);
const X_V: Names = (&[], &["x-vercel-forwarded-for"]);
const X_W: Names = (&[], &["x-webauth-user", "x-webauth-name", "x-webauth-email", "x-webauth-groups"]);

/// Whether a name begins with `x-bearward-`, or with a spelling that folds to this prefix.
pub(super) fn is_identity(name: &str) -> bool {
    let prefix = "x-bearward-";
    let is_same = |byte: u8, expected: u8| match expected {
        b'-' => !byte.is_ascii_alphanumeric(),
        _ => byte == expected,
    };
    name.len() >= prefix.len()
        && name.bytes().zip(prefix.bytes()).all(|(byte, expected)| is_same(byte, expected))
}
