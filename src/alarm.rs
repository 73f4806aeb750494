//! A timer that is asked often and set seldom: on each wait of each request, and almost never waited out.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, Sleep, sleep_until};

/// One timer for as many waits as follow each other.
///
/// To move its end back, as nearly every wait does, costs nothing: it goes off at the end that it had, and is set to the
/// later one only then.
#[derive(Debug, Default)]
pub(crate) struct Alarm {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Who is woken up when it goes off, if it was set for somebody.
    known: Option<Waker>,
}

impl Alarm {
    /// Ready at `deadline`, or when it is looked at first behind it.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if sleep.deadline() > deadline {
            sleep.as_mut().reset(deadline);
            self.known = None;
        }
        let is_set = self.known.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
        if is_set && !sleep.is_elapsed() {
            return Poll::Pending;
        }
        loop {
            // A task that has had its share of this turn is known "not yet", and its timer is not looked at.
            let is_looked_at = has_budget_remaining();
            if sleep.as_mut().poll(cx).is_pending() {
                self.known = is_looked_at.then(|| cx.waker().clone());
                return Poll::Pending;
            }
            if Instant::now() >= deadline {
                self.known = None;
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
        // At its first end it wakes whoever asked, who finds that it is not over.
        tokio::time::advance(SECOND).await;
        assert_eq!(counting.0.load(Ordering::Relaxed), 1);
        assert!(asked(&mut alarm, &waker, start + 5 * SECOND).is_pending());
        tokio::time::advance(4 * SECOND).await;
        assert_eq!(counting.0.load(Ordering::Relaxed), 2);
        assert!(asked(&mut alarm, &waker, start + 5 * SECOND).is_ready());
        assert!(asked(&mut alarm, &waker, start + 6 * SECOND).is_pending(), "it serves the next wait");
    }

    #[tokio::test(start_paused = true)]
    async fn a_nearer_end_is_kept_and_so_is_whoever_asked_last() {
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
                // All of this turn's budget goes elsewhere.
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
