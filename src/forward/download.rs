//! The body of an upstream's answer while it is forwarded.
//!
//! Invariant: the download owns the permit and the lease of the connection to upstream, so each of
//! these ends with the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::cutter::Cutter;
use super::failure::DownloadFailure;
use super::headers::is_harmless_answer_trailer;
use super::tokens::AnswerTokens;
use crate::activity::ConnectionActivity;
use crate::alarm::Alarm;
use crate::gate::{Permit, Revocation};
use crate::tap::{BodyEnd, TapSlot};
use crate::upstream::exchange;
use crate::upstream::pool::Lease;
use crate::upstream::stall::StallTimer;
use crate::upstream::upload::{UploadProgress, filtered};

/// The body of one answer.
#[derive(Debug)]
pub(super) struct Download {
    incoming: exchange::Body,
    tap: TapSlot,
    /// Observes the tokens of the answer; `None` if the request uses none.
    tokens: AnswerTokens,
    /// Whether upstream's body has ended. It is not polled again.
    is_over: bool,
    /// What follows the bytes that were held back when the body ended: its trailers, or its failure.
    behind_held: Option<Box<Result<Frame<Bytes>, DownloadFailure>>>,
    stall: StallTimer,
    /// Progress of the upload of the request's body. While the upload progresses, an answer without
    /// new bytes does not count as stalled.
    upload: UploadProgress,
    /// Activity of the client's connection. When the answer ends, the connection gets the timer of
    /// `stall` back for reuse.
    activity: Arc<ConnectionActivity>,
    /// Waiter that is ready when the key ends, or when the time of a request without a key is over.
    /// `None` if the configuration lets answers outlast their key.
    revocation: Option<Revocation>,
    /// Cuts the answer at the end of the key, or of the time of a request without a key, if the
    /// client reads nothing, because hyper does not poll the body then.
    _cutter: Option<Cutter>,
    lease: Option<Lease>,
    /// Whether the client has no valid key.
    is_unauthenticated: bool,
    /// Permit of the request. It is dropped when upstream's answer is complete, so a slow client
    /// that is still reading uses up no limit.
    permit: Option<Permit>,
}

impl Download {
    /// Makes a response body that passes on the upstream's answer.
    #[expect(clippy::too_many_arguments, reason = "all values that last as long as the answer")]
    pub(super) fn new(
        incoming: exchange::Body,
        (tap, tokens): (TapSlot, AnswerTokens),
        lease: Lease,
        permit: Permit,
        upload: UploadProgress,
        activity: Arc<ConnectionActivity>,
        alarm: Alarm,
        revocations: Option<(Revocation, Revocation)>,
    ) -> Self {
        let stall = StallTimer::on(alarm, permit.route().timeouts.idle);
        let (revocation, second_waiter) = revocations.unzip();
        let cutter = second_waiter.map(|revocation| Cutter::new(revocation, activity.clone()));
        let mut download = Download {
            incoming,
            tap,
            tokens,
            is_over: false,
            behind_held: None,
            stall,
            upload,
            activity,
            revocation,
            _cutter: cutter,
            lease: Some(lease),
            is_unauthenticated: permit.principal().is_none(),
            permit: Some(permit),
        };
        if download.incoming.is_end_stream() {
            download.release();
        }
        download
    }

    /// Whether the client has no valid key.
    pub(super) fn is_unauthenticated(&self) -> bool {
        self.is_unauthenticated
    }

    /// Whether the whole body was returned.
    pub(super) fn has_ended(&self) -> bool {
        let is_read = self.is_over || self.incoming.is_end_stream();
        is_read && !self.tokens.holds_bytes() && self.behind_held.is_none()
    }

    /// Returns the length of the rest of the body, as far as it is known.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self.tokens.changes_body() {
            true => SizeHint::default(),
            false => self.incoming.size_hint(),
        }
    }

    /// Ends a complete answer: returns the connection to upstream to the pool, and drops the
    /// request's permit.
    fn release(&mut self) {
        self.upload.answer_ended();
        // The bytes that were held back have been forwarded before.
        let _held = self.tokens.ended(BodyEnd::Complete);
        self.tap.ended(BodyEnd::Complete);
        self.permit = None;
        if let Some(lease) = self.lease.take() {
            lease.return_to_pool();
        }
    }

    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadFailure>>> {
        if let Some(revocation) = &mut self.revocation
            && let Poll::Ready(ended) = revocation.poll(cx)
        {
            self.revocation = None;
            return self.fail(ended.into());
        }
        if let Some(last) = self.behind_held.take() {
            return Poll::Ready(Some(*last));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.stall.progressed();
                if let Some(lease) = &self.lease {
                    lease.progressed();
                }
                let frame = match frame.into_trailers() {
                    Ok(trailers) => Frame::trailers(filtered(trailers, is_harmless_answer_trailer)),
                    Err(data) => data,
                };
                self.tap.frame(&frame);
                let frame = self.tokens.observe(frame, self.incoming.is_end_stream());
                let is_removed = frame.data_ref().is_some_and(Bytes::is_empty) && self.tokens.changes_body();
                if is_removed && !self.incoming.is_end_stream() {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                let mut held = Bytes::new();
                if frame.is_trailers() {
                    // No frame follows trailers, and hyper does not poll for another one.
                    held = self.tokens.ended(BodyEnd::Complete);
                    self.tap.ended(BodyEnd::Complete);
                }
                if self.incoming.is_end_stream() {
                    self.release();
                }
                self.send_held(held, Ok(frame))
            }
            Poll::Ready(Some(Err(failure))) => self.fail(DownloadFailure::of(failure)),
            Poll::Ready(None) => {
                self.is_over = true;
                let rest = self.tokens.ended(BodyEnd::Complete);
                self.release();
                Poll::Ready((!rest.is_empty()).then(|| Ok(Frame::data(rest))))
            }
            Poll::Pending => {
                ready!(self.poll_stalled(cx));
                self.fail(DownloadFailure::Stalled)
            }
        }
    }

    /// Ends a broken answer, and closes its connection to upstream.
    fn fail(&mut self, failure: DownloadFailure) -> Poll<Option<Result<Frame<Bytes>, DownloadFailure>>> {
        // The tokens are settled before the slot of the request is given back with its lease.
        let held = self.tokens.ended(BodyEnd::Failed);
        self.lease = None;
        self.tap.ended(BodyEnd::Failed);
        self.send_held(held, Err(failure))
    }

    /// Returns the bytes that were held back, if there are any, and then `last`.
    fn send_held(
        &mut self,
        held: Bytes,
        last: Result<Frame<Bytes>, DownloadFailure>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadFailure>>> {
        if held.is_empty() {
            return Poll::Ready(Some(last));
        }
        self.behind_held = Some(Box::new(last));
        Poll::Ready(Some(Ok(Frame::data(held))))
    }

    /// Returns ready when neither the upload nor the answer has moved for the idle timeout.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut last_seen = None;
        loop {
            ready!(self.stall.poll_stalled(cx));
            let Some(moved) = self.upload.last_moved() else { return Poll::Ready(()) };
            if last_seen.replace(moved) == Some(moved) {
                return Poll::Ready(());
            }
            // The next run of the loop returns, unless the upload has progressed again by then.
            self.stall.start_no_earlier_than(moved.into());
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        self.tokens.ended(BodyEnd::Dropped);
        self.upload.answer_ended();
        self.activity.keep_alarm(self.stall.take_alarm());
    }
}
