//! Resource limits of a connection until a valid key was presented on it.
//!
//! On HTTP/2 a request costs its sender a few bytes, while an answer that nobody reads costs us
//! some kilobytes until it is read. An unauthenticated client may therefore have only few requests
//! open at a time. A connection that leaves many of our own answers unread is closed.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::list::ListEntry;

/// The maximum number of answers on one HTTP/2 connection that an unauthenticated client has not
/// read yet. If a further request would get an answer of our own, the request is reset with
/// REFUSED_STREAM, after which a client may retry (RFC 9113, section 8.7). If a further request
/// gets an answer of an upstream, the answer waits, and the request keeps its permit.
pub(crate) const STREAMS: usize = 16;
/// The number of abuses at which the connection is closed. Abuses are requests beyond [`STREAMS`],
/// answers that were given up unread, and requests that an unauthenticated client has reset itself.
const PATIENCE: usize = 64;

/// The instant from which the idle times of all connections are measured.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// What an unauthenticated client uses on a connection of type `C`: its unread answers, its abuses,
/// and the connection's idle time.
#[derive(Debug)]
pub(crate) struct UnauthenticatedUse<C> {
    /// Whether a valid key was presented on the connection.
    is_known: AtomicBool,
    /// The number of unread answers to requests without a valid key.
    open: AtomicUsize,
    /// The wakers of tasks that wait for room for an answer.
    waiting: Mutex<Vec<Waker>>,
    /// The number of abuses so far (see [`PATIENCE`]).
    abuses: AtomicUsize,
    waker: AtomicWaker,
    /// Milliseconds from [`START`] until the connection last began to idle.
    idle_since: AtomicU64,
    /// Whether the connection is listed as unauthenticated, which means that it may be closed to
    /// make room for a new connection.
    is_listed: AtomicBool,
    has_ended: AtomicBool,
    entry: Mutex<Option<ListEntry<C>>>,
}

impl<C> Default for UnauthenticatedUse<C> {
    fn default() -> Self {
        UnauthenticatedUse {
            is_known: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            waiting: Mutex::default(),
            abuses: AtomicUsize::new(0),
            waker: AtomicWaker::new(),
            idle_since: AtomicU64::new(0),
            is_listed: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            entry: Mutex::new(None),
        }
    }
}

impl<C> UnauthenticatedUse<C> {
    /// Notes that a valid key was presented on the connection. Later requests on the connection
    /// count as requests of the key holder.
    pub(crate) fn note_authenticated(&self) {
        if !self.is_known() || self.is_listed() {
            self.is_known.store(true, Ordering::Relaxed);
            self.becomes_holders();
            self.note_room();
        }
    }

    /// Whether the connection is listed as unauthenticated, which means that it may be closed to
    /// make room for a new connection.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Relaxed)
    }

    /// Adds the connection to the list of connections that may be closed to make room for a new
    /// connection. Does nothing if the connection has ended: a stream may outlive its connection
    /// and still call this function.
    pub(super) fn enlist(&self, entry: ListEntry<C>) {
        self.note_idle();
        let mut listed = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        let refused = match self.has_ended.load(Ordering::Relaxed) {
            true => Some(entry),
            false => {
                self.is_listed.store(true, Ordering::Relaxed);
                listed.replace(entry)
            }
        };
        // The lock of `self.entry` is released before an entry is dropped, because dropping an
        // entry locks the list.
        drop(listed);
        drop(refused);
    }

    /// Moves the connection to the list of key holders' connections.
    fn becomes_holders(&self) {
        let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_listed.store(false, Ordering::Relaxed);
        if let Some(entry) = &*entry {
            entry.becomes_holders();
        }
    }

    /// Removes the connection from the list, until it is listed again.
    pub(crate) fn leave_list(&self) {
        let entry = {
            let mut entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
            self.is_listed.store(false, Ordering::Relaxed);
            entry.take()
        };
        drop(entry);
    }

    /// Removes the connection from the list, because it has ended.
    pub(crate) fn end_connection(&self) {
        let entry = {
            let mut entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
            self.has_ended.store(true, Ordering::Relaxed);
            self.is_listed.store(false, Ordering::Relaxed);
            entry.take()
        };
        drop(entry);
    }

    /// Notes that the connection begins to idle now.
    pub(super) fn note_idle(&self) {
        let since = u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle_since.store(since, Ordering::Relaxed);
    }

    /// Returns the time since the connection last began to idle.
    pub(super) fn idles_for(&self) -> Duration {
        START.elapsed().saturating_sub(Duration::from_millis(self.idle_since()))
    }

    /// Returns when the connection last began to idle, in milliseconds since [`START`].
    pub(super) fn idle_since(&self) -> u64 {
        self.idle_since.load(Ordering::Relaxed)
    }

    /// Whether a valid key was presented on the connection.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Counts one more unread answer, and returns whether there is room for the answer. `tails` is
    /// the number of answers whose streams have ended, but whose last bytes are not sent yet.
    pub(super) fn begins(&self, tails: usize) -> bool {
        self.open.fetch_add(1, Ordering::Relaxed) + tails < STREAMS
    }

    /// Counts one more unread answer like [`Self::begins`], but only if there is room for the
    /// answer. Returns whether there was room.
    pub(super) fn begins_where_room(&self, tails: usize) -> bool {
        let has_room = self.begins(tails);
        if !has_room {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        has_room
    }

    /// Registers `waker`, to be woken when there may be room for an answer.
    pub(super) fn wait_for_room(&self, waker: &Waker) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Wakes the tasks that wait for room for an answer.
    pub(super) fn note_room(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn ends(&self) {
        let before = self.open.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0);
        self.note_room();
    }

    /// Counts an abuse: an answer of ours was given up unread, a request was refused because there
    /// was no room, or an unauthenticated client has reset a request.
    pub(crate) fn note_abuse(&self) {
        // Abuses are not counted once a valid key was presented: many key holders may share such a
        // connection, and it may last for days.
        if self.is_known() {
            return;
        }
        if self.abuses.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            self.waker.wake();
        }
    }

    /// Returns ready when the connection must be closed because of its abuses.
    pub(crate) fn poll_out_of_patience(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.abuses.load(Ordering::Relaxed) >= PATIENCE { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unauthenticated_client_has_few_open_requests_and_each_permit_comes_back() {
        let unauthenticated_use = UnauthenticatedUse::<()>::default();
        assert!((0..STREAMS).all(|_| unauthenticated_use.begins(0)));
        assert!(!unauthenticated_use.begins(0));
        (0..2).for_each(|_| unauthenticated_use.ends());
        assert!(unauthenticated_use.begins(0));
        (0..2).for_each(|_| unauthenticated_use.ends());
        assert!(!unauthenticated_use.begins(STREAMS), "what has not gone out counts, too");
    }
}
