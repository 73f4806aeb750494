//! Versions of a store, and which version is in service.

use std::time::{Duration, Instant};

/// A state of a store. Every edit by bearward makes another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// The name of the store. A store that is begun anew has another name.
    pub(super) store: String,
    pub(super) generation: u64,
    /// The number of entries, good and at fault.
    pub(super) entries: u64,
}

/// The entries that have changed since a version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changes {
    /// The version that the server has now; `None` if it has no store.
    pub(super) now: Option<Version>,
    /// The changed entries: their ids, and their text, which is empty if the entry is gone. `None`
    /// if it is not known what has changed.
    pub(super) entries: Option<Vec<(Vec<u8>, Vec<u8>)>>,
}

impl Changes {
    /// Whether the server has exactly this version.
    pub(super) fn is_nothing_since(&self, version: &Version) -> bool {
        self.now.as_ref() == Some(version) && self.entries.as_ref().is_some_and(Vec::is_empty)
    }
}

/// The version that an edit has made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edited {
    pub(super) store: String,
    pub(super) generation: u64,
}

/// The outcome of a wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waited {
    /// The number of replicas that have applied the edit.
    pub(crate) applied: usize,
    /// Replicas that have not applied the edit in time.
    pub(crate) behind: Vec<String>,
    /// Replicas whose registration ended before they had applied the edit: they were killed, or can't
    /// reach the server.
    pub(crate) lost: Vec<String>,
}

/// The health of a store, for the status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) is_reachable: bool,
    /// The generation of the store that is in service; `None` if no version is.
    pub(crate) generation: Option<u64>,
    /// The number of registered replicas, as the server last knew it.
    pub(crate) replicas: u64,
}

/// The version in service, and the one that was loaded last.
#[derive(Debug, Default)]
pub(super) struct Taken {
    pub(super) in_service: Option<Version>,
    loaded: Option<Loaded>,
    /// Whether entries may have changed without a note, or are at fault, so that all entries have to
    /// be read.
    pub(super) is_distrusted: bool,
    /// When the server last confirmed the version in service.
    pub(super) confirmed_at: Option<Instant>,
    /// How long the last load of all entries took.
    pub(super) load_time: Duration,
}

#[derive(Debug)]
struct Loaded {
    version: Version,
    is_distrusted: bool,
}

impl Taken {
    /// Returns the version whose changes are enough to load; `None` if all entries have to be read.
    pub(super) fn to_compare(&self) -> Option<Version> {
        self.in_service.clone().filter(|_| !self.is_distrusted)
    }

    /// Notes that a version was loaded. `has_faults`: some entries are at fault, so that the next
    /// load has to read all entries.
    pub(super) fn loaded(&mut self, version: Version, has_faults: bool) {
        self.loaded = Some(Loaded { version, is_distrusted: has_faults });
    }

    pub(super) fn put_into_service(&mut self, now: Instant) {
        if let Some(Loaded { version, is_distrusted }) = self.loaded.take() {
            self.in_service = Some(version);
            self.is_distrusted = is_distrusted;
            self.confirmed_at = Some(now);
        }
    }

    /// Takes the version that the server has, and returns whether it is the one in service.
    pub(super) fn confirm(&mut self, version: &Version, now: Instant) -> bool {
        let is_same = self.in_service.as_ref() == Some(version);
        if is_same {
            self.confirmed_at = Some(now);
        }
        is_same
    }
}

/// Counts push messages. An edit by bearward changes both the entries and the state, so that the
/// server tells of both; any other program changes only the entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pushes {
    pub(super) of_entries: u64,
    pub(super) of_state: u64,
}

impl Pushes {
    /// Whether another program has changed entries, as far as is known.
    pub(super) fn are_unexplained(self) -> bool {
        self.of_entries > self.of_state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(generation: u64) -> Version {
        Version { store: "s".to_owned(), generation, entries: 2 }
    }

    #[test]
    fn a_version_counts_once_it_is_in_service() {
        let (mut taken, now) = (Taken::default(), Instant::now());
        assert_eq!(taken.to_compare(), None);
        taken.loaded(version(1), false);
        assert!(!taken.confirm(&version(1), now) && taken.confirmed_at.is_none());
        taken.put_into_service(now);
        assert_eq!(taken.to_compare(), Some(version(1)));
        assert!(taken.confirm(&version(1), now + Duration::from_secs(1)));
        assert!(!taken.confirm(&version(2), now + Duration::from_secs(2)));
        assert_eq!(taken.confirmed_at, Some(now + Duration::from_secs(1)));
        // A refused load changes nothing.
        taken.put_into_service(now);
        assert_eq!(taken.in_service, Some(version(1)));
    }

    #[test]
    fn entries_at_fault_and_foreign_changes_make_the_next_load_read_all() {
        let (mut taken, now) = (Taken::default(), Instant::now());
        taken.loaded(version(1), true);
        taken.put_into_service(now);
        assert_eq!(taken.to_compare(), None);
        taken.loaded(version(2), false);
        taken.put_into_service(now);
        assert_eq!(taken.to_compare(), Some(version(2)));
        taken.is_distrusted = true;
        assert_eq!(taken.to_compare(), None);
    }

    #[test]
    fn a_version_is_the_same_only_if_nothing_changed() {
        let changes = |now, entries| Changes { now, entries };
        let entry = (b"key_a".to_vec(), Vec::new());
        assert!(changes(Some(version(1)), Some(Vec::new())).is_nothing_since(&version(1)));
        let other = Version { entries: 3, ..version(1) };
        for different in [
            changes(Some(version(2)), Some(vec![entry])),
            changes(Some(version(1)), None),
            changes(Some(other), Some(Vec::new())),
            changes(None, Some(Vec::new())),
        ] {
            assert!(!different.is_nothing_since(&version(1)), "{different:?}");
        }
    }
}
