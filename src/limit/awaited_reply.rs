//! A reply of the server that has shared limits, which a request waits for.

use std::time::Duration;

use tokio::sync::oneshot;

/// A reply that a request waits for. If the request leaves, or waits no longer, what the reply grants is
/// given back.
pub(super) struct AwaitedReply<T, F: Fn(T)> {
    pub(super) reply: oneshot::Receiver<T>,
    pub(super) give_back: F,
}

impl<T, F: Fn(T)> AwaitedReply<T, F> {
    pub(super) async fn within(mut self, timeout: Duration) -> Option<T> {
        tokio::time::timeout(timeout, &mut self.reply).await.ok().and_then(Result::ok)
    }
}

impl<T, F: Fn(T)> Drop for AwaitedReply<T, F> {
    fn drop(&mut self) {
        // A reply that was received is not there any more.
        self.reply.close();
        if let Ok(reply) = self.reply.try_recv() {
            (self.give_back)(reply);
        }
    }
}
