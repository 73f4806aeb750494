//! A holder of limits: a key, or a group of keys.

use std::sync::Arc;

use super::budget::{Budget, BudgetCharge};
use super::charge::WindowCharge;
use super::gcra::Window;
use super::key_state::KeyState;
use crate::config::Unit;

/// A holder of limits to which a request is charged: its key, or the group of its key.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holder<'a> {
    pub(crate) state: &'a Arc<KeyState>,
    /// The windows that the request is charged to: those of the holder, and those of the request's
    /// route.
    pub(crate) windows: [&'a [Arc<Window>]; 2],
    pub(crate) budgets: &'a [Arc<Budget>],
}

impl<'a> Holder<'a> {
    pub(crate) fn windows(&self) -> impl Iterator<Item = &'a Arc<Window>> + Clone + use<'a> {
        let [own, of_route] = self.windows;
        own.iter().chain(of_route)
    }

    pub(super) fn has_windows(&self) -> bool {
        self.windows.iter().any(|windows| !windows.is_empty())
    }

    pub(crate) fn has_limits(&self) -> bool {
        self.has_windows() || !self.budgets.is_empty()
    }

    /// Whether what is charged survives a restart, where a configuration says so.
    pub(super) fn is_kept(&self) -> bool {
        !self.budgets.is_empty() || self.windows().any(|window| window.is_kept())
    }

    pub(crate) fn counts_tokens(&self) -> bool {
        self.windows().any(|window| window.counts_tokens())
            || self.budgets.iter().any(|budget| budget.unit() != Unit::Requests)
    }
}

/// A charge that is settled later, and the state of the holder that was charged.
#[derive(Debug)]
pub(crate) struct Debit {
    pub(super) state: Arc<KeyState>,
    pub(super) charge: Charge,
}

/// What was charged.
#[derive(Debug)]
pub(super) enum Charge {
    Window(WindowCharge),
    Budget(BudgetCharge),
    /// A budget of all replicas together: the begin of its period, in seconds since 1970, and the units
    /// that are reserved.
    SharedBudget {
        budget: Arc<Budget>,
        from: i64,
        reserved: u64,
    },
}
