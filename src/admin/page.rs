//! The status page. It shows the data of the admin API as HTML, and is complete without its script.
//!
//! Invariants: the template engine escapes all text that other people chose (names, paths,
//! reasons); the Content-Security-Policy allows only the scripts and styles of `page.html`.

mod figures;
pub(crate) mod looked_at;
mod view;

use std::io::Write;
use std::sync::LazyLock;
use std::time::Duration;

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
use http::{HeaderMap, Response};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::Value;

use figures::{count, seconds};
use view::{Certificate, Keys, Refusal, ShownCertificate, Status, Trend};

use super::answer::{AdminBody, whole};
use super::keys::Page;
use super::state::Admin;
use super::status;
use crate::ago::{ahead_or_ago, span};
use crate::denial::Denial;
use crate::digest::sha256;
use crate::observe::history::STEPS;

const SOURCE: &str = include_str!("page.html");
/// Maximum number of keys on the status page. `/api/v1/keys` lists all keys.
const KEYS: usize = 25;
/// Maximum number of rows of the table of tokens. `/api/v1/status` has more.
const TOKEN_ROWS: usize = 25;
/// The challenge that makes a browser ask its user for the credential. The user enters the
/// credential as the password (RFC 7617).
pub(super) const BASIC: HeaderValue =
    HeaderValue::from_static("Basic realm=\"bearward admin: the token is the password\", charset=\"UTF-8\"");
/// The height of a sparkline, and the distance between two of its points, both in units of the SVG
/// view box.
const HEIGHT: f64 = 30.0;
const APART: usize = 2;

/// The page's Content-Security-Policy (W3C, Level 3). It allows only the style and the script of
/// this page, and requests to its own server. With Trusted Types, a script can't turn text into
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

#[derive(Template)]
#[template(path = "page.html", config = "src/admin/askama.toml")]
struct StatusPage {
    now: Timestamp,
    state: &'static str,
    is_healthy: bool,
    uptime: String,
    last_reload: String,
    status: Status,
    certificates: Vec<ShownCertificate>,
    tiles: Vec<Tile>,
    keys: Keys,
    is_continued: bool,
    /// The file name of the key store, for the commands that the page shows.
    store_file: String,
    refused: u64,
    /// The last refusals, newest first.
    refusals: Vec<Refusal>,
}

/// One tile of the page: a figure, and a sparkline of its values in the last five minutes.
struct Tile {
    name: &'static str,
    figure: String,
    unit: &'static str,
    most: String,
    /// The points of the tile's sparkline, for SVG.
    points: String,
}

/// Renders the status page with one page of the list of keys. With `is_zipped`, the answer is
/// compressed with gzip (RFC 1952).
pub(super) fn show(admin: &Admin, keys: Page, is_zipped: bool) -> Result<Response<AdminBody>, Denial> {
    let html = StatusPage::of(admin, &keys.at_most(KEYS))?.render();
    let html = html.map_err(|error| Denial::internal().caused_by(error.to_string()))?;
    let content = if is_zipped { zipped(&html)? } else { html.into() };
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

/// Converts JSON data of the admin API into a type of this page.
fn read<T: DeserializeOwned>(value: Value) -> Result<T, Denial> {
    serde_json::from_value(value).map_err(|error| Denial::internal().caused_by(error.to_string()))
}

impl StatusPage {
    fn of(admin: &Admin, page: &Page) -> Result<Self, Denial> {
        let now = Timestamp::now();
        let status: Status = read(status::status(admin))?;
        let mut refusals: Vec<Refusal> = read(status::refusals(admin))?;
        refusals.reverse();
        let last_reload = status.reloads.iter().max_by_key(|reload| reload.loaded_at);
        let last_reload =
            last_reload.map(|reload| format!("{}, {}", reload.part, ahead_or_ago(now, reload.loaded_at)));
        let mut certificates: Vec<&Certificate> = status.certificates.iter().collect();
        certificates.sort_by_key(|certificate| certificate.expires_at);
        let (state, is_healthy) = match (status.is_draining, status.is_ready) {
            (true, _) => ("Draining", false),
            (false, true) => ("Ready", true),
            (false, false) => ("Not ready", false),
        };
        let generation = admin.gateway.reloads.state().generation;
        let store = std::path::Path::new(&status.store.path).file_name().unwrap_or_default();
        Ok(StatusPage {
            now,
            state,
            is_healthy,
            uptime: span(Duration::from_secs(status.uptime_seconds)),
            last_reload: last_reload.unwrap_or_default(),
            certificates: certificates.into_iter().map(|certificate| certificate.shown(now)).collect(),
            tiles: tiles(&status),
            keys: read(admin.looked_at.keys(generation, page.after(), || page.of(admin)))?,
            is_continued: page.is_continued(),
            store_file: store.to_string_lossy().into_owned(),
            refused: status.refusals.values().sum(),
            refusals,
            status,
        })
    }
}

fn tiles(status: &Status) -> Vec<Tile> {
    let Trend {
        requests_per_second,
        tokens_per_minute,
        refusals_per_second,
        added_p95_seconds,
        requests_in_flight,
    } = &status.trend;
    let in_flight: Vec<f64> = requests_in_flight.iter().map(|count| *count as f64).collect();
    let added: Vec<f64> = added_p95_seconds.iter().map(|seconds| seconds.unwrap_or(0.0)).collect();
    let last_added = added_p95_seconds.iter().rev().find_map(|seconds| *seconds);
    let plain = |number: f64| match number {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{number:.1}"),
        _ => count(number.round() as u64),
    };
    let last = |numbers: &[f64]| plain(numbers.last().copied().unwrap_or(0.0));
    let tile = |name, figure, unit, numbers: &[f64], written: &dyn Fn(f64) -> String| Tile {
        name,
        figure,
        unit,
        most: written(numbers.iter().copied().fold(0.0, f64::max)),
        points: points(numbers),
    };
    let whole = |number: f64| count(number as u64);
    vec![
        tile("Requests", last(requests_per_second), "a second", requests_per_second, &plain),
        tile("Tokens", last(tokens_per_minute), "a minute", tokens_per_minute, &plain),
        tile("In flight", count(status.requests_in_flight), "", &in_flight, &whole),
        tile(
            "Added by bearward, 95%",
            last_added.map_or_else(|| "–".to_owned(), seconds),
            "at most",
            &added,
            &seconds,
        ),
        tile("Refusals", last(refusals_per_second), "a second", refusals_per_second, &plain),
    ]
}

/// Returns the points of a sparkline through all `numbers`. The last number is at the right end,
/// and the greatest number is at the top.
fn points(numbers: &[f64]) -> String {
    let most = numbers.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let begin = STEPS.saturating_sub(numbers.len());
    let point = |(index, number): (usize, &f64)| {
        format!("{},{:.0}", (begin + index) * APART, HEIGHT + 1.0 - number / most * HEIGHT)
    };
    numbers.iter().enumerate().map(point).collect::<Vec<_>>().join(" ")
}

fn ago(at: Option<&Timestamp>) -> String {
    at.map(|at| ahead_or_ago(Timestamp::now(), *at)).unwrap_or_default()
}
