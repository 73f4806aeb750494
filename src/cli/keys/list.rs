//! `bearward keys list` and `bearward keys show`: print the keys of the store.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::store_argument::StoreArgument;
use super::used;
use super::values::permission;
use crate::ago::{ahead_or_ago, span};
use crate::cli::failure::Failure;
use crate::cli::terminal::print;
use crate::cli::usage_source::UsageSource;
use crate::config::decode::parse_duration;
use crate::key_store::Store;
use crate::key_store::edit::find;
use crate::keys::field::Shown;
use crate::keys::fields::FIELDS;
use crate::keys::rotation::ROTATION_AGE;
use crate::keys::{KeyRecord, Permission, State};

#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    store: StoreArgument,
    /// Print the keys as JSON
    #[arg(long)]
    json: bool,
    /// What to sort by
    #[arg(long, value_enum, default_value = "store")]
    sort: Sort,
    /// Only keys in this state
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Only keys that are due for rotation
    #[arg(long)]
    due: bool,
    /// Only keys with this environment
    #[arg(long)]
    environment: Option<String>,
    /// Only keys that were not used for so long, as in 90d; a key that was made later is left out
    #[arg(long, value_name = "TIME")]
    unused: Option<String>,
    /// A state directory, for --unused [default: the server of `shared`, or the configuration's state.path]
    #[arg(long, value_name = "DIRECTORY", requires = "unused")]
    state_dir: Option<PathBuf>,
    /// Only keys of this group
    #[arg(long)]
    group: Option<String>,
    /// Only keys with this permission
    #[arg(long, value_parser = permission)]
    permission: Option<Permission>,
    /// Only keys whose name or id contains this text
    #[arg(long = "match", value_name = "TEXT")]
    holds: Option<String>,
    /// Ask the admin listener of a running bearward for the keys and their use: HOST:PORT or
    /// unix:/PATH
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["keys", "config", "sort", "due", "environment", "group", "permission", "unused"])]
    admin: Option<String>,
    /// The file with the admin token, or with a key that has the permission `admin`, for an admin
    /// listener that is not on loopback
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// In the order of the store
    Store,
    Name,
    /// The oldest first
    Age,
    /// The earliest expiry first
    Expiry,
}

/// A key of the list, with its state and age.
struct Row {
    record: KeyRecord,
    state: State,
    age: Option<Duration>,
    /// The time from which the key is due for rotation; `None` if its age is unknown.
    rotation: Option<Timestamp>,
    is_due: bool,
}

impl Row {
    fn of(record: KeyRecord, now: Timestamp, max_age: Duration) -> Self {
        let state = State::of(record.disabled, record.terms.not_before, record.expires_at, now);
        let age = record
            .created_at
            .map(|made| Duration::try_from(now.duration_since(made)).unwrap_or(Duration::ZERO));
        let rotation = record.created_at.and_then(|made| made.checked_add(max_age).ok());
        // A key that is no longer valid needs no new secret.
        let is_due = state.is_live() && rotation.is_none_or(|due| now >= due);
        Row { record, state, age, rotation, is_due }
    }

    fn as_json(&self, now: Timestamp) -> Value {
        let instant = |instant: Option<Timestamp>| instant.map(|instant| instant.to_string());
        let live = self.record.terms.previous.iter().filter(|secret| secret.expires_at > now);
        let mut shown = json!({
            "state": self.state.name(),
            "age_seconds": self.age.map(|age| age.as_secs()),
            "rotation_due_at": instant(self.rotation),
            "rotation_due": self.is_due,
            "old_secrets_until": live.map(|secret| secret.expires_at.to_string()).collect::<Vec<_>>(),
        });
        if let Value::Object(shown) = &mut shown {
            let fields = FIELDS.iter().filter(|field| field.shown >= Shown::ByCommands);
            shown.extend(
                fields.map(|field| {
                    (field.name.to_owned(), field.shown(field.of_record(&self.record).as_ref()))
                }),
            );
        }
        shown
    }

    /// Returns the cells of the key's row in the table.
    fn cells(&self, now: Timestamp) -> [String; 8] {
        let rotation = match self.rotation {
            _ if self.is_due && self.rotation.is_none() => "age unknown".to_owned(),
            _ if self.is_due => "due".to_owned(),
            Some(due) if self.state.is_live() => {
                format!("in {}", span(Duration::try_from(due.duration_since(now)).unwrap_or_default()))
            }
            _ => String::new(),
        };
        let is_rotating = self.record.terms.previous.iter().any(|secret| secret.expires_at > now);
        [
            self.record.id.clone(),
            self.record.name.clone().unwrap_or_default(),
            format!("{}{}", self.state.name(), if is_rotating { ", rotating" } else { "" }),
            self.record.permissions.names().join(","),
            self.record.terms.environment.clone().unwrap_or_default(),
            self.age.map(span).unwrap_or_default(),
            self.record.expires_at.map(|end| ahead_or_ago(now, end)).unwrap_or_else(|| "never".to_owned()),
            rotation,
        ]
    }
}

/// Returns the age at which keys are due for rotation.
fn rotation(store: &StoreArgument) -> Result<Duration, Failure> {
    let max_age = store.configuration()?.and_then(|config| config.keys.max_age);
    Ok(max_age.map_or(ROTATION_AGE, |max_age| max_age.age))
}

impl List {
    pub(super) fn execute(self) -> Result<(), Failure> {
        if let Some(admin) = &self.admin {
            let wanted = used::Wanted { state: self.state, holds: self.holds.as_deref(), is_json: self.json };
            return used::list(admin, self.token_file.as_deref(), &wanted);
        }
        let (max_age, now) = (rotation(&self.store)?, Timestamp::now());
        let records = Store::at(&self.store.place()?)?.records(&*self.store.ids_of_store()?)?;
        let mut rows: Vec<Row> = records.into_iter().map(|record| Row::of(record, now, max_age)).collect();
        rows.retain(|row| self.wants(row));
        if let Some(unused) = &self.unused {
            let span = parse_duration(unused)
                .ok_or_else(|| Failure::Usage("--unused takes a time, as in 90d".to_owned()))?;
            let since = now.checked_sub(span).unwrap_or(Timestamp::MIN);
            let source = UsageSource::of(self.state_dir.as_ref(), self.store.configuration_path())?;
            let last_uses = source.last_uses()?;
            if last_uses.since.is_none_or(|known| known > since) {
                let known = last_uses.since.map_or_else(|| "now".to_owned(), |known| known.to_string());
                return Err(Failure::Failed(format!(
                    "uses are known since {known} alone: a key may have been used before"
                )));
            }
            rows.retain(|row| {
                let last = last_uses.by_key.get(&row.record.id).copied().or(row.record.created_at);
                last.is_none_or(|last| last < since)
            });
        }
        match self.sort {
            Sort::Store => {}
            Sort::Name => rows.sort_by(|a, b| a.record.name.cmp(&b.record.name)),
            // A key without `created_at` is listed as the oldest.
            Sort::Age => rows.sort_by_key(|row| row.record.created_at),
            Sort::Expiry => rows.sort_by_key(|row| row.record.expires_at.unwrap_or(Timestamp::MAX)),
        }
        if self.json {
            let keys: Vec<Value> = rows.iter().map(|row| row.as_json(now)).collect();
            return print(&format!("{}\n", Value::Array(keys)));
        }
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(["ID", "NAME", "STATE", "PERMISSIONS", "ENVIRONMENT", "AGE", "EXPIRES", "ROTATION"]);
        for row in &rows {
            table.add_row(row.cells(now));
        }
        let lines: Vec<String> = table.lines().map(|line| line.trim().to_owned()).collect();
        print(&format!("{}\n", lines.join("\n")))
    }

    fn wants(&self, row: &Row) -> bool {
        let record = &row.record;
        let holds = |text: &str| {
            record.id.contains(text) || record.name.as_ref().is_some_and(|name| name.contains(text))
        };
        self.state.is_none_or(|state| state == row.state)
            && (!self.due || row.is_due)
            && self.environment.as_ref().is_none_or(|label| record.terms.environment.as_ref() == Some(label))
            && self.group.as_ref().is_none_or(|group| record.terms.group.as_ref() == Some(group))
            && self.permission.is_none_or(|permission| record.permissions.grant(permission))
            && self.holds.as_deref().is_none_or(holds)
    }
}

#[derive(Debug, Args)]
pub(super) struct Show {
    /// The key's id, or its name
    key: String,
    #[command(flatten)]
    store: StoreArgument,
    /// Print the key as JSON
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (max_age, now) = (rotation(&self.store)?, Timestamp::now());
        let record = find(&Store::at(&self.store.place()?)?, &self.key, &*self.store.ids_of_store()?)?.record;
        let row = Row::of(record, now, max_age);
        let shown = row.as_json(now);
        if self.json {
            return print(&format!("{shown}\n"));
        }
        let mut text = String::new();
        for (name, value) in shown.as_object().into_iter().flatten() {
            let value = match value {
                Value::Null => continue,
                Value::Array(items) if items.is_empty() => continue,
                Value::Object(fields) if fields.is_empty() => continue,
                Value::String(text) => text.clone(),
                Value::Array(items) if items.iter().all(Value::is_string) => {
                    items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
                }
                other => other.to_string(),
            };
            text.push_str(&format!("{:<19}{value}\n", format!("{name}:")));
        }
        print(&text)
    }
}
