//! Parts of the state whose reload was refused, and an empty key file, which a writer may be about
//! to fill.

use std::path::Path;
use std::time::{Duration, Instant};

use super::part::Part;
use super::watch::Stamps;

use crate::config::StorePlace;
use crate::config::fault::{Fault, Faults};
use crate::key_cache::KeySet;
use crate::observe::reloads::Extent;

/// How long a key file without lines must stay unchanged before it is applied. A writer may begin
/// by emptying the file.
const BLANK_PATIENCE: Duration = Duration::from_secs(5);

/// The refusal of a whole part of the state, or of some entries of the key store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) faults: Faults,
    pub(super) extent: Extent,
}

impl From<Faults> for Refusal {
    fn from(faults: Faults) -> Self {
        Refusal { faults, extent: Extent::Whole }
    }
}

/// The current refusals.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The current refusal of each refused part. A refusal is logged only once.
    refused: Vec<(Part, Refusal)>,
    /// The state of a key file without lines, and when it was first seen in that state.
    blank: Option<(Stamps, Instant)>,
}

impl Refusals {
    /// Returns the time until a key file without lines is applied; `None` if there is no such file.
    pub(super) fn blank_for(&self) -> Option<Duration> {
        let (_, since) = self.blank.as_ref()?;
        Some(BLANK_PATIENCE.saturating_sub(since.elapsed()))
    }

    /// Whether the faults of a refused part may have disappeared without an event of the file
    /// system.
    pub(super) fn may_have_passed(&self, part: Part, store: &StorePlace) -> bool {
        // The thread that follows a store in a Redis server tells of its return.
        if part == Part::Keys && matches!(store, StorePlace::Redis(_)) {
            return false;
        }
        let mut refused = self.refused.iter().filter(|(refused, _)| *refused == part);
        // A fault of a single entry does not disappear by itself. In a key directory, however, a
        // file may have been unreadable only for a time.
        refused.any(|(_, refusal)| refusal.extent == Extent::Whole || store.path().is_dir())
    }

    /// Notes a refusal, and logs it if it was not logged before.
    pub(super) fn note(&mut self, part: Part, refusal: Refusal) {
        if !self.refused.iter().any(|(refused, known)| *refused == part && *known == refusal) {
            Self::log(part, &refusal);
            self.forget(part);
            self.refused.push((part, refusal));
        }
    }

    /// Removes the refusal of a part.
    pub(super) fn forget(&mut self, part: Part) {
        self.refused.retain(|(refused, _)| *refused != part);
    }

    /// Forgets a key file without lines, because the file has changed or was not read.
    pub(super) fn forget_blank(&mut self) {
        self.blank = None;
    }

    fn log(part: Part, refusal: &Refusal) {
        let stays = match refusal.extent {
            Extent::Whole => "refused; what was good before stays",
            Extent::Entries { .. } => "an entry was refused; its last good form stays, all others count",
        };
        for fault in &refusal.faults.0 {
            let file = fault.file.display();
            let (part, line, column) = (part.name(), fault.at.line, fault.at.column);
            let hint = fault.hint.as_deref();
            tracing::error!(part, %file, line, column, fault = fault.message, hint, "{stays}");
        }
    }

    /// Refuses a key file without lines until it has not changed for [`BLANK_PATIENCE`].
    pub(super) fn has_stood_blank(
        &mut self,
        set: &KeySet,
        store: &Path,
        keys_in_service: usize,
    ) -> Result<(), Refusal> {
        if !set.is_blank || keys_in_service == 0 {
            self.blank = None;
            return Ok(());
        }
        let stamps = Stamps::of(&[store.to_owned()]);
        let since = match self.blank.take() {
            Some((known, since)) if known == stamps => since,
            _ => Instant::now(),
        };
        if since.elapsed() >= BLANK_PATIENCE {
            return Ok(());
        }
        self.blank = Some((stamps, since));
        let message = "the key file has no keys; once it has stood still for 5 s, nobody is let in";
        Err(Faults::from(Fault::of_file(store, message)).into())
    }

    /// Whether a part is refused as a whole.
    pub(super) fn is_whole(&self, part: Part) -> bool {
        self.refused.iter().any(|(refused, refusal)| *refused == part && refusal.extent == Extent::Whole)
    }

    /// Whether a part is refused.
    pub(super) fn are_of(&self, part: Part) -> bool {
        self.refused.iter().any(|(refused, _)| *refused == part)
    }
}
