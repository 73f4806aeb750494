//! What a description of a key's field says. [`super::fields`] has the descriptions.

use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::json;

use crate::config::Quota;
use crate::keys::api_key::ApiKey;
use crate::keys::record::KeyRecord;
use crate::keys::terms::{Secret, Terms};
use crate::keys::token::KeyHash;
use crate::permission::Permissions;

/// The description of a field.
#[derive(Debug)]
pub(crate) struct Field {
    /// The name in every store, and in the API.
    pub(crate) name: &'static str,
    /// What it is for, in a few words: for docs/keys.md, the OpenAPI document and `--help`.
    pub(crate) about: &'static str,
    /// What holds for a key without it: for docs/keys.md and `--help`.
    pub(crate) default: &'static str,
    pub(crate) form: Form,
    pub(crate) presence: Presence,
    pub(crate) set_by: SetBy,
    pub(crate) shown: Shown,
    pub(crate) part: Part,
}

/// The form of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `key_…`, which no other key has.
    KeyId,
    /// A label that no other key has.
    Name,
    /// Text that a header can hold.
    Label,
    /// `sha256:…`
    Hash,
    /// A list of `{hash, expires_at}`.
    Secrets,
    /// A list of at least one permission.
    Permissions,
    /// An instant, written with a zone.
    Instant,
    /// `true` or `false`.
    Flag,
    /// A whole number of at least 1.
    Count,
    /// A list of `{requests, per, burst}`, or `none`.
    RateLimits,
    /// A list of networks and addresses.
    Networks,
    /// A list of words.
    Words,
    /// A map of names to text.
    Pairs,
}

/// Whether an entry must have a field, and whether the field may be there without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// A key needs it.
    Required,
    /// It narrows a key. Without it the key may do more, so a field without a value is refused: a
    /// template that rendered nothing must not widen a key.
    Narrows,
    /// It may be an empty list, and may not be null.
    NotNull,
    /// Null is the same as no field.
    Optional,
}

/// Who gives a new key its value of a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetBy {
    /// bearward alone.
    Bearward,
    /// The caller of the admin API; `keys create` has arguments of its own for it, or none.
    Api,
    /// The caller of the admin API, and `keys create` and `import` by the argument with this name.
    ApiAndArgument(&'static str),
}

/// Where a field is shown under its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shown {
    /// Nowhere.
    Never,
    /// By `keys list` and `show`.
    ByCommands,
    /// By the admin API as well.
    ByApi,
}

/// Where a key has a field in memory.
#[derive(Debug)]
pub(crate) enum Part {
    /// In every key, also of those in service.
    Own {
        of_record: fn(&KeyRecord) -> Option<Value>,
        of_key: fn(&ApiKey) -> Option<Value>,
        set: fn(&mut KeyRecord, Value),
    },
    /// In its [`Terms`], also of keys in service.
    Term { get: fn(&Terms) -> Option<Value>, set: fn(&mut Terms, Value) },
    /// In its record, and not in service.
    Stored { of_record: fn(&KeyRecord) -> Option<Value>, set: fn(&mut KeyRecord, Value) },
}

impl Field {
    /// The value that a record has of it.
    pub(crate) fn of_record(&self, record: &KeyRecord) -> Option<Value> {
        match self.part {
            Part::Own { of_record, .. } | Part::Stored { of_record, .. } => of_record(record),
            Part::Term { get, .. } => get(&record.terms),
        }
    }

    /// The value that a key in service has of it.
    pub(crate) fn of_key(&self, key: &ApiKey) -> Option<Value> {
        match self.part {
            Part::Own { of_key, .. } => of_key(key),
            Part::Term { get, .. } => key.terms().and_then(get),
            Part::Stored { .. } => None,
        }
    }

    /// Gives a record this value of it.
    pub(crate) fn set(&self, record: &mut KeyRecord, value: Value) {
        match self.part {
            Part::Own { set, .. } | Part::Stored { set, .. } => set(record, value),
            Part::Term { set, .. } => set(&mut record.terms, value),
        }
    }

    /// Whether it is a part of a key's [`Terms`].
    pub(crate) fn is_term(&self) -> bool {
        matches!(self.part, Part::Term { .. })
    }

    /// The value as commands and the admin API show it; what they show where there is none.
    pub(crate) fn shown(&self, value: Option<&Value>) -> serde_json::Value {
        match (value, self.form) {
            (Some(value), _) => value.shown(),
            (None, Form::Networks) => json!([]),
            (None, Form::Pairs) => json!({}),
            (None, Form::Flag) => json!(false),
            (None, _) => json!(null),
        }
    }
}

/// A value of a field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    KeyId(String),
    /// Of the forms `Name` and `Label`.
    Text(String),
    Hash(KeyHash),
    Secrets(Vec<Secret>),
    Permissions(Permissions),
    Instant(Timestamp),
    Flag(bool),
    Count(u32),
    RateLimits(Vec<Quota>),
    Networks(Vec<IpNet>),
    Words(Vec<String>),
    Pairs(BTreeMap<String, String>),
}

impl Value {
    /// The value as JSON, without a digest.
    fn shown(&self) -> serde_json::Value {
        let quota = |quota: &Quota| json!({"requests": quota.requests, "per_seconds": quota.per.as_secs(), "burst": quota.burst});
        match self {
            Value::KeyId(text) | Value::Text(text) => json!(text),
            Value::Hash(_) | Value::Secrets(_) => json!(null),
            Value::Permissions(permissions) => json!(permissions.names()),
            Value::Instant(instant) => json!(instant.to_string()),
            Value::Flag(flag) => json!(flag),
            Value::Count(count) => json!(count),
            Value::RateLimits(quotas) => quotas.iter().map(quota).collect(),
            Value::Networks(networks) => networks.iter().map(ToString::to_string).collect(),
            Value::Words(words) => json!(words),
            Value::Pairs(pairs) => json!(pairs),
        }
    }
}

/// A member of a record that is a field.
pub(super) trait Member {
    /// Its value; `None` where the field is left out.
    fn value(&self) -> Option<Value>;

    /// Takes a value of its form.
    fn put(&mut self, value: Value);
}

macro_rules! member {
    ($type:ty, $form:ident, $is_set:expr) => {
        impl Member for $type {
            fn value(&self) -> Option<Value> {
                let is_set: fn(&$type) -> bool = $is_set;
                is_set(self).then(|| Value::$form(self.clone()))
            }

            fn put(&mut self, value: Value) {
                match value {
                    Value::$form(value) => *self = value,
                    other => debug_assert!(false, "{other:?} is of another form"),
                }
            }
        }
    };
    (Option<$type:ty>, $form:ident) => {
        impl Member for Option<$type> {
            fn value(&self) -> Option<Value> {
                self.clone().map(Value::$form)
            }

            fn put(&mut self, value: Value) {
                match value {
                    Value::$form(value) => *self = Some(value),
                    other => debug_assert!(false, "{other:?} is of another form"),
                }
            }
        }
    };
}

member!(String, KeyId, |_| true);
member!(KeyHash, Hash, |_| true);
member!(Permissions, Permissions, |_| true);
member!(bool, Flag, |flag| *flag);
member!(Vec<Secret>, Secrets, |secrets| !secrets.is_empty());
member!(Vec<IpNet>, Networks, |networks| !networks.is_empty());
member!(BTreeMap<String, String>, Pairs, |pairs| !pairs.is_empty());
member!(Option<String>, Text);
member!(Option<Timestamp>, Instant);
member!(Option<u32>, Count);
member!(Option<Vec<Quota>>, RateLimits);
member!(Option<Vec<String>>, Words);
