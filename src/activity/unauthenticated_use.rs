//! Resource limits of a connection before a valid key came on it.
//!
//! On HTTP/2 a request costs its sender a few bytes, while an answer that nobody reads costs us
//! some kilobytes for as long as it waits. An unauthenticated client therefore has few requests
//! open at a time. A connection that leaves many of our own answers unread is closed.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::list::ListEntry;

/// Answers that may wait at once for an unauthenticated client to take them, on one HTTP/2
/// connection. Beyond, a request that we would refuse is reset with REFUSED_STREAM, after which a
/// client may ask again (RFC 9113, section 8.7). An upstream's answer waits, and keeps its permit.
pub(crate) const STREAMS: usize = 16;
/// Abuses before the connection is closed: requests beyond [`STREAMS`], answers that were given up
/// unread, and requests that an unauthenticated client has reset itself.
const PATIENCE: usize = 64;

/// The zero of the times of connections.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Use of a connection of type `C` before a valid key came on it.
#[derive(Debug)]
pub(crate) struct UnauthenticatedUse<C> {
    /// A valid key came.
    is_known: AtomicBool,
    /// Answers to requests without a good key that wait to be taken.
    open: AtomicUsize,
    /// Tasks that wait for room.
    waiting: Mutex<Vec<Waker>>,
    /// Answers that were given up unread, and requests beyond [`STREAMS`].
    abuses: AtomicUsize,
    waker: AtomicWaker,
    /// Milliseconds from [`START`] until a request without a good key last ended.
    idle_since: AtomicU64,
    /// Whether the connection is listed as unauthenticated among those that may make room.
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
    /// Notes that a valid key came: requests that follow are its holder's.
    pub(crate) fn note_authenticated(&self) {
        if !self.is_known() || self.is_listed() {
            self.is_known.store(true, Ordering::Relaxed);
            self.becomes_holders();
            self.note_room();
        }
    }

    /// Whether the connection is listed as unauthenticated among those that may make room.
    pub(super) fn is_listed(&self) -> bool {
        self.is_listed.load(Ordering::Relaxed)
    }

    /// Lists the connection among those that may make room, unless it has ended: one of its streams
    /// may outlive it.
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
        // The end of an entry takes another lock.
        drop(listed);
        drop(refused);
    }

    /// Lists the connection behind all that have no good key.
    fn becomes_holders(&self) {
        let entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_listed.store(false, Ordering::Relaxed);
        if let Some(entry) = &*entry {
            entry.becomes_holders();
        }
    }

    /// Takes the connection off the list: it has ended.
    pub(crate) fn end_connection(&self) {
        let entry = {
            let mut entry = self.entry.lock().unwrap_or_else(PoisonError::into_inner);
            self.has_ended.store(true, Ordering::Relaxed);
            self.is_listed.store(false, Ordering::Relaxed);
            entry.take()
        };
        drop(entry);
    }

    /// Notes that the connection idles from now on.
    pub(super) fn note_idle(&self) {
        let since = u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle_since.store(since, Ordering::Relaxed);
    }

    /// The time since the connection began to idle, if it does.
    pub(super) fn idles_for(&self) -> Duration {
        START.elapsed().saturating_sub(Duration::from_millis(self.idle_since()))
    }

    /// When the connection began to idle, if it does, in milliseconds: a smaller number is longer
    /// ago.
    pub(super) fn idle_since(&self) -> u64 {
        self.idle_since.load(Ordering::Relaxed)
    }

    /// Whether a valid key came.
    pub(crate) fn is_known(&self) -> bool {
        self.is_known.load(Ordering::Relaxed)
    }

    /// Counts one more answer that waits to be taken, beside `tails` that h2 keeps. Returns whether
    /// there is room for it.
    pub(super) fn begins(&self, tails: usize) -> bool {
        self.open.fetch_add(1, Ordering::Relaxed) + tails < STREAMS
    }

    /// As [`Self::begins`], for an answer that is not counted where there is no room.
    pub(super) fn begins_where_room(&self, tails: usize) -> bool {
        let has_room = self.begins(tails);
        if !has_room {
            self.open.fetch_sub(1, Ordering::Relaxed);
        }
        has_room
    }

    /// Wakes this task when there may be room.
    pub(super) fn wait_for_room(&self, waker: &Waker) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.iter().any(|known| known.will_wake(waker)) {
            waiting.push(waker.clone());
        }
    }

    /// Wakes the tasks that wait for room.
    pub(super) fn note_room(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(super) fn ends(&self) {
        let before = self.open.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0);
        self.note_room();
    }

    /// Counts an abuse: an answer of ours was given up unread, a request was refused for want of
    /// room, or an unauthenticated client has reset one.
    pub(crate) fn note_abuse(&self) {
        // A connection of key holders may be shared by many of them, and live for days.
        if self.is_known() {
            return;
        }
        if self.abuses.fetch_add(1, Ordering::Relaxed) + 1 >= PATIENCE {
            self.waker.wake();
        }
    }

    /// Ready when the connection is to be closed for its abuses.
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
