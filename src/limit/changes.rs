//! Whether a holder of limits has something to keep since it was last written.

use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a holder is among those that have changed.
#[derive(Debug, Default)]
pub(super) struct IsChanged(AtomicBool);

impl IsChanged {
    /// Notes a change. Returns whether it is the first one since the last call of [`IsChanged::clear`].
    pub(super) fn note(&self) -> bool {
        !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::AcqRel)
    }

    /// Changes from now on are noted anew.
    pub(super) fn clear(&self) {
        self.0.store(false, Ordering::Release);
    }
}
