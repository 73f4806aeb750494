//! Writes a key as text: as the fields of an entry of a YAML file, or as a line of JSON.

use serde_json::json;

use crate::config::decode::parse_duration;
use crate::config::{BudgetQuota, Quota, Zone};
use crate::keys::field::Value;
use crate::keys::fields::FIELDS;
use crate::keys::record::NO_LIMITS;
use crate::keys::{KeyRecord, Secret};

/// A value that can be written in YAML and in JSON.
enum Text {
    /// Text, which is written in quotes if the format needs them.
    Quoted(String),
    /// A number, `true` or `false`, which needs no quotes in either format.
    Plain(String),
    List(Vec<Text>),
    Map(Vec<(String, Text)>),
}

/// Returns the lines of a YAML block map, one field on each line.
pub(super) fn fields(record: &KeyRecord) -> Vec<String> {
    let line = |(name, value): (&'static str, Text)| format!("{name}: {}", value.in_yaml());
    object(record).into_iter().map(line).collect()
}

/// Returns a line of a JSON Lines file.
pub(in crate::key_store) fn line(record: &KeyRecord) -> String {
    let fields = object(record).into_iter().map(|(name, value)| (name.to_owned(), value));
    Text::Map(fields.collect()).in_json()
}

/// Returns a key as an entry of a YAML list.
pub(super) fn list_entry(record: &KeyRecord) -> String {
    let mark = |index: usize| if index == 0 { "  - " } else { "    " };
    let lines = fields(record).into_iter().enumerate();
    lines.map(|(index, line)| format!("{}{line}", mark(index))).collect::<Vec<_>>().join("\n")
}

/// Returns the fields that the key has, in the order of the documentation.
fn object(record: &KeyRecord) -> Vec<(&'static str, Text)> {
    FIELDS.iter().filter_map(|field| Some((field.name, text(field.of_record(record)?)))).collect()
}

fn text(value: Value) -> Text {
    let list = |items: Vec<String>| Text::List(items.into_iter().map(Text::Quoted).collect());
    match value {
        Value::KeyId(text) | Value::Text(text) => Text::Quoted(text),
        Value::Hash(hash) => Text::Quoted(hash.to_stored()),
        Value::Secrets(secrets) => Text::List(secrets.iter().map(secret).collect()),
        Value::Permissions(permissions) => list(permissions.names().into_iter().map(str::to_owned).collect()),
        Value::Instant(instant) => Text::Quoted(instant.to_string()),
        Value::Flag(flag) => Text::Plain(flag.to_string()),
        Value::Count(count) => Text::Plain(count.to_string()),
        Value::RateLimits(quotas) => rate_limits(&quotas),
        Value::Budgets(budgets) => Text::List(budgets.iter().map(budget).collect()),
        Value::Models(patterns) => {
            Text::List(patterns.written().iter().map(|pattern| Text::Quoted(pattern.clone())).collect())
        }
        Value::OutputCap(cap) => Text::Map(vec![
            ("max_output_tokens".to_owned(), Text::Plain(cap.max_output_tokens.to_string())),
            ("on_excess".to_owned(), Text::Plain(cap.on_excess.name().to_owned())),
        ]),
        Value::Priority(priority) => Text::Plain(priority.name().to_owned()),
        Value::Networks(networks) => list(networks.iter().map(ToString::to_string).collect()),
        Value::Words(words) => list(words),
        Value::Pairs(pairs) => {
            Text::Map(pairs.into_iter().map(|(name, value)| (name, Text::Quoted(value))).collect())
        }
    }
}

fn secret(secret: &Secret) -> Text {
    let (hash, end) = (Text::Quoted(secret.hash.to_stored()), Text::Quoted(secret.expires_at.to_string()));
    Text::Map(vec![("hash".to_owned(), hash), ("expires_at".to_owned(), end)])
}

/// Returns rate limits as a value. An empty list is written as `none`: the decoder refuses `[]`,
/// which a template may have rendered.
fn rate_limits(all: &[Quota]) -> Text {
    match all {
        [] => Text::Quoted(NO_LIMITS.to_owned()),
        all => Text::List(all.iter().map(quota).collect()),
    }
}

fn quota(quota: &Quota) -> Text {
    let seconds = quota.per.as_secs();
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let unit = units.into_iter().find(|(length, _)| seconds.is_multiple_of(*length));
    let per = unit.map_or_else(String::new, |(length, name)| format!("{}{name}", seconds / length));
    debug_assert!(!per.is_empty(), "every number of seconds is a multiple of one");
    let mut fields = vec![
        (quota.unit.field().to_owned(), Text::Plain(quota.amount.to_string())),
        ("per".to_owned(), Text::Quoted(per)),
    ];
    if quota.burst != quota.unit.default_burst(quota.amount) {
        fields.push(("burst".to_owned(), Text::Plain(quota.burst.to_string())));
    }
    if !quota.is_enforced {
        fields.push(("enforce".to_owned(), Text::Plain("false".to_owned())));
    }
    Text::Map(fields)
}

fn budget(budget: &BudgetQuota) -> Text {
    let mut fields = vec![
        (budget.unit.field().to_owned(), Text::Plain(budget.amount.to_string())),
        ("every".to_owned(), Text::Plain(budget.every.name().to_owned())),
    ];
    if budget.zone != Zone::utc() {
        fields.push(("zone".to_owned(), Text::Quoted(budget.zone.name().to_owned())));
    }
    Text::Map(fields)
}

impl Text {
    /// Writes the value in YAML's flow style. Text is written without quotes where that is safe.
    fn in_yaml(&self) -> String {
        match self {
            Text::Plain(word) => word.clone(),
            Text::Quoted(text) => in_yaml(text),
            Text::List(items) => format!("[{}]", joined(items.iter().map(Text::in_yaml), ", ")),
            Text::Map(fields) => {
                let field =
                    |(name, value): &(String, Text)| format!("{}: {}", in_yaml(name), value.in_yaml());
                format!("{{{}}}", joined(fields.iter().map(field), ", "))
            }
        }
    }

    fn in_json(&self) -> String {
        match self {
            Text::Plain(word) => word.clone(),
            Text::Quoted(text) => json!(text).to_string(),
            Text::List(items) => format!("[{}]", joined(items.iter().map(Text::in_json), ",")),
            Text::Map(fields) => {
                let field = |(name, value): &(String, Text)| format!("{}:{}", json!(name), value.in_json());
                format!("{{{}}}", joined(fields.iter().map(field), ","))
            }
        }
    }
}

fn joined(items: impl Iterator<Item = String>, mark: &str) -> String {
    items.collect::<Vec<_>>().join(mark)
}

/// Writes text as a YAML scalar. A JSON string is a valid YAML string, whatever its content is.
pub(super) fn in_yaml(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { json!(text).to_string() }
}

/// Whether text needs no quotes in YAML. Such text is a word that begins with a letter and that
/// every YAML reader parses as text, or it is a time, a duration or a network.
fn is_plain(text: &str) -> bool {
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':'))
        && !text.ends_with(':');
    let words = ["true", "false", "yes", "no", "on", "off", "y", "n", "null"];
    let is_other = words.contains(&text.to_ascii_lowercase().as_str());
    let is_number_like = text.starts_with(|first: char| first.is_ascii_digit())
        && (text.parse::<jiff::Timestamp>().is_ok()
            || (text.bytes().all(|byte| byte.is_ascii_alphanumeric()) && parse_duration(text).is_some())
            || text.parse::<ipnet::IpNet>().is_ok());
    is_number_like || (is_word && !is_other)
}
