//! A JSON document (RFC 8259) as a tree, in which no object has two members of one name.
//!
//! RFC 7519, section 4 leaves it to parsers what a repeated claim means. Two parsers that differ would see two
//! different tokens, so a document with a repeated name is refused, at any depth.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(f64),
    /// A whole number that a float may not hold exactly, as it is written.
    Whole(i64),
    Text(String),
    List(Vec<Json>),
    Object(Object),
}

/// The members of an object, sorted by their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Object(Vec<(String, Json)>);

impl Object {
    /// Parses a document that is an object. Returns `None` if it is none, or if a name is repeated.
    pub(super) fn parse(document: &[u8]) -> Option<Self> {
        match serde_json::from_slice(document).ok()? {
            Json::Object(object) => Some(object),
            _ => None,
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<&Json> {
        let at = self.0.binary_search_by(|(known, _)| known.as_str().cmp(name)).ok()?;
        self.0.get(at).map(|(_, value)| value)
    }

    /// Returns a member that is a text. `Err`: there is a member of this name, and it is no text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&str>, ()> {
        match self.get(name) {
            None => Ok(None),
            Some(Json::Text(text)) => Ok(Some(text)),
            Some(_) => Err(()),
        }
    }
}

impl Json {
    /// Returns a member of an object, or an item of a list by its number.
    pub(super) fn at(&self, name: &str) -> Option<&Json> {
        match self {
            Json::Object(object) => object.get(name),
            Json::List(items) => items.get(name.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// Returns the value's text, as a pattern sees it; `None` for null, lists and objects.
    pub(super) fn shown(&self) -> Option<std::borrow::Cow<'_, str>> {
        match self {
            Json::Text(text) => Some(text.into()),
            Json::Bool(value) => Some(value.to_string().into()),
            Json::Whole(number) => Some(number.to_string().into()),
            // Beyond this, several numbers are the same float.
            Json::Number(number) if number.abs() < 9_007_199_254_740_992.0 => Some(number.to_string().into()),
            Json::Number(_) | Json::Null | Json::List(_) | Json::Object(_) => None,
        }
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Tree)
    }
}

struct Tree;

impl<'de> Visitor<'de> for Tree {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without repeated names")
    }

    fn visit_unit<E: Error>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Whole(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Json, E> {
        Ok(i64::try_from(value).map_or(Json::Number(value as f64), Json::Whole))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Json, E> {
        Ok(Json::Number(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Json, E> {
        Ok(Json::Text(value.to_owned()))
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Json, E> {
        Ok(Json::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut members: Vec<(String, Json)> = Vec::new();
        while let Some(member) = entries.next_entry()? {
            members.push(member);
        }
        members.sort_by(|(a, _), (b, _)| a.cmp(b));
        let is_repeated = |pair: &[(String, Json)]| match pair {
            [(a, _), (b, _)] => a == b,
            _ => false,
        };
        match members.windows(2).any(is_repeated) {
            true => Err(A::Error::custom("a name is repeated")),
            false => Ok(Json::Object(Object(members))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_name_is_refused_at_any_depth() {
        for document in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"b":2,"\u0061":3}"#,
            r#"{"x":{"y":[{"a":1,"a":2}]}}"#,
            r#"[{"a":1}]"#,
            r#""text""#,
            "{}{}",
            r#"{"a":1e400}"#,
            r#"{"a":"\ud800"}"#,
            "{\"a\":\"\u{1}\"}",
            "",
        ] {
            assert_eq!(Object::parse(document.as_bytes()), None, "{document}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        assert_eq!(Object::parse(format!("{{\"a\":{deep}}}").as_bytes()), None);
        assert_eq!(Object::parse(b"{\"a\":\"\xff\"}"), None);
    }

    #[test]
    fn members_are_found_by_their_names() {
        let object = Object::parse(br#"{"z":[1,{"k":"v"}],"a":true,"n":1.5,"w":7,"u":null}"#).unwrap();
        let shown = |value: Option<&Json>| value.and_then(Json::shown).map(std::borrow::Cow::into_owned);
        assert_eq!(shown(object.get("a")).as_deref(), Some("true"));
        assert_eq!(shown(object.get("w")).as_deref(), Some("7"));
        assert_eq!(shown(object.get("n")).as_deref(), Some("1.5"));
        assert_eq!(shown(object.get("u")), None);
        assert_eq!(shown(Some(&Json::Number(9_223_372_036_854_775_808.0))), None);
        let inner = object.get("z").and_then(|list| list.at("1")).and_then(|item| item.at("k"));
        assert_eq!(shown(inner).as_deref(), Some("v"));
        assert_eq!((object.text("a"), object.text("missing")), (Err(()), Ok(None)));
    }
}
