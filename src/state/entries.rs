//! The entries of the journals, as text: keys and values are JSON, so that people can read them.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::config::{Every, Period, Unit};
use crate::limit::{Ahead, Budget, BudgetReport, BudgetSettlement, BudgetState, KeptWindow};
use crate::observe::ledger::{Counts, RowKey, day_of};

/// Number of days for which usage, and when a key was last used, is kept.
pub(super) const KEPT_DAYS: i64 = 400;

/// An entry of a journal.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    /// `["budget", HOLDER, UNIT, EVERY]`: `{"from", "to", "used", "told"}`, and `"ahead": {"from", "used"}`
    /// for a later period that was left because the clock went back. Times are seconds since 1970.
    Budget { holder: String, state: BudgetState },
    /// `["window", HOLDER, FIELD]`: `{"full_at", "ahead_ms"}`: when the window is full, and the time until
    /// then when it was written.
    Window { holder: String, window: KeptWindow },
    /// `["last_used", KEY]`: microseconds since 1970.
    LastUse { key: String, at: Timestamp },
    /// `["born"]`: when the directory was made, in microseconds since 1970.
    Born { at: Timestamp },
    /// `["origin"]`: the name by which the server of shared limits knows what this directory has told.
    Origin { id: String },
    /// `["told", DAY]`: `true`. All usage of the day was told to that server.
    Told { day: Date },
    /// `["settlement", ID]`: `{"holder", "at", "budgets": [{"policy", "unit", "every", "amount", "from",
    /// "reserved", "used"}]}`: what a request has used of shared budgets, of which the server does not know
    /// yet. `at` is in microseconds and `from` in seconds since 1970.
    Settlement { report: BudgetReport },
    /// `["usage", DAY, KEY, GROUP, MODEL]`: `[requests, input, cached, output, estimated]`.
    Usage { key: RowKey, counts: Counts },
}

/// The value of a budget. Times are in seconds since 1970.
#[derive(Serialize, Deserialize)]
struct BudgetValue {
    from: i64,
    to: i64,
    used: u64,
    told: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ahead: Option<AheadValue>,
}

#[derive(Serialize, Deserialize)]
struct AheadValue {
    from: i64,
    used: u64,
}

/// The value of a window: a time in microseconds since 1970, and one in milliseconds.
#[derive(Serialize, Deserialize)]
struct WindowValue {
    full_at: i64,
    ahead_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct SettlementValue {
    holder: String,
    at: i64,
    budgets: Vec<SettledValue>,
}

#[derive(Serialize, Deserialize)]
struct SettledValue {
    policy: String,
    unit: String,
    every: String,
    amount: u64,
    from: i64,
    reserved: u64,
    used: i64,
}

/// Entries as they are written. Whoever names keys and groups is trusted, so a fast hash is safe.
pub(super) type Records = HashMap<Vec<u8>, Vec<u8>, foldhash::fast::RandomState>;

/// The length of most keys and values, in bytes.
const USUAL_LENGTH: usize = 96;

/// Returns JSON. These types are always valid JSON.
fn json(value: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::with_capacity(USUAL_LENGTH);
    let _is_valid = serde_json::to_writer(&mut text, value);
    text
}

impl Entry {
    /// Returns the key and the value of the entry.
    pub(super) fn encode(&self) -> (Vec<u8>, Vec<u8>) {
        match self {
            Entry::Budget { holder, state } => {
                let BudgetState { unit, every, period, used, told, ahead } = state;
                let ahead = ahead.map(|ahead| AheadValue { from: ahead.start.as_second(), used: ahead.used });
                let (from, to) = (period.start.as_second(), period.end.as_second());
                let value = BudgetValue { from, to, used: *used, told: *told, ahead };
                (json(&("budget", holder, unit.field(), every.name())), json(&value))
            }
            Entry::Window { holder, window } => {
                let ahead_ms = u64::try_from(window.ahead.as_millis()).unwrap_or(u64::MAX);
                let value = WindowValue { full_at: window.full_at.as_microsecond(), ahead_ms };
                (json(&("window", holder, &window.field)), json(&value))
            }
            Entry::LastUse { key, at } => (json(&("last_used", key)), json(&at.as_microsecond())),
            Entry::Born { at } => (json(&("born",)), json(&at.as_microsecond())),
            Entry::Origin { id } => (json(&("origin",)), json(id)),
            Entry::Told { day } => (json(&("told", day.to_string())), json(&true)),
            Entry::Settlement { report } => {
                let budgets = report.settlements.iter().map(SettledValue::of).collect();
                let (holder, at) = (report.holder.clone(), report.at.as_microsecond());
                (settlement_key(&report.id), json(&SettlementValue { holder, at, budgets }))
            }
            Entry::Usage { key, counts } => {
                let RowKey { day, key, group, model } = key;
                let Counts { requests, input, cached, output, estimated } = counts;
                let day = day.to_string();
                let value = json(&[requests, input, cached, output, estimated]);
                (json(&("usage", day, key, group, model)), value)
            }
        }
    }

    /// Returns the entry of a record; `None` for one of a later version.
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let key: Vec<Option<String>> = serde_json::from_slice(key).ok()?;
        let text = |index: usize| key.get(index).cloned().flatten();
        let second = |second: i64| Timestamp::from_second(second).ok();
        let time = || Timestamp::from_microsecond(serde_json::from_slice(value).ok()?).ok();
        Some(match text(0)?.as_str() {
            "budget" => {
                let (unit, every) = (text(2)?, text(3)?);
                let BudgetValue { from, to, used, told, ahead } = serde_json::from_slice(value).ok()?;
                let ahead = match ahead {
                    Some(ahead) => Some(Ahead { start: second(ahead.from)?, used: ahead.used }),
                    None => None,
                };
                let state = BudgetState {
                    unit: unit_of(&unit)?,
                    every: every_of(&every)?,
                    period: Period { start: second(from)?, end: second(to)? },
                    used,
                    told,
                    ahead,
                };
                Entry::Budget { holder: text(1)?, state }
            }
            "window" => {
                let WindowValue { full_at, ahead_ms } = serde_json::from_slice(value).ok()?;
                let full_at = Timestamp::from_microsecond(full_at).ok()?;
                let window = KeptWindow { field: text(2)?, full_at, ahead: Duration::from_millis(ahead_ms) };
                Entry::Window { holder: text(1)?, window }
            }
            "last_used" => Entry::LastUse { key: text(1)?, at: time()? },
            "born" => Entry::Born { at: time()? },
            "origin" => Entry::Origin { id: serde_json::from_slice(value).ok()? },
            "told" => {
                serde_json::from_slice::<bool>(value).ok()?;
                Entry::Told { day: text(1)?.parse().ok()? }
            }
            "settlement" => {
                let SettlementValue { holder, at, budgets } = serde_json::from_slice(value).ok()?;
                let settlements = budgets.into_iter().map(SettledValue::settlement).collect::<Option<_>>()?;
                let at = Timestamp::from_microsecond(at).ok()?;
                let report = BudgetReport { id: text(1)?, holder, state: None, at, settlements };
                Entry::Settlement { report }
            }
            "usage" => {
                let key =
                    RowKey { day: text(1)?.parse().ok()?, key: text(2)?, group: text(3), model: text(4) };
                let [requests, input, cached, output, estimated] = serde_json::from_slice(value).ok()?;
                Entry::Usage { key, counts: Counts { requests, input, cached, output, estimated } }
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
            Entry::Settlement { report } => report.at < oldest_use,
            Entry::Told { day } => *day < day_of(oldest_use),
            Entry::Usage { .. } | Entry::Born { .. } | Entry::Origin { .. } => false,
        }
    }
}

impl SettledValue {
    fn of(settlement: &BudgetSettlement) -> Self {
        let BudgetSettlement { budget, from, reserved, used } = settlement;
        SettledValue {
            policy: budget.policy().to_owned(),
            unit: budget.unit().field().to_owned(),
            every: budget.every().name().to_owned(),
            amount: budget.amount(),
            from: *from,
            reserved: *reserved,
            used: *used,
        }
    }

    fn settlement(self) -> Option<BudgetSettlement> {
        let SettledValue { policy, unit, every, amount, from, reserved, used } = self;
        let budget = Budget::kept(policy, unit_of(&unit)?, every_of(&every)?, amount);
        Some(BudgetSettlement::kept(budget, from, reserved, used))
    }
}

fn unit_of(name: &str) -> Option<Unit> {
    Some(Unit::ALL.iter().find(|(known, _)| *known == name)?.1)
}

fn every_of(name: &str) -> Option<Every> {
    Some(Every::ALL.iter().find(|(known, _)| *known == name)?.1)
}

/// Returns the key of the entry of a settlement.
pub(super) fn settlement_key(id: &str) -> Vec<u8> {
    json(&("settlement", id))
}

/// Takes a record: the newest value of a key counts, and an empty one removes it.
pub(super) fn take(entries: &mut Records, key: &[u8], value: &[u8]) {
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
        let (start, end) = ("2026-11-01T00:00:00Z".parse().unwrap(), "2026-12-01T00:00:00Z".parse().unwrap());
        let period = Period { start, end };
        let state = BudgetState {
            unit: Unit::InputTokens,
            every: Every::Week,
            period,
            used: u64::MAX,
            told: 80,
            ahead: None,
        };
        let ahead = Some(Ahead { start: end, used: 7 });
        let left = BudgetState { ahead, ..state.clone() };
        let row = RowKey {
            day: "2026-11-29".parse().unwrap(),
            key: "key_a".to_owned(),
            group: None,
            model: Some("a \"b\"\n".to_owned()),
        };
        let counts = Counts { requests: 1, input: 2, cached: 3, output: 4, estimated: 5 };
        let budget = Budget::kept("group-g-requests-day".to_owned(), Unit::Requests, Every::Day, 9);
        let settlements = vec![BudgetSettlement::kept(budget, start.as_second(), 3, -1)];
        let report =
            BudgetReport { id: "a".to_owned(), holder: "key_a".to_owned(), state: None, at, settlements };
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
            Entry::Origin { id: "abc".to_owned() },
            Entry::Told { day: "2026-11-29".parse().unwrap() },
            Entry::Settlement { report },
        ] {
            let (key, value) = entry.encode();
            let read = Entry::decode(&key, &value).unwrap();
            assert_eq!(read.encode(), (key.clone(), value), "{entry:?}");
            assert_eq!(std::mem::discriminant(&read), std::mem::discriminant(&entry));
            assert!(Entry::decode(&key, b"{}").is_none());
        }
        assert!(Entry::decode(b"[\"later\"]", b"1").is_none());
    }
}
