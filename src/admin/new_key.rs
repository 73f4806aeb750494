//! The body of a request for a new key. It may contain all fields of a key file except those that
//! bearward sets itself.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use jiff::Timestamp;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::config::decode::parse_duration;
use crate::config::{Quota, Unit, Zone, has_repeated_window};
use crate::denial::Denial;
use crate::key_store::yaml;
use crate::keys::KeyRecord;
use crate::keys::field::{Field, Form, Presence, SetBy};
use crate::keys::fields::FIELDS;
use crate::keys::token::Token;

/// A request for a new key.
#[derive(Debug, Default)]
pub(super) struct NewKey {
    fields: Map<String, Value>,
    /// The lifetime of the key. A request may contain a lifetime instead of the field `expires_at`.
    expires_in: Option<String>,
    /// The parsed rate limits; empty if `fields` contains no rate limits.
    quotas: Vec<Quota>,
    /// What keeps the budgets from being those of a key; `None` if nothing does.
    wrong_budgets: Option<&'static str>,
}

impl<'de> Deserialize<'de> for NewKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;

        impl<'de> Visitor<'de> for Fields {
            type Value = NewKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the fields of a key")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<NewKey, A::Error> {
                let mut wanted = NewKey::default();
                while let Some(name) = map.next_key::<String>()? {
                    let is_new = match may_be_set().find(|field| field.name == name) {
                        Some(field) => {
                            let value = wanted.read(field, &mut map)?;
                            wanted.fields.insert(name, value).is_none()
                        }
                        None if name == "expires_in" => {
                            wanted.expires_in.replace(map.next_value()?).is_none()
                        }
                        None => return Err(A::Error::custom("no field of a new key")),
                    };
                    if !is_new {
                        return Err(A::Error::custom("a field appears twice"));
                    }
                }
                let required = may_be_set().filter(|field| field.presence == Presence::Required);
                match required.into_iter().all(|field| wanted.fields.contains_key(field.name)) {
                    true => Ok(wanted),
                    false => Err(A::Error::custom("a field is missing")),
                }
            }
        }

        deserializer.deserialize_map(Fields)
    }
}

/// Returns the fields that a request for a new key may contain.
fn may_be_set() -> impl Iterator<Item = &'static Field> {
    FIELDS.iter().filter(|field| field.set_by != SetBy::Bearward)
}

impl NewKey {
    /// Reads the value of a field, and requires the JSON type of that field. The decoder of key
    /// files checks later whether the value is valid.
    fn read<'de, A: MapAccess<'de>>(&mut self, field: &Field, map: &mut A) -> Result<Value, A::Error> {
        Ok(match field.form {
            Form::Name | Form::Label | Form::Group | Form::Instant | Form::Priority => {
                map.next_value::<String>()?.into()
            }
            Form::Flag => map.next_value::<bool>()?.into(),
            Form::Count => map.next_value::<Whole>()?.0.into(),
            Form::Permissions | Form::Networks | Form::Words | Form::Models => {
                map.next_value::<Vec<String>>()?.into()
            }
            Form::Pairs => {
                let pairs = map.next_value::<BTreeMap<String, String>>()?.into_iter();
                pairs.map(|(name, value)| (name, Value::String(value))).collect()
            }
            Form::RateLimits => {
                let limits: NewLimits = map.next_value()?;
                self.quotas = limits.quotas().iter().filter_map(NewQuota::quota).collect();
                serde_json::to_value(limits).map_err(A::Error::custom)?
            }
            Form::Budgets => {
                let budgets: Vec<NewBudget> = map.next_value()?;
                self.wrong_budgets = wrong_budgets(&budgets);
                serde_json::to_value(budgets).map_err(A::Error::custom)?
            }
            Form::OutputCap => {
                serde_json::to_value(map.next_value::<NewOutputCap>()?).map_err(A::Error::custom)?
            }
            Form::KeyId | Form::Hash | Form::Secrets => {
                return Err(A::Error::custom("bearward sets this field"));
            }
        })
    }

    /// Builds the record of the new key. The decoder of key files checks the fields.
    pub(super) fn record(self, token: &Token, now: Timestamp) -> Result<KeyRecord, Denial> {
        let expires_in =
            self.expires_in.as_deref().map(|lifetime| ahead("expires_in", lifetime, now)).transpose()?;
        if expires_in.is_some() && self.fields.contains_key("expires_at") {
            return Err(Denial::bad_content("Only one of `expires_in` and `expires_at` may be given"));
        }
        if !self.quotas.iter().all(Quota::is_countable) {
            return Err(Denial::key_conflict("A burst takes more than a century to be full again"));
        }
        if has_repeated_window(&self.quotas) {
            return Err(Denial::key_conflict("Two limits are over the same window"));
        }
        if let Some(wrong) = self.wrong_budgets {
            return Err(Denial::key_conflict(wrong));
        }
        let mut fields = self.fields;
        fields.insert("id".to_owned(), Value::String(token.key_id()));
        fields.insert("hash".to_owned(), Value::String(token.hash().to_stored()));
        let read = yaml::parse_part(Path::new("body"), &as_yaml(&Value::Object(fields).to_string()));
        let records = read.map_err(|faults| {
            let reasons = faults.0.iter().map(|fault| match &fault.hint {
                Some(hint) => format!("{} ({hint})", fault.message),
                None => fault.message.clone(),
            });
            Denial::bad_fields(reasons.collect())
        })?;
        let mut record = records.into_iter().next().ok_or_else(Denial::internal)?;
        record.created_at = Some(now);
        record.expires_at = record.expires_at.or(expires_in);
        Ok(record)
    }
}

/// The rate limits of a new key: a list of quotas, or `none`. In both cases, the configuration's
/// default limits do not apply to the key.
#[derive(Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum NewLimits {
    Quotas(Vec<NewQuota>),
    None(NoLimits),
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
enum NoLimits {
    #[serde(rename = "none")]
    None,
}

impl NewLimits {
    fn quotas(&self) -> &[NewQuota] {
        match self {
            NewLimits::Quotas(quotas) => quotas,
            NewLimits::None(NoLimits::None) => &[],
        }
    }
}

/// How much output a request of a new key may ask for.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NewOutputCap {
    max_output_tokens: Whole,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    on_excess: Option<String>,
}

/// A budget of a new key.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NewBudget {
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    requests: Option<Amount>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    tokens: Option<Amount>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    input_tokens: Option<Amount>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    output_tokens: Option<Amount>,
    every: String,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    zone: Option<String>,
}

/// Says what keeps budgets from being those of a key, although each of them has the form of a budget.
fn wrong_budgets(budgets: &[NewBudget]) -> Option<&'static str> {
    let unit = |budget: &NewBudget| {
        [budget.requests, budget.tokens, budget.input_tokens, budget.output_tokens]
            .iter()
            .position(Option::is_some)
    };
    let is_repeated = |(index, budget): (usize, &NewBudget)| {
        let mut earlier = budgets.iter().take(index);
        earlier.any(|other| (unit(other), &other.every) == (unit(budget), &budget.every))
    };
    if budgets.iter().enumerate().any(is_repeated) {
        return Some("Two budgets are of the same unit and period");
    }
    let mut zones = budgets.iter().filter_map(|budget| budget.zone.as_deref());
    zones.any(|zone| Zone::named(zone).is_none()).then_some("No time zone has this name")
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct NewQuota {
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    requests: Option<Whole>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    tokens: Option<Whole>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    input_tokens: Option<Whole>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    output_tokens: Option<Whole>,
    per: String,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    burst: Option<Whole>,
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    enforce: Option<bool>,
}

impl NewQuota {
    /// Returns the parsed quota; `None` if `per` is not a duration, or if no number is given. The
    /// decoder of key files reports these faults.
    fn quota(&self) -> Option<Quota> {
        let amounts = [self.requests, self.tokens, self.input_tokens, self.output_tokens];
        let (unit, amount) =
            Unit::ALL.iter().zip(amounts).find_map(|((_, unit), amount)| Some((*unit, amount?)))?;
        Some(Quota::new(unit, amount.0, parse_duration(&self.per)?, self.burst.map(|burst| burst.0)))
    }
}

/// A whole number that JSON writes exactly, with a zero after the decimal point, as in 8.0, or without.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(try_from = "f64", into = "u64")]
struct Amount(u64);

impl TryFrom<f64> for Amount {
    type Error = &'static str;

    fn try_from(number: f64) -> Result<Self, Self::Error> {
        /// JSON numbers are exact up to here.
        const MOST: f64 = (1u64 << 53) as f64;
        let is_whole = number.fract() == 0.0 && (0.0..=MOST).contains(&number);
        if is_whole { Ok(Amount(number as u64)) } else { Err(NOT_WHOLE) }
    }
}

impl From<Amount> for u64 {
    fn from(amount: Amount) -> u64 {
        amount.0
    }
}

/// A whole number of 32 bits.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(try_from = "Amount", into = "u32")]
struct Whole(u32);

impl TryFrom<Amount> for Whole {
    type Error = &'static str;

    fn try_from(amount: Amount) -> Result<Self, Self::Error> {
        u32::try_from(amount.0).map(Whole).map_err(|_| NOT_WHOLE)
    }
}

impl From<Whole> for u32 {
    fn from(whole: Whole) -> u32 {
        whole.0
    }
}

const NOT_WHOLE: &str = "a whole number is needed";

/// Decodes the value of an optional field that is present, and refuses the value null.
pub(super) fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(field: D) -> Result<Option<T>, D::Error> {
    T::deserialize(field).map(Some)
}

/// Turns JSON into YAML by escaping the characters that are unprintable in YAML (YAML 1.2, section
/// 5.1). In JSON, such characters occur only in strings.
fn as_yaml(json: &str) -> String {
    let is_unprintable = |c: char| {
        matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}')
    };
    let mut yaml = String::with_capacity(json.len());
    for c in json.chars() {
        match is_unprintable(c) {
            true => yaml.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => yaml.push(c),
        }
    }
    yaml
}

/// Returns the current time in whole seconds, because people read the times in key stores.
pub(super) fn now() -> Timestamp {
    let now = Timestamp::now();
    // The conversion does not fail: a timestamp without its fraction of a second is a valid
    // timestamp, too.
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Parses the duration `text`, and returns the instant at which the duration ends if it starts at
/// `now`. `field` is the name of the request's field, for the error.
pub(super) fn ahead(field: &str, text: &str, now: Timestamp) -> Result<Timestamp, Denial> {
    let end = parse_duration(text).and_then(|duration| now.checked_add(duration).ok());
    // Key stores can't contain an instant after this limit, which is near the end of the year 9999.
    end.filter(|end| end.as_second() < 253_402_214_400)
        .ok_or_else(|| Denial::bad_content(format!("`{field}` is a duration, as in 90d")))
}
