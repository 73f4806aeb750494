//! Taps on bodies: observers of the frames that pass, and of the end.
//!
//! A tap belongs to one body, in one direction. It can neither change nor delay a frame.

use std::fmt;

use bytes::Bytes;
use http_body::Frame;

/// Observes one body.
pub(crate) trait Tap: Send + Sync {
    /// A frame passes. It is data or trailers.
    fn frame(&mut self, frame: &Frame<Bytes>);

    /// The body has ended. Called once, whichever way that came.
    fn ended(&mut self, end: BodyEnd);
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// All of it passed.
    Complete,
    /// It broke, or bearward cut it.
    Failed,
    /// Its reader was gone before it was whole.
    Dropped,
}

/// Where a tap may be: empty for nearly every body.
#[derive(Default)]
pub(crate) struct TapSlot(Option<Box<dyn Tap>>);

impl TapSlot {
    pub(crate) fn of(tap: impl Tap + 'static) -> Self {
        TapSlot(Some(Box::new(tap)))
    }

    pub(crate) fn frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(tap) = &mut self.0 {
            tap.frame(frame);
        }
    }

    /// Reports the end, unless one was reported before.
    pub(crate) fn ended(&mut self, end: BodyEnd) {
        if let Some(mut tap) = self.0.take() {
            tap.ended(end);
        }
    }
}

impl Drop for TapSlot {
    fn drop(&mut self) {
        self.ended(BodyEnd::Dropped);
    }
}

impl fmt::Debug for TapSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "TapSlot(1)" } else { "TapSlot(0)" })
    }
}

/// The taps of one request.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    /// On the request's body, from the client.
    pub(crate) request: TapSlot,
    /// On the answer's body, from the upstream.
    pub(crate) response: TapSlot,
}
