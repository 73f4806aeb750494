//! Counts the frames of HTTP/2 that make work and carry nothing (RFC 9113, section 10.5).
//!
//! hyper and h2 bound resets, CONTINUATION, small DATA and what is refused; PING, SETTINGS, PRIORITY, WINDOW_UPDATE and
//! unknown frames they take at any rate. This looks at the nine bytes of each frame's header alone and never changes
//! one; what a frame means is h2's business.

use std::time::Instant;

use bytes::Bytes;

/// What is sent before the first frame (RFC 9113, section 3.4).
const PREFACE: usize = 24;
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;

/// Frames that may come at any time beyond what is earned,
const BURST: f64 = 2000.0;
/// … more of them each second,
const PER_SECOND: f64 = 200.0;
/// … and no more than this, however much was earned.
const MOST: f64 = 20_000.0;
/// A window that is reopened counts for so much. Simple clients reopen two for each frame of an answer, however small; it
/// makes us send nothing back and keep nothing.
const PER_WINDOW: f64 = 1.0 / 16.0;
/// A request earns as many: its own priority, windows and cancellation.
const PER_REQUEST: f64 = 8.0;
/// A frame of an answer earns as many: the windows that it reopens, and a client's pings that measure it,
const PER_FRAME: f64 = 4.0;
/// … and more where it is a large one: one for so many bytes.
const BYTES_EACH: f64 = 1024.0;

/// A connection's frames so far.
#[derive(Debug)]
pub(super) struct FrameMeter {
    /// Bytes of the current frame that are still to come.
    payload: usize,
    header: [u8; HEADER],
    header_length: usize,
    /// The first frame has come: it must be SETTINGS (RFC 9113, section 3.4).
    has_begun: bool,
    budget: f64,
    refilled: Instant,
    earned: f64,
}

/// What a connection has done that is worth something.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Worth {
    pub(crate) requests: usize,
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

impl Worth {
    #[allow(clippy::cast_precision_loss, reason = "an estimate, from which only differences are taken")]
    fn frames_earned(self) -> f64 {
        self.requests as f64 * PER_REQUEST + self.frames as f64 * PER_FRAME + self.bytes as f64 / BYTES_EACH
    }
}

impl FrameMeter {
    pub(super) fn new() -> Self {
        FrameMeter {
            payload: PREFACE,
            header: [0; HEADER],
            header_length: 0,
            has_begun: false,
            budget: BURST,
            refilled: Instant::now(),
            earned: 0.0,
        }
    }

    /// Counts the frames in bytes that have arrived. Says whether the connection may go on.
    pub(super) fn takes(&mut self, mut bytes: &[u8], worth: Worth, now: Instant) -> bool {
        let mut idle_frames = 0.0;
        while !bytes.is_empty() {
            let skipped = self.payload.min(bytes.len());
            self.payload -= skipped;
            let rest = bytes.get(skipped..).unwrap_or_default();
            let missing = if self.payload > 0 { 0 } else { HEADER - self.header_length };
            let (head, rest) = rest.split_at(missing.min(rest.len()));
            if let Some(room) = self.header.get_mut(self.header_length..self.header_length + head.len()) {
                room.copy_from_slice(head);
            }
            self.header_length += head.len();
            if self.header_length == HEADER {
                self.header_length = 0;
                let [high, middle, low, kind, ..] = self.header;
                self.payload = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
                if !self.has_begun && kind != SETTINGS {
                    return false;
                }
                self.has_begun = true;
                idle_frames += match kind {
                    DATA if self.payload > 0 => 0.0,
                    HEADERS => 0.0,
                    WINDOW_UPDATE => PER_WINDOW,
                    _ => 1.0,
                };
            }
            bytes = rest;
        }
        if idle_frames == 0.0 {
            return true;
        }
        self.refill(worth, now);
        self.budget -= idle_frames;
        self.budget >= 0.0
    }

    fn refill(&mut self, worth: Worth, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        let earned = worth.frames_earned();
        let by_time = (self.budget + elapsed * PER_SECOND).min(BURST.max(self.budget));
        self.budget = (by_time + (earned - self.earned)).min(MOST);
        self.earned = earned;
    }
}

/// A SETTINGS frame, with this size of a header list in the place of its own (RFC 9113, section 6.5); `None` where it
/// is no such frame.
pub(super) fn with_header_list(frame: &[u8], size: u32) -> Option<Bytes> {
    const ENTRY: usize = 6;
    const MAX_HEADER_LIST_SIZE: [u8; 2] = [0, 6];
    let length = usize::from(*frame.get(1)?) << 8 | usize::from(*frame.get(2)?);
    if *frame.get(3)? != SETTINGS || frame.len() < HEADER + length {
        return None;
    }
    let mut frame = frame.to_vec();
    let entries = frame.get_mut(HEADER..HEADER + length)?.chunks_exact_mut(ENTRY);
    for entry in entries.filter(|entry| entry.starts_with(&MAX_HEADER_LIST_SIZE)) {
        entry.get_mut(2..)?.copy_from_slice(&size.to_be_bytes());
    }
    Some(Bytes::from(frame))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, length: usize) -> Vec<u8> {
        let length_bytes = u32::try_from(length).unwrap().to_be_bytes();
        let mut frame = vec![length_bytes[1], length_bytes[2], length_bytes[3], kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER + length, 0);
        frame
    }

    /// The preface, and a client's settings.
    fn begun() -> Vec<u8> {
        [&[0; PREFACE], &frame(SETTINGS, 0)[..]].concat()
    }

    #[test]
    fn the_first_frame_is_settings() {
        let first = |kind: u8| {
            let mut meter = FrameMeter::new();
            let now = meter.refilled;
            meter.takes(&[&[0; PREFACE], &frame(kind, 4)[..]].concat(), Worth::default(), now)
        };
        assert!(first(SETTINGS) && !first(HEADERS) && !first(DATA) && !first(6));
    }

    /// How many of these frames a connection takes, in pieces of this size.
    fn taken(frame: &[u8], piece: usize, worth: Worth) -> usize {
        let mut meter = FrameMeter::new();
        let now = meter.refilled;
        assert!(meter.takes(&begun(), worth, now));
        let mut frames = 1;
        while frames < 50_000 {
            for piece in frame.chunks(piece) {
                if !meter.takes(piece, worth, now) {
                    return frames;
                }
            }
            frames += 1;
        }
        frames
    }

    #[test]
    fn frames_that_carry_nothing_end_and_others_do_not() {
        let none = Worth::default();
        for piece in [1, 2, 8, 9, 10, 1000] {
            for kind in [2, 3, 4, 6, 9, 0x55] {
                assert_eq!(taken(&frame(kind, 8), piece, none), 2000, "{kind} in {piece}s");
            }
            assert_eq!(taken(&frame(WINDOW_UPDATE, 4), piece, none), 1 + 16 * 1999);
            assert_eq!(taken(&frame(DATA, 0), piece, none), 2000);
            assert_eq!(taken(&frame(DATA, 1), piece, none), 50_000);
            assert_eq!(taken(&frame(HEADERS, 30), piece, none), 50_000);
        }
    }

    #[test]
    fn settings_say_our_size_and_nothing_else_changes() {
        let entry = |id: u8, value: u32| [&[0, id], &value.to_be_bytes()[..]].concat();
        let settings = |size: u32| {
            let entries = [entry(3, 200), entry(6, size), entry(4, 6)].concat();
            [&[0, 0, 18, 4, 0, 0, 0, 0, 0], &entries[..], b"more"].concat()
        };
        assert_eq!(with_header_list(&settings(131_072), 32_768).unwrap(), settings(32_768));
        for other in [&frame(6, 8)[..], b"HTTP/1.1 200 OK", b"", &settings(1)[..12]] {
            assert_eq!(with_header_list(other, 1), None);
        }
    }

    #[test]
    fn work_earns_frames_and_so_does_time_within_bounds() {
        let ping = frame(6, 8);
        assert_eq!(taken(&ping, 100, Worth { requests: 10, ..Worth::default() }), 2080);
        assert_eq!(taken(&ping, 100, Worth { requests: 0, frames: 10, bytes: 10 * 1024 }), 2050);
        assert_eq!(taken(&ping, 100, Worth { bytes: usize::MAX, ..Worth::default() }), 20_000);
        let mut meter = FrameMeter::new();
        let start = meter.refilled;
        assert!(meter.takes(&begun(), Worth::default(), start));
        let pings = ping.repeat(100);
        // Two hundred a second for an hour are nobody's harm.
        for half_second in 0..7200 {
            assert!(meter.takes(&pings, Worth::default(), start + Duration::from_millis(500) * half_second));
        }
    }
}
