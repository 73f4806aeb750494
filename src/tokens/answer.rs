//! The scan of an answer's body for the tokens that it used, as the body passes.
//!
//! Memory is bounded, and no frame is delayed. A compressed body is decompressed for the scan only.

use std::io::{self, Write};

use bytes::Bytes;
use flate2::write::{MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};

use super::counts::{Counts, IN_DOCUMENT};
use super::event_text::Framing;
use super::events::{EventScan, Removal};
use crate::json::Finder;

/// The scan of one answer.
pub(super) enum AnswerScan {
    Plain(Scan),
    Gzip(Box<MultiGzDecoder<Scan>>),
    Deflate(Box<ZlibDecoder<Scan>>),
    /// The body can't be read, or it broke.
    Opaque(Scan),
}

/// The scan of an answer's decoded body.
pub(super) enum Scan {
    Document(Box<DocumentScan>),
    Events(Box<EventScan>),
    Nothing,
}

/// Longest piece that is searched at once, in bytes. It has fewer members than a search keeps.
const LONGEST_PIECE: usize = 16 * 1024;

/// The scan of an answer that is no stream.
pub(super) struct DocumentScan {
    finder: Finder,
    /// The counts of those objects of a list that have ended.
    ended: Counts,
}

impl DocumentScan {
    fn push(&mut self, data: &[u8]) {
        for piece in data.chunks(LONGEST_PIECE) {
            self.finder.push(piece);
            if self.finder.is_list() {
                self.ended = self.ended.plus(Counts::of_objects(&self.finder.take_ended()));
            }
        }
    }

    fn counts(&self) -> Counts {
        self.ended.plus(Counts::of(&self.finder))
    }
}

/// What an answer has shown.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shown {
    pub(super) counts: Counts,
    /// Number of events with content; `None` if the answer is no stream.
    pub(super) content_events: Option<u64>,
    /// Whether content came after the last counts, so that the counts are not the final ones.
    pub(super) has_content_behind: bool,
    /// Whether the last event of a stream has come.
    pub(super) has_last_event: bool,
}

impl AnswerScan {
    /// Begins the scan of an answer with these headers. `removal`: what to remove from a stream of
    /// events.
    pub(super) fn new(headers: &HeaderMap, removal: Removal) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let encoding = text(CONTENT_ENCODING).trim().to_ascii_lowercase();
        let is_plain = matches!(encoding.as_str(), "" | "identity");
        let removal = if is_plain { removal } else { Removal::Nothing };
        let kind = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let scan = match kind.as_str() {
            "text/event-stream" => Scan::Events(Box::new(EventScan::new(Framing::Events, removal))),
            "application/x-ndjson" | "application/jsonl" | "application/x-jsonlines" => {
                Scan::Events(Box::new(EventScan::new(Framing::Lines, Removal::Nothing)))
            }
            kind if kind == "application/json" || kind.ends_with("+json") => {
                let finder = Finder::new(IN_DOCUMENT);
                Scan::Document(Box::new(DocumentScan { finder, ended: Counts::default() }))
            }
            _ => Scan::Nothing,
        };
        match encoding.as_str() {
            _ if is_plain => AnswerScan::Plain(scan),
            "gzip" | "x-gzip" => AnswerScan::Gzip(Box::new(MultiGzDecoder::new(scan))),
            "deflate" => AnswerScan::Deflate(Box::new(ZlibDecoder::new(scan))),
            _ => AnswerScan::Opaque(scan),
        }
    }

    /// Scans data, and returns what is forwarded of it.
    pub(super) fn take(&mut self, data: Bytes) -> Bytes {
        let outcome = match self {
            AnswerScan::Plain(Scan::Events(events)) => return events.filter(data),
            AnswerScan::Plain(scan) => scan.write_all(&data),
            AnswerScan::Gzip(decoder) => decoder.write_all(&data),
            AnswerScan::Deflate(decoder) => decoder.write_all(&data),
            AnswerScan::Opaque(_) => Ok(()),
        };
        if outcome.is_err() {
            let scan = std::mem::replace(self.scan(), Scan::Nothing);
            *self = AnswerScan::Opaque(scan);
        }
        data
    }

    /// Ends the scan. Returns the bytes that were held back.
    pub(super) fn finish(&mut self) -> Bytes {
        // What is broken at the end of a compressed body was not scanned.
        let _broken = match self {
            AnswerScan::Gzip(decoder) => decoder.try_finish(),
            AnswerScan::Deflate(decoder) => decoder.try_finish(),
            AnswerScan::Plain(_) | AnswerScan::Opaque(_) => Ok(()),
        };
        match self.scan() {
            Scan::Events(events) => events.finish(),
            Scan::Document(_) | Scan::Nothing => Bytes::new(),
        }
    }

    /// Whether bytes may be removed from the body.
    pub(super) fn changes_body(&self) -> bool {
        matches!(self, AnswerScan::Plain(Scan::Events(events)) if events.changes_stream())
    }

    /// Whether bytes are held back.
    pub(super) fn holds_bytes(&self) -> bool {
        matches!(self, AnswerScan::Plain(Scan::Events(events)) if events.holds_bytes())
    }

    /// Returns what the answer has shown up to now.
    pub(super) fn shown(&mut self) -> Shown {
        let is_opaque = matches!(self, AnswerScan::Opaque(_));
        match self.scan() {
            Scan::Document(document) => Shown { counts: document.counts(), ..Shown::default() },
            Scan::Events(events) => Shown {
                counts: events.counts(),
                // The events of a body that can't be read are not known.
                content_events: (!is_opaque).then_some(events.content_events),
                has_content_behind: events.has_content_behind,
                has_last_event: events.has_last_event,
            },
            Scan::Nothing => Shown::default(),
        }
    }

    fn scan(&mut self) -> &mut Scan {
        match self {
            AnswerScan::Plain(scan) | AnswerScan::Opaque(scan) => scan,
            AnswerScan::Gzip(decoder) => decoder.get_mut(),
            AnswerScan::Deflate(decoder) => decoder.get_mut(),
        }
    }
}

impl Write for Scan {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        match self {
            Scan::Document(document) => document.push(data),
            Scan::Events(events) => events.observe(data),
            Scan::Nothing => {}
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
