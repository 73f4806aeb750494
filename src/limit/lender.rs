//! The lender of units from buckets that all replicas share, as the limiter sees it.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::budget_ask::{BudgetAnswer, BudgetAsk, BudgetSettlement};
use super::key_state::KeyState;
use super::part::PartOf;
use crate::config::AttemptQuota;

/// Asks a server for units. `shared` implements it.
pub(crate) trait Lender: Debug + Send + Sync {
    /// Asks for the requests of a key that wait.
    fn ask(&self, state: &Arc<KeyState>);

    /// Reports what has changed for a key, soon.
    fn report(&self, state: &Arc<KeyState>);

    /// Asks for the requests of a key that wait for slots.
    fn ask_slots(&self, state: &Arc<KeyState>);

    /// Reports slots of a key that are no longer used, soon.
    fn report_slots(&self, state: &Arc<KeyState>);

    /// Counts failed attempts of an address. The answer may never come.
    fn count_attempts(&self, attempts: Attempts) -> oneshot::Receiver<AttemptsCounted>;

    /// Tells the server later of attempts that were counted without it.
    fn tell_attempts(&self, attempts: Attempts);

    /// Returns this replica's part of the attempts of an address.
    fn part_of_attempts(&self, quota: AttemptQuota) -> AttemptQuota;

    /// Reserves units of budgets. The answer may never come. Whoever brings an answer that nobody waits
    /// for gives back what it has reserved.
    fn reserve_budgets(&self, ask: &Arc<BudgetAsk>) -> oneshot::Receiver<BudgetAnswer>;

    /// Settles what a request has used of budgets, or gives back what it has reserved. If the server can't
    /// be asked now, it is told later.
    fn settle_budgets(&self, state: &Arc<KeyState>, settlements: Vec<BudgetSettlement>);

    /// Counts a request that was granted by this replica's part.
    fn granted_away(&self);

    /// Returns how requests are decided now.
    fn standing(&self) -> Standing;

    /// Returns the time that a request waits for an answer at most.
    fn timeout(&self) -> Duration;

    /// Returns how a request is decided whose ask had no answer in time.
    fn standing_without_answer(&self) -> Standing;
}

/// Failed attempts of an address.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempts {
    pub(crate) address: IpAddr,
    pub(crate) quota: AttemptQuota,
    /// Number of attempts; zero to ask whether the address has used them up.
    pub(crate) count: u32,
}

/// The server's answer about failed attempts of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AttemptsCounted {
    /// Whether the address had used them up before.
    pub(crate) is_refused: bool,
    /// How long the address has to wait now, if it has used them up.
    pub(crate) wait: Option<Duration>,
}

/// How requests are decided.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Standing {
    /// By leases, and by asking. An answer that takes longer than [`Lender::timeout`] is none.
    Available,
    /// By this replica's part of each limit, because the server is unavailable.
    Part(PartOf),
    /// They are refused, because the server is unavailable.
    Refuses,
}
