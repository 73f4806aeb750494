//! The type that describes a field of a key. [`super::fields`] has the descriptions.

use std::collections::BTreeMap;

use ipnet::IpNet;
use jiff::Timestamp;
use serde_json::json;

use crate::config::{BudgetQuota, OutputCap, Priority, Quota};
use crate::keys::api_key::ApiKey;
use crate::keys::record::KeyRecord;
use crate::keys::terms::{Secret, Terms};
use crate::keys::token::KeyHash;
use crate::model::ModelPatterns;
use crate::permission::Permissions;

/// The description of one field of a key.
#[derive(Debug)]
pub(crate) struct Field {
    /// The field's name in every store, and in the admin API.
    pub(crate) name: &'static str,
    /// The field's purpose in a few words, printed in docs/keys.md, the OpenAPI document and
    /// `--help`.
    pub(crate) about: &'static str,
    /// How a key without this field behaves, printed in docs/keys.md and `--help`.
    pub(crate) default: &'static str,
    pub(crate) form: Form,
    pub(crate) presence: Presence,
    pub(crate) set_by: SetBy,
    pub(crate) shown: Shown,
    pub(crate) part: Part,
}

/// The syntax of a field's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// A key id, `key_…`, unique in its store.
    KeyId,
    /// A label, unique in its store.
    Name,
    /// Text that is valid as the value of a header.
    Label,
    /// The name of a group.
    Group,
    /// A digest, `sha256:…`.
    Hash,
    /// A list of `{hash, expires_at}`.
    Secrets,
    /// A list of at least one permission.
    Permissions,
    /// An instant, written with a time zone.
    Instant,
    /// `true` or `false`.
    Flag,
    /// A whole number of at least 1.
    Count,
    /// A list of rate limits, or `none`.
    RateLimits,
    /// A list of budgets.
    Budgets,
    /// A list of networks and addresses.
    Networks,
    /// A list of words.
    Words,
    /// A list of patterns for models.
    Models,
    /// `{max_output_tokens, on_excess}`.
    OutputCap,
    /// `interactive`, `standard` or `batch`.
    Priority,
    /// A map of names to text.
    Pairs,
}

/// Whether an entry must have a field, and whether a field without a value is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// Every key must have the field.
    Required,
    /// The field limits what a key may do, and may be left out. A field without a value is refused:
    /// a template that rendered nothing must not give a key more access.
    Narrows,
    /// The field may be an empty list, and may not be null.
    NotNull,
    /// A field that is null means the same as a field that is left out.
    Optional,
}

/// Who sets a field of a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SetBy {
    /// bearward alone sets the field.
    Bearward,
    /// The caller of the admin API sets the field. `keys create` either has special arguments for
    /// the field, or can't set it.
    Api,
    /// The caller of the admin API sets the field, and so do `keys create` and `import` with the
    /// argument of this name.
    ApiAndArgument(&'static str),
}

/// Which commands and interfaces show a field under its own name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Shown {
    /// The field is not shown.
    Never,
    /// `keys list` and `keys show` show the field.
    ByCommands,
    /// `keys list`, `keys show` and the admin API show the field.
    ByApi,
}

/// Which structs contain a field in memory.
#[derive(Debug)]
pub(crate) enum Part {
    /// The field is a member of `KeyRecord` and of `ApiKey`.
    Own {
        of_record: fn(&KeyRecord) -> Option<Value>,
        of_key: fn(&ApiKey) -> Option<Value>,
        set: fn(&mut KeyRecord, Value),
    },
    /// The field is a member of [`Terms`], which `KeyRecord` and `ApiKey` both contain.
    Term { get: fn(&Terms) -> Option<Value>, set: fn(&mut Terms, Value) },
    /// The field is a member of `KeyRecord` only, and keys in service do not have it.
    Stored { of_record: fn(&KeyRecord) -> Option<Value>, set: fn(&mut KeyRecord, Value) },
}

impl Field {
    /// Returns the field's value in a record; `None` if the record does not have the field.
    pub(crate) fn of_record(&self, record: &KeyRecord) -> Option<Value> {
        match self.part {
            Part::Own { of_record, .. } | Part::Stored { of_record, .. } => of_record(record),
            Part::Term { get, .. } => get(&record.terms),
        }
    }

    /// Returns the field's value in a key in service; `None` if the key does not have the field.
    pub(crate) fn of_key(&self, key: &ApiKey) -> Option<Value> {
        match self.part {
            Part::Own { of_key, .. } => of_key(key),
            Part::Term { get, .. } => key.terms().and_then(get),
            Part::Stored { .. } => None,
        }
    }

    /// Sets the field of a record to `value`.
    pub(crate) fn set(&self, record: &mut KeyRecord, value: Value) {
        match self.part {
            Part::Own { set, .. } | Part::Stored { set, .. } => set(record, value),
            Part::Term { set, .. } => set(&mut record.terms, value),
        }
    }

    /// Whether the field is a member of [`Terms`].
    pub(crate) fn is_term(&self) -> bool {
        matches!(self.part, Part::Term { .. })
    }

    /// Returns `value` as commands and the admin API show it. For `None`, returns what they show of
    /// a key without the field.
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

/// A value of a field, typed by the field's [`Form`].
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    KeyId(String),
    /// A value of the form `Name`, `Label` or `Group`.
    Text(String),
    Hash(KeyHash),
    Secrets(Vec<Secret>),
    Permissions(Permissions),
    Instant(Timestamp),
    Flag(bool),
    Count(u32),
    RateLimits(Vec<Quota>),
    Budgets(Vec<BudgetQuota>),
    Networks(Vec<IpNet>),
    Words(Vec<String>),
    Models(ModelPatterns),
    OutputCap(OutputCap),
    Priority(Priority),
    Pairs(BTreeMap<String, String>),
}

impl Value {
    /// Returns the value as JSON. A digest becomes null.
    fn shown(&self) -> serde_json::Value {
        let quota = |quota: &Quota| {
            let shown = json!({quota.unit.field(): quota.amount, "per_seconds": quota.per.as_secs(), "burst": quota.burst});
            match (quota.is_enforced, shown) {
                (false, serde_json::Value::Object(fields)) => {
                    fields.into_iter().chain([("enforce".to_owned(), json!(false))]).collect()
                }
                (_, shown) => shown,
            }
        };
        match self {
            Value::KeyId(text) | Value::Text(text) => json!(text),
            Value::Hash(_) | Value::Secrets(_) => json!(null),
            Value::Permissions(permissions) => json!(permissions.names()),
            Value::Instant(instant) => json!(instant.to_string()),
            Value::Flag(flag) => json!(flag),
            Value::Count(count) => json!(count),
            Value::RateLimits(quotas) => quotas.iter().map(quota).collect(),
            Value::Budgets(budgets) => budgets.iter().map(budget).collect(),
            Value::Networks(networks) => networks.iter().map(ToString::to_string).collect(),
            Value::Words(words) => json!(words),
            Value::Models(patterns) => json!(patterns.written()),
            Value::OutputCap(cap) => {
                json!({"max_output_tokens": cap.max_output_tokens, "on_excess": cap.on_excess.name()})
            }
            Value::Priority(priority) => json!(priority.name()),
            Value::Pairs(pairs) => json!(pairs),
        }
    }
}

fn budget(budget: &BudgetQuota) -> serde_json::Value {
    json!({budget.unit.field(): budget.amount, "every": budget.every.name(), "zone": budget.zone.name()})
}

/// The type of a struct's member that stores a field of a key.
pub(super) trait Member {
    /// Returns the member's value; `None` if the field is not written to a store.
    fn value(&self) -> Option<Value>;

    /// Sets the member. The variant of `value` must be the variant of the member's form.
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
member!(Option<Vec<BudgetQuota>>, Budgets);
member!(Option<Vec<String>>, Words);
member!(Option<ModelPatterns>, Models);
member!(Option<OutputCap>, OutputCap);
member!(Option<Priority>, Priority);
