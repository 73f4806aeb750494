//! Ends answers that outlast their key, or the time of a request without a key, if hyper no longer
//! polls the body.
//!
//! A `Download` owns a [`Cutter`] if its answer must not outlast the key, or the time of a request
//! without a key.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio::time::sleep;

use crate::activity::{ConnectionActivity, blocked};
use crate::gate::Revocation;

/// Ends an answer that is still open [`CUT_GRACE`] after the key, or the time of a request without
/// a key, has ended. hyper does not poll the body for a client that reads nothing, so the body
/// can't end itself. On HTTP/2 the cutter ends the stream, on HTTP/1 the connection.
#[derive(Debug)]
pub(super) struct Cutter(AbortHandle);

/// Delay of the cutter. During this time, a body that hyper still polls ends the answer itself.
const CUT_GRACE: Duration = Duration::from_millis(500);

impl Cutter {
    /// Starts a task that waits for `revocation`, and then cuts the answer.
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
