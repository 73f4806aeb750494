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

/// What an authentication that knows this process alone leaves to be asked of all replicas together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SharedAttempts {
    /// Number of guesses to be counted.
    pub(super) guesses: u32,
    /// Whether the credential was looked up that a client could have guessed, whose address has failed
    /// of late.
    pub(super) is_doubtful: bool,
}

impl SharedAttempts {
    /// Whether anything is to be asked.
    pub(super) fn are_asked(self) -> bool {
        self.guesses > 0 || self.is_doubtful
    }
}

/// Returns how long the client's address has to wait after too many guesses; `None` if it need not
/// wait.
pub(super) fn wait_of(client: &Client, snapshot: &Snapshot, limiter: &Limiter) -> Option<Duration> {
    limiter.attempts_exhausted(client.counted_at?, snapshot.failed_attempts?)
}

/// Whether the client's address has used up its guesses in all replicas together. The others are asked
/// only if the address has failed here of late.
pub(crate) async fn is_limited(client: &Client, snapshot: &Snapshot, limiter: &Limiter) -> bool {
    let (Some(address), Some(quota)) = (client.counted_at, snapshot.failed_attempts) else { return false };
    if limiter.attempts_exhausted(address, quota).is_some() {
        return true;
    }
    limiter.is_shared()
        && limiter.has_failed(address, quota)
        && limiter.count_attempts(address, quota, 0).await.is_err()
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

/// Whether a credential that matches no key and was sent beside a valid key counts as a guess: only the
/// first time. If such credentials were not counted, the holder of a key could try other secrets
/// unnoticed and without a limit.
pub(super) fn is_new_companion(credential: &Credential, context: Context<'_>) -> bool {
    context.limiter.is_new_companion(credential.hash().head())
}

/// Whether a right guess of this client must be asked of all replicas together: its address has failed
/// here of late, and may have used up its attempts elsewhere.
pub(super) fn is_doubtful(client: &Client, context: Context<'_>) -> bool {
    match (client.counted_at, context.snapshot.failed_attempts) {
        (Some(address), Some(quota)) if context.limiter.is_shared() => {
            context.limiter.has_failed(address, quota)
        }
        _ => false,
    }
}

/// Counts the guesses of a request in all replicas together, if limits are shared. `is_valid`: whether
/// the request has a valid key.
///
/// # Errors
///
/// Fails if the client's address has used up its attempts. This process knows it then, so that the
/// request can be judged again.
pub(super) async fn ask_all(
    shared: SharedAttempts,
    is_valid: bool,
    client: &Client,
    context: Context<'_>,
) -> Result<(), Duration> {
    let SharedAttempts { guesses, is_doubtful } = shared;
    if !shared.are_asked() {
        return Ok(());
    }
    let (Some(address), Some(quota)) = (client.counted_at, context.snapshot.failed_attempts) else {
        return Ok(());
    };
    let counted = context.limiter.count_attempts(address, quota, guesses).await;
    // A request with a valid key beside its guesses is let in, if its address was not to be doubted.
    if is_valid && !is_doubtful { Ok(()) } else { counted }
}
