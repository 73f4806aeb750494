//! A key as text: the fields of an entry of a YAML file, or a line of JSON.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::config::Quota;
use crate::keys::KeyRecord;

/// The lines of a block map, each a field in one line.
pub(super) fn fields(record: &KeyRecord) -> Vec<String> {
    let line = |(name, value): (String, Value)| format!("{name}: {}", in_flow(&value));
    object(record).into_iter().map(line).collect()
}

/// A line of a JSON Lines file.
pub(super) fn line(record: &KeyRecord) -> String {
    let mut text = String::from("{");
    for (index, (name, value)) in object(record).into_iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        // Writing to a string does not fail.
        let _infallible = write!(text, "{comma}{}:{value}", json!(name));
    }
    text.push('}');
    text
}

/// A key as an entry of a file's list.
pub(super) fn list_entry(record: &KeyRecord) -> String {
    let mark = |index: usize| if index == 0 { "  - " } else { "    " };
    let lines = fields(record).into_iter().enumerate();
    lines.map(|(index, line)| format!("{}{line}", mark(index))).collect::<Vec<_>>().join("\n")
}

/// The fields that say something, in the order of the documentation.
fn object(record: &KeyRecord) -> Vec<(String, Value)> {
    let mut fields = vec![("id", json!(record.id))];
    let mut field = |name, value: Option<Value>| fields.extend(value.map(|value| (name, value)));
    field("name", record.name.as_ref().map(|name| json!(name)));
    field("hash", Some(json!(record.hash.to_stored())));
    let previous = record.previous.iter();
    let previous = previous
        .map(|secret| json!({"hash": secret.hash.to_stored(), "expires_at": secret.expires_at.to_string()}));
    field("previous", (!record.previous.is_empty()).then(|| previous.collect()));
    field("permissions", Some(json!(record.permissions.names())));
    field("environment", record.environment.as_ref().map(|label| json!(label)));
    field("created_at", record.created_at.map(|at| json!(at.to_string())));
    field("not_before", record.not_before.map(|at| json!(at.to_string())));
    field("expires_at", record.expires_at.map(|at| json!(at.to_string())));
    field("disabled", record.disabled.then_some(json!(true)));
    let quotas = record.rate_limits.as_ref().map(|quotas| quotas.iter().map(quota).collect());
    field("rate_limits", quotas);
    field("max_concurrent", record.max_concurrent.map(|limit| json!(limit)));
    let networks = record.allow_from.iter().map(|network| json!(network.to_string()));
    field("allow_from", (!record.allow_from.is_empty()).then(|| networks.collect()));
    field("routes", record.routes.as_ref().map(|routes| json!(routes)));
    field("metadata", (!record.metadata.is_empty()).then(|| json!(record.metadata)));
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn quota(quota: &Quota) -> Value {
    let seconds = quota.per.as_secs();
    let per = match seconds {
        _ if seconds.is_multiple_of(86_400) => format!("{}d", seconds / 86_400),
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    };
    let mut fields = Map::new();
    fields.insert("requests".to_owned(), json!(quota.requests));
    fields.insert("per".to_owned(), json!(per));
    fields.insert("burst".to_owned(), json!(quota.burst));
    Value::Object(fields)
}

/// A value in YAML's flow style, plain where that is safe: a JSON string is a YAML string, whatever is in it.
fn in_flow(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(in_flow).collect::<Vec<_>>().join(", ")),
        Value::Object(fields) => {
            let field =
                |(name, value): (&String, &Value)| format!("{}: {}", in_flow(&json!(name)), in_flow(value));
            format!("{{{}}}", fields.iter().map(field).collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

/// Whether text needs no quotes anywhere in YAML: it begins with a letter, or is a time; and it is no word that some
/// readers take for something else.
fn is_plain(text: &str) -> bool {
    let is_time = text.parse::<jiff::Timestamp>().is_ok();
    let is_duration = text.len() < 12 && crate::config::decode::parse_duration(text).is_some();
    let is_word = text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':'))
        && !text.ends_with(':');
    let is_other = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "null"
    );
    is_time || is_duration || (is_word && !is_other)
}
