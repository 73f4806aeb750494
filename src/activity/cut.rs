//! The reason for which the server ends requests whose answers are not over. Without it, the
//! request's record would take the client for gone.
//!
//! Where one drop ends requests, such as the drop of a stream's task or of a worker's runtime, the
//! reason is left on the thread for as long as the drop takes. Where requests end later, in tasks
//! of their own, the reason is left with the connection.

use std::cell::Cell;
use std::sync::OnceLock;

/// The reason for which the server ends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutReason {
    /// The client took nothing of its answer for `limits.client_stall_timeout`.
    ClientStalled,
    /// The key was revoked.
    Revoked,
    /// The key's time has passed.
    Expired,
    /// The process stops, and the drain's time is over.
    Drained,
    /// The connection of an unauthenticated client has made room for another one.
    MadeRoom,
    /// A request without a key has had its time (`limits.public.total`).
    OutOfTime,
}

thread_local! {
    static ON_THIS_THREAD: Cell<Option<CutReason>> = const { Cell::new(None) };
}

/// Runs `end`; the requests that it drops were cut for this reason.
pub(crate) fn because<T>(cut: CutReason, end: impl FnOnce() -> T) -> T {
    let before = ON_THIS_THREAD.replace(Some(cut));
    let ended = end();
    ON_THIS_THREAD.set(before);
    ended
}

/// The reason of the drop that runs on this thread, where it has one.
pub(crate) fn current() -> Option<CutReason> {
    ON_THIS_THREAD.get()
}

/// The reason that a whole connection ends. The first one stays.
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
