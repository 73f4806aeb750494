//! A timer for the waits of requests, which are polled often and almost never reach their deadline.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for several waits, one after the other.
///
/// Moving the deadline to a later time, as nearly every wait does, costs nothing: the timer still
/// fires at the earlier deadline, and only then is set to the later deadline.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The waker that the timer will wake; `None` if the timer must be polled again.
    waker: Option<Waker>,
}

impl Alarm {
    /// Returns ready at `deadline`, or at the first poll after `deadline`.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
            self.waker = None;
        }
        let is_set = self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_set && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            // If the task has used up tokio's budget for this poll, the timer returns pending
            // without checking the time.
            let is_looked_at = has_budget_remaining();
            if sleep.as_mut().poll(cx).is_pending() {
                self.waker = is_looked_at.then(|| cx.waker().clone());
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                self.waker = None;
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn asked(alarm: &mut Alarm, waker: &Waker, deadline: Instant) -> Poll<()> {
        alarm.poll(&mut Context::from_waker(waker), deadline)
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_off_at_the_last_end_that_was_asked_for() {
        let mut alarm = Alarm::default();
        let start = Instant::now();
        let counting = Arc::new(Counting::default());
        let waker = Waker::from(counting.clone());
        for later in 1..=5 {
            assert!(asked(&mut alarm, &waker, start + later * SECOND).is_pending());
        }
        // The timer wakes the task at the first deadline, but the poll finds that the last deadline
        // is not reached.
        tokio::time::advance(SECOND).await;
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        assert!(asked(&mut alarm, &waker, start + 5 * SECOND).is_pending());
        tokio::time::advance(4 * SECOND).await;
        assert_eq!(counting.0.load(Ordering::Relaxed), 2);
        assert!(asked(&mut alarm, &waker, start + 5 * SECOND).is_ready());
        assert!(asked(&mut alarm, &waker, start + 6 * SECOND).is_pending(), "it serves the next wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_nearer_deadline_is_kept_and_so_is_the_last_waker() {
        let mut alarm = Alarm::default();
        let start = Instant::now();
        let (first, last) = (Arc::new(Counting::default()), Arc::new(Counting::default()));
        assert!(asked(&mut alarm, &Waker::from(first.clone()), start + 60 * SECOND).is_pending());
        assert!(asked(&mut alarm, &Waker::from(last.clone()), start + SECOND).is_pending());
        tokio::time::advance(SECOND).await;
        assert_eq!((first.0.load(Ordering::Relaxed), last.0.load(Ordering::Relaxed)), (0, 1));
        assert!(asked(&mut alarm, &Waker::from(last), start + SECOND).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_has_had_its_share_is_woken_all_the_same() {
        let mut alarm = Alarm::default();
        let deadline = Instant::now() + SECOND;
        let mut is_first = true;
        poll_fn(|cx| {
            if std::mem::take(&mut is_first) {
                // Uses up the task's whole budget for this poll.
                while has_budget_remaining() {
                    let spent = std::pin::pin!(tokio::task::coop::consume_budget()).poll(cx);
                    assert!(spent.is_ready());
                }
            }
            alarm.poll(cx, deadline)
        })
        .await;
        assert!(Instant::now() >= deadline);
    }
}
