//! Loads lines into a set: unchanged lines by their fingerprints, all others by the fast path or
//! the exact decoder.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::str;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use memchr::memmem::Finder;
use serde::de::IgnoredAny;

use super::blocks::{Blocks, MAX_LINE, lines};
use super::exact::decode_alone;
use super::fast_path::{Instants, Line};
use crate::config::fault::{Fault, Faults, Position};
use crate::key_store::build_set::BuildSet;
use crate::key_store::claim::Claim;
use crate::key_store::provisions::Provisions;
use crate::key_store::reading::{AtFault, Pace};
use crate::key_store::settle::{Unread, check_needs};
use crate::keys::{KeyHash, KeyRecord, Terms};

/// The maximum number of faults that are reported. After this many faults, a file whose lines must
/// all be good is not read further.
pub(in crate::key_store) const MAX_FAULTS: usize = 100;
/// How long a background thread works before it sleeps for the same time. A request then waits for
/// the processor at most this long, and not for a whole time slice of the system's scheduler.
const STRETCH: Duration = Duration::from_micros(200);
/// How long a background thread works with pauses. It then continues without pauses, because the
/// change has to be in service soon.
const BACKGROUND_TIME: Duration = Duration::from_millis(1200);
/// The text with which a stored hash begins.
const HASH_START: &[u8] = b"sha256:";
/// The maximum number of different texts of terms that one thread remembers.
const MAX_TERMS: usize = 10_000;

/// What the threads found in a file besides good lines.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// How many lines are not blank.
    pub(super) lines: usize,
    /// Whether any line at fault is a JSON object.
    pub(super) has_entries: bool,
    /// Whether the last line is incomplete, because the file was being written or is truncated.
    pub(super) is_cut: bool,
    /// The reason why the file was not read to its end.
    pub(super) unreadable: Option<Fault>,
    /// The first faults that were found.
    pub(super) faults: Vec<Fault>,
    /// The lines that are not used: the number of each line, and its claim.
    pub(super) claims: Vec<(usize, Claim)>,
}

impl Read {
    fn join(&mut self, mut part: Read) {
        self.lines += part.lines;
        self.has_entries |= part.has_entries;
        self.is_cut |= part.is_cut;
        self.unreadable = self.unreadable.take().or(part.unreadable);
        self.faults.append(&mut part.faults);
        self.claims.append(&mut part.claims);
    }

    fn is_full(&self) -> bool {
        self.faults.len() >= MAX_FAULTS
    }

    /// Returns at most [`MAX_FAULTS`] faults, in the order of the file.
    pub(super) fn sorted(&self) -> Vec<Fault> {
        let mut faults = Faults::sorted(self.faults.clone()).0;
        faults.truncate(MAX_FAULTS);
        faults
    }
}

/// The part of a set that one thread builds, and the thread's state while it reads lines.
pub(in crate::key_store) struct Loading<'e, B> {
    pub(in crate::key_store) builder: B,
    at_fault: AtFault,
    provisions: Provisions<'e>,
    /// The numbers of lines that are good by themselves but are not used, because they share an id,
    /// a name or a hash with another line.
    excluded: &'e HashSet<usize>,
    read: Read,
    /// The terms that were decoded from earlier lines, by their text.
    terms: HashMap<String, Option<Arc<Terms>>>,
    /// A buffer for the text of a key's terms.
    text: String,
    created_at: Instants,
    expires_at: Instants,
    hash_start: Finder<'static>,
}

impl<'e, B: BuildSet> Loading<'e, B> {
    pub(in crate::key_store) fn new(
        builder: B,
        (at_fault, provisions): (AtFault, Provisions<'e>),
        excluded: &'e HashSet<usize>,
    ) -> Self {
        let (created_at, expires_at) = Default::default();
        let (read, terms, text) = Default::default();
        Loading {
            builder,
            at_fault,
            provisions,
            excluded,
            read,
            terms,
            text,
            created_at,
            expires_at,
            hash_start: Finder::new(HASH_START),
        }
    }

    /// Reads blocks to the end of the file. If the file must be good as a whole, reading also stops
    /// when the threads have found [`MAX_FAULTS`] faults.
    pub(super) fn run(
        mut self,
        path: &Path,
        blocks: &Mutex<Blocks<'_>>,
        of_all: &Mutex<Read>,
        pace: Pace,
    ) -> B {
        let mut block = Vec::new();
        let started = Instant::now();
        let mut rested = started;
        let must_be_good = self.at_fault == AtFault::Refused;
        loop {
            let next = blocks.lock().unwrap_or_else(PoisonError::into_inner).next(&mut block);
            let first = match next {
                Ok(Some(first)) => first,
                Ok(None) => break,
                Err(fault) => {
                    self.read.unreadable = Some(fault);
                    break;
                }
            };
            for (index, line) in lines(&block).enumerate() {
                if !(must_be_good && self.read.is_full()) {
                    self.take(path, first + index, line);
                }
            }
            let is_background = pace == Pace::Background && started.elapsed() < BACKGROUND_TIME;
            if is_background && rested.elapsed() >= STRETCH {
                std::thread::sleep(STRETCH);
                rested = Instant::now();
            }
            let is_enough = self.read.is_full() || of_all.lock().is_ok_and(|of_all| of_all.is_full());
            if must_be_good && is_enough {
                break;
            }
        }
        of_all.lock().unwrap_or_else(PoisonError::into_inner).join(self.read);
        self.builder
    }

    fn take(&mut self, path: &Path, number: usize, with_end: &[u8]) {
        let line = with_end.trim_ascii();
        if line.is_empty() {
            return;
        }
        self.read.lines += 1;
        if self.excluded.contains(&number) {
            let claim = decode_alone(path, number, line).map(|record| Claim::of_record(&record));
            self.read.claims.push((number, claim.unwrap_or_else(|unread| unread.claim)));
            return;
        }
        let Err(fingerprint) = self.take_quickly(line) else { return };
        let at = Position { line: number, column: 1 };
        let read = decode_alone(path, number, line).and_then(|record| {
            check_needs(&record, path, at, self.provisions)?;
            Ok(record)
        });
        match read {
            Ok(record) => self.take_record(&record, line, fingerprint),
            Err(unread) => {
                // Only the last line of a file can lack a line break.
                self.read.has_entries |= unread.is_entry;
                self.read.is_cut |= !with_end.ends_with(b"\n") && is_cut(line);
                self.take_unread(number, unread);
            }
        }
    }

    /// Takes a line without an exact decoding.
    ///
    /// # Errors
    ///
    /// The fingerprint of a line that needs an exact decoding.
    pub(in crate::key_store) fn take_quickly(&mut self, line: &[u8]) -> Result<(), u64> {
        let fingerprint = self.builder.fingerprint(line);
        let is_taken =
            self.keep(line, fingerprint) || line.len() <= MAX_LINE && self.take_fast(line, fingerprint);
        if is_taken { Ok(()) } else { Err(fingerprint) }
    }

    /// Takes an entry that is at fault.
    pub(in crate::key_store) fn take_unread(&mut self, number: usize, unread: Unread) {
        if !self.read.is_full() {
            self.read.faults.extend(unread.faults);
        }
        self.read.claims.push((number, unread.claim));
    }

    /// Returns the set, the first faults, and the claims of all entries at fault.
    pub(in crate::key_store) fn into_parts(self) -> (B, Vec<Fault>, Vec<(usize, Claim)>) {
        let faults = self.read.sorted();
        (self.builder, faults, self.read.claims)
    }

    /// Adds the key of an unchanged line without decoding the line. Most of a million lines are
    /// unchanged.
    fn keep(&mut self, line: &[u8], fingerprint: u64) -> bool {
        if self.builder.keep_next(fingerprint) {
            return true;
        }
        let Some(start) = self.hash_start.find(line) else { return false };
        let text = line.get(start..start + HASH_START.len() + 64).and_then(|text| str::from_utf8(text).ok());
        text.and_then(KeyHash::parse).is_some_and(|hash| self.builder.keep(&hash, fingerprint))
    }

    /// Adds the key of a line if the fast path can decode the line. Returns whether the key was
    /// added.
    pub(super) fn take_fast(&mut self, line: &[u8], fingerprint: u64) -> bool {
        let Ok(line) = serde_json::from_slice::<Line<'_>>(line) else { return false };
        let terms = match line.terms_text(&mut self.text) {
            false => None,
            true => match self.terms.get(&self.text) {
                Some(terms) => terms.clone(),
                None => return false,
            },
        };
        let Some((hash, draft)) = line.draft(terms, &mut self.created_at, &mut self.expires_at) else {
            return false;
        };
        self.builder.add(hash, draft, fingerprint);
        true
    }

    /// Adds the key that the exact decoder returned for a line, and remembers the key's terms, so
    /// that the fast path can decode similar lines.
    pub(in crate::key_store) fn take_record(&mut self, record: &KeyRecord, line: &[u8], fingerprint: u64) {
        let draft = record.draft();
        if record.terms.previous.is_empty()
            && self.terms.len() < MAX_TERMS
            && serde_json::from_slice::<Line<'_>>(line).is_ok_and(|line| line.terms_text(&mut self.text))
        {
            self.terms.insert(self.text.clone(), draft.terms.clone());
        }
        self.builder.add(record.hash, draft, fingerprint);
    }
}

/// Whether a line is incomplete JSON.
fn is_cut(line: &[u8]) -> bool {
    serde_json::from_slice::<IgnoredAny>(line).is_err_and(|error| error.is_eof())
}
