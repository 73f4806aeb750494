//! Reports of usage: rows of the ledger, summed by the parts of their keys that somebody asks for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::usage::each_row_since;
use crate::journal::OpenError;
use crate::observe::ledger::{Counts, RowKey, day_of};

/// A part of the key of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Day,
    Key,
    Group,
    Model,
}

/// All parts, by their names, in the order in which they are shown.
pub(crate) const PARTS: [(&str, By); 4] =
    [("day", By::Day), ("key", By::Key), ("group", By::Group), ("model", By::Model)];

/// The names of the counts, in the order in which they are shown.
pub(crate) const COUNTS: [&str; 5] =
    ["requests", "input_tokens", "cached_tokens", "output_tokens", "estimated_tokens"];

/// A report.
#[derive(Debug)]
pub(crate) struct Report {
    by: Vec<By>,
    sums: BTreeMap<SumKey, Counts>,
    /// What could not be read, for people.
    pub(crate) missing: Vec<String>,
}

/// The part of a row's key by which rows are summed.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct SumKey {
    day: Option<Date>,
    key: Option<String>,
    group: Option<String>,
    model: Option<String>,
}

/// Parses a list of parts, as in `key,model`. Returns `None` for an unknown part.
pub(crate) fn parts(text: &str) -> Option<Vec<By>> {
    let part = |name: &str| PARTS.iter().find(|(known, _)| *known == name.trim()).map(|(_, by)| *by);
    text.split(',').map(part).collect()
}

/// Returns the first day of the last time span of a length, today included.
pub(crate) fn first_day(now: Timestamp, span: Duration) -> Date {
    // A day that has just begun is not a whole one: `1d` is today.
    let back = SignedDuration::try_from(span)
        .unwrap_or(SignedDuration::MAX)
        .saturating_sub(SignedDuration::from_hours(24));
    day_of(now.saturating_sub(back.max(SignedDuration::ZERO)).unwrap_or(Timestamp::MIN))
}

impl Report {
    pub(crate) fn new(by: Vec<By>) -> Self {
        Report { by, sums: BTreeMap::new(), missing: Vec::new() }
    }

    /// Reads the rows of all days from `since` on. Days that can't be read are left out, and named.
    ///
    /// # Errors
    ///
    /// The state directory can't be read.
    pub(crate) fn read(state: &Path, since: Date, by: Vec<By>) -> Result<Self, OpenError> {
        let mut report = Report::new(by);
        let unreadable = each_row_since(state, since, |key, counts| report.add(key, counts))?;
        let missing = |(day, error): (Date, OpenError)| format!("the usage of {day} is left out: {error}");
        report.missing = unreadable.into_iter().map(missing).collect();
        Ok(report)
    }

    pub(crate) fn add(&mut self, RowKey { day, key, group, model }: RowKey, counts: Counts) {
        let has = |part: By| self.by.contains(&part);
        let sum = SumKey {
            day: has(By::Day).then_some(day),
            key: has(By::Key).then_some(key),
            group: group.filter(|_| has(By::Group)),
            model: model.filter(|_| has(By::Model)),
        };
        self.sums.entry(sum).or_default().add(counts);
    }

    /// Returns the names of the columns.
    pub(crate) fn columns(&self) -> Vec<&'static str> {
        let parts = PARTS.iter().filter(|(_, part)| self.by.contains(part)).map(|(name, _)| *name);
        parts.chain(COUNTS).collect()
    }

    /// Returns the values of each row, in the order of the columns.
    pub(crate) fn rows(&self) -> impl Iterator<Item = Vec<Value>> + '_ {
        self.sums.iter().map(|(key, counts)| {
            let part = |part: By| match part {
                By::Day => json!(key.day.map(|day| day.to_string())),
                By::Key => json!(key.key),
                By::Group => json!(key.group),
                By::Model => json!(key.model),
            };
            let parts = PARTS.iter().filter(|(_, by)| self.by.contains(by)).map(|(_, by)| part(*by));
            let Counts { requests, input, cached, output, estimated } = *counts;
            parts.chain([requests, input, cached, output, estimated].map(Value::from)).collect()
        })
    }

    /// Returns the rows as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let columns = self.columns();
        let object =
            |row: Vec<Value>| columns.iter().map(|name| (*name).to_owned()).zip(row).collect::<Map<_, _>>();
        self.rows().map(|row| Value::Object(object(row))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_summed_by_what_is_asked_for() {
        let row = |day: &str, key: &str, model: &str| RowKey {
            day: day.parse().unwrap(),
            key: key.to_owned(),
            group: None,
            model: Some(model.to_owned()),
        };
        let counts = Counts { requests: 1, input: 2, cached: 1, output: 3, estimated: 0 };
        let of = |by: &str| {
            let mut report = Report::new(parts(by).unwrap());
            for (day, key, model) in
                [("2026-11-29", "key_b", "m"), ("2026-11-28", "key_a", "m"), ("2026-11-28", "key_a", "n")]
            {
                report.add(row(day, key, model), counts);
            }
            report
        };
        let report = of("model, key");
        assert_eq!(report.columns()[..2], ["key", "model"]);
        assert_eq!(report.rows().count(), 3);
        let report = of("key");
        let sum = json!({"key": "key_a", "requests": 2, "input_tokens": 4, "cached_tokens": 2, "output_tokens": 6, "estimated_tokens": 0});
        assert_eq!(report.json()[0], sum);
        assert_eq!(of("group").json()[0]["group"], Value::Null);
        assert_eq!(parts("key,week"), None);
    }

    #[test]
    fn a_span_of_a_day_is_today() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let day = |days: u64| first_day(now, Duration::from_secs(days * 86_400)).to_string();
        assert_eq!(
            (day(1), day(2), day(30)),
            ("2026-11-29".to_owned(), "2026-11-28".to_owned(), "2026-10-31".to_owned())
        );
        assert_eq!(first_day(now, Duration::from_secs(60)).to_string(), "2026-11-29");
    }
}
