//! The reason for which the server ends requests before their answers are complete. Without this
//! reason, the record of such a request would say that the client has left.
//!
//! The reason is stored in one of two places. If requests end because one value is dropped, such as
//! a stream's task or a worker's runtime, the reason is in a thread-local variable during the drop.
//! If requests end later, in tasks of their own, the reason is in the activity of their connection.

use std::cell::Cell;
use std::sync::OnceLock;

/// The reason for which the server ends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutReason {
    /// The client read nothing of its answer for `limits.client_stall_timeout`.
    ClientStalled,
    /// The key was revoked.
    Revoked,
    /// The key has expired.
    Expired,
    /// The process stops, and the request was still in service at the end of the drain time.
    Drained,
    /// The connection of an unauthenticated client was closed to make room for a new connection.
    MadeRoom,
    /// A request without a key lasted longer than `limits.public.total`.
    OutOfTime,
}

thread_local! {
    static ON_THIS_THREAD: Cell<Option<CutReason>> = const { Cell::new(None) };
}

/// Runs `end`, and sets `cut` as the reason for the end of every request that `end` drops.
pub(crate) fn because<T>(cut: CutReason, end: impl FnOnce() -> T) -> T {
    let before = ON_THIS_THREAD.replace(Some(cut));
    let ended = end();
    ON_THIS_THREAD.set(before);
    ended
}

/// Returns the reason that [`because`] has set on this thread; `None` outside of [`because`].
pub(crate) fn current() -> Option<CutReason> {
    ON_THIS_THREAD.get()
}

/// The reason for which the server ends a whole connection. If several reasons are noted, the first
/// one stays.
#[derive(Debug, Default)]
pub(super) struct OfConnection(OnceLock<CutReason>);

impl OfConnection {
    pub(super) fn note(&self, cut: CutReason) {
        let _earlier_one_stays = self.0.set(cut);
    }

    pub(super) fn reason(&self) -> Option<CutReason> {
        self.0.get().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_lasts_as_long_as_the_drop() {
        assert_eq!(current(), None);
        because(CutReason::Drained, || {
            because(CutReason::ClientStalled, || assert_eq!(current(), Some(CutReason::ClientStalled)));
            assert_eq!(current(), Some(CutReason::Drained));
        });
        assert_eq!(current(), None);
    }

    #[test]
    fn the_first_reason_of_a_connection_stays() {
        let reason = OfConnection::default();
        assert_eq!(reason.reason(), None);
        reason.note(CutReason::Revoked);
        reason.note(CutReason::ClientStalled);
        assert_eq!(reason.reason(), Some(CutReason::Revoked));
    }
}
