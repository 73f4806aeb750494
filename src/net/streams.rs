//! Runs the tasks of HTTP/2 streams. A task ends if its client leaves no room for the answer for
//! too long, or if the request is cut, for example because its key was revoked.
//!
//! Without this time limit, a client that never opens its window could occupy an upstream and a
//! permit of its key, and delay the drain, for any length of time. Dropping a task resets its
//! stream; the other streams of the connection continue.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use pin_project_lite::pin_project;

use super::wire::UNAUTHENTICATED_STALL;
use crate::activity::ConnectionActivity;
use crate::activity::blocked::{self, BlockedOn, StreamCut};
use crate::activity::cut::{self, CutReason};
use crate::upstream::stall::StallTimer;

/// Time that a client has to make room in its window for an answer of our own. Such an answer is
/// small; a client that needs longer does not want the answer.
pub(super) const OUR_ANSWER_TIME: Duration = Duration::from_secs(2);

/// Spawns the tasks of a connection's streams.
#[derive(Clone, Debug)]
pub(super) struct StreamExecutor {
    /// How long a client may read nothing of an upstream's answer.
    pub(super) limit: Duration,
    /// The activity of the connection.
    pub(super) activity: Arc<ConnectionActivity>,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        drop(tokio::spawn(Watched::new(stream, self.limit, self.activity.clone())));
    }
}

pin_project! {
    /// A stream's future, which is dropped if the client stalls or the stream is cut.
    struct Watched<F> {
        #[pin]
        stream: Option<F>,
        blocked_on: BlockedOn,
        limit: Duration,
        stall: StallTimer,
        cut: Option<Arc<StreamCut>>,
        activity: Arc<ConnectionActivity>,
    }
}

impl<F> Watched<F> {
    fn new(stream: F, limit: Duration, activity: Arc<ConnectionActivity>) -> Self {
        Watched {
            stream: Some(stream),
            blocked_on: BlockedOn::Upstream,
            limit,
            stall: StallTimer::new(limit),
            cut: None,
            activity,
        }
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let _of_another_stream = (blocked::take(), blocked::asked_cut());
        let Some(stream) = this.stream.as_mut().as_pin_mut() else { return Poll::Ready(()) };
        if stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        if let Some(cut) = blocked::asked_cut() {
            *this.cut = Some(cut);
        }
        if let Some(cut) = this.cut
            && let Poll::Ready(why) = cut.poll(cx)
        {
            cut::because(why, || this.stream.set(None));
            return Poll::Ready(());
        }
        if let Some(blocked_on) = blocked::take() {
            match blocked_on {
                BlockedOn::ClientOfOurs if *this.blocked_on != blocked_on => {
                    *this.stall = StallTimer::new(OUR_ANSWER_TIME)
                }
                BlockedOn::ClientWithoutKey if *this.blocked_on != blocked_on => {
                    *this.stall = StallTimer::new(UNAUTHENTICATED_STALL.min(*this.limit));
                }
                _ => {}
            }
            *this.blocked_on = blocked_on;
            this.stall.progressed();
        }
        let why = match this.blocked_on {
            BlockedOn::Upstream => return Poll::Pending,
            BlockedOn::Client | BlockedOn::ClientWithoutKey | BlockedOn::ClientOfOurs => {
                CutReason::ClientStalled
            }
        };
        ready!(this.stall.poll_stalled(cx));
        if *this.blocked_on == BlockedOn::ClientOfOurs {
            this.activity.unauthenticated_use.note_abuse();
        }
        cut::because(why, || this.stream.set(None));
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::{Instant, advance};

    use super::*;

    /// A stream that, at each poll, records the next entry of a script: what the stream is blocked
    /// on.
    struct Scripted(Vec<Option<BlockedOn>>);

    impl Future for Scripted {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<()> {
            if let Some(Some(blocked_on)) = self.0.pop() {
                blocked::record(blocked_on);
            }
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up_and_upstream_has_its_own_time() {
        let limit = Duration::from_secs(10);
        let watched = |script: &[Option<BlockedOn>]| {
            let stream = Scripted(script.iter().rev().copied().collect());
            Watched::new(stream, limit, Arc::default())
        };
        let started = Instant::now();
        watched(&[None, Some(BlockedOn::Client)]).await_with(Duration::from_secs(1)).await;
        assert_eq!(started.elapsed(), Duration::from_secs(11), "from the second poll on");
        let waits_for_upstream = watched(&[Some(BlockedOn::Client), Some(BlockedOn::Upstream)]);
        let polled = tokio::time::timeout(limit * 100, waits_for_upstream.await_with(limit / 2)).await;
        assert!(polled.is_err(), "it is blocked on upstream");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_of_our_own_is_given_up_sooner_and_counts_against_the_connection() {
        let activity = Arc::<ConnectionActivity>::default();
        let started = Instant::now();
        for _ in 0..64 {
            let stream = Scripted(vec![Some(BlockedOn::ClientOfOurs)]);
            let watched = Watched::new(stream, Duration::from_secs(75), activity.clone());
            watched.await_with(OUR_ANSWER_TIME).await;
        }
        assert_eq!(started.elapsed(), 64 * OUR_ANSWER_TIME);
        std::future::poll_fn(|cx| activity.unauthenticated_use.poll_out_of_patience(cx)).await;
    }

    #[tokio::test]
    async fn one_stream_is_cut_and_no_other() {
        let (mut cuts, executor) = (Vec::new(), executor());
        let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
        let (asked, mut handles) = tokio::sync::mpsc::unbounded_channel();
        for number in 0..2 {
            let (ended, asked) = (ended.clone(), asked.clone());
            executor.execute(async move {
                let _told = Told(number, ended);
                let _there = asked.send(blocked::ask_for_cut());
                std::future::pending::<()>().await;
            });
            cuts.push(handles.recv().await.unwrap());
        }
        cuts[1].cut(CutReason::Revoked);
        assert_eq!(ends.recv().await, Some(1));
        assert!(ends.try_recv().is_err());
    }

    struct Told(usize, tokio::sync::mpsc::UnboundedSender<usize>);

    impl Drop for Told {
        fn drop(&mut self) {
            let _nobody = self.1.send(self.0);
        }
    }

    fn executor() -> StreamExecutor {
        StreamExecutor { limit: Duration::from_secs(1), activity: Arc::default() }
    }

    impl Watched<Scripted> {
        /// Polls the stream, waits for `pause`, and then awaits the stream.
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
        let notified = notify.clone();
        executor().execute(async move { notified.notify_one() });
        notify.notified().await;
    }
}
