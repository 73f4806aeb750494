//! What was not taken: the files as they are refused, and key files that may be about to be written.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::part::Part;
use super::watch::Stamps;

use crate::config::fault::{Fault, Faults};
use crate::keys::set::KeySet;
use crate::observe::reloads::Extent;

/// A key file without lines lets nobody in once it has stood still for this long: whoever writes one anew may begin by
/// emptying it.
const BLANK_PATIENCE: Duration = Duration::from_secs(5);

/// Why a part was not taken, or not all of it.
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

/// What is refused at the moment.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The refusal of each part, which is logged once.
    refused: Vec<(Part, Refusal)>,
    /// A key file without lines, in this state since then.
    blank: Option<(Stamps, Instant)>,
}

impl Refusals {
    /// How long a key file without lines has to stand still yet before it lets nobody in.
    pub(super) fn blank_for(&self) -> Option<Duration> {
        let (_, since) = self.blank.as_ref()?;
        Some(BLANK_PATIENCE.saturating_sub(since.elapsed()))
    }

    /// Whether a part that stands refused may be good by now though nothing has touched it.
    pub(super) fn may_have_passed(&self, part: Part, store: &Path) -> bool {
        let mut refused = self.refused.iter().filter(|(refused, _)| *refused == part);
        // Of entries it is known what they are; those of a directory may be files that could not be read.
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

    /// The part was taken.
    pub(super) fn forget(&mut self, part: Part) {
        self.refused.retain(|(refused, _)| *refused != part);
    }

    /// The key file has changed, or was not read.
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

    /// Whether a file without lines is known to be meant so.
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

    /// Whether a part stands refused.
    pub(super) fn are_of(&self, part: Part) -> bool {
        self.refused.iter().any(|(refused, _)| *refused == part)
    }
}
