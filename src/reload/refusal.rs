//! What was not taken: the files as they are refused, and key files that may be about to be written.

use std::time::{Duration, Instant};

use super::watch::Stamps;
use super::{Part, Reloader};
use crate::config::fault::{Fault, Faults};
use crate::key_cache::KeySet;
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

impl Reloader {
    /// How long a key file without lines has to stand still yet before it lets nobody in.
    pub(super) fn blank_for(&self) -> Option<Duration> {
        let (_, since) = self.blank.as_ref()?;
        Some(BLANK_PATIENCE.saturating_sub(since.elapsed()))
    }

    /// Whether a part that stands refused may be good by now though nothing has touched it.
    pub(super) fn may_have_passed(&self, part: Part) -> bool {
        let mut refused = self.refused.iter().filter(|(refused, _)| *refused == part);
        // Of entries it is known what they are; those of a directory may be files that could not be read.
        refused.any(|(_, refusal)| refusal.extent == Extent::Whole || self.config.keys.path.is_dir())
    }

    /// Takes note of a refusal, and tells of it unless that was done.
    pub(super) fn refuse(&mut self, part: Part, refusal: Refusal) -> Faults {
        self.gateway.reloads.refused(part.name(), self.generation, refusal.extent, &refusal.faults);
        let faults = refusal.faults.clone();
        if !self.refused.iter().any(|(refused, known)| *refused == part && *known == refusal) {
            Self::tell_refusal(part, &refusal);
            self.refused.retain(|(refused, _)| *refused != part);
            self.refused.push((part, refusal));
        }
        faults
    }

    fn tell_refusal(part: Part, refusal: &Refusal) {
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

    fn stamps_of_keys(&self) -> Stamps {
        Stamps::of(std::slice::from_ref(&self.config.keys.path))
    }

    /// Whether a file without lines is known to be meant so.
    pub(super) fn has_stood_blank(&mut self, set: &KeySet) -> Result<(), Refusal> {
        if !set.is_blank || self.gateway.keys.len() == 0 {
            self.blank = None;
            return Ok(());
        }
        let stamps = self.stamps_of_keys();
        let since = match self.blank.take() {
            Some((known, since)) if known == stamps => since,
            _ => Instant::now(),
        };
        if since.elapsed() >= BLANK_PATIENCE {
            return Ok(());
        }
        self.blank = Some((stamps, since));
        let message = "the key file has no keys; once it has stood still for 5 s, nobody is let in";
        Err(Faults::from(Fault::of_file(&self.config.keys.path, message)).into())
    }

    pub(super) fn stands_refused(&self, part: Part) -> bool {
        self.refused.iter().any(|(refused, _)| *refused == part)
    }
}
