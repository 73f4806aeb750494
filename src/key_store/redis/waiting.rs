//! Waits until every replica has applied an edit.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::version::{Edited, Version, Waited};
use super::{RedisStore, apart};
use crate::config::fault::Faults;

/// Poll interval.
const INTERVAL: Duration = Duration::from_millis(25);

/// The replicas that were seen during a wait.
#[derive(Debug, Default)]
struct Seen {
    applied: BTreeSet<String>,
    behind: BTreeSet<String>,
    lost: BTreeSet<String>,
}

impl Seen {
    /// Takes the replicas that are registered now. Returns whether no replica is behind.
    fn take(&mut self, replicas: Vec<(String, u64, String)>, edited: &Edited) -> bool {
        let mut registered = BTreeSet::new();
        for (id, generation, store) in replicas {
            self.lost.remove(&id);
            registered.insert(id.clone());
            match store == edited.store && generation >= edited.generation {
                true => {
                    self.behind.remove(&id);
                    self.applied.insert(id);
                }
                false => {
                    self.applied.remove(&id);
                    self.behind.insert(id);
                }
            }
        }
        let gone: Vec<String> = self.behind.difference(&registered).cloned().collect();
        for id in gone {
            self.behind.remove(&id);
            self.lost.insert(id);
        }
        self.behind.is_empty()
    }
}

impl RedisStore {
    /// Waits until every registered replica has applied the last edit that was made through this
    /// `RedisStore`, or else the version that the server has. Waits for at most `patience`.
    ///
    /// # Errors
    ///
    /// The server can't be asked, or has no store.
    pub(crate) fn wait_for_replicas(&self, patience: Duration) -> Result<Waited, Faults> {
        let until = Instant::now() + patience;
        let edited = self.edited.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let edited = match edited {
            Some(edited) => edited,
            None => {
                let got = apart(|| self.link().get(&self.names, &[])).map_err(|error| self.fault(error))?;
                let Version { store, generation, .. } = got.0.ok_or_else(|| self.no_store())?;
                Edited { store, generation }
            }
        };
        let mut seen = Seen::default();
        loop {
            let replicas = apart(|| self.link().replicas(&self.names)).map_err(|error| self.fault(error))?;
            if seen.take(replicas, &edited) || Instant::now() >= until {
                let Seen { applied, behind, lost } = seen;
                let list = |ids: BTreeSet<String>| ids.into_iter().collect();
                return Ok(Waited { applied: applied.len(), behind: list(behind), lost: list(lost) });
            }
            std::thread::sleep(INTERVAL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_no_replica_is_behind_and_tells_of_those_that_left() {
        let edited = Edited { store: "s".to_owned(), generation: 5 };
        let replica = |id: &str, generation, store: &str| (id.to_owned(), generation, store.to_owned());
        let mut seen = Seen::default();
        assert!(
            !seen.take(vec![replica("a", 4, "s"), replica("b", 9, "other"), replica("c", 6, "s")], &edited)
        );
        assert!(!seen.take(vec![replica("a", 5, "s"), replica("b", 9, "other")], &edited));
        assert_eq!(seen.applied.len(), 2, "c has left after it had applied the edit");
        assert!(seen.take(vec![replica("a", 5, "s")], &edited), "the registration of b has ended");
        assert_eq!(seen.lost, BTreeSet::from(["b".to_owned()]));
        assert!(seen.take(vec![replica("a", 5, "s"), replica("b", 5, "s")], &edited));
        assert!(seen.lost.is_empty(), "b is back");
    }
}
