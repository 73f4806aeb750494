//! The judgement of a request by all windows and budgets of its key and its group.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use smallvec::SmallVec;

use super::budget::Budget;
use super::cost::Cost;
use super::gcra::{Wait, Window};
use super::holder::Holder;
use super::key_state::Uses;
use super::window_uses::WindowUses;

/// A refusal of a request by a window, or by a budget.
#[derive(Debug)]
pub(crate) enum Refused {
    Window {
        window: Arc<Window>,
        wait: Wait,
    },
    /// The budget is used up until its next period begins, at `resets_at`, which is `wait` from now.
    Budget {
        budget: Arc<Budget>,
        resets_at: Timestamp,
        wait: Duration,
    },
}

impl Refused {
    pub(super) fn wait(&self) -> Wait {
        match self {
            Refused::Window { wait, .. } => *wait,
            Refused::Budget { wait, .. } => Wait::For(*wait),
        }
    }
}

/// The judgement of a request by all windows of its key and its group.
#[derive(Default)]
pub(super) struct Judged<'w> {
    /// The windows that grant the request, and their arrival times behind it.
    pub(super) charged: SmallVec<[(&'w Arc<Window>, u64); 4]>,
    /// The refusals with the longest wait: of a window that is enforced, and of one that is not.
    pub(super) refusal: Option<Refused>,
    pub(super) would_refuse: Option<Refused>,
}

impl<'w> Judged<'w> {
    pub(super) fn judge(&mut self, uses: &WindowUses, holder: &Holder<'w>, cost: Cost, now: u64) {
        for window in holder.windows() {
            let refused = match window.charge_for(uses.arrival(window, now), now, cost) {
                Ok(arrival) => {
                    self.charged.push((window, arrival));
                    continue;
                }
                Err(wait) => Refused::Window { window: window.clone(), wait },
            };
            match window.quota().is_enforced {
                true => longer(&mut self.refusal, refused),
                false => longer(&mut self.would_refuse, refused),
            }
        }
    }

    pub(super) fn judge_budgets(
        &mut self,
        uses: &mut Uses,
        holder: &Holder<'_>,
        cost: Cost,
        wall: impl Fn() -> Timestamp,
    ) {
        for budget in holder.budgets {
            let now = wall();
            if let Err(resets_at) = uses.budgets().judge(budget, cost, now) {
                let wait = Duration::try_from(resets_at.duration_since(now)).unwrap_or_default();
                longer(&mut self.refusal, Refused::Budget { budget: budget.clone(), resets_at, wait });
            }
        }
    }
}

/// Keeps the refusal with the longer wait.
fn longer(first: &mut Option<Refused>, refused: Refused) {
    if first.as_ref().is_none_or(|other| other.wait() < refused.wait()) {
        *first = Some(refused);
    }
}
