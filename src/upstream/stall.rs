//! A timer for stalls. A stall is a wait in which no byte moves for longer than a limit.
//!
//! Bodies in both directions use the timer, and so does `net::streams`.
//! Invariant: the timer is set only while a read or write is pending, so a body that flows without
//! waits sets no timer.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::alarm::Alarm;

/// A timer that measures each wait separately, from its first pending poll until the next progress.
#[derive(Debug)]
pub(crate) struct StallTimer {
    limit: Duration,
    waiting_since: Option<Instant>,
    alarm: Alarm,
}

impl StallTimer {
    pub(crate) fn new(limit: Duration) -> Self {
        StallTimer::on(Alarm::default(), limit)
    }

    /// Makes a stall timer from an existing alarm, to reuse it.
    pub(crate) fn on(alarm: Alarm, limit: Duration) -> Self {
        StallTimer { limit, waiting_since: None, alarm }
    }

    /// Takes the alarm out of this timer, so that another stall timer can reuse it.
    pub(crate) fn take_alarm(&mut self) -> Alarm {
        std::mem::take(&mut self.alarm)
    }

    /// Records progress. The next wait starts at its first pending poll.
    pub(crate) fn progressed(&mut self) {
        self.waiting_since = None;
    }

    /// Moves the start of the current wait to `since`, if `since` is later.
    pub(crate) fn start_no_earlier_than(&mut self, since: Instant) {
        self.waiting_since = self.waiting_since.max(Some(since));
    }

    /// Returns ready when the current wait has lasted for the limit.
    pub(crate) fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let since = *self.waiting_since.get_or_insert_with(Instant::now);
        self.alarm.poll(cx, since + self.limit)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    async fn poll_once(timer: &mut StallTimer) -> Poll<()> {
        poll_fn(|cx| Poll::Ready(timer.poll_stalled(cx))).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_starts_with_its_first_poll_and_restarts_after_progress() {
        let second = Duration::from_secs(1);
        let mut timer = StallTimer::new(10 * second);
        tokio::time::advance(100 * second).await;
        assert!(poll_once(&mut timer).await.is_pending());
        tokio::time::advance(9 * second).await;
        timer.progressed();
        assert!(poll_once(&mut timer).await.is_pending());
        tokio::time::advance(9 * second).await;
        assert!(poll_once(&mut timer).await.is_pending());
        tokio::time::advance(2 * second).await;
        poll_fn(|cx| timer.poll_stalled(cx)).await;
    }
}
