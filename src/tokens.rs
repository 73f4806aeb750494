//! Tokens: what a request may need, what it used, and the account that settles the difference.
//!
//! A request reserves tokens before it is forwarded ([`Estimate`]). The answer is observed as it
//! passes ([`AnswerScan`]), and its [`TokenAccount`] settles what was used, once, however the
//! request ends.

mod account;
mod answer;
mod ask;
mod counts;
mod encodings;
mod estimate;
mod event_text;
mod events;
mod learned;

pub(crate) use account::{Charges, Reservation, TokenAccount, TokenTap};
pub(crate) use ask::Asking;
pub(crate) use encodings::accept_readable_encodings;
pub(crate) use estimate::{Estimate, InputSize};
pub(crate) use learned::Learned;

/// What the scan of a stream has found: for fuzzers.
#[cfg(any(test, feature = "fuzzing"))]
#[derive(Debug, PartialEq)]
pub(crate) struct StreamCounts {
    counts: counts::Counts,
    content_events: u64,
}

#[cfg(any(test, feature = "fuzzing"))]
impl StreamCounts {
    pub(crate) fn input_and_output(&self) -> (Option<u64>, Option<u64>) {
        (self.counts.input, self.counts.output)
    }
}

/// Scans a stream of server-sent events in pieces. Returns what is forwarded, and what was found.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn scanned(pieces: Vec<bytes::Bytes>, removes: bool) -> (Vec<u8>, StreamCounts) {
    use event_text::Framing;
    use events::{EventScan, Removal};
    let removal = if removes { Removal::ChunkAndNulls } else { Removal::Nothing };
    let mut scan = EventScan::new(Framing::Events, removal);
    let mut kept: Vec<u8> = Vec::new();
    for piece in pieces {
        kept.extend_from_slice(&scan.filter(piece));
    }
    kept.extend_from_slice(&scan.finish());
    (kept, StreamCounts { counts: scan.counts(), content_events: scan.content_events })
}
