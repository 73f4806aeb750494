//! The tasks of HTTP/2 streams: each ends when its client makes no room for the next 16 KiB of its answer for too long.
//!
//! Without that, a client that never opens its window would hold an upstream, its key's place and the drain for as long
//! as it likes. Dropping the task resets the one stream; the others on the connection go on.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use pin_project_lite::pin_project;

use crate::exchange::cut::{self, Cut};
use crate::exchange::turn::{self, Turn};
use crate::upstream::stall::StallTimer;

/// Runs the streams of a connection.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor {
    /// The longest time that a client may take nothing of an answer.
    pub(super) limit: Duration,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        let watched =
            Watched { stream: Some(stream), awaits_client: false, stall: StallTimer::new(self.limit) };
        drop(tokio::spawn(watched));
    }
}

pin_project! {
    /// A stream, given up once its client has stalled it.
    struct Watched<F> {
        #[pin]
        stream: Option<F>,
        awaits_client: bool,
        stall: StallTimer,
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let _of_another_stream = turn::look();
        let Some(stream) = this.stream.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        if stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(turn) = turn::look() {
            *this.awaits_client = turn == Turn::Client;
            this.stall.progressed();
        }
        if !*this.awaits_client {
            return Poll::Pending;
        }
        ready!(this.stall.poll_stalled(cx));
        cut::because(Cut::ClientStalled, || this.stream.set(None));
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, advance};

    use super::*;

    /// A stream whose body is polled as it is told to be, by each poll of its own.
    struct Scripted(Vec<Option<Turn>>);

    impl Future for Scripted {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if let Some(Some(turn)) = self.0.pop() {
                turn::leave(turn);
            }
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_upstream_has_its_own_time() {
        let limit = Duration::from_secs(10);
        let watched = |script: &[Option<Turn>]| {
            let stream = Scripted(script.iter().rev().copied().collect());
            Watched { stream: Some(stream), awaits_client: false, stall: StallTimer::new(limit) }
        };
        let started = Instant::now();
        watched(&[None, Some(Turn::Client)]).await_with(Duration::from_secs(1)).await;
        assert_eq!(started.elapsed(), Duration::from_secs(11), "from the second poll on");
        let waits_for_upstream = watched(&[Some(Turn::Client), Some(Turn::Upstream)]);
        let polled = tokio::time::timeout(limit * 100, waits_for_upstream.await_with(limit / 2)).await;
        assert!(polled.is_err(), "it is upstream's turn");
    }

    impl Watched<Scripted> {
        /// Polls for a second time after a while, as a wake-up would.
        async fn await_with(self, pause: Duration) {
            let mut this = Box::pin(self);
            let polled = std::future::poll_fn(|cx| Poll::Ready(this.as_mut().poll(cx))).await;
            assert!(polled.is_pending());
            advance(pause).await;
            this.await;
        }
    }

    #[tokio::test]
    async fn the_executor_runs_streams() {
        let notify = Arc::new(tokio::sync::Notify::new());
        let told = notify.clone();
        StreamExecutor { limit: Duration::from_secs(1) }.execute(async move { told.notify_one() });
        notify.notified().await;
    }
}
