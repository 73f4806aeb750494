//! The page of one key: its limits, and its use in the last five minutes.

use std::collections::BTreeMap;

use askama::Template;
use jiff::Timestamp;
use serde::Deserialize;

use super::super::keys;
use super::super::state::Admin;
use super::super::status;
use super::bounds::{Bounded, Bounds};
use super::chart::{Chart, Kind, Measure, Step};
use super::figures::{ago, count};
use super::key_view::Key;
use super::refusal_view::RefusalKind;
use super::view::{Store, read};
use crate::denial::Denial;

const REQUESTS: Measure = Measure {
    id: "requests",
    name: "Permitted requests",
    unit: "a minute",
    suffix: "/min",
    kind: Kind::Rate,
};
const REFUSALS: Measure =
    Measure { id: "refusals", name: "Refusals", unit: "a minute", suffix: "/min", kind: Kind::Rate };
const TOKENS: Measure =
    Measure { id: "tokens", name: "Tokens", unit: "a minute", suffix: "/min", kind: Kind::Rate };
/// Maximum number of codes with a colour of their own in the chart of refusals. The other codes
/// share the last colour.
const COLOURS: usize = 4;
const MINUTES: usize = 5;
/// Maximum number of characters that the page shows of an id for which there is no key.
const MAX_ID: usize = 80;

#[derive(Template)]
#[template(path = "page/key.html", config = "src/admin/askama.toml")]
pub(super) struct KeyPage {
    bounds: Bounds,
    now: Timestamp,
    key: Key,
    facts: Vec<(&'static str, String)>,
    /// The reason why there are no charts, if there are none.
    no_charts: Option<&'static str>,
    charts: Vec<Chart>,
    rows: Vec<Row>,
    store: Store,
    /// Whether keys can be changed here with a credential that exists.
    is_managed: bool,
    /// The number of refused requests with a secret of the key.
    refused: u64,
    /// The last refusals of the key, by kind, newest first.
    refusals: Vec<RefusalKind>,
}

/// The page for an id that no key has.
#[derive(Template)]
#[template(path = "page/missing.html", config = "src/admin/askama.toml")]
pub(super) struct MissingKeyPage {
    id: String,
}

/// Counts in each of the last five minutes, oldest first.
struct Row {
    name: String,
    /// The colour of the row's curve, if it has one of its own.
    colour: Option<usize>,
    counts: [u64; MINUTES],
}

impl Row {
    fn sum(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The data of `/api/v1/keys/{id}/trend`.
#[derive(Deserialize)]
struct KeyTrend {
    is_kept: bool,
    steps: Vec<KeyStep>,
}

#[derive(Deserialize)]
struct KeyStep {
    seconds: f64,
    requests: u64,
    refusals: BTreeMap<String, u64>,
    tokens: u64,
}

impl KeyPage {
    /// Returns the page of the key with this id; `None` if no key has the id.
    pub(super) fn of(admin: &Admin, id: &str) -> Result<Option<Self>, Denial> {
        let generation = admin.gateway.reloads.state().generation;
        // No page of the list of keys begins with a slash.
        let cached = format!("/{id}");
        let found = admin.looked_at.keys(generation, &cached, || keys::find(admin, id).unwrap_or_default());
        if found.is_null() {
            return Ok(None);
        }
        let (key, now): (Key, _) = (read(found)?, Timestamp::now());
        let trend: KeyTrend = read(keys::trend(admin, id))?;
        let refusals: Vec<RefusalKind> = read(status::refusal_kinds(admin))?;
        let no_charts = match (trend.is_kept, trend.steps.is_empty()) {
            (_, false) => None,
            (true, true) => Some("The key was not used in the last five minutes."),
            (false, true) => Some("There is no history of this key, because too many other keys are in use."),
        };
        Ok(Some(KeyPage {
            bounds: Bounds::FIRST,
            now,
            facts: key.facts(now),
            no_charts,
            charts: charts(&trend.steps),
            rows: rows(&trend.steps),
            store: read(status::store_of(admin))?,
            is_managed: admin.may_be_changed(),
            refused: key.usage.refusals.values().sum(),
            refusals: refusals.into_iter().filter(|kind| kind.key_id.as_deref() == Some(id)).collect(),
            key,
        }))
    }
}

impl Bounded for KeyPage {
    fn bound(&mut self, bounds: Bounds) {
        self.bounds = bounds;
    }
}

impl MissingKeyPage {
    pub(super) fn of(id: &str) -> Self {
        MissingKeyPage { id: id.chars().take(MAX_ID).collect() }
    }
}

/// Returns the codes of refused requests, the most frequent first.
fn codes(steps: &[KeyStep]) -> Vec<&str> {
    let mut sums: BTreeMap<&str, u64> = BTreeMap::new();
    for (code, number) in steps.iter().flat_map(|step| &step.refusals) {
        *sums.entry(code).or_default() += number;
    }
    let mut codes: Vec<&str> = sums.keys().copied().collect();
    codes.sort_by_key(|code| std::cmp::Reverse(sums.get(code).copied()));
    codes
}

fn colour(index: usize) -> usize {
    index.min(COLOURS - 1)
}

fn charts(steps: &[KeyStep]) -> Vec<Chart> {
    let rates = |number: &dyn Fn(&KeyStep) -> u64| -> Vec<f64> {
        steps.iter().map(|step| number(step) as f64 * 60.0 / step.seconds.max(1.0)).collect()
    };
    let codes = codes(steps);
    let mut series = vec![vec![0.0; steps.len()]; codes.len().clamp(1, COLOURS)];
    for (index, code) in codes.iter().enumerate() {
        let numbers = rates(&|step| step.refusals.get(*code).copied().unwrap_or(0));
        if let Some(sums) = series.get_mut(colour(index)) {
            sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
        }
    }
    let texts = steps.iter().map(|step| {
        let parts = step.refusals.iter().map(|(code, number)| format!("{} {code}", count(*number)));
        parts.collect::<Vec<_>>().join(", ")
    });
    let plain = |measure: Measure, number: &dyn Fn(&KeyStep) -> u64| {
        measure.stacked(&[rates(number)], &vec![String::new(); steps.len()], Step::OfKey)
    };
    let mut charts = vec![
        plain(REQUESTS, &|step| step.requests),
        REFUSALS.stacked(&series, &texts.collect::<Vec<_>>(), Step::OfKey),
    ];
    if steps.iter().any(|step| step.tokens > 0) {
        charts.push(plain(TOKENS, &|step| step.tokens));
    }
    charts
}

fn rows(steps: &[KeyStep]) -> Vec<Row> {
    let row = |name: &str, colour, number: &dyn Fn(&KeyStep) -> u64| {
        let (mut counts, mut age) = ([0; MINUTES], 0.0);
        for step in steps.iter().rev() {
            // The middle of a step decides to which minute the step belongs.
            let minute = ((age + step.seconds / 2.0) / 60.0) as usize;
            age += step.seconds;
            if let Some(sum) = counts.get_mut((MINUTES - 1).saturating_sub(minute)) {
                *sum += number(step);
            }
        }
        Row { name: name.to_owned(), colour, counts }
    };
    let mut rows = vec![row("permitted requests", None, &|step| step.requests)];
    for (index, code) in codes(steps).into_iter().enumerate() {
        let refused = |step: &KeyStep| step.refusals.get(code).copied().unwrap_or(0);
        rows.push(row(code, Some(colour(index)), &refused));
    }
    if steps.iter().any(|step| step.tokens > 0) {
        rows.push(row("tokens", None, &|step| step.tokens));
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(seconds: f64, requests: u64, refusals: &[(&str, u64)], tokens: u64) -> KeyStep {
        let refusals = refusals.iter().map(|(code, number)| ((*code).to_owned(), *number)).collect();
        KeyStep { seconds, requests, refusals, tokens }
    }

    #[test]
    fn a_step_that_is_shorter_has_the_same_rate() {
        let charts = charts(&[step(10.0, 20, &[], 0), step(2.0, 4, &[("A", 1), ("B", 2)], 0)]);
        assert_eq!(charts.len(), 2, "no tokens, no chart of tokens");
        assert_eq!(charts[0].values, ["120/min, 0:10 ago", "120/min, now"]);
        assert_eq!(charts[1].values, ["0/min, 0:10 ago", "90/min: 1 A, 2 B, now"]);
        let colours: Vec<usize> = charts[1].curves.iter().map(|curve| curve.colour).collect();
        assert_eq!(colours, [1, 0]);
    }

    #[test]
    fn codes_without_a_colour_share_the_last() {
        let codes = [("A", 1), ("B", 2), ("C", 3), ("D", 4), ("E", 5), ("F", 6)];
        let steps = [step(10.0, 0, &codes, 7)];
        let charts = charts(&steps);
        let paths: Vec<(usize, &str)> =
            charts[1].curves.iter().map(|curve| (curve.colour, &*curve.path)).collect();
        // 126 a minute on a scale to 200: the sums are 36, 66, 90 and 126.
        let expected = [
            (3, "M29 100V37h1V100"),
            (2, "M29 100V55h1V100"),
            (1, "M29 100V67h1V100"),
            (0, "M29 100V82h1V100"),
        ];
        assert_eq!(paths, expected);
        let rows: Vec<(String, Option<usize>)> =
            rows(&steps).into_iter().map(|row| (row.name, row.colour)).collect();
        assert_eq!(rows[1], ("F".to_owned(), Some(0)));
        assert_eq!(rows[6], ("A".to_owned(), Some(3)));
        assert_eq!(rows[7], ("tokens".to_owned(), None));
    }

    #[test]
    fn counts_are_summed_by_minute_from_the_newest() {
        let mut steps: Vec<KeyStep> = (0..9).map(|_| step(10.0, 1, &[], 0)).collect();
        steps.push(step(3.0, 5, &[("A", 2)], 0));
        let counts: Vec<[u64; MINUTES]> = rows(&steps).into_iter().map(|row| row.counts).collect();
        // The last minute has the step of three seconds, and the six steps before it.
        assert_eq!(counts, [[0, 0, 0, 3, 11], [0, 0, 0, 0, 2]]);
        let whole: Vec<KeyStep> = (0..30).map(|_| step(10.0, 1, &[], 0)).collect();
        assert_eq!((rows(&whole)[0].counts, rows(&whole)[0].sum()), ([6; MINUTES], 30));
    }
}
