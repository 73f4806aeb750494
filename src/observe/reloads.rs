//! Outcomes of reloads of each part (such as the configuration or the keys), for the metrics and
//! for the status.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::config::fault::Faults;

/// The outcomes of reloads of all parts.
#[derive(Debug)]
pub(crate) struct Reloads(Mutex<State>);

/// The outcomes of reloads since the start.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    /// The number of changes that were applied since the start.
    pub(crate) generation: u64,
    pub(crate) parts: Vec<PartState>,
    /// Changed fields of the configuration that need a restart.
    pub(crate) needs_restart: Vec<&'static str>,
}

/// The outcomes of reloads of one part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PartState {
    pub(crate) part: &'static str,
    pub(crate) applied: u64,
    pub(crate) refused: u64,
    /// When the part was last loaded, with or without entries at fault.
    pub(crate) loaded_at: Timestamp,
    /// The difference between the part's files and the part in service, if they differ.
    pub(crate) mismatch: Option<Mismatch>,
}

/// A difference between the files of a reloaded part (configuration, keys or certificates) and what
/// is in service of that part.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Mismatch {
    /// When it was first found that the files differ from what is in service.
    pub(crate) since: Timestamp,
    /// When it was last found that the files differ from what is in service.
    pub(crate) refused_at: Timestamp,
    pub(crate) extent: Extent,
    pub(crate) faults: Faults,
}

/// How much of a part differs from its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// The whole part differs: nothing in the part's files is in effect.
    Whole,
    /// Only the entries that are at fault differ; `held` keys stay in their last valid form.
    Entries { held: usize },
}

impl PartState {
    /// Returns the time since which nothing in the part's files is in effect; `None` if the files
    /// are in effect, at least in part.
    pub(crate) fn stale_since(&self) -> Option<Timestamp> {
        let mismatch = self.mismatch.as_ref().filter(|mismatch| mismatch.extent == Extent::Whole);
        mismatch.map(|mismatch| mismatch.since)
    }

    /// Returns for how many seconds nothing in the part's files has been in effect.
    pub(crate) fn stale_seconds(&self, now: Timestamp) -> Option<u64> {
        let since = self.stale_since()?;
        Some(u64::try_from(now.duration_since(since).as_secs()).unwrap_or_default())
    }

    /// Returns how many keys stay in their last valid form because their entries are at fault.
    pub(crate) fn held(&self) -> usize {
        match &self.mismatch {
            Some(Mismatch { extent: Extent::Entries { held }, .. }) => *held,
            _ => 0,
        }
    }
}

impl Reloads {
    /// Creates the state at the start of the process, when all `parts` have been loaded.
    pub(crate) fn new(parts: impl Iterator<Item = &'static str>) -> Self {
        let loaded_at = Timestamp::now();
        let loaded = |part| PartState { part, applied: 0, refused: 0, loaded_at, mismatch: None };
        let state = State { generation: 0, parts: parts.map(loaded).collect(), needs_restart: Vec::new() };
        Reloads(Mutex::new(state))
    }

    pub(crate) fn applied(&self, part: &'static str, generation: u64) {
        self.change(part, generation, |state| {
            (state.applied, state.loaded_at, state.mismatch) = (state.applied + 1, Timestamp::now(), None);
        });
    }

    pub(crate) fn refused(&self, part: &'static str, generation: u64, extent: Extent, faults: &Faults) {
        let now = Timestamp::now();
        self.change(part, generation, |state| {
            let is_whole = |extent: Extent| extent == Extent::Whole;
            let known = state.mismatch.as_ref().filter(|known| is_whole(known.extent) == is_whole(extent));
            let since = known.map_or(now, |known| known.since);
            state.refused += 1;
            if !is_whole(extent) {
                state.loaded_at = now;
            }
            state.mismatch = Some(Mismatch { since, refused_at: now, extent, faults: faults.clone() });
        });
    }

    pub(crate) fn needs_restart(&self, fields: &[&'static str]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.needs_restart = fields.to_vec();
    }

    fn change(&self, part: &'static str, generation: u64, change: impl FnOnce(&mut PartState)) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.generation = generation;
        if let Some(part) = state.parts.iter_mut().find(|known| known.part == part) {
            change(part);
        }
    }

    pub(crate) fn state(&self) -> State {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::config::fault::Fault;

    #[test]
    fn a_refused_reload_turns_its_own_part_alone() {
        let reloads = Reloads::new(["keys", "config"].into_iter());
        let broken = Fault::of_file(Path::new("keys.yaml"), "is broken").into();
        reloads.refused("keys", 0, Extent::Whole, &broken);
        reloads.applied("config", 1);
        let State { generation, parts, .. } = reloads.state();
        let logged = parts.iter().map(|part| (part.applied, part.refused, part.mismatch.is_some()));
        assert_eq!((generation, logged.collect::<Vec<_>>()), (1, vec![(0, 1, true), (1, 0, false)]));
        let since = parts[0].stale_since().unwrap();
        reloads.refused("keys", 1, Extent::Whole, &broken);
        let keys = reloads.state().parts.remove(0);
        assert_eq!(keys.stale_since(), Some(since), "it is stale since the first time");
        assert_eq!(keys.stale_seconds(since + Duration::from_secs(7)), Some(7));
        reloads.refused("keys", 1, Extent::Entries { held: 2 }, &broken);
        let keys = reloads.state().parts.remove(0);
        assert_eq!((keys.stale_since(), keys.held()), (None, 2), "its other entries count");
        reloads.applied("keys", 2);
        assert_eq!(reloads.state().parts[0].mismatch, None);
    }
}
