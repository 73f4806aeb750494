//! What a listener keeps while one of its files is at fault: what was read from this file before. A file at fault
//! holds up no other one, so a certificate is revoked although another file is broken.

use crate::config::fault::Fault;

/// Notes the faults of a listener's files, and keeps what was read before from those at fault.
#[derive(Debug, Default)]
pub(super) struct Kept {
    pub(super) faults: Vec<Fault>,
}

impl Kept {
    /// Returns what was read. After a fault, which it notes, it returns what was read before, if that is kept.
    pub(super) fn unless_read<T>(&mut self, read: Result<T, Fault>, before: Option<T>) -> Option<T> {
        read.map_err(|fault| self.faults.push(fault)).ok().or(before)
    }
}
