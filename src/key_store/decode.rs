//! Decodes a key from a tree of values: an entry of any store.
//!
//! Invariant: no message quotes from a store, since any part of it may be a secret.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use crate::config::Quota;
use crate::config::decode::Decoder;
use crate::config::fault::Position;
use crate::config::load::quotas;
use crate::config::tree::{Kind, Node};
use crate::keys::record::{KeyRecord, NO_LIMITS, is_label};
use crate::keys::token::{KeyHash, is_key_id};
use crate::keys::{Permission, Permissions, Secret};

/// What may stand but once in a store, and where it stood first.
#[derive(Debug, Default)]
pub(crate) struct Unique {
    ids: HashMap<String, Position>,
    names: HashMap<String, Position>,
    hashes: HashMap<KeyHash, Position>,
}

fn once<T: Hash + Eq>(
    decoder: &mut Decoder<'_>,
    seen: &mut HashMap<T, Position>,
    value: T,
    at: Position,
    what: &str,
) {
    if let Some(first) = seen.insert(value, at) {
        decoder.fault(at, format!("this {what} stands twice")).hint =
            Some(format!("it stands first in line {}", first.line));
    }
}

/// Reads one key.
pub(crate) fn decode(decoder: &mut Decoder<'_>, node: &Node, unique: &mut Unique) -> Option<KeyRecord> {
    let mut fields = decoder.fields(node, "a key")?;
    let f = &mut fields;
    let id = decoder.required(f, "id", |d, node| key_id(d, node, &mut unique.ids));
    let name = decoder.optional(f, "name", |d, node| key_name(d, node, &mut unique.names));
    let current = decoder.required(f, "hash", |d, node| hash(d, node, &mut unique.hashes));
    let previous = decoder
        .given(f, "previous", |d, node| d.list(node, |d, node| previous_secret(d, node, &mut unique.hashes)));
    let permissions = decoder.required(f, "permissions", permissions);
    let expires_at = decoder.narrowing(f, "expires_at", Decoder::instant);
    let environment = decoder.narrowing(f, "environment", label);
    let created_at = decoder.optional(f, "created_at", Decoder::instant);
    let not_before = decoder.narrowing(f, "not_before", Decoder::instant);
    let disabled = decoder.narrowing(f, "disabled", Decoder::boolean);
    let rate_limits = decoder.narrowing(f, "rate_limits", rate_limits);
    let max_concurrent = decoder.narrowing(f, "max_concurrent", |d, node| d.number(node, 1));
    let allow_from = decoder.narrowing(f, "allow_from", |d, node| d.list(node, Decoder::network));
    let routes = decoder.narrowing(f, "routes", |d, node| d.list(node, Decoder::word));
    let metadata = decoder.optional(f, "metadata", metadata);
    decoder.done(fields);
    Some(KeyRecord {
        id: id?,
        name,
        hash: current?,
        previous: previous.unwrap_or_default(),
        permissions: permissions?,
        environment,
        created_at,
        not_before,
        expires_at,
        disabled: disabled.unwrap_or(false),
        rate_limits,
        max_concurrent,
        allow_from: allow_from.unwrap_or_default(),
        routes,
        metadata: metadata.unwrap_or_default(),
    })
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

/// A list of rate limits, or `none`: then the configuration's defaults do not hold for the key.
fn rate_limits(decoder: &mut Decoder<'_>, node: &Node) -> Option<Vec<Quota>> {
    match &node.kind {
        Kind::Scalar { text, .. } if text == NO_LIMITS => Some(Vec::new()),
        _ => quotas(decoder, node),
    }
}

fn metadata(decoder: &mut Decoder<'_>, node: &Node) -> Option<BTreeMap<String, String>> {
    let Kind::Map(entries) = &node.kind else {
        decoder.fault(node.at, "metadata is a map of names to values");
        return None;
    };
    decoder.report_repeated(entries);
    let pair =
        |(key, value): &(crate::config::tree::Key, Node)| Some((key.name.clone(), decoder.text(value)?));
    entries.iter().map(pair).collect()
}
