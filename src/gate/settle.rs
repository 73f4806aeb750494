//! Settles a decision that this process could not make alone or at once: it counts failed attempts in all replicas
//! together, and waits for the keys of a token's issuer.
//!
//! What is counted is counted before any wait, so a client that leaves during the wait has gained no free guess.

use super::context::Context;
use super::failed_attempts::{self, SharedAttempts};
use crate::guard::client::Client;
use crate::identity::Awaited;

/// What an authentication leaves open.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// What is to be asked of all replicas together, if limits are shared.
    pub(super) shared: SharedAttempts,
    /// What ends when the request can be judged with other keys of its token's issuer.
    pub(super) awaited: Option<Awaited>,
}

impl Open {
    /// Whether anything is open.
    pub(super) fn is_any(&self) -> bool {
        self.shared.are_asked() || self.awaited.is_some()
    }
}

/// A decision that may have left something open.
pub(super) trait Provisional {
    /// Whether the request has a valid key, token or certificate.
    fn is_valid(&self) -> bool;
    /// Takes what is open.
    fn take_open(&mut self) -> Open;
    /// The ids of the credentials that came beside the key and were counted; `None` if no key was needed.
    fn companions(&mut self) -> Option<&mut Vec<String>>;
}

/// Settles a decision. `decide` makes it again with what is known by then.
///
/// A request waits for keys once. It is decided again, too, if its client's address turns out to have used up its
/// failed attempts.
pub(super) async fn settle<D: Provisional>(
    first: D,
    client: &Client,
    context: Context<'_>,
    decide: impl Fn(Context<'_>) -> D,
) -> D {
    let mut decided = first;
    loop {
        let is_valid = decided.is_valid();
        let Open { shared, awaited } = decided.take_open();
        let is_used_up = failed_attempts::ask_all(shared, is_valid, client, context).await.is_err();
        match awaited {
            Some(awaited) => awaited.end().await,
            None if is_used_up => {}
            None => return decided,
        }
        // What came beside the key is counted once, and named by the decision that holds.
        let before = decided.companions().map(std::mem::take).unwrap_or_default();
        decided = decide(Context { has_waited: true, ..context });
        if let Some(companions) = decided.companions() {
            companions.extend(before);
        }
        if is_used_up {
            return decided;
        }
    }
}
