//! Who drives an HTTP/1.1 connection to upstream: the request that is on it, in its own task.
//!
//! hyper means a connection to have a task of its own, which costs a request a switch to that task and back for every step,
//! and an event of a stream one. Here whoever waits for the connection polls it, too. Where it must get on while nobody waits
//! for it (an upload that goes on behind the head of the answer, an upgrade, a polite end), it gets its task.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;
use hyper::client::conn::http1::Connection;
use hyper_util::rt::TokioIo;

use super::connect::Tap;
use super::upload::Upload;

/// A connection and who waits for it wake each other this often before others have their turn.
const ROUNDS: usize = 8;

/// Drives one connection.
pub(super) struct Driver {
    /// `None`: it has a task of its own, or has ended.
    connection: Option<Box<Connection<TokioIo<Tap>, Upload>>>,
    signal: Arc<Signal>,
    /// Of the signal.
    waker: Waker,
}

/// Wakes the task that drives, unless that is what it is doing.
#[derive(Debug)]
struct Signal {
    task: AtomicWaker,
    state: AtomicU8,
}

/// Nobody polls the connection.
const RESTING: u8 = 0;
/// Somebody does;
const POLLED: u8 = 1;
/// … and has to do it once more.
const POLLED_AGAIN: u8 = 2;

impl Wake for Signal {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted = self.state.compare_exchange(POLLED, POLLED_AGAIN, Ordering::AcqRel, Ordering::Acquire);
        if noted == Err(RESTING) {
            self.task.wake();
        }
    }
}

impl std::fmt::Debug for Driver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("drives", &self.connection.is_some()).finish_non_exhaustive()
    }
}

impl Driver {
    pub(super) fn new(connection: Connection<TokioIo<Tap>, Upload>) -> Self {
        let signal = Arc::new(Signal { task: AtomicWaker::new(), state: AtomicU8::new(RESTING) });
        Driver { connection: Some(Box::new(connection)), waker: signal.clone().into(), signal }
    }

    /// Polls what waits for the connection, and the connection, for as long as one gets on by the other.
    pub(super) fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut waiting: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.connection.is_none() {
            return waiting(cx);
        }
        self.signal.task.register(cx.waker());
        let mut inner = Context::from_waker(&self.waker);
        for _ in 0..ROUNDS {
            self.signal.state.store(POLLED, Ordering::Release);
            let polled = waiting(&mut inner);
            if polled.is_ready() {
                self.signal.state.store(RESTING, Ordering::Release);
                return polled;
            }
            if let Some(connection) = &mut self.connection
                && Pin::new(&mut **connection).poll(&mut inner).is_ready()
            {
                // How it ended is told to whoever waits. What it owes them is let go of with it.
                self.connection = None;
                self.signal.state.store(RESTING, Ordering::Release);
                return waiting(cx);
            }
            if self.signal.state.swap(RESTING, Ordering::AcqRel) == POLLED {
                return Poll::Pending;
            }
        }
        // The runtime's budget may be used up, under which everything says that it is not ready.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// The connection waits for its next request: until then it wakes nobody.
    pub(super) fn rest(&mut self) {
        // What the end of the answer has left to do.
        if let Some(connection) = &mut self.connection
            && Pin::new(&mut **connection).poll(&mut Context::from_waker(&self.waker)).is_ready()
        {
            self.connection = None;
        }
        self.signal.task.take();
    }

    /// Gives the connection a task of its own. Between requests, it ends there once its sender is dropped.
    pub(super) fn detach(&mut self) {
        if let Some(connection) = self.connection.take() {
            tokio::spawn(async move {
                // How it ended is told to the request that is on it.
                let _ended = connection.with_upgrades().await;
            });
        }
    }
}
