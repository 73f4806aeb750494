//! `bearward usage`: prints what keys have used, by key, group, model and day.

use std::path::PathBuf;

use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use super::failure::Failure;
use super::terminal::{print, say};
use super::usage_source::UsageSource;
use crate::config::decode::parse_duration;
use crate::observe::shown::visible;
use crate::state::{COUNTS, Report, parts};

#[derive(Debug, Args)]
pub(super) struct Usage {
    /// What to sum by: any of key, group, model and day
    #[arg(long, value_name = "LIST", default_value = "key,model")]
    by: String,
    /// How far to look back, in days of UTC: 1d is today
    #[arg(long, value_name = "TIME", default_value = "30d")]
    since: String,
    /// Print the rows as JSON
    #[arg(long)]
    json: bool,
    /// Print the rows as comma-separated values
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// The configuration, which names the server of shared limits or the state directory
    #[arg(long, short, value_name = "FILE", conflicts_with = "state")]
    config: Option<PathBuf>,
    /// A state directory, which has the usage of one replica [default: the server of `shared`, or state.path]
    #[arg(long, value_name = "DIRECTORY")]
    state: Option<PathBuf>,
}

impl Usage {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let by = parts(&self.by)
            .ok_or_else(|| Failure::Usage("--by takes a list of key, group, model and day".to_owned()))?;
        let since = parse_duration(&self.since)
            .ok_or_else(|| Failure::Usage("--since takes a time, as in 30d".to_owned()))?;
        let report = UsageSource::of(self.state.as_ref(), self.config)?.report(since, by)?;
        report.missing.iter().for_each(|missing| say(&format!("bearward: {missing}")));
        match (self.json, self.csv) {
            (true, _) => print(&format!("{}\n", Value::Array(report.json()))),
            (_, true) => print(&csv(&report)),
            _ => print(&table(&report)),
        }
    }
}

/// Returns a value as text. A part that requests did not have is empty.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        // The name of a model may hide characters, or break a line.
        Value::String(text) => visible(text).into_owned(),
        other => other.to_string(),
    }
}

/// Returns comma-separated values (RFC 4180).
fn csv(report: &Report) -> String {
    let field = |value: &Value| {
        let text = text(value);
        // A spreadsheet would run a formula.
        let text = if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text };
        match text.contains([',', '"', '\r', '\n']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text,
        }
    };
    let line = |row: Vec<Value>| row.iter().map(field).collect::<Vec<_>>().join(",");
    let lines = std::iter::once(report.columns().join(",")).chain(report.rows().map(line));
    lines.map(|line| format!("{line}\r\n")).collect()
}

fn table(report: &Report) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    let columns = report.columns();
    table.set_header(columns.iter().map(|name| name.replace('_', " ").to_uppercase()));
    for row in report.rows() {
        table.add_row(row.iter().map(text));
    }
    for (index, name) in columns.iter().enumerate() {
        if COUNTS.contains(name)
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::ledger::{Counts, RowKey};

    #[test]
    fn a_model_breaks_no_table_and_runs_no_formula() {
        let mut report = Report::new(parts("model").unwrap());
        for model in ["=1+1", "a,\"b\"\nc"] {
            let key = RowKey {
                day: "2026-11-29".parse().unwrap(),
                key: "key_a".to_owned(),
                group: None,
                model: Some(model.to_owned()),
            };
            report.add(key, Counts { requests: 1, ..Counts::default() });
        }
        let lines: Vec<String> = csv(&report).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "model,requests,input_tokens,cached_tokens,output_tokens,estimated_tokens");
        assert_eq!(lines[1..], ["'=1+1,1,0,0,0,0", "\"a,\"\"b\"\"\\u{a}c\",1,0,0,0,0"]);
        assert_eq!(table(&report).lines().count(), 3);
    }
}
