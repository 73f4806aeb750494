//! A key as text: the fields of an entry of a YAML file, or a line of JSON.

use serde_json::json;

use crate::config::Quota;
use crate::config::decode::parse_duration;
use crate::keys::record::NO_LIMITS;
use crate::keys::{KeyRecord, Secret};

/// A value that both forms can write.
enum Value {
    Text(String),
    /// A number or a truth, which needs no quotes anywhere.
    Word(String),
    List(Vec<Value>),
    Map(Vec<(String, Value)>),
}

/// The lines of a block map, each a field in one line.
pub(super) fn fields(record: &KeyRecord) -> Vec<String> {
    let line = |(name, value): (&'static str, Value)| format!("{name}: {}", value.in_yaml());
    object(record).into_iter().map(line).collect()
}

/// A line of a JSON Lines file.
pub(super) fn line(record: &KeyRecord) -> String {
    let fields = object(record).into_iter().map(|(name, value)| (name.to_owned(), value));
    Value::Map(fields.collect()).in_json()
}

/// A key as an entry of a file's list.
pub(super) fn list_entry(record: &KeyRecord) -> String {
    let mark = |index: usize| if index == 0 { "  - " } else { "    " };
    let lines = fields(record).into_iter().enumerate();
    lines.map(|(index, line)| format!("{}{line}", mark(index))).collect::<Vec<_>>().join("\n")
}

/// The fields that say something, in the order of the documentation.
fn object(record: &KeyRecord) -> Vec<(&'static str, Value)> {
    let text = |text: &dyn ToString| Value::Text(text.to_string());
    let texts = |items: Vec<String>| Value::List(items.into_iter().map(Value::Text).collect());
    let some = |items: Vec<String>| Some(items).filter(|items| !items.is_empty()).map(texts);
    let metadata = record.metadata.iter().map(|(name, value)| (name.clone(), text(value)));
    let metadata: Vec<(String, Value)> = metadata.collect();
    let names = record.permissions.names().into_iter().map(str::to_owned).collect();
    let networks = record.allow_from.iter().map(ToString::to_string).collect();
    let previous: Vec<Value> = record.previous.iter().map(secret).collect();
    let fields = [
        ("id", Some(text(&record.id))),
        ("name", record.name.as_ref().map(|name| text(name))),
        ("hash", Some(text(&record.hash.to_stored()))),
        ("previous", Some(previous).filter(|previous| !previous.is_empty()).map(Value::List)),
        ("permissions", Some(texts(names))),
        ("environment", record.environment.as_ref().map(|label| text(label))),
        ("created_at", record.created_at.map(|at| text(&at))),
        ("not_before", record.not_before.map(|at| text(&at))),
        ("expires_at", record.expires_at.map(|at| text(&at))),
        ("disabled", record.disabled.then(|| Value::Word("true".to_owned()))),
        ("rate_limits", record.rate_limits.as_deref().map(rate_limits)),
        ("max_concurrent", record.max_concurrent.map(|limit| Value::Word(limit.to_string()))),
        ("allow_from", some(networks)),
        ("routes", record.routes.clone().map(texts)),
        ("metadata", Some(metadata).filter(|metadata| !metadata.is_empty()).map(Value::Map)),
    ];
    fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn secret(secret: &Secret) -> Value {
    let (hash, end) = (Value::Text(secret.hash.to_stored()), Value::Text(secret.expires_at.to_string()));
    Value::Map(vec![("hash".to_owned(), hash), ("expires_at".to_owned(), end)])
}

/// `[]` would be read as a template that rendered nothing.
fn rate_limits(all: &[Quota]) -> Value {
    match all {
        [] => Value::Text(NO_LIMITS.to_owned()),
        all => Value::List(all.iter().map(quota).collect()),
    }
}

fn quota(quota: &Quota) -> Value {
    let seconds = quota.per.as_secs();
    let units = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let unit = units.into_iter().find(|(length, _)| seconds.is_multiple_of(*length));
    let per = unit.map(|(length, name)| format!("{}{name}", seconds / length)).unwrap_or_default();
    let mut fields = vec![
        ("requests".to_owned(), Value::Word(quota.requests.to_string())),
        ("per".to_owned(), Value::Text(per)),
    ];
    if quota.burst != Quota::default_burst(quota.requests) {
        fields.push(("burst".to_owned(), Value::Word(quota.burst.to_string())));
    }
    Value::Map(fields)
}

impl Value {
    /// In flow style, with text plain where that is safe.
    fn in_yaml(&self) -> String {
        match self {
            Value::Word(word) => word.clone(),
            Value::Text(text) => in_yaml(text),
            Value::List(items) => format!("[{}]", joined(items.iter().map(Value::in_yaml), ", ")),
            Value::Map(fields) => {
                let field =
                    |(name, value): &(String, Value)| format!("{}: {}", in_yaml(name), value.in_yaml());
                format!("{{{}}}", joined(fields.iter().map(field), ", "))
            }
        }
    }

    fn in_json(&self) -> String {
        match self {
            Value::Word(word) => word.clone(),
            Value::Text(text) => json!(text).to_string(),
            Value::List(items) => format!("[{}]", joined(items.iter().map(Value::in_json), ",")),
            Value::Map(fields) => {
                let field = |(name, value): &(String, Value)| format!("{}:{}", json!(name), value.in_json());
                format!("{{{}}}", joined(fields.iter().map(field), ","))
            }
        }
    }
}

fn joined(items: impl Iterator<Item = String>, mark: &str) -> String {
    items.collect::<Vec<_>>().join(mark)
}

/// Text as a YAML scalar. A JSON string is a YAML string, whatever is in it.
pub(super) fn in_yaml(text: &str) -> String {
    if is_plain(text) { text.to_owned() } else { json!(text).to_string() }
}

/// Whether text needs no quotes anywhere in YAML: it is a word that begins with a letter and that no reader takes for
/// something else, or a time, a duration or a network.
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
