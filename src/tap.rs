//! Taps on bodies: observers of a body's frames and of its end.
//!
//! A tap belongs to one body, in one direction. It can neither change nor delay a frame.

use std::fmt;

use bytes::Bytes;
use http_body::Frame;

/// Observes one body.
pub(crate) trait Tap: Send + Sync {
    /// Observes a frame, which is data or trailers.
    fn frame(&mut self, frame: &Frame<Bytes>);

    /// Observes the end of the body. Called once, however the body ends.
    fn ended(&mut self, end: BodyEnd);
}

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyEnd {
    /// The whole body passed.
    Complete,
    /// The body failed, or bearward cut it.
    Failed,
    /// The reader of the body left before the body was complete.
    Dropped,
}

/// A place for a tap. It is empty for nearly every body.
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

    /// Reports the end of the body to the tap, if no end was reported before.
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
    /// The tap on the request's body, which comes from the client.
    pub(crate) request: TapSlot,
    /// The tap on the answer's body, which comes from the upstream.
    pub(crate) response: TapSlot,
}
