//! What this replica has counted, and has not told yet to the server that has the usage of all replicas.
//!
//! A replica tells sums of its own, and the server adds what is new of them, so a sum that is told twice
//! counts once.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::civil::Date;
use jiff::{Timestamp, ToSpan};

use super::day_rows::DayRows;
use super::ledger::{Counts, Entries, Ledger, RowKey, day_of};

/// The greatest number of rows, or of keys, that are told at once.
const MOST_AT_ONCE: usize = 128;

/// What has not been told.
#[derive(Debug)]
pub(crate) struct Untold {
    /// The name under which the server keeps what this replica has told.
    pub(crate) origin: String,
    /// Whether this replica may tell a day again when it has started anew.
    pub(crate) survives: bool,
    waiting: Mutex<Waiting>,
    /// Whether all that is known of the last days is to be told, because the server may have lost it.
    is_all_wanted: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    rows: BTreeMap<Date, HashMap<RowKey, Counts>>,
    last_used: HashMap<String, Timestamp>,
    /// Whether the server may not know since when uses are noted.
    is_new: bool,
    /// Days that are never told again.
    closed: Vec<Date>,
    /// Whether something is being told.
    is_telling: bool,
}

/// What is told at once.
#[derive(Debug)]
pub(crate) enum Telling {
    /// Sums of rows of one day.
    Rows(Date, Vec<(RowKey, Counts)>),
    LastUses(Vec<(String, Timestamp)>),
    /// The day is not told again.
    Close(Date),
}

impl Untold {
    /// `origin`: the name of this replica; `survives`: whether it has the same name, and its rows, when it
    /// has started anew.
    pub(crate) fn new(origin: String, survives: bool) -> Self {
        let waiting = Waiting { is_new: true, ..Waiting::default() };
        Untold { origin, survives, waiting: Mutex::new(waiting), is_all_wanted: AtomicBool::new(true) }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds sums of rows that are to be told.
    pub(crate) fn add_rows(&self, rows: impl IntoIterator<Item = (RowKey, Counts)>) {
        let mut waiting = self.waiting();
        for (key, sum) in rows {
            waiting.rows.entry(key.day).or_default().insert(key, sum);
        }
    }

    /// Adds when keys were last used.
    pub(crate) fn add_last_uses(&self, last_used: impl IntoIterator<Item = (String, Timestamp)>) {
        self.waiting().last_used.extend(last_used);
    }

    /// Says that a day, which was told, is not told again.
    pub(crate) fn close(&self, day: Date) {
        self.waiting().closed.push(day);
    }

    /// Asks for all that is known of the last days, because the server may have lost it.
    pub(crate) fn want_all(&self) {
        self.is_all_wanted.store(true, Ordering::Relaxed);
        self.waiting().is_new = true;
    }

    /// Whether all that is known of the last days is to be added. The next call says no.
    pub(crate) fn takes_all(&self) -> bool {
        self.is_all_wanted.swap(false, Ordering::Relaxed)
    }

    /// Whether the server knows all.
    pub(crate) fn is_empty(&self) -> bool {
        let Waiting { rows, last_used, is_new, closed, is_telling } = &*self.waiting();
        rows.is_empty() && last_used.is_empty() && closed.is_empty() && !is_new && !is_telling
    }

    /// Returns what is to be told now; `None` if there is nothing, or something is being told. Whoever
    /// tells it calls [`Untold::told`].
    pub(crate) fn take(&self) -> Option<Telling> {
        let mut waiting = self.waiting();
        if waiting.is_telling {
            return None;
        }
        let telling = if let Some(mut rows) = waiting.rows.first_entry() {
            let (day, of_day) = (*rows.key(), rows.get_mut());
            let keys: Vec<RowKey> = of_day.keys().take(MOST_AT_ONCE).cloned().collect();
            let taken = keys.into_iter().filter_map(|key| of_day.remove_entry(&key)).collect();
            if of_day.is_empty() {
                rows.remove();
            }
            Telling::Rows(day, taken)
        } else if waiting.last_used.is_empty() && !waiting.is_new {
            Telling::Close(waiting.closed.pop()?)
        } else {
            waiting.is_new = false;
            let keys: Vec<String> = waiting.last_used.keys().take(MOST_AT_ONCE).cloned().collect();
            let last_used = &mut waiting.last_used;
            Telling::LastUses(keys.into_iter().filter_map(|key| last_used.remove_entry(&key)).collect())
        };
        waiting.is_telling = true;
        Some(telling)
    }

    /// Ends the telling. `failed`: what may not have reached the server; it is told again.
    pub(crate) fn told(&self, failed: Option<Telling>) {
        let mut waiting = self.waiting();
        waiting.is_telling = false;
        match failed {
            Some(Telling::Rows(day, rows)) => {
                let of_day = waiting.rows.entry(day).or_default();
                // A sum that was added meanwhile is newer.
                for (key, sum) in rows {
                    of_day.entry(key).or_insert(sum);
                }
            }
            Some(Telling::LastUses(uses)) => {
                waiting.is_new = true;
                for (key, at) in uses {
                    waiting.last_used.entry(key).or_insert(at);
                }
            }
            Some(Telling::Close(day)) => waiting.closed.push(day),
            None => {}
        }
    }
}

/// Returns the day in which a row is counted. What began earlier than yesterday counts today, because days
/// before are never told again.
pub(crate) fn open_day(day: Date, today: Date) -> Date {
    if day < today.saturating_sub(1.day()) { today } else { day }
}

/// What a replica has counted that keeps nothing over a restart.
#[derive(Debug)]
pub(crate) struct Collected {
    ledger: Arc<Ledger>,
    days: BTreeMap<Date, DayRows>,
}

impl Collected {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Collected { ledger, days: BTreeMap::new() }
    }

    /// Adds what was counted since the last call to what is untold.
    pub(crate) fn collect(&mut self, untold: &Untold, now: Timestamp) {
        let (today, Entries { rows, last_used }) = (day_of(now), self.ledger.take());
        self.days.retain(|day, _| open_day(*day, today) == *day);
        let mut by_day: BTreeMap<Date, Vec<(RowKey, Counts)>> = BTreeMap::new();
        for (key, counts) in rows {
            let day = open_day(key.day, today);
            by_day.entry(day).or_default().push((RowKey { day, ..key }, counts));
        }
        for (day, counted) in by_day {
            let of_day = self.days.entry(day).or_default();
            let sums = of_day.added(&counted);
            for (key, sum) in &sums {
                of_day.set(key.clone(), *sum);
            }
            untold.add_rows(sums);
        }
        untold.add_last_uses(last_used);
        if untold.takes_all() {
            let all = self.days.values().flat_map(DayRows::iter);
            untold.add_rows(all.map(|(key, sum)| (key.clone(), *sum)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token_report::{Tokens, TokensBy};

    fn counted(ledger: &Arc<Ledger>, at: &str) {
        let tokens = Tokens { input: 3, cached: None, output: 4, by: TokensBy::Reported };
        ledger.note(&ledger.of("key_a"), (at.parse().unwrap(), None, Some("m")), Some(tokens));
    }

    fn rows(untold: &Untold) -> Option<(String, Vec<u64>, Telling)> {
        match untold.take()? {
            Telling::Rows(day, rows) => {
                let requests = rows.iter().map(|(_, sum)| sum.requests).collect();
                Some((day.to_string(), requests, Telling::Rows(day, rows)))
            }
            Telling::LastUses(_) | Telling::Close(_) => None,
        }
    }

    #[test]
    fn what_was_not_told_is_told_again_with_the_newest_sum() {
        let (ledger, untold) = (Arc::<Ledger>::default(), Untold::new("a".to_owned(), false));
        let mut collected = Collected::new(ledger.clone());
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        counted(&ledger, "2026-11-29T11:00:00Z");
        collected.collect(&untold, now);
        let (_, requests, telling) = rows(&untold).unwrap();
        assert_eq!(requests, [1]);
        assert!(untold.take().is_none(), "one is told after the other");
        counted(&ledger, "2026-11-29T11:00:00Z");
        collected.collect(&untold, now);
        untold.told(Some(telling));
        let (day, requests, telling) = rows(&untold).unwrap();
        assert_eq!((day.as_str(), requests), ("2026-11-29", vec![2]));
        untold.told(None);
        drop(telling);
        assert!(matches!(untold.take(), Some(Telling::LastUses(uses)) if uses.len() == 1));
        assert!(!untold.is_empty());
        untold.told(None);
        assert!(untold.is_empty());
    }

    #[test]
    fn all_of_the_last_days_is_told_if_the_server_may_have_lost_it() {
        let (ledger, untold) = (Arc::<Ledger>::default(), Untold::new("a".to_owned(), false));
        let mut collected = Collected::new(ledger.clone());
        let tell = |untold: &Untold| {
            let mut told = Vec::new();
            while let Some(telling) = untold.take() {
                if let Telling::Rows(day, rows) = telling {
                    told.push((day.to_string(), rows[0].1.requests));
                }
                untold.told(None);
            }
            told
        };
        for (at, now) in [
            ("2026-11-27T12:00:00Z", "2026-11-27T13:00:00Z"),
            ("2026-11-28T12:00:00Z", "2026-11-28T13:00:00Z"),
        ] {
            counted(&ledger, at);
            collected.collect(&untold, now.parse().unwrap());
        }
        assert_eq!(tell(&untold), [("2026-11-27".to_owned(), 1), ("2026-11-28".to_owned(), 1)]);
        // A request that began three days ago ends today. Days before yesterday are closed.
        counted(&ledger, "2026-11-26T12:00:00Z");
        untold.want_all();
        collected.collect(&untold, "2026-11-29T12:00:00Z".parse().unwrap());
        assert_eq!(tell(&untold), [("2026-11-28".to_owned(), 1), ("2026-11-29".to_owned(), 1)]);
    }
}
