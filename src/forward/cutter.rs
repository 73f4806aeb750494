//! The second waiter for the end of a key. It ends answers that hyper no longer polls.
//!
//! A `Download` owns a [`Cutter`] if the end of the key ends open answers.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::activity::{ConnectionActivity, blocked};
use crate::gate::Revocation;

/// Ends an answer that is still open a short time after its right to be served has ended. hyper
/// does not poll the body for a client that reads nothing, so the body can't end itself. On HTTP/2
/// the cutter ends the stream, on HTTP/1 the connection.
#[derive(Debug)]
pub(super) struct Cutter(AbortHandle);

/// Time in which the body itself ends the answer if the client reads, before the cutter does.
const CUT_GRACE: Duration = Duration::from_millis(500);

impl Cutter {
    /// Starts a task that waits for the end of the answer's right to be served.
    pub(super) fn new(mut revocation: Revocation, activity: Arc<ConnectionActivity>) -> Self {
        let stream = activity.is_multiplexed().then(blocked::ask_for_cut);
        let watching = tokio::spawn(async move {
            let reason = poll_fn(|cx| revocation.poll(cx)).await.into();
            sleep(CUT_GRACE).await;
            match stream {
                Some(stream) => stream.cut(reason),
                None => activity.cut(reason),
            }
        });
        Cutter(watching.abort_handle())
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.0.abort();
    }
}
