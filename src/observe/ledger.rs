//! The ledger: what each key has used, by day, group and model, and when it was last used. It is kept
//! over a restart if the configuration has `state`.
//!
//! Only what is not written yet is in memory, in at most [`MOST_MODELS`] rows of a key. Whoever writes it
//! adds it to what was written before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dashmap::DashMap;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::token_report::{Tokens, TokensBy};

/// The greatest number of models of a key in a day that have rows of their own. Clients choose names of
/// models, so all others share the row [`OTHER_MODELS`].
pub(crate) const MOST_MODELS: usize = 100;
pub(crate) const OTHER_MODELS: &str = "other";

/// The time after which a later use of a key is written again, in microseconds.
const LAST_USE_STEP: i64 = 60_000_000;

/// Counts of requests and tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Requests that were forwarded.
    pub(crate) requests: u64,
    pub(crate) input: u64,
    /// Tokens of the input that came from a cache.
    pub(crate) cached: u64,
    pub(crate) output: u64,
    /// Those of the input and the output that are estimates: the upstream did not report them.
    pub(crate) estimated: u64,
}

/// What a row of the ledger is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct RowKey {
    /// The day, in UTC.
    pub(crate) day: Date,
    pub(crate) key: String,
    pub(crate) group: Option<String>,
    /// The model that requests named; `None` if they named none.
    pub(crate) model: Option<String>,
}

/// The ledger of all keys.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    by_key: DashMap<String, Arc<KeyLedger>>,
    /// The number of holders of tokens and certificates that were asked for and not known.
    holders: AtomicUsize,
    changed: Mutex<Vec<Arc<KeyLedger>>>,
}

/// The ledger of one key.
#[derive(Debug)]
pub(crate) struct KeyLedger {
    key: String,
    rows: Mutex<Vec<Row>>,
    /// When the key was last used, in microseconds since 1970, and what was written of it; zero if it was
    /// not.
    last_used: AtomicI64,
    last_written: AtomicI64,
    is_changed: AtomicBool,
}

#[derive(Debug)]
struct Row {
    /// Days since 1970.
    day: i64,
    group: Option<Arc<str>>,
    model: Option<Box<str>>,
    counts: Counts,
}

/// What is to be written of one key.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    pub(crate) rows: Vec<(RowKey, Counts)>,
    /// The keys that were used, and when.
    pub(crate) last_used: Vec<(String, Timestamp)>,
}

/// When keys were last used.
#[derive(Debug, Default)]
pub(crate) struct LastUses {
    pub(crate) by_key: HashMap<String, Timestamp>,
    /// When uses began to be noted. What was used before is not known; `None` if that is not known either.
    pub(crate) since: Option<Timestamp>,
}

impl Counts {
    pub(crate) fn add(&mut self, other: Counts) {
        self.requests = self.requests.saturating_add(other.requests);
        self.input = self.input.saturating_add(other.input);
        self.cached = self.cached.saturating_add(other.cached);
        self.output = self.output.saturating_add(other.output);
        self.estimated = self.estimated.saturating_add(other.estimated);
    }

    fn of_request(tokens: Option<Tokens>) -> Self {
        let Some(Tokens { input, cached, output, by }) = tokens else {
            return Counts { requests: 1, ..Counts::default() };
        };
        let estimated = if by == TokensBy::Estimated { input.saturating_add(output) } else { 0 };
        Counts { requests: 1, input, cached: cached.unwrap_or(0), output, estimated }
    }
}

/// The most holders of tokens and certificates whose use is counted for each of them in one run of the process:
/// unlike keys, they come and go. The others are counted together, under these names.
const MOST_HOLDERS: usize = 10_000;
const HOLDERS: [(&str, &str); 2] = [("jwt_", "jwt_others"), ("crt_", "crt_others")];

impl Ledger {
    /// Returns the ledger of a key.
    pub(crate) fn of(&self, key: &str) -> Arc<KeyLedger> {
        if let Some(known) = self.by_key.get(key) {
            return known.value().clone();
        }
        let key = match HOLDERS.iter().find(|(prefix, _)| key.starts_with(prefix)) {
            Some((_, others)) if self.holders.fetch_add(1, Ordering::Relaxed) >= MOST_HOLDERS => others,
            _ => key,
        };
        let new = || Arc::new(KeyLedger::new(key));
        self.by_key.entry(key.to_owned()).or_insert_with(new).value().clone()
    }

    /// Returns when a key was last used, if that is known.
    pub(crate) fn last_used(&self, key: &str) -> Option<Timestamp> {
        self.by_key.get(key)?.last_used()
    }

    /// Takes rows back that could not be written.
    pub(crate) fn put_back(&self, rows: Vec<(RowKey, Counts)>) {
        for (key, counts) in rows {
            let of_key = self.of(&key.key);
            of_key.add(number_of(key.day), key.group.map(Into::into).as_ref(), key.model.as_deref(), counts);
            self.changed_by(&of_key);
        }
    }

    fn changed_by(&self, of_key: &Arc<KeyLedger>) {
        if !of_key.is_changed.load(Ordering::Relaxed) && !of_key.is_changed.swap(true, Ordering::AcqRel) {
            self.changed().push(of_key.clone());
        }
    }

    /// Restores when a key was last used.
    pub(crate) fn restore_last_use(&self, key: &str, at: Timestamp) {
        let of_key = self.of(key);
        of_key.last_used.store(at.as_microsecond(), Ordering::Relaxed);
        of_key.last_written.store(at.as_microsecond(), Ordering::Relaxed);
    }

    /// Counts a request of a key that has ended.
    pub(crate) fn note(
        &self,
        of_key: &Arc<KeyLedger>,
        (at, group, model): (Timestamp, Option<&Arc<str>>, Option<&str>),
        tokens: Option<Tokens>,
    ) {
        of_key.last_used.fetch_max(at.as_microsecond(), Ordering::Relaxed);
        of_key.add(day_number(at), group, model, Counts::of_request(tokens));
        self.changed_by(of_key);
    }

    fn changed(&self) -> MutexGuard<'_, Vec<Arc<KeyLedger>>> {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what was counted since the last call.
    pub(crate) fn take(&self) -> Entries {
        let changed = std::mem::take(&mut *self.changed());
        let mut entries = Entries::default();
        for of_key in changed {
            of_key.take(&mut entries);
        }
        entries
    }
}

impl KeyLedger {
    fn new(key: &str) -> Self {
        KeyLedger {
            key: key.to_owned(),
            rows: Mutex::default(),
            last_used: AtomicI64::new(0),
            last_written: AtomicI64::new(0),
            is_changed: AtomicBool::new(false),
        }
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Row>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the key was last used; `None` if that is not known.
    pub(crate) fn last_used(&self) -> Option<Timestamp> {
        let at = self.last_used.load(Ordering::Relaxed);
        (at != 0).then(|| Timestamp::from_microsecond(at).ok()).flatten()
    }

    fn add(&self, day: i64, group: Option<&Arc<str>>, model: Option<&str>, counts: Counts) {
        let mut rows = self.rows();
        let is_of = |row: &Row, model: Option<&str>| {
            row.day == day && row.model.as_deref() == model && row.group.as_deref() == group.map(|of| &**of)
        };
        let mut model = model;
        if !rows.iter().any(|row| is_of(row, model)) {
            if rows.len() >= MOST_MODELS {
                model = Some(OTHER_MODELS);
            }
            if !rows.iter().any(|row| is_of(row, model)) {
                let model = model.map(Into::into);
                rows.push(Row { day, group: group.cloned(), model, counts: Counts::default() });
            }
        }
        if let Some(row) = rows.iter_mut().find(|row| is_of(row, model)) {
            row.counts.add(counts);
        }
    }

    fn take(&self, entries: &mut Entries) {
        // A request that ends from here on is noted anew.
        self.is_changed.store(false, Ordering::Release);
        for Row { day, group, model, counts } in self.rows().drain(..) {
            let (group, model) = (group.as_deref().map(str::to_owned), model.map(String::from));
            let day = date_of(day);
            entries.rows.push((RowKey { day, key: self.key.clone(), group, model }, counts));
        }
        let at = self.last_used.load(Ordering::Relaxed);
        if at - self.last_written.load(Ordering::Relaxed) >= LAST_USE_STEP {
            self.last_written.store(at, Ordering::Relaxed);
            if let Ok(at) = Timestamp::from_microsecond(at) {
                entries.last_used.push((self.key.clone(), at));
            }
        }
    }
}

/// Returns the number of days between 1970 and an instant, in UTC.
fn day_number(at: Timestamp) -> i64 {
    at.as_second().div_euclid(86_400)
}

fn number_of(day: Date) -> i64 {
    day.to_zoned(TimeZone::UTC).map_or(0, |day| day_number(day.timestamp()))
}

fn date_of(number: i64) -> Date {
    day_of(Timestamp::from_second(number.saturating_mul(86_400)).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// Returns the day of an instant, in UTC.
pub(crate) fn day_of(at: Timestamp) -> Date {
    at.to_zoned(TimeZone::UTC).date()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn used(input: u64, output: u64, by: TokensBy) -> Option<Tokens> {
        Some(Tokens { input, cached: Some(1), output, by })
    }

    #[test]
    fn requests_are_counted_by_day_group_and_model() {
        let ledger = Ledger::default();
        let (key, group) = (ledger.of("key_a"), Arc::<str>::from("team"));
        let (first, next) = (at("2026-11-29T23:59:59Z"), at("2026-11-30T00:00:00Z"));
        for moment in [first, first, next] {
            ledger.note(&key, (moment, Some(&group), Some("m")), used(10, 5, TokensBy::Reported));
        }
        ledger.note(&key, (next, None, None), used(3, 4, TokensBy::Estimated));
        ledger.note(&key, (next, None, None), None);
        let Entries { rows, last_used } = ledger.take();
        assert_eq!(last_used, [("key_a".to_owned(), next)]);
        let counts =
            |input, output, requests, estimated| Counts { requests, input, cached: 0, output, estimated };
        let row = |day: Timestamp, group: Option<&str>, model: Option<&str>| RowKey {
            day: day_of(day),
            key: "key_a".to_owned(),
            group: group.map(str::to_owned),
            model: model.map(str::to_owned),
        };
        assert_eq!(
            rows,
            [
                (row(first, Some("team"), Some("m")), Counts { cached: 2, ..counts(20, 10, 2, 0) }),
                (row(next, Some("team"), Some("m")), Counts { cached: 1, ..counts(10, 5, 1, 0) }),
                (row(next, None, None), Counts { cached: 1, ..counts(3, 4, 2, 7) }),
            ]
        );
        assert!(ledger.take().rows.is_empty(), "nothing has changed since");
        // What could not be written is written later.
        ledger.put_back(rows.clone());
        ledger.note(&key, (next, None, None), None);
        let again = ledger.take().rows;
        assert_eq!(again[..2], rows[..2]);
        assert_eq!(again[2].1, Counts { requests: 3, ..rows[2].1 });
    }

    #[test]
    fn clients_fill_no_memory_with_names_of_models() {
        let ledger = Ledger::default();
        let (key, now) = (ledger.of("key_a"), at("2026-11-29T12:00:00Z"));
        for model in 0..1000 {
            ledger.note(&key, (now, None, Some(&format!("model-{model}"))), None);
        }
        let rows = ledger.take().rows;
        assert_eq!(rows.len(), MOST_MODELS + 1);
        assert_eq!(rows.iter().map(|(_, counts)| counts.requests).sum::<u64>(), 1000);
        assert!(key.rows().is_empty());
    }
}
