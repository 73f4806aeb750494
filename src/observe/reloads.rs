//! What became of reloads, by part: for metrics, for the status, and for whoever asks why a change has not arrived.

use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

use crate::config::fault::Faults;

/// The state of all parts.
#[derive(Debug)]
pub(crate) struct Reloads(Mutex<State>);

/// What became of them so far.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct State {
    /// Counts the changes that were applied since the start.
    pub(crate) generation: u64,
    pub(crate) parts: Vec<PartState>,
    /// Fields of the configuration that take a restart.
    pub(crate) needs_restart: Vec<&'static str>,
}

/// One part's.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PartState {
    pub(crate) part: &'static str,
    pub(crate) applied: u64,
    pub(crate) refused: u64,
    /// When it was last loaded.
    pub(crate) loaded_at: Timestamp,
    /// Why what is on disk is not what is served, and since when that is tried.
    pub(crate) fault: Option<(Timestamp, Faults)>,
}

impl Reloads {
    /// All `parts` were loaded just now: without that, nothing starts.
    pub(crate) fn new(parts: impl Iterator<Item = &'static str>) -> Self {
        let loaded_at = Timestamp::now();
        let loaded = |part| PartState { part, applied: 0, refused: 0, loaded_at, fault: None };
        let state = State { generation: 0, parts: parts.map(loaded).collect(), needs_restart: Vec::new() };
        Reloads(Mutex::new(state))
    }

    pub(crate) fn applied(&self, part: &'static str, generation: u64) {
        self.change(part, generation, |state| {
            (state.applied, state.loaded_at, state.fault) = (state.applied + 1, Timestamp::now(), None);
        });
    }

    pub(crate) fn refused(&self, part: &'static str, generation: u64, faults: &Faults) {
        self.change(part, generation, |state| {
            (state.refused, state.fault) = (state.refused + 1, Some((Timestamp::now(), faults.clone())));
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

    use super::*;
    use crate::config::fault::Fault;

    #[test]
    fn a_refused_reload_turns_its_own_part_alone() {
        let reloads = Reloads::new(["keys", "config"].into_iter());
        reloads.refused("keys", 0, &Fault::of_file(Path::new("keys.yaml"), "is broken").into());
        reloads.applied("config", 1);
        let State { generation, parts, .. } = reloads.state();
        let told = parts.iter().map(|part| (part.applied, part.refused, part.fault.is_some()));
        assert_eq!((generation, told.collect::<Vec<_>>()), (1, vec![(0, 1, true), (1, 0, false)]));
        reloads.applied("keys", 2);
        assert_eq!(reloads.state().parts[0].fault, None);
    }
}
