//! The thread that writes what has changed to the journals, once a second.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::io;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::civil::Date;
use jiff::{SignedDuration, Timestamp};

use super::directory::State;
use super::entries::{Entry, KEPT_DAYS, Records};
use super::fleet::Fleet;
use super::usage::{DayJournal, directory_of, remove_old};
use crate::clock::Clock;
use crate::journal::{Journal, record_bytes};
use crate::limit::{Changed, Passed, ToKeep};
use crate::observe::ledger::{Counts, Entries, Ledger, RowKey, day_of};
use crate::observe::untold::open_day;
use crate::thread_supervisor::Ended;

/// Time between two writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// Time between two log lines about a disk that can't be written.
const TROUBLE_AGAIN: Duration = Duration::from_secs(60);

/// The state of the directory, for the status and metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    /// The length of the journals that are written now, in bytes.
    pub(crate) bytes: u64,
    /// When all that had changed was last written.
    pub(crate) written_at: Option<Timestamp>,
    /// The number of writes that failed.
    pub(crate) failures: u64,
    /// Why the last write failed; `None` if it did not fail.
    pub(crate) trouble: Option<String>,
}

/// Gets each budget that has passed a share of its amount, with the id of its key or group.
pub(crate) type Told = Box<dyn Fn(&str, &Passed) + Send>;

/// The work of the thread.
pub(crate) struct Keeper {
    path: PathBuf,
    journal: Journal,
    /// All entries of the journal, as they are written.
    written: Records,
    live_bytes: u64,
    /// What is to be written; an empty value removes an entry.
    pending: Records,
    days: BTreeMap<Date, DayJournal>,
    /// The day on which old journals were last removed.
    cleaned: Option<Date>,
    ledger: Arc<Ledger>,
    changed: Arc<Changed>,
    clock: Clock,
    tell: Told,
    health: Arc<Mutex<Health>>,
    told_trouble: Option<Instant>,
    /// What is told to the server of shared limits; `None` without one.
    fleet: Option<Fleet>,
    asked: Receiver<Asked>,
}

/// What the thread is asked to do.
#[derive(Debug)]
enum Asked {
    /// Write what has changed.
    Write(Sender<()>),
    /// Write what has changed, and end.
    End(Sender<()>),
}

/// The handle of the thread.
#[derive(Debug)]
pub(crate) struct Keeping {
    health: Arc<Mutex<Health>>,
    ask: Mutex<Sender<Asked>>,
    /// The directory.
    pub(crate) path: PathBuf,
}

impl Keeping {
    pub(crate) fn health(&self) -> Health {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes what has changed. Blocks, for a few seconds at most.
    pub(crate) fn write(&self) {
        self.ask(Asked::Write);
    }

    /// Writes what has changed, and ends the thread. Blocks, for a few seconds at most.
    pub(crate) fn end(&self) {
        self.ask(Asked::End);
    }

    fn ask(&self, what: fn(Sender<()>) -> Asked) {
        let (done, is_done) = channel();
        let asked = self.ask.lock().unwrap_or_else(PoisonError::into_inner).send(what(done));
        if asked.is_ok() {
            let _in_time = is_done.recv_timeout(5 * INTERVAL);
        }
    }
}

impl Keeper {
    /// Makes the work of the thread, and its handle. `changed`: the keys and groups that have changed;
    /// `tell`: gets the budgets that have passed a share.
    pub(crate) fn new(state: State, changed: Arc<Changed>, clock: Clock) -> (Self, Keeping) {
        let State { path, journal, entries, pending, ledger, today, .. } = state;
        let live_bytes = entries.iter().map(|(key, value)| record_bytes(key.len(), value.len())).sum();
        let health = Arc::new(Mutex::new(Health { bytes: journal.bytes(), ..Health::default() }));
        let (sender, asked) = channel();
        let keeping = Keeping { health: health.clone(), ask: Mutex::new(sender), path: path.clone() };
        let keeper = Keeper {
            path,
            journal,
            written: entries,
            live_bytes,
            pending,
            days: BTreeMap::from([today]),
            cleaned: None,
            ledger,
            changed,
            clock,
            tell: Box::new(|_, _| {}),
            health,
            told_trouble: None,
            fleet: None,
            asked,
        };
        (keeper, keeping)
    }

    /// Sets who gets the budgets that have passed a share of their amounts.
    pub(crate) fn telling(self, tell: Told) -> Self {
        Keeper { tell, ..self }
    }

    /// Tells the server of shared limits, too.
    pub(crate) fn of_fleet(mut self, mut fleet: Fleet, now: Timestamp) -> Self {
        fleet.find_open_days(&self.path, &self.written);
        // What was not told yesterday is told with what is counted today.
        let yesterday = day_of(now).yesterday().ok().filter(|day| directory_of(&self.path, *day).exists());
        if let Some(Err(error)) = yesterday.map(|day| self.day(day).map(drop)) {
            tracing::error!(%error, "the usage of yesterday can't be read");
        }
        let uses = self.written.iter().filter_map(|(key, value)| match Entry::decode(key, value) {
            Some(Entry::LastUse { key, at }) => Some((key, at)),
            _ => None,
        });
        fleet.untold.add_last_uses(uses);
        Keeper { fleet: Some(fleet), ..self }
    }

    /// Runs on this thread until it is asked to end.
    pub(crate) fn run(mut self) -> Ended {
        loop {
            let asked = self.asked.recv_timeout(INTERVAL);
            self.keep();
            match asked {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Asked::Write(done)) => {
                    let _nobody_waits = done.send(());
                }
                Ok(Asked::End(done)) => {
                    let _nobody_waits = done.send(());
                    return Ended::Asked;
                }
                Err(RecvTimeoutError::Disconnected) => return Ended::Asked,
            }
        }
    }

    /// Writes what has changed.
    fn keep(&mut self) {
        let now = self.clock.wall();
        self.take_changed(now);
        if let Some(fleet) = &mut self.fleet {
            self.pending.extend(fleet.settlements());
            self.pending.extend(fleet.tell_old_days(&self.path, day_of(now)));
        }
        let Entries { rows, last_used } = self.ledger.take();
        if let Some(fleet) = &self.fleet {
            fleet.untold.add_last_uses(last_used.iter().cloned());
        }
        let last_used = last_used.into_iter().map(|(key, at)| Entry::LastUse { key, at }.encode());
        self.pending.extend(last_used);
        // Budgets are written even if usage can't be.
        let budgets = self.write(now);
        let written = budgets.and(self.write_usage(now, rows));
        let bytes = self.journal.bytes() + self.days.values().map(DayJournal::bytes).sum::<u64>();
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        health.bytes = bytes;
        let Err(error) = written else {
            health.written_at = Some(now);
            if health.trouble.take().is_some() {
                tracing::info!(path = %self.path.display(), "the state is written again");
            }
            self.told_trouble = None;
            return;
        };
        health.failures += 1;
        health.trouble = Some(error.to_string());
        if self.told_trouble.is_none_or(|told| told.elapsed() > TROUBLE_AGAIN) {
            self.told_trouble = Some(Instant::now());
            let path = self.path.display();
            tracing::error!(%path, %error, "the state can't be written: a restart now would forget what was used since");
        }
    }

    /// Takes what has changed of budgets and windows.
    fn take_changed(&mut self, now: Timestamp) {
        let since_start = self.clock.monotonic_nanos();
        for state in self.changed.take() {
            let ToKeep { kept, passed } = state.to_keep(since_start, now);
            for passed in passed {
                (self.tell)(state.id(), &passed);
            }
            let holder = || state.id().to_owned();
            let budgets = kept.budgets.into_iter().map(|state| Entry::Budget { holder: holder(), state });
            let windows = kept.windows.into_iter().map(|window| Entry::Window { holder: holder(), window });
            self.pending.extend(budgets.chain(windows).map(|entry| entry.encode()));
        }
    }

    /// Writes budgets, windows and last uses.
    fn write(&mut self, now: Timestamp) -> io::Result<()> {
        let records = self.pending.iter().map(|(key, value)| (key.as_slice(), value.as_slice()));
        let appended = self.journal.append(records);
        if appended.is_ok() {
            for (key, value) in self.pending.drain() {
                let (key_length, value_length) = (key.len(), value.len());
                let before = match value_length {
                    0 => self.written.remove(&key),
                    _ => self.written.insert(key, value),
                };
                if value_length > 0 {
                    self.live_bytes += record_bytes(key_length, value_length);
                }
                self.live_bytes -= before.map_or(0, |before| record_bytes(key_length, before.len()));
            }
            self.fleet.iter_mut().for_each(Fleet::note_written);
        }
        // A journal that was removed, or is on a broken part of the disk, is written anew.
        if self.journal.wants_compaction(self.live_bytes) {
            self.forget_what_is_over(now);
            self.journal.compact(self.written.iter().map(|(key, value)| (key.clone(), value.clone())))?;
        }
        appended
    }

    fn forget_what_is_over(&mut self, now: Timestamp) {
        let oldest_use =
            now.saturating_sub(SignedDuration::from_hours(24 * KEPT_DAYS)).unwrap_or(Timestamp::MIN);
        self.written.retain(|key, value| {
            // An entry that a later version has written stays.
            Entry::decode(key, value).is_none_or(|entry| !entry.is_over(now, oldest_use))
        });
        let bytes = self.written.iter().map(|(key, value)| record_bytes(key.len(), value.len()));
        self.live_bytes = bytes.sum();
    }

    /// Writes what was used.
    fn write_usage(&mut self, now: Timestamp, rows: Vec<(RowKey, Counts)>) -> io::Result<()> {
        let today = day_of(now);
        if self.cleaned != Some(today) {
            self.cleaned = Some(today);
            remove_old(&self.path, today);
            // Requests of yesterday end today. Journals of other days are opened when they are needed.
            let yesterday = today.yesterday().unwrap_or(today);
            self.days.retain(|day, _| *day == today || *day == yesterday);
        }
        let mut by_day: BTreeMap<Date, Vec<(RowKey, Counts)>> = BTreeMap::new();
        for (key, counts) in rows {
            let day = if self.fleet.is_some() { open_day(key.day, today) } else { key.day };
            by_day.entry(day).or_default().push((RowKey { day, ..key }, counts));
        }
        let mut outcome = Ok(());
        for (day, rows) in by_day {
            match (self.day(day).and_then(|journal| journal.add(&rows)), &mut self.fleet) {
                (Ok(sums), Some(fleet)) => {
                    fleet.note_day(day);
                    fleet.untold.add_rows(sums);
                }
                (Ok(_), None) => {}
                (Err(error), _) => {
                    self.ledger.put_back(rows);
                    outcome = Err(error);
                }
            }
        }
        if let Some(fleet) = self.fleet.as_ref().filter(|fleet| fleet.untold.takes_all()) {
            let all = self.days.values().flat_map(|day| day.rows.iter());
            fleet.untold.add_rows(all.map(|(key, sum)| (key.clone(), *sum)));
        }
        let compacted = self.days.values_mut().map(DayJournal::compact);
        compacted.fold(outcome, Result::and)
    }

    /// Returns the journal of a day, opened.
    fn day(&mut self, day: Date) -> io::Result<&mut DayJournal> {
        Ok(match self.days.entry(day) {
            Slot::Occupied(open) => open.into_mut(),
            Slot::Vacant(slot) => slot.insert(DayJournal::open(&self.path, day).map_err(io::Error::other)?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Limiter;
    use crate::observe::untold::{Telling, Untold};
    use crate::state::Report;
    use crate::state::report::By;
    use crate::token_report::{Tokens, TokensBy};

    #[test]
    fn a_request_that_ends_days_later_is_added_to_its_day() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let first: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        let (clock, hands) = Clock::manual(first);
        let (state, kept) = State::open(&path, clock.wall()).unwrap();
        let ledger = state.ledger.clone();
        let (_limiter, changed) = Limiter::new(clock.clone(), usize::MAX).keeping(kept);
        let (mut keeper, keeping) = Keeper::new(state, changed, clock);
        let note = |at: Timestamp| {
            let tokens = Tokens { input: 1, cached: None, output: 2, by: TokensBy::Reported };
            ledger.note(&ledger.of("key_a"), (at, None, Some("m")), Some(tokens));
        };
        // A file that looks like an old day is no reason to write nothing.
        std::fs::write(path.join("usage/2020-01-01"), "").unwrap();
        (0..5).for_each(|_| note(first));
        keeper.keep();
        for days in 1..=3 {
            hands.advance(Duration::from_secs(86_400));
            note(first);
            note("2026-11-28T12:00:00Z".parse::<Timestamp>().unwrap());
            keeper.keep();
            let report = Report::read(&path, day_of(first), vec![By::Day]).unwrap();
            let row = &report.json()[0];
            assert_eq!(
                (row["requests"].as_u64(), row["output_tokens"].as_u64()),
                (Some(5 + 2 * days), Some(10 + 4 * days))
            );
        }
        assert!(keeping.health().trouble.is_none(), "{:?}", keeping.health());
        assert_eq!(super::super::last_uses(&path).unwrap().since, Some(first));
    }

    #[test]
    fn each_day_is_told_as_a_whole_and_closed_when_that_is_durable() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let (clock, hands) = Clock::manual("2026-11-26T12:00:00Z".parse().unwrap());
        let begin = |origin_before: Option<&str>| {
            let (state, kept) = State::open(&path, clock.wall()).unwrap();
            let (origin, ledger) = (state.origin.clone(), state.ledger.clone());
            assert!(origin_before.is_none_or(|before| before == origin), "a directory has one name");
            let (_limiter, changed) = Limiter::new(clock.clone(), usize::MAX).keeping(kept);
            let untold = Arc::new(Untold::new(origin, true));
            let (keeper, _keeping) = Keeper::new(state, changed, clock.clone());
            let keeper = keeper.of_fleet(Fleet::new(untold.clone(), Arc::default()), clock.wall());
            (keeper, untold, ledger)
        };
        // Days with their requests, as they are told; days that are closed have none.
        let tell = |untold: &Untold| {
            let mut told = Vec::new();
            while let Some(telling) = untold.take() {
                match telling {
                    Telling::Rows(day, rows) => told.push((day.to_string(), rows[0].1.requests)),
                    Telling::Close(day) => told.push((day.to_string(), 0)),
                    Telling::LastUses(_) => {}
                }
                untold.told(None);
            }
            told
        };
        let of = |days: &[(&str, u64)]| -> Vec<_> {
            days.iter().map(|(day, requests)| ((*day).to_owned(), *requests)).collect()
        };
        let (mut keeper, untold, ledger) = begin(None);
        let use_now = |ledger: &Arc<Ledger>, times: u64| {
            (0..times).for_each(|_| ledger.note(&ledger.of("key_a"), (clock.wall(), None, None), None));
        };
        use_now(&ledger, 2);
        keeper.keep();
        assert_eq!(tell(&untold), of(&[("2026-11-26", 2)]));
        use_now(&ledger, 1);
        keeper.keep();
        let origin = untold.origin.clone();
        // What was not told before a kill is told after the start.
        drop((keeper, untold));
        hands.advance(Duration::from_secs(86_400));
        let (mut keeper, untold, ledger) = begin(Some(&origin));
        use_now(&ledger, 5);
        keeper.keep();
        assert_eq!(tell(&untold), of(&[("2026-11-26", 3), ("2026-11-27", 5)]));
        // Two days later, no request adds to the first day any more.
        hands.advance(Duration::from_secs(86_400));
        keeper.keep();
        assert_eq!(tell(&untold), of(&[("2026-11-26", 3)]));
        keeper.keep();
        assert_eq!(tell(&untold), of(&[("2026-11-26", 0)]));
        keeper.keep();
        assert_eq!(tell(&untold), of(&[]));
        drop((keeper, untold));
        let (mut keeper, untold, _ledger) = begin(Some(&origin));
        keeper.keep();
        assert_eq!(tell(&untold), of(&[("2026-11-27", 5)]), "a closed day is never told again");
    }

    #[test]
    fn usage_that_is_damaged_as_a_whole_is_moved_aside() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let now: Timestamp = "2026-11-28T12:00:00Z".parse().unwrap();
        drop(State::open(&path, now).unwrap());
        let journal = path.join("usage/2026-11-28/journal");
        std::fs::write(&journal, [0; 500]).unwrap();
        drop(State::open(&path, now).unwrap());
        let names = std::fs::read_dir(path.join("usage")).unwrap();
        let names: Vec<String> =
            names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().any(|name| name.starts_with("2026-11-28.damaged-")), "{names:?}");
        assert!(Report::read(&path, day_of(now), vec![By::Key]).unwrap().missing.is_empty());
        std::fs::write(journal, [0; 500]).unwrap();
        assert_eq!(Report::read(&path, day_of(now), vec![By::Key]).unwrap().missing.len(), 1);
    }
}
