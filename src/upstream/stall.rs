//! Notices that nothing has moved for a while, at the price of one timer only where something waits.

use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::alarm::Alarm;

/// Measures each wait on its own: from the first poll that found nothing until the next progress.
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

    /// On a timer that has served another wait.
    pub(crate) fn on(alarm: Alarm, limit: Duration) -> Self {
        StallTimer { limit, waiting_since: None, alarm }
    }

    /// The timer, for the next wait.
    pub(crate) fn take_alarm(&mut self) -> Alarm {
        std::mem::take(&mut self.alarm)
    }

    /// Something moved: the next wait starts from nothing.
    pub(crate) fn progressed(&mut self) {
        self.waiting_since = None;
    }

    /// Something else moved that this wait depends on: it counts from then.
    pub(crate) fn start_no_earlier_than(&mut self, since: Instant) {
        self.waiting_since = self.waiting_since.max(Some(since));
    }

    /// Ready once this wait has lasted for the limit.
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
    async fn time_before_a_wait_does_not_count_and_progress_starts_anew() {
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
