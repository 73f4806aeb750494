//! The entries of the journals, as text: keys and values are JSON, so that people can read them.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use serde_json::{Value, json};

use crate::config::{Every, Period, Unit};
use crate::limit::{Ahead, BudgetState, KeptWindow};
use crate::observe::ledger::{Counts, RowKey};

/// Number of days for which usage, and when a key was last used, is kept.
pub(super) const KEPT_DAYS: i64 = 400;

/// An entry of a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    /// `["budget", HOLDER, UNIT, EVERY]`: `{"from", "to", "used", "told"}`, and `"ahead": {"from", "used"}`
    /// for a later period that was left because the clock went back. Times are RFC 3339.
    Budget { holder: String, state: BudgetState },
    /// `["window", HOLDER, FIELD]`: `{"full_at", "ahead_ms"}`: when the window is full, and the time until
    /// then when it was written.
    Window { holder: String, window: KeptWindow },
    /// `["last_used", KEY]`: a time.
    LastUse { key: String, at: Timestamp },
    /// `["born"]`: when the directory was made.
    Born { at: Timestamp },
    /// `["usage", DAY, KEY, GROUP, MODEL]`: `[requests, input, cached, output, estimated]`.
    Usage { key: RowKey, counts: Counts },
}

impl Entry {
    /// Returns the key and the value of the entry.
    pub(super) fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        let (key, value) = match self {
            Entry::Budget { holder, state } => {
                let BudgetState { unit, every, period, used, told, ahead } = state;
                let Period { start, end } = period;
                let mut value =
                    json!({"from": start.to_string(), "to": end.to_string(), "used": used, "told": told});
                if let (Some(ahead), Some(fields)) = (ahead, value.as_object_mut()) {
                    let ahead = json!({"from": ahead.start.to_string(), "used": ahead.used});
                    fields.insert("ahead".to_owned(), ahead);
                }
                (json!(["budget", holder, unit.field(), every.name()]), value)
            }
            Entry::Window { holder, window } => {
                let ahead = u64::try_from(window.ahead.as_millis()).unwrap_or(u64::MAX);
                let value = json!({"full_at": window.full_at.to_string(), "ahead_ms": ahead});
                (json!(["window", holder, window.field]), value)
            }
            Entry::LastUse { key, at } => (json!(["last_used", key]), json!(at.to_string())),
            Entry::Born { at } => (json!(["born"]), json!(at.to_string())),
            Entry::Usage { key, counts } => {
                let RowKey { day, key, group, model } = key;
                let Counts { requests, input, cached, output, estimated } = counts;
                let value = json!([requests, input, cached, output, estimated]);
                (json!(["usage", day.to_string(), key, group, model]), value)
            }
        };
        (key.to_string().into_bytes(), value.to_string().into_bytes())
    }

    /// Returns the entry of a record; `None` for one of a later version.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let key: Vec<Value> = serde_json::from_slice(key).ok()?;
        let value: Value = serde_json::from_slice(value).ok()?;
        let text = |index: usize| key.get(index).and_then(Value::as_str).map(str::to_owned);
        let time = |value: &Value| value.as_str().and_then(|text| text.parse::<Timestamp>().ok());
        Some(match key.first()?.as_str()? {
            "budget" => {
                let (unit, every) = (text(2)?, text(3)?);
                let state = BudgetState {
                    unit: Unit::ALL.iter().find(|(name, _)| *name == unit)?.1,
                    every: Every::ALL.iter().find(|(name, _)| *name == every)?.1,
                    period: Period { start: time(value.get("from")?)?, end: time(value.get("to")?)? },
                    used: value.get("used")?.as_u64()?,
                    told: u8::try_from(value.get("told")?.as_u64()?).ok()?,
                    ahead: match value.get("ahead") {
                        Some(ahead) => Some(Ahead {
                            start: time(ahead.get("from")?)?,
                            used: ahead.get("used")?.as_u64()?,
                        }),
                        None => None,
                    },
                };
                Entry::Budget { holder: text(1)?, state }
            }
            "window" => {
                let ahead = Duration::from_millis(value.get("ahead_ms")?.as_u64()?);
                let window = KeptWindow { field: text(2)?, full_at: time(value.get("full_at")?)?, ahead };
                Entry::Window { holder: text(1)?, window }
            }
            "born" => Entry::Born { at: time(&value)? },
            "last_used" => Entry::LastUse { key: text(1)?, at: time(&value)? },
            "usage" => {
                let day: Date = text(1)?.parse().ok()?;
                let key = RowKey { day, key: text(2)?, group: text(3), model: text(4) };
                let count = |index: usize| value.get(index).and_then(Value::as_u64);
                let counts = Counts {
                    requests: count(0)?,
                    input: count(1)?,
                    cached: count(2)?,
                    output: count(3)?,
                    estimated: count(4)?,
                };
                Entry::Usage { key, counts }
            }
            _ => return None,
        })
    }

    /// Whether the entry says nothing any more: the period of its budget is over, or its window is full.
    pub(super) fn is_over(&self, now: Timestamp, oldest_use: Timestamp) -> bool {
        match self {
            Entry::Budget { state, .. } => {
                state.period.end <= now && state.ahead.is_none_or(|ahead| ahead.start <= now)
            }
            Entry::Window { window, .. } => window.full_at <= now,
            Entry::LastUse { at, .. } => *at < oldest_use,
            Entry::Usage { .. } | Entry::Born { .. } => false,
        }
    }
}

/// Takes a record: the newest value of a key counts, and an empty one removes it.
pub(super) fn take(entries: &mut HashMap<Vec<u8>, Vec<u8>>, key: &[u8], value: &[u8]) {
    match value.is_empty() {
        true => drop(entries.remove(key)),
        false => drop(entries.insert(key.to_vec(), value.to_vec())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_as_they_were_written() {
        let at: Timestamp = "2026-11-29T12:00:00.123456Z".parse().unwrap();
        let period = Period { start: at, end: "2026-12-01T00:00:00Z".parse().unwrap() };
        let state = BudgetState {
            unit: Unit::InputTokens,
            every: Every::Week,
            period,
            used: u64::MAX,
            told: 80,
            ahead: None,
        };
        let ahead = Some(Ahead { start: at, used: 7 });
        let left = BudgetState { ahead, ..state.clone() };
        let row = RowKey {
            day: "2026-11-29".parse().unwrap(),
            key: "key_a".to_owned(),
            group: None,
            model: Some("a \"b\"\n".to_owned()),
        };
        let counts = Counts { requests: 1, input: 2, cached: 3, output: 4, estimated: 5 };
        for entry in [
            Entry::Budget { holder: "group:g".to_owned(), state },
            Entry::Budget { holder: "key_a".to_owned(), state: left },
            Entry::Born { at },
            Entry::Window {
                holder: "key_a".to_owned(),
                window: KeptWindow {
                    field: "/tokens/3600".to_owned(),
                    full_at: at,
                    ahead: Duration::from_millis(1500),
                },
            },
            Entry::LastUse { key: "key_a".to_owned(), at },
            Entry::Usage { key: row, counts },
        ] {
            let (key, value) = entry.encode();
            assert_eq!(Entry::decode(&key, &value), Some(entry));
            assert_eq!(Entry::decode(&key, b"{}"), None);
        }
        assert_eq!(Entry::decode(b"[\"later\"]", b"1"), None);
    }
}
