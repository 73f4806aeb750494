//! Fuzzes request headers: whatever a caller sends, upstream receives no credential, and receives
//! bearward's own headers only from bearward.

use std::net::IpAddr;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Request};

use super::connection::{KEY, gateway};
use crate::forward::headers::{self, Origin};
use crate::gate::{self, Admitted, Decided, Head, Identity};
use crate::guard::client;
use crate::limit::Cost;
use crate::model::Named;

/// Header names that must never arrive at upstream, in any spelling: they carry credentials, belong
/// to one connection, or are removed for other reasons.
const NEVER: &[&str] = &[
    "authorization",
    "x-api-key",
    "x-own-key",
    "proxy-authorization",
    "proxy-authenticate",
    "forwarded",
    "x-real-ip",
    "connection",
    "keep-alive",
    "proxy-connection",
    "upgrade",
    "transfer-encoding",
    "content-length",
    "http2-settings",
    "expect",
    "proxy",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    // The following headers name the client. They are removed, because no proxy is trusted in this
    // test.
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
];
/// Headers that bearward sends once each, with their values.
const OURS: &[(&str, &str)] = &[
    ("x-bearward-key-id", "key_fuzz"),
    ("x-bearward-key-name", "fuzz"),
    ("x-bearward-environment", "test"),
    ("x-bearward-permissions", "read,write"),
    ("x-forwarded-for", "192.0.2.7"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-host", "a.example"),
    ("x-request-id", "our-id"),
    ("host", "a.example"),
];

/// Parses the bytes as header fields, one per line, adds them to a valid request, and checks the
/// headers that upstream would receive.
pub fn hygiene(bytes: &[u8]) {
    let mut builder = Request::get("/v1/models").header("host", "a.example");
    let mut kept = Vec::new();
    let mut nominated = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').take(60) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (Ok(name), Ok(value)) =
            (HeaderName::from_bytes(&line[..colon]), HeaderValue::from_bytes(&line[colon + 1..]))
        else {
            continue;
        };
        if name == "connection" {
            let tokens = value.as_bytes().split(|byte| *byte == b',').map(String::from_utf8_lossy);
            nominated.extend(tokens.map(|token| token.trim().to_ascii_lowercase()));
        }
        if name.as_str().starts_with("x-keep-") && !name.as_str().contains('_') {
            kept.push((name.clone(), value.clone()));
        }
        builder = builder.header(name, value);
    }
    let Ok(request) = builder.header("authorization", format!("Bearer {KEY}")).body(()) else { return };
    let (parts, ()) = request.into_parts();
    let gateway = gateway();
    let snapshot = gateway.snapshot.load_full();
    let peer: Option<IpAddr> = Some([192, 0, 2, 7].into());
    let client = client::client(&parts.headers, peer, &snapshot.trusted_proxies);
    let context = gateway.context(&snapshot, gateway.clock.wall());
    let head = Head { parts: &parts, client: &client, is_plain: true, identity: Identity::Presented(None) };
    // A refused request, such as one with two credentials, does not arrive at upstream.
    let Decided { facts, outcome: Ok(verdict) } = gate::decide_here(&head, context) else { return };
    let grant = verdict.grant(&Named::Absent, parts.method.as_str(), "/").unwrap();
    let admitted = grant.admit(Cost::REQUEST, None, context).now_or_never();
    let Admitted { permit, .. } = admitted.expect("no limit waits").unwrap();
    let target = facts.target.unwrap();
    let request_id = HeaderValue::from_static("our-id");
    let peer_value = peer.and_then(headers::address_value);
    let origin = Origin {
        peer: peer_value.as_ref(),
        client,
        is_tls: false,
        request_id: &request_id,
        trace: None,
        secret_headers: &snapshot.secret_headers,
    };
    let sent = headers::request_headers(parts.headers, &target, &permit, &origin);
    // Over HTTP/1.1 the headers are written as they are; for HTTP/2 they become a map.
    let written: HeaderMap = sent.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    let sent = sent.into_map();
    assert_eq!(written, sent);

    check(&sent);
    for (name, value) in kept.iter().filter(|(name, _)| !nominated.contains(&name.as_str().to_owned())) {
        assert!(sent.get_all(name).iter().any(|found| found == value), "{name} was lost");
    }
}

/// Checks that bearward's headers have bearward's values, and that no header with a name in `NEVER`
/// is left.
fn check(headers: &HeaderMap) {
    for (name, value) in headers {
        let spelled = name.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
        assert!(!NEVER.contains(&spelled.as_str()), "{name}: {value:?}");
        let is_ours = spelled.starts_with("x-bearward-") || spelled.starts_with("x-forwarded-");
        if is_ours || OURS.iter().any(|(ours, _)| *ours == spelled) {
            assert!(OURS.contains(&(name.as_str(), value.to_str().unwrap())), "{name}: {value:?}");
        }
        assert!(name != "te" || value == "trailers", "{value:?}");
        assert!(
            !value.as_bytes().windows(KEY.len()).any(|part| part == KEY.as_bytes())
                || name != "authorization"
        );
    }
    for (name, value) in OURS {
        let values: Vec<_> = headers.get_all(*name).iter().collect();
        assert_eq!(values, [*value], "{name}");
    }
}
