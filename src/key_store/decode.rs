//! Decodes a key from a tree of values. All kinds of store use this decoder.
//!
//! Invariant: no message quotes from a store, because any part of a store may be a secret.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::config::decode::Decoder;
use crate::config::fault::Position;
use crate::config::quotas;
use crate::config::tree::{Kind, Node};
use crate::config::{Priority, Quota, budget_quotas, is_group_name, model_patterns, output_cap};
use crate::keys::field::{Field, Form, Presence, Value};
use crate::keys::fields::FIELDS;
use crate::keys::record::{KeyRecord, NO_LIMITS, is_label};
use crate::keys::token::{KeyHash, is_key_id};
use crate::keys::{Permission, Permissions, Secret};

/// The ids, names and hashes that were read so far, with their positions. No two keys of a store
/// may share one of them.
#[derive(Debug, Default)]
pub(crate) struct Unique {
    ids: HashMap<String, Position>,
    names: HashMap<String, Position>,
    hashes: HashMap<KeyHash, Position>,
}

/// Decodes one key.
pub(crate) fn decode(decoder: &mut Decoder<'_>, node: &Node, unique: &mut Unique) -> Option<KeyRecord> {
    let mut fields = decoder.fields(node, "a key")?;
    let (mut id, mut hash, mut permissions) = (None, None, None);
    let mut others: Vec<(&Field, Value)> = Vec::new();
    for field in FIELDS {
        let decode = |d: &mut Decoder<'_>, node: &Node| value(d, node, field.form, unique);
        let value = match field.presence {
            Presence::Required => decoder.required(&mut fields, field.name, decode),
            Presence::Narrows => decoder.narrowing(&mut fields, field.name, decode),
            Presence::NotNull => decoder.given(&mut fields, field.name, decode),
            Presence::Optional => decoder.optional(&mut fields, field.name, decode),
        };
        match value {
            Some(Value::KeyId(value)) => id = Some(value),
            Some(Value::Hash(value)) => hash = Some(value),
            Some(Value::Permissions(value)) => permissions = Some(value),
            Some(value) => others.push((field, value)),
            None => {}
        }
    }
    decoder.done(fields);
    let mut record = KeyRecord::new(id?, hash?, permissions?);
    others.into_iter().for_each(|(field, value)| field.set(&mut record, value));
    Some(record)
}

fn value(d: &mut Decoder<'_>, node: &Node, form: Form, unique: &mut Unique) -> Option<Value> {
    Some(match form {
        Form::KeyId => Value::KeyId(key_id(d, node, &mut unique.ids)?),
        Form::Name => Value::Text(key_name(d, node, &mut unique.names)?),
        Form::Label => Value::Text(label(d, node)?),
        Form::Group => Value::Text(group(d, node)?),
        Form::Hash => Value::Hash(hash(d, node, &mut unique.hashes)?),
        Form::Secrets => {
            Value::Secrets(d.list(node, |d, node| previous_secret(d, node, &mut unique.hashes))?)
        }
        Form::Permissions => Value::Permissions(permissions(d, node)?),
        Form::Instant => Value::Instant(d.instant(node)?),
        Form::Flag => Value::Flag(d.boolean(node)?),
        Form::Count => Value::Count(d.number(node, 1)?),
        Form::RateLimits => Value::RateLimits(rate_limits(d, node)?),
        Form::Budgets => Value::Budgets(budget_quotas(d, node)?),
        Form::Networks => Value::Networks(d.list(node, Decoder::network)?),
        Form::Words => Value::Words(d.list(node, Decoder::word)?),
        Form::Models => Value::Models(model_patterns(d, node)?),
        Form::OutputCap => Value::OutputCap(output_cap(d, node)?),
        Form::Priority => Value::Priority(d.one_of(node, &Priority::WORDS)?),
        Form::Pairs => Value::Pairs(pairs(d, node)?),
    })
}

fn once<T: Hash + Eq>(
    decoder: &mut Decoder<'_>,
    seen: &mut HashMap<T, Position>,
    value: T,
    at: Position,
    what: &str,
) {
    if let Some(first) = seen.insert(value, at) {
        decoder.fault(at, format!("this {what} appears twice")).hint =
            Some(format!("it appears first in line {}", first.line));
    }
}

fn key_id(decoder: &mut Decoder<'_>, node: &Node, seen: &mut HashMap<String, Position>) -> Option<String> {
    let id = decoder.text(node)?;
    if !is_key_id(&id) {
        decoder.fault(node.at, "this is not a key's id").hint =
            Some("`key_` and letters, digits, `_` or `-`, as in key_4f9Zk2Qx7B".to_owned());
        return None;
    }
    once(decoder, seen, id.clone(), node.at, "id");
    Some(id)
}

fn key_name(decoder: &mut Decoder<'_>, node: &Node, seen: &mut HashMap<String, Position>) -> Option<String> {
    let name = label(decoder, node)?;
    once(decoder, seen, name.clone(), node.at, "name");
    Some(name)
}

fn label(decoder: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = decoder.word(node)?;
    if !is_label(&text) {
        decoder.fault(node.at, "must not hold control characters, nor begin or end with white space");
        return None;
    }
    Some(text)
}

fn group(decoder: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let name = decoder.word(node)?;
    match is_group_name(&name) {
        true => Some(name),
        false => decoder.hinted(node.at, "this is not the name of a group", "as in team-a"),
    }
}

fn hash(decoder: &mut Decoder<'_>, node: &Node, seen: &mut HashMap<KeyHash, Position>) -> Option<KeyHash> {
    let text = decoder.text(node)?;
    let Some(hash) = KeyHash::parse(&text) else {
        decoder.fault(node.at, "this is not a key's hash").hint =
            Some("`sha256:` and 64 hex digits; `bearward keys hash` makes one".to_owned());
        return None;
    };
    once(decoder, seen, hash, node.at, "hash");
    Some(hash)
}

fn previous_secret(
    decoder: &mut Decoder<'_>,
    node: &Node,
    seen: &mut HashMap<KeyHash, Position>,
) -> Option<Secret> {
    let mut fields = decoder.fields(node, "a rotated-out secret")?;
    let hash = decoder.required(&mut fields, "hash", |d, node| hash(d, node, seen));
    let expires_at = decoder.required(&mut fields, "expires_at", Decoder::instant);
    decoder.done(fields);
    Some(Secret { hash: hash?, expires_at: expires_at? })
}

fn permissions(decoder: &mut Decoder<'_>, node: &Node) -> Option<Permissions> {
    let permissions = decoder.list(node, |d, node| d.one_of(node, &Permission::ALL))?;
    if permissions.is_empty() {
        decoder.fault(node.at, "a key without permissions").hint =
            Some("`disabled: true` turns a key off".to_owned());
        return None;
    }
    Some(permissions.into_iter().collect())
}

/// Decodes a list of rate limits, or the word `none`.
fn rate_limits(decoder: &mut Decoder<'_>, node: &Node) -> Option<Vec<Quota>> {
    match &node.kind {
        Kind::Scalar { text, .. } if text == NO_LIMITS => Some(Vec::new()),
        _ => quotas(decoder, node),
    }
}

fn pairs(decoder: &mut Decoder<'_>, node: &Node) -> Option<BTreeMap<String, String>> {
    let Kind::Map(entries) = &node.kind else {
        decoder.fault(node.at, "a map of names to values is needed here");
        return None;
    };
    decoder.report_repeated(entries);
    let pair =
        |(key, value): &(crate::config::tree::Key, Node)| Some((key.name.clone(), decoder.text(value)?));
    entries.iter().map(pair).collect()
}
