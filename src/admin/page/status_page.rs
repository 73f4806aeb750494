//! The status page: the state of the whole process.

use std::time::Duration;

use askama::Template;
use jiff::Timestamp;

use super::super::keys::Page;
use super::super::state::Admin;
use super::super::status;
use super::bounds::{Bounded, Bounds};
use super::chart::{Chart, Kind, Measure, Step};
use super::figures::{ago, count, plain, seconds};
use super::key_view::Keys;
use super::refusal_view::RefusalKind;
use super::view::{Certificate, ShownCertificate, Status, Trend, read};
use crate::ago::{ahead_or_ago, span};
use crate::denial::Denial;

const REQUESTS: Measure =
    Measure { id: "requests", name: "Requests", unit: "a second", suffix: "/s", kind: Kind::Rate };
const TOKENS: Measure =
    Measure { id: "tokens", name: "Tokens", unit: "a minute", suffix: "/min", kind: Kind::Rate };
const IN_FLIGHT: Measure =
    Measure { id: "in-flight", name: "In flight", unit: "requests", suffix: "", kind: Kind::Level };
const ADDED: Measure =
    Measure { id: "added", name: "Added by bearward, 95%", unit: "at most", suffix: "", kind: Kind::Time };
const REFUSALS: Measure =
    Measure { id: "refusals", name: "Refusals", unit: "a second", suffix: "/s", kind: Kind::Rate };

#[derive(Template)]
#[template(path = "page/status.html", config = "src/admin/askama.toml")]
pub(super) struct StatusPage {
    bounds: Bounds,
    now: Timestamp,
    state: &'static str,
    is_healthy: bool,
    uptime: String,
    last_reload: String,
    status: Status,
    certificates: Vec<ShownCertificate>,
    charts: Vec<Chart>,
    keys: Keys,
    is_continued: bool,
    /// Whether keys can be changed here with a credential that exists.
    is_managed: bool,
    /// The file name of the key store, for the commands that the page shows.
    store_file: String,
    /// The number of all refusals.
    refused: u64,
    /// The last refusals by kind, newest first.
    refusals: Vec<RefusalKind>,
}

impl StatusPage {
    pub(super) fn of(admin: &Admin, page: Page) -> Result<Self, Denial> {
        let page = page.at_most(Bounds::FIRST.keys);
        let now = Timestamp::now();
        let status: Status = read(status::status(admin))?;
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
            bounds: Bounds::FIRST,
            now,
            state,
            is_healthy,
            uptime: span(Duration::from_secs(status.uptime_seconds)),
            last_reload: last_reload.unwrap_or_default(),
            certificates: certificates.into_iter().map(|certificate| certificate.shown(now)).collect(),
            charts: charts(&status),
            keys: read(admin.looked_at.keys(generation, page.after(), || page.of(admin)))?,
            is_continued: page.is_continued(),
            is_managed: admin.may_be_changed(),
            store_file: store.to_string_lossy().into_owned(),
            refused: status.refusals.values().sum(),
            refusals: read(status::refusal_kinds(admin))?,
            status,
        })
    }

    /// Returns the id after which the next page of keys begins; `None` if no keys are left.
    fn next_after(&self) -> Option<&str> {
        let is_cut = self.keys.keys.len() > self.bounds.keys;
        let last = self.keys.keys.get(self.bounds.keys.saturating_sub(1)).map(|key| key.id.as_str());
        if is_cut { last } else { self.keys.next_after.as_deref() }
    }
}

impl Bounded for StatusPage {
    fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }
}

fn charts(status: &Status) -> Vec<Chart> {
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
    let last = |numbers: &[f64]| plain(numbers.last().copied().unwrap_or(0.0));
    let rate = |measure: Measure, numbers: &[f64]| measure.chart(last(numbers), numbers, Step::OfTrend);
    let last_added = last_added.map_or_else(|| "–".to_owned(), seconds);
    let uses_tokens = tokens_per_minute.iter().any(|tokens| *tokens > 0.0);
    let charts = [
        Some(rate(REQUESTS, requests_per_second)),
        uses_tokens.then(|| rate(TOKENS, tokens_per_minute)),
        Some(IN_FLIGHT.chart(count(status.requests_in_flight), &in_flight, Step::OfTrend)),
        Some(ADDED.chart(last_added, &added, Step::OfTrend)),
        Some(rate(REFUSALS, refusals_per_second)),
    ];
    charts.into_iter().flatten().collect()
}
