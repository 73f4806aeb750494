//! The fast path, which parses a line's fields without their positions, and leaves the key's terms
//! as text.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use smallvec::SmallVec;

use crate::key_store::claim::Claim;
use crate::key_store::labels::Hashing;
use crate::keys::field::{Field, Form};
use crate::keys::fields::FIELDS;
use crate::keys::record::is_label;
use crate::keys::token::is_key_id;
use crate::keys::{Draft, KeyHash, Permission, Permissions, Terms};

/// The fields of a line. The fields of the key's [`Terms`] are not parsed but stored as text,
/// because few keys have terms, or many keys have equal terms.
#[derive(Default)]
pub(super) struct Line<'a> {
    id: Option<Text<'a>>,
    name: Option<Option<Text<'a>>>,
    hash: Option<Text<'a>>,
    permissions: Option<PermissionNames>,
    created_at: Option<Option<Text<'a>>>,
    // A null is an error here, and the exact decoder then reports it as a fault.
    expires_at: Option<Text<'a>>,
    disabled: Option<bool>,
    /// The fields of the key's terms with their text, in the order of the line.
    terms: SmallVec<[(&'static str, &'a RawValue); 4]>,
    /// The names of the fields that are checked, but whose values are not stored.
    for_people: SmallVec<[&'static str; 2]>,
}

/// Text that is borrowed from the line, or owned if it contains an escape.
#[derive(Deserialize, PartialEq, Eq, Hash)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> Deserialize<'de> for Line<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = Line<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Line<'de>, A::Error> {
                let mut line = Line::default();
                while let Some(name) = map.next_key()? {
                    match name {
                        FieldName::Id => once(&mut line.id, &mut map)?,
                        FieldName::Label => once(&mut line.name, &mut map)?,
                        FieldName::Hash => once(&mut line.hash, &mut map)?,
                        FieldName::Permissions => once(&mut line.permissions, &mut map)?,
                        FieldName::CreatedAt => once(&mut line.created_at, &mut map)?,
                        FieldName::ExpiresAt => once(&mut line.expires_at, &mut map)?,
                        FieldName::Disabled => once(&mut line.disabled, &mut map)?,
                        FieldName::Other(field) => line.take_other(field, &mut map)?,
                    }
                }
                Ok(line)
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// The name of a field. The most common names are variants of their own, which are matched without
/// a search in [`FIELDS`], because a file may have millions of fields.
enum FieldName {
    Id,
    Label,
    Hash,
    Permissions,
    CreatedAt,
    ExpiresAt,
    Disabled,
    Other(&'static Field),
}

impl<'de> Deserialize<'de> for FieldName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl Visitor<'_> for Names {
            type Value = FieldName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a field")
            }

            fn visit_str<E: Error>(self, name: &str) -> Result<FieldName, E> {
                Ok(match name {
                    "id" => FieldName::Id,
                    "name" => FieldName::Label,
                    "hash" => FieldName::Hash,
                    "permissions" => FieldName::Permissions,
                    "created_at" => FieldName::CreatedAt,
                    "expires_at" => FieldName::ExpiresAt,
                    "disabled" => FieldName::Disabled,
                    _ => {
                        let field = FIELDS.iter().find(|field| field.name == name);
                        FieldName::Other(field.ok_or_else(|| E::custom("an unknown field"))?)
                    }
                })
            }
        }

        deserializer.deserialize_str(Names)
    }
}

/// Parses a field. A second field of the same name is an error.
fn once<'de, T: Deserialize<'de>, A: MapAccess<'de>>(
    slot: &mut Option<T>,
    map: &mut A,
) -> Result<(), A::Error> {
    match slot.replace(map.next_value()?) {
        None => Ok(()),
        Some(_) => Err(A::Error::custom("a field appears twice")),
    }
}

impl<'a> Line<'a> {
    /// Parses a field that few keys have: a field of the terms, or a map of names to text. Any
    /// other field is an error, and the exact decoder then decodes the line.
    fn take_other<A: MapAccess<'a>>(&mut self, field: &'static Field, map: &mut A) -> Result<(), A::Error> {
        let is_new = match field.form {
            _ if field.is_term() => {
                let value: &RawValue = map.next_value()?;
                if value.get() == "null" {
                    return Err(A::Error::custom("null narrows nothing"));
                }
                let is_new = self.terms.iter().all(|(name, _)| *name != field.name);
                self.terms.push((field.name, value));
                is_new
            }
            Form::Pairs => {
                map.next_value::<Option<Pairs>>()?;
                let is_new = !self.for_people.contains(&field.name);
                self.for_people.push(field.name);
                is_new
            }
            _ => false,
        };
        if is_new { Ok(()) } else { Err(A::Error::custom("for the exact decoder")) }
    }

    /// Writes the text of the key's terms into `text`. Returns whether the key has any terms.
    pub(super) fn terms_text(&self, text: &mut String) -> bool {
        text.clear();
        for (name, value) in &self.terms {
            text.push_str(name);
            text.push_str(value.get());
            // A line break can separate the terms, because the text of a value contains no line
            // break.
            text.push('\n');
        }
        !self.terms.is_empty()
    }

    /// Returns the key's hash and its other fields; `None` if a field is at fault.
    pub(super) fn draft(
        &self,
        terms: Option<Arc<Terms>>,
        created_at: &mut Instants,
        expires_at: &mut Instants,
    ) -> Option<(KeyHash, Draft<'_>)> {
        let (Text(id), Text(hash)) = (self.id.as_ref()?, self.hash.as_ref()?);
        let PermissionNames(permissions) = self.permissions?;
        let name = self.name.as_ref().and_then(Option::as_ref);
        let is_good = is_key_id(id) && name.is_none_or(|name| is_label(&name.0)) && !permissions.is_empty();
        let instant = |text: Option<&Text<'_>>, instants: &mut Instants| -> Option<Option<Timestamp>> {
            let Some(text) = text else { return Some(None) };
            instants.read(&text.0).map(Some)
        };
        let created_at_text = self.created_at.as_ref().and_then(Option::as_ref);
        let draft = Draft {
            id,
            name: name.map(|name| name.0.as_ref()),
            disabled: self.disabled.unwrap_or(false),
            permissions,
            created_at: instant(created_at_text, created_at)?,
            expires_at: instant(self.expires_at.as_ref(), expires_at)?,
            terms,
        };
        is_good.then_some((KeyHash::parse(hash)?, draft))
    }
}

/// A map of names to text, checked for duplicate names. The content is not stored.
struct Pairs;

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("names and values")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs, A::Error> {
                let mut names = HashSet::new();
                while let Some((Text(name), Text(_value))) = map.next_entry()? {
                    if !names.insert(name) {
                        return Err(A::Error::custom("a name appears twice"));
                    }
                }
                Ok(Pairs)
            }
        }

        deserializer.deserialize_map(Names)
    }
}

/// Permissions, parsed from a list of their names.
#[derive(Clone, Copy)]
struct PermissionNames(Permissions);

impl<'de> Deserialize<'de> for PermissionNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names;

        impl<'de> Visitor<'de> for Names {
            type Value = PermissionNames;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of permissions")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<PermissionNames, A::Error> {
                let mut permissions = Permissions::default();
                while let Some(Text(name)) = seq.next_element()? {
                    let permission = Permission::named(&name);
                    permissions.add(permission.ok_or_else(|| A::Error::custom("not a permission"))?);
                }
                Ok(PermissionNames(permissions))
            }
        }

        deserializer.deserialize_seq(Names)
    }
}

/// Parses instants, and remembers the last one, because many successive lines have the same
/// instant.
#[derive(Default)]
pub(crate) struct Instants {
    text: String,
    instant: Option<Timestamp>,
}

impl Instants {
    /// Parses the instant in `text`; `None` if `text` is not an instant.
    fn read(&mut self, text: &str) -> Option<Timestamp> {
        if self.instant.is_none() || self.text != text {
            text.clone_into(&mut self.text);
            self.instant = text.parse().ok();
        }
        self.instant
    }
}

/// Whether a line may have an id, a name or a hash with one of these labels. Only a few fields are
/// parsed, because the file may have a million lines.
pub(crate) fn may_have(line: &[u8], hashing: &Hashing, labels: &HashSet<u64>) -> bool {
    #[derive(Deserialize)]
    struct Named<'a> {
        #[serde(borrow)]
        id: Text<'a>,
        #[serde(borrow)]
        name: Option<Text<'a>>,
    }
    // A hash that is written with JSON escapes can't be found in the text of the line. Every line
    // with a backslash is therefore decoded later.
    if memchr::memchr(b'\\', line).is_some() {
        return true;
    }
    let Ok(named) = serde_json::from_slice::<Named<'_>>(line) else { return true };
    let texts = std::iter::once(&named.id).chain(&named.name);
    texts.map(|text| hashing.label(&text.0)).any(|label| labels.contains(&label))
        || Claim::of_line(line).hashes.iter().any(|hash| labels.contains(&hash.head()))
}

/// Whether a line describes the key with this id or name. Only these two fields are parsed, because
/// the file may have a million lines.
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
