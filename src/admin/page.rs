//! The status page and the pages of keys. They show the data of the admin API as HTML, and are
//! complete without their script.
//!
//! Invariants: the template engine escapes all text that other people chose (names, paths,
//! reasons); the Content-Security-Policy allows only the script and the style of `page.html`, the
//! frame of all pages; a page has at most 60 KiB.

mod bounds;
mod chart;
mod figures;
mod key_page;
mod key_view;
pub(crate) mod looked_at;
mod refusal_view;
mod status_page;
mod view;

use std::io::Write;
use std::sync::LazyLock;

use askama::Template;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue,
    REFERRER_POLICY, VARY,
};
use http::{HeaderMap, Response, StatusCode};

use super::answer::{AdminBody, whole};
use super::keys::Page;
use super::state::Admin;
use crate::denial::Denial;
use crate::digest::sha256;
use bounds::fitting;
use key_page::{KeyPage, MissingKeyPage};
use status_page::StatusPage;

const SOURCE: &str = include_str!("page.html");
/// The challenge that makes a browser ask its user for the credential. The user enters the
/// credential as the password (RFC 7617).
pub(super) const BASIC: HeaderValue =
    HeaderValue::from_static("Basic realm=\"bearward admin: the token is the password\", charset=\"UTF-8\"");

/// The pages' Content-Security-Policy (W3C, Level 3). It allows only the style and the script of
/// these pages, and requests to its own server. With Trusted Types, a script can't turn text into
/// HTML or code.
static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let hash = |tag: &str| {
        let (_, rest) = SOURCE.split_once(&format!("<{tag}>"))?;
        let (content, _) = rest.split_once(&format!("</{tag}>"))?;
        Some(STANDARD.encode(sha256(content)))
    };
    let (style, script) = (hash("style")?, hash("script")?);
    HeaderValue::try_from(format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ))
    .ok()
});

/// Renders the status page with one page of the list of keys. With `is_zipped`, the answer is
/// compressed with gzip (RFC 1952).
pub(super) fn show(admin: &Admin, keys: Page, is_zipped: bool) -> Result<Response<AdminBody>, Denial> {
    answer(&fitting(&mut StatusPage::of(admin, keys)?)?, is_zipped)
}

/// Renders the page of the key with this id, like [`show`]. The answer for an id that no key has is
/// a page with the status 404.
pub(super) fn show_key(admin: &Admin, id: &str, is_zipped: bool) -> Result<Response<AdminBody>, Denial> {
    if let Some(mut page) = KeyPage::of(admin, id)? {
        return answer(&fitting(&mut page)?, is_zipped);
    }
    let html = MissingKeyPage::of(id).render();
    let html = html.map_err(|error| Denial::internal().caused_by(error.to_string()))?;
    let mut response = answer(&html, is_zipped)?;
    *response.status_mut() = StatusCode::NOT_FOUND;
    Ok(response)
}

fn answer(html: &str, is_zipped: bool) -> Result<Response<AdminBody>, Denial> {
    let content = if is_zipped { zipped(html)? } else { Bytes::copy_from_slice(html.as_bytes()) };
    let mut response = Response::new(whole(content));
    let headers = response.headers_mut();
    if is_zipped {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone().ok_or_else(Denial::internal)?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    Ok(response)
}

fn zipped(html: &str) -> Result<Bytes, Denial> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    let zipped = encoder.write_all(html.as_bytes()).and_then(|()| encoder.finish());
    zipped.map(Bytes::from).map_err(|error| Denial::internal().caused_by(error.to_string()))
}

/// Whether a caller accepts gzip: its `Accept-Encoding` names gzip, and does not exclude it by a
/// weight of zero (RFC 9110, section 12.5.3).
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let is_ruled_out = weight.trim().strip_prefix("q=").is_some_and(|q| q.parse().unwrap_or(0.0) <= 0.0);
        name.trim().eq_ignore_ascii_case("gzip") && !is_ruled_out
    })
}
