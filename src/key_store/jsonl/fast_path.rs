//! A line read the short way.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::key_store::claim::Claim;
use crate::key_store::labels::Hashing;
use crate::keys::record::is_label;
use crate::keys::token::is_key_id;
use crate::keys::{Draft, KeyHash, Permission, Permissions, Terms};

/// A line's fields; of those that few keys have, or many have alike, the text.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line<'a> {
    #[serde(borrow)]
    id: Text<'a>,
    name: Option<Text<'a>>,
    hash: Text<'a>,
    #[serde(deserialize_with = "permissions")]
    permissions: Permissions,
    created_at: Option<Text<'a>>,
    #[serde(borrow, default, deserialize_with = "given")]
    expires_at: Option<Text<'a>>,
    #[serde(default, deserialize_with = "given")]
    disabled: Option<bool>,
    #[serde(rename = "metadata")]
    _for_people: Option<Metadata>,
    #[serde(borrow, default, deserialize_with = "narrowing")]
    environment: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "narrowing")]
    not_before: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "narrowing")]
    rate_limits: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "narrowing")]
    max_concurrent: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "narrowing")]
    allow_from: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "narrowing")]
    routes: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "narrowing")]
    previous: Option<&'a RawValue>,
}

/// Text, borrowed where it has no escape in it.
#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Line<'_> {
    /// Puts the text of what narrows the key into `text`; says whether anything does.
    pub(crate) fn terms_text(&self, text: &mut String) -> bool {
        let parts = [
            self.environment,
            self.not_before,
            self.rate_limits,
            self.max_concurrent,
            self.allow_from,
            self.routes,
            self.previous,
        ];
        if parts.iter().all(Option::is_none) {
            return false;
        }
        text.clear();
        for part in parts {
            text.push_str(part.map(RawValue::get).unwrap_or_default());
            // No part of a line holds its end.
            text.push('\n');
        }
        true
    }

    /// The key, if all of it is well.
    pub(crate) fn draft(
        &self,
        terms: Option<Arc<Terms>>,
        created_at: &mut Instants,
        expires_at: &mut Instants,
    ) -> Option<(KeyHash, Draft<'_>)> {
        let is_healthy = is_key_id(&self.id.0)
            && self.name.as_ref().is_none_or(|name| is_label(&name.0))
            && !self.permissions.is_empty();
        let instant = |text: &Option<Text<'_>>, instants: &mut Instants| -> Option<Option<Timestamp>> {
            let Some(text) = text else { return Some(None) };
            instants.read(&text.0).map(Some)
        };
        let draft = Draft {
            id: &self.id.0,
            name: self.name.as_ref().map(|name| name.0.as_ref()),
            disabled: self.disabled.unwrap_or(false),
            permissions: self.permissions,
            created_at: instant(&self.created_at, created_at)?,
            expires_at: instant(&self.expires_at, expires_at)?,
            terms,
        };
        is_healthy.then_some((KeyHash::parse(&self.hash.0)?, draft))
    }
}

/// A field that is there has a value: null is a fault, which the long way reports.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(field: D) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// The text of a field that narrows the key, which null would not.
fn narrowing<'de, D: Deserializer<'de>>(field: D) -> Result<Option<&'de RawValue>, D::Error> {
    let raw = <&RawValue>::deserialize(field)?;
    match raw.get() {
        "null" => Err(D::Error::custom("null does not narrow anything")),
        _ => Ok(Some(raw)),
    }
}

/// Names and values, none of the names twice; nothing is kept of them.
struct Metadata;

impl<'de> Deserialize<'de> for Metadata {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Metadata;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Metadata, A::Error> {
                let mut names = HashSet::new();
                while let Some((Text(name), Text(_value))) = map.next_entry()? {
                    if !names.insert(name) {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                }
                Ok(Metadata)
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

fn permissions<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Permissions, D::Error> {
    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = Permissions;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of permissions")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Permissions, A::Error> {
            let mut permissions = Permissions::default();
            while let Some(Text(name)) = seq.next_element()? {
                let permission =
                    Permission::named(&name).ok_or_else(|| A::Error::custom("not a permission"))?;
                permissions.add(permission);
            }
            Ok(permissions)
        }
    }

    deserializer.deserialize_seq(Names)
}

/// Reads instants, of which many keys have the same in a row.
#[derive(Default)]
pub(crate) struct Instants {
    text: String,
    instant: Option<Timestamp>,
}

impl Instants {
    /// The instant that `text` says; `None` where it says none.
    fn read(&mut self, text: &str) -> Option<Timestamp> {
        if self.instant.is_none() || self.text != text {
            text.clone_into(&mut self.text);
            self.instant = text.parse().ok();
        }
        self.instant
    }
}

/// Whether a line may have one of these labels, without decoding all of it: it may be one of a million.
pub(crate) fn may_have(line: &[u8], hashing: &Hashing, labels: &HashSet<u64>) -> bool {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        id: Text<'a>,
        #[serde(borrow)]
        name: Option<Text<'a>>,
    }
    // A hash may be written with escapes.
    if memchr::memchr(b'\\', line).is_some() {
        return true;
    }
    let Ok(named) = serde_json::from_slice::<Named<'_>>(line) else { return true };
    let texts = std::iter::once(&named.id).chain(&named.name);
    texts.map(|text| hashing.label(&text.0)).any(|label| labels.contains(&label))
        || Claim::of_line(line).hashes.iter().any(|hash| labels.contains(&hash.head()))
}

/// Whether a line is of the key with this id or name, without looking at all of it: it may be one of a million.
pub(crate) fn is_of(line: &[u8], key: &str) -> bool {
    #[derive(Deserialize)]
    struct Labels<'a> {
        #[serde(borrow)]
        id: Text<'a>,
        name: Option<Text<'a>>,
    }
    let labels = serde_json::from_slice::<Labels<'_>>(line);
    labels.is_ok_and(|labels| labels.id.0 == key || labels.name.is_some_and(|name| name.0 == key))
}
