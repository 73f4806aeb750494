//! The unread rest of a request's body when the request's answer is ready.
//!
//! `proxy` decides whether to discard the rest of the body or to leave the rest unread; `body`
//! reads and drops the rest before the answer ends.
//! Invariant: at most `DRAIN_BYTES` are read, in at most `DRAIN_TIME`.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use tokio::time::{Sleep, sleep};

use crate::upstream::request_body::{ReceivedBody, RequestBody};

/// Treatment of a request's body that has not been read to its end when the answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UnreadBody {
    /// The rest of the body is read and dropped, within limits, before the answer ends.
    Discard,
    /// The rest of the body is not read, so on HTTP/1 the connection is closed.
    Leave,
}

/// Reads and drops the rest of a request's body.
///
/// hyper must reset an HTTP/2 stream whose answer ends while its request is still arriving. Common
/// clients, such as curl before version 8, then discard the answer, although RFC 9113, section 8.1
/// forbids this. Most such requests have a small body, which costs little to read. On HTTP/1, a
/// connection whose request was read to its end can serve the next request.
#[derive(Debug)]
pub(super) struct Drain {
    request: RequestBody,
    received: Option<ReceivedBody>,
    budget: usize,
    until: Option<Pin<Box<Sleep>>>,
}

/// Largest number of bytes that are drained.
const DRAIN_BYTES: usize = 32 * 1024 * 1024;
/// Longest time that draining may take.
const DRAIN_TIME: Duration = Duration::from_secs(2);

impl Drain {
    pub(super) fn new(request: RequestBody) -> Self {
        Drain { request, received: None, budget: DRAIN_BYTES, until: None }
    }

    /// Returns ready when draining is over; `true` if the body was read to its end.
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
        // The body must live until the answer has ended, so it is put back into the request.
        if let Some(received) = self.received.take() {
            self.request.put_back(received);
        }
    }
}
