//! The second waiter for the end of a key: ends answers that hyper no longer polls.
//!
//! A `Download` holds one if open answers end with their key.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::activity::{ConnectionActivity, blocked};
use crate::gate::Revocation;

/// Ends an answer that is still open a moment after its right has ended. hyper does not poll the
/// body of a client that reads nothing. On HTTP/2 the cutter ends the stream, on HTTP/1 the
/// connection.
#[derive(Debug)]
pub(super) struct Cutter(AbortHandle);

/// Time in which the body itself ends the answer of a client that reads.
const CUT_GRACE: Duration = Duration::from_millis(500);

impl Cutter {
    /// Starts waiting for the end of the answer's right, in a task of its own.
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
