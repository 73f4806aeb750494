//! Reads the keys of LiteLLM: from its configuration, from an answer of `/key/list`, or from an
//! export of its table of tokens.

use super::imported::{ImportedKey, ImportedKeys, Terms};
use super::limits::quota;
use super::parse::{duplicate, parse};
use super::tree::{boolean, count, fields, given, is_nothing, items, narrowed, scalar, text, twice, unknown};
use crate::config::tree::{Key, Node};

/// Fields that do not restrict a key, such as names and statistics, and fields that this module
/// reads.
const HARMLESS: [&str; 31] = [
    "token",
    "key",
    "api_key",
    "key_name",
    "key_alias",
    "name",
    "spend",
    "user_id",
    "user",
    "user_email",
    "created_at",
    "created_by",
    "updated_at",
    "updated_by",
    "last_active",
    "last_used_at",
    "rotation_count",
    "rotation_interval",
    "last_rotation_at",
    "key_rotation_at",
    "budget_reset_at",
    "budget_duration",
    "model_spend",
    "aliases",
    "config",
    "metadata",
    "expires",
    "expires_at",
    "blocked",
    "rpm_limit",
    "max_parallel_requests",
];
/// Names of fields that may contain the list of keys.
const LISTS: [&str; 3] = ["keys", "data", "tokens"];
/// A metadata field may restrict a key if its name contains one of these words.
const NARROWING_METADATA: [&str; 6] = ["limit", "budget", "guardrail", "model", "allowed", "blocked"];

/// Reads the keys.
///
/// # Errors
///
/// A field outside of the list's entries appears twice in one map.
pub(super) fn read(root: &Node) -> Result<ImportedKeys, String> {
    let outside =
        |(key, value): &&(Key, Node)| !LISTS.contains(&key.name.as_str()) || items(value).is_empty();
    let names: Vec<&str> = fields(root).iter().map(|(key, _)| key.name.as_str()).collect();
    let is_there_twice = |name: &str| names.iter().filter(|other| **other == name).count() > 1;
    let own = fields(root).iter().find(|(key, _)| is_there_twice(&key.name)).map(|(key, _)| key.at.line);
    if let Some(line) =
        own.or_else(|| fields(root).iter().filter(outside).find_map(|(_, value)| twice(value)))
    {
        return Err(duplicate(line));
    }
    let mut sources = ImportedKeys::default();
    let settings = given(root, "general_settings");
    if let Some(master) = settings.and_then(|settings| text(settings, "master_key")) {
        let source = ImportedKey::of(master, Some("master-key"), Terms::default());
        sources.take("general_settings.master_key", source);
    }
    let all = LISTS.iter().find_map(|name| given(root, name)).unwrap_or(root);
    for (index, entry) in items(all).iter().enumerate() {
        let at = format!("entry {} (line {})", index + 1, entry.at.line);
        let source = match twice(entry) {
            Some(line) => Err(duplicate(line)),
            None => entry_of(entry),
        };
        sources.take(at, source);
    }
    Ok(sources)
}

fn entry_of(entry: &Node) -> Result<ImportedKey, String> {
    if let Some(token) = scalar(entry) {
        return match is_digest(token) {
            true => Err("64 hex digits may be a key, or LiteLLM's hash of one; as `- key: …` it is the one, as `- token: …` \
                         the other"
                .to_owned()),
            false => ImportedKey::of(token, None, Terms::default()),
        };
    }
    let field = |names: &[&str]| names.iter().find_map(|name| text(entry, name));
    let name = field(&["key_alias", "name"]);
    let terms = terms(entry)?;
    match (field(&["key", "api_key"]), text(entry, "token")) {
        (Some(key), _) => ImportedKey::of(key, name, terms),
        // A `token` of 64 hex digits is the SHA-256 of a key, which LiteLLM stores and lists in its
        // place.
        (None, Some(token)) if is_digest(token) => {
            ImportedKey::of_digest(&token.to_ascii_lowercase(), name, terms)
        }
        (None, Some(token)) => ImportedKey::of(token, name, terms),
        (None, None) => Err("neither `key` nor `token`".to_owned()),
    }
}

fn terms(entry: &Node) -> Result<Terms, String> {
    if let Some(field) = unknown(entry, &HARMLESS) {
        // `auto_rotate: false` does not restrict a key.
        let says_no = |name: &str| given(entry, name).and_then(boolean) == Some(false);
        if !(field == "auto_rotate" && says_no(field)) {
            return Err(narrowed(field));
        }
    }
    if given(entry, "metadata").is_some_and(metadata_narrows) {
        return Err(narrowed("metadata"));
    }
    let number = |name: &str| match given(entry, name) {
        None => Ok(None),
        Some(value) => {
            count(value).map(Some).ok_or_else(|| format!("`{name}` is not a number of at least 1"))
        }
    };
    let mut terms = Terms { max_concurrent: number("max_parallel_requests")?, ..Terms::default() };
    terms.rate_limits.extend(number("rpm_limit")?.and_then(|requests| quota(requests, 60)));
    if let Some(end) = given(entry, "expires").or_else(|| given(entry, "expires_at")) {
        let end = scalar(end).and_then(|end| end.parse().ok());
        terms.expires_at = Some(end.ok_or("`expires` is not a time with a zone")?);
    }
    if let Some(blocked) = given(entry, "blocked") {
        terms.disabled = boolean(blocked).ok_or("`blocked` is neither true nor false")?;
    }
    Ok(terms)
}

/// Whether metadata has a part that restricts the key. Exports of tables contain metadata as JSON
/// in a string.
fn metadata_narrows(metadata: &Node) -> bool {
    if let Some(text) = scalar(metadata) {
        return parse(text).map_or(true, |inner| scalar(&inner).is_some() || metadata_narrows(&inner));
    }
    let is_narrowing =
        |name: &str| NARROWING_METADATA.iter().any(|part| name.to_ascii_lowercase().contains(part));
    !items(metadata).is_empty()
        || twice(metadata).is_some()
        || fields(metadata).iter().any(|(key, value)| is_narrowing(&key.name) && !is_nothing(value))
}

/// Whether `text` has the form of a SHA-256 in hex.
fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
