//! Failed attempts: which credentials count as one, and for whom.
//!
//! A credential that matches no key is a guess, and counts for the address of its client. One that
//! came beside a valid key counts the first time that it comes.

use std::time::Duration;

use super::context::Context;
use crate::guard::client::Client;
use crate::keys::Credential;
use crate::limit::Limiter;
use crate::snapshot::Snapshot;

/// How long the client's address has to wait after too many guesses, if it has to.
pub(crate) fn wait_of(client: &Client, snapshot: &Snapshot, limiter: &Limiter) -> Option<Duration> {
    limiter.attempts_exhausted(client.counted_at?, snapshot.failed_attempts?)
}

/// Counts a guess of this client.
///
/// # Errors
///
/// Its address has failed too often: how long it has to wait.
pub(super) fn count(client: &Client, context: Context<'_>) -> Result<(), Duration> {
    match (client.counted_at, context.snapshot.failed_attempts) {
        (Some(address), Some(quota)) => context.limiter.failed_attempt(address, quota),
        _ => Ok(()),
    }
}

/// Counts a credential that came beside a valid key and matches none, the first time that it comes:
/// otherwise the holder of a key could try others beside it, unseen and without a limit. Returns
/// whether it was the first time.
pub(super) fn count_companion(credential: &Credential, client: &Client, context: Context<'_>) -> bool {
    let is_new = context.limiter.is_new_companion(credential.hash().head());
    if is_new {
        // The key that it came beside is accepted all the same.
        let _wait_of_the_next = count(client, context);
    }
    is_new
}
