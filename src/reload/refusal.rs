//! Refused parts, and empty key files that may be about to be written.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::part::Part;
use super::watch::Stamps;

use crate::config::fault::{Fault, Faults};
use crate::key_cache::KeySet;
use crate::observe::reloads::Extent;

/// Time that a key file without lines must not change before it counts: a writer may begin by
/// emptying the file.
const BLANK_PATIENCE: Duration = Duration::from_secs(5);

/// The refusal of a part, or of some of its entries.
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

/// The refusals at present.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The refusal of each part, which is logged once.
    refused: Vec<(Part, Refusal)>,
    /// The state of a key file without lines, and since when it has been so.
    blank: Option<(Stamps, Instant)>,
}

impl Refusals {
    /// The time until a key file without lines counts.
    pub(super) fn blank_for(&self) -> Option<Duration> {
        let (_, since) = self.blank.as_ref()?;
        Some(BLANK_PATIENCE.saturating_sub(since.elapsed()))
    }

    /// Whether a refused part may be good by now though no event came.
    pub(super) fn may_have_passed(&self, part: Part, store: &Path) -> bool {
        let mut refused = self.refused.iter().filter(|(refused, _)| *refused == part);
        // Faults of entries do not pass by themselves; those of a directory may be files that were
        // unreadable.
        refused.any(|(_, refusal)| refusal.extent == Extent::Whole || store.is_dir())
    }

    /// Notes a refusal, and logs it unless that was done.
    pub(super) fn note(&mut self, part: Part, refusal: Refusal) {
        if !self.refused.iter().any(|(refused, known)| *refused == part && *known == refusal) {
            Self::log(part, &refusal);
            self.forget(part);
            self.refused.push((part, refusal));
        }
    }

    /// Notes that the part was applied.
    pub(super) fn forget(&mut self, part: Part) {
        self.refused.retain(|(refused, _)| *refused != part);
    }

    /// Notes that the key file has changed, or was not read.
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

    /// Checks that a file without lines has been so for long enough.
    pub(super) fn has_stood_blank(
        &mut self,
        set: &KeySet,
        store: &PathBuf,
        keys_in_service: usize,
    ) -> Result<(), Refusal> {
        if !set.is_blank || keys_in_service == 0 {
            self.blank = None;
            return Ok(());
        }
        let stamps = Stamps::of(std::slice::from_ref(store));
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

    /// Whether a part is refused.
    pub(super) fn are_of(&self, part: Part) -> bool {
        self.refused.iter().any(|(refused, _)| *refused == part)
    }
}
