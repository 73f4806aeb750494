//! Failed attempts: which credentials count as a failed attempt, and for which address.
//!
//! A credential that matches no key is a guess, and counts as a failed attempt of the client's
//! address. If such a credential was sent beside a valid key, the credential counts only the first
//! time.

use std::time::Duration;

use super::context::Context;
use crate::guard::client::Client;
use crate::keys::Credential;
use crate::limit::Limiter;
use crate::snapshot::Snapshot;

/// Returns how long the client's address has to wait after too many guesses; `None` if it need not
/// wait.
pub(crate) fn wait_of(client: &Client, snapshot: &Snapshot, limiter: &Limiter) -> Option<Duration> {
    limiter.attempts_exhausted(client.counted_at?, snapshot.failed_attempts?)
}

/// Counts a guess of this client.
///
/// # Errors
///
/// How long the client's address has to wait, if it has made too many guesses.
pub(super) fn count(client: &Client, context: Context<'_>) -> Result<(), Duration> {
    match (client.counted_at, context.snapshot.failed_attempts) {
        (Some(address), Some(quota)) => context.limiter.failed_attempt(address, quota),
        _ => Ok(()),
    }
}

/// Counts as a guess a credential that matches no key and was sent beside a valid key, but only the
/// first time. If such credentials were not counted, the holder of a key could try other secrets
/// unnoticed and without a limit. Returns whether the credential was counted.
pub(super) fn count_companion(credential: &Credential, client: &Client, context: Context<'_>) -> bool {
    let is_new = context.limiter.is_new_companion(credential.hash().head());
    if is_new {
        // The request is accepted even if the address now has to wait, because its key is valid.
        let _wait_of_the_next = count(client, context);
    }
    is_new
}
