//! What of a request nobody has read when its answer is there.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::{Sleep, sleep};

use crate::upstream::request_body::{ReceivedBody, RequestBody};

/// What becomes of a request that is not read to its end when its answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnreadBody {
    /// It is read and forgotten, within bounds, before the answer ends.
    Discard,
    /// HTTP/1 has its own way with it: the connection ends.
    Leave,
}

/// Reads and forgets what is left of a request.
///
/// An HTTP/2 stream that ends while its request is still coming must be reset, and common clients (curl before
/// 8, for one) take the answer for lost then, though RFC 9113, section 8.1 says that it is not. Most such
/// requests have a small body right behind their head: taking it in costs nothing. Larger ones are reset. On HTTP/1 it is
/// the connection that goes on behind a short body, and would have to be closed otherwise.
#[derive(Debug)]
pub(super) struct Drain {
    request: RequestBody,
    received: Option<ReceivedBody>,
    budget: usize,
    until: Option<Pin<Box<Sleep>>>,
}

const DRAIN_BYTES: usize = 32 * 1024 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(2);

impl Drain {
    pub(super) fn new(request: RequestBody) -> Self {
        Drain { request, received: None, budget: DRAIN_BYTES, until: None }
    }

    /// Ready when no more is read: whether all was.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.received.is_none() {
            self.received = self.request.take();
        }
        let Some(received) = &mut self.received else { return Poll::Ready(false) };
        if received.is_end_stream() {
            return Poll::Ready(true);
        }
        let until = self.until.get_or_insert_with(|| Box::pin(sleep(DRAIN_TIME)));
        while until.as_mut().poll(cx).is_pending() {
            match ready!(Pin::new(&mut *received).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, Bytes::len);
                    let Some(budget) = self.budget.checked_sub(length) else { break };
                    self.budget = budget;
                }
                Some(Err(_)) => break,
                None => return Poll::Ready(true),
            }
        }
        Poll::Ready(false)
    }
}

impl Drop for Drain {
    fn drop(&mut self) {
        // Back to the exchange: the body must not go before the end of the answer has gone out.
        if let Some(received) = self.received.take() {
            self.request.put_back(received);
        }
    }
}
