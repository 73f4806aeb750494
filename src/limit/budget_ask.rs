//! Asks about budgets that all replicas share: the messages to the server that has them, and its answers.

use std::sync::Arc;

use super::budget::Budget;
use super::key_state::KeyState;
use crate::config::Unit;

/// A request for units of the budgets of one holder.
#[derive(Debug)]
pub(crate) struct BudgetAsk {
    pub(crate) state: Arc<KeyState>,
    pub(crate) wants: Vec<BudgetWant>,
}

/// A request for units of one budget.
#[derive(Debug)]
pub(crate) struct BudgetWant {
    pub(crate) budget: Arc<Budget>,
    /// The current period by this replica's clock, in seconds since 1970.
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) units: u64,
    /// The least that the request needs; the rest of `units` is a guess.
    pub(crate) least: u64,
    /// What was used of the budget in this period, as this replica last knew.
    pub(crate) known: u64,
}

/// What a request has used of one budget. Times are in seconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct BudgetSettlement {
    pub(crate) budget: Arc<Budget>,
    pub(crate) from: i64,
    /// Units that are reserved no longer.
    pub(crate) reserved: u64,
    /// Units that were used; below zero to take back a request that was counted.
    pub(crate) used: i64,
}

/// The server's answer about the budgets of one holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct BudgetAnswer {
    /// The budget that refuses the request.
    pub(crate) refused: Option<usize>,
    pub(crate) budgets: Vec<BudgetTold>,
}

/// What the server tells of one budget. Times are in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BudgetTold {
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) used: u64,
    /// 80 or 100 if the budget has passed this share just now, else 0.
    pub(crate) passed: u8,
    /// Units that were reserved, or used at once.
    pub(crate) taken: u64,
}

impl BudgetSettlement {
    /// Returns the units that were used; zero if a request is taken back.
    pub(crate) fn units(&self) -> u64 {
        u64::try_from(self.used).unwrap_or(0)
    }
}

impl BudgetTold {
    /// Whether the server knows of the period.
    pub(crate) fn is_known(&self) -> bool {
        self.to > self.from
    }
}

impl BudgetAsk {
    /// Returns what gives back all that this ask has reserved. `answer`: the server's, in which the ask
    /// was granted.
    pub(crate) fn taken_back(&self, answer: &BudgetAnswer) -> Vec<BudgetSettlement> {
        let given_back = |(want, told): (&BudgetWant, &BudgetTold)| {
            let units = i64::try_from(told.taken).unwrap_or(i64::MAX);
            let (reserved, used) = match want.budget.unit() {
                Unit::Requests => (0, -units),
                _ => (told.taken, 0),
            };
            BudgetSettlement { budget: want.budget.clone(), from: told.from, reserved, used }
        };
        self.wants.iter().zip(&answer.budgets).map(given_back).collect()
    }
}
