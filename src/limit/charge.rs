//! A charge of a window, which is corrected when its request has ended.

use std::sync::Arc;

use super::gcra::Window;
use crate::config::Unit;

/// A charge of a window that counts tokens, or that may be taken back.
#[derive(Debug)]
pub(crate) struct WindowCharge {
    pub(super) window: Arc<Window>,
    pub(super) of: ChargeOf,
}

/// Where a charge can be corrected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChargeOf {
    /// Nothing was charged.
    Nothing,
    /// This process's own window: the id of the charge.
    Own(u64),
    /// The bucket of all replicas: its line behind the charge (see `lease.lua`).
    Bucket(u64),
    /// This replica's part of the window: the id of the charge.
    Part(u64),
}

impl WindowCharge {
    pub(super) fn unit(&self) -> Unit {
        self.window.unit()
    }

    pub(super) fn is_of_part(&self) -> bool {
        matches!(self.of, ChargeOf::Part(_))
    }
}
