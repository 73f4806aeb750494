//! Limits the HTTP/2 frames that cost work and carry no data (RFC 9113, section 10.5).
//!
//! hyper and h2 bound resets, CONTINUATION, small DATA and refused streams. They accept PING,
//! SETTINGS, PRIORITY, WINDOW_UPDATE and unknown frames at any rate. This file parses only the nine
//! bytes of each frame's header and changes no received frame; h2 parses the frames themselves.

use std::time::Instant;

use bytes::Bytes;

/// The length of the client's preface, which precedes the first frame (RFC 9113, section 3.4).
const PREFACE: usize = 24;
const HEADER: usize = 9;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
/// Flags of frames (RFC 9113, sections 6.1, 6.2 and 6.10).
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// Frames without data that a client may send in a burst, beyond the credit that it has earned.
const BURST: f64 = 2000.0;
/// Frames per second by which the budget is refilled, up to [`BURST`].
const PER_SECOND: f64 = 200.0;
/// The upper limit of a client's budget, in frames.
const MOST: f64 = 20_000.0;
/// The cost of a WINDOW_UPDATE frame, in frames. It is low because we neither answer such a frame
/// nor store anything for it.
const PER_WINDOW: f64 = 1.0 / 16.0;
/// The credit for each DATA frame that was written, in frames. Simple clients send two
/// WINDOW_UPDATE frames for each DATA frame of any size: one for the stream and one for the
/// connection. If a WINDOW_UPDATE opens the window by a few bytes only, the next DATA frame is
/// equally small.
const PER_WRITTEN: f64 = 2.0 * PER_WINDOW;
/// The credit for each request, in frames: the client may send its priority, window updates and
/// cancellation.
const PER_REQUEST: f64 = 8.0;
/// The credit for each frame of an answer, in frames: the client sends window updates for it, and
/// PINGs that measure the connection.
const PER_FRAME: f64 = 4.0;
/// The number of an answer's bytes that earn one more frame of credit.
const BYTES_EACH: f64 = 1024.0;

/// The header of a frame (RFC 9113, section 4.1).
#[derive(Clone, Copy, Debug)]
struct Head {
    length: usize,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl Head {
    fn of([high, middle, low, kind, flags, s1, s2, s3, s4]: [u8; HEADER]) -> Self {
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        // The highest bit of a stream's number is reserved.
        Head { length, kind, flags, stream: u32::from_be_bytes([s1 & 0x7f, s2, s3, s4]) }
    }

    /// Whether the frame is a part of a header block, which ends with END_HEADERS.
    fn is_of_block(self) -> bool {
        matches!(self.kind, HEADERS | PUSH_PROMISE | CONTINUATION)
    }
}

/// Finds the frame headers in a stream of bytes that arrives in pieces.
#[derive(Debug)]
struct Walk {
    /// Bytes of the current frame's payload that are still to come.
    payload: usize,
    header: [u8; HEADER],
    header_length: usize,
}

impl Walk {
    /// Makes a walk that skips the first `skipped` bytes, which precede the first frame.
    fn new(skipped: usize) -> Self {
        Walk { payload: skipped, header: [0; HEADER], header_length: 0 }
    }

    /// Consumes `bytes` up to the end of the next frame header, and returns that header. Returns
    /// `None` if `bytes` end before that.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skipped = self.payload.min(bytes.len());
        self.payload -= skipped;
        let rest = bytes.get(skipped..).unwrap_or_default();
        let missing = if self.payload > 0 { 0 } else { HEADER - self.header_length };
        let (head, rest) = rest.split_at(missing.min(rest.len()));
        debug_assert!(self.header_length + head.len() <= HEADER);
        if let Some(room) = self.header.get_mut(self.header_length..self.header_length + head.len()) {
            room.copy_from_slice(head);
        }
        self.header_length += head.len();
        *bytes = rest;
        if self.header_length < HEADER {
            return None;
        }
        self.header_length = 0;
        let head = Head::of(self.header);
        self.payload = head.length;
        Some(head)
    }

    /// Whether the bytes so far end within a frame.
    fn is_amid(&self) -> bool {
        self.header_length > 0 || self.payload > 0
    }
}

/// Counts the frames that the client of one connection sends.
#[derive(Debug)]
pub(super) struct FrameMeter {
    walk: Walk,
    /// Whether the first frame has arrived: it must be SETTINGS (RFC 9113, section 3.4).
    has_begun: bool,
    /// Whether a header block has begun and not ended.
    is_in_block: bool,
    /// Whether the current frame is a DATA frame.
    is_in_data: bool,
    /// The number of streams that the client has reset, as counted so far.
    resets: usize,
    /// The time when the incomplete header block, or the incomplete frame other than DATA, began;
    /// `None` if nothing of this kind is incomplete.
    incomplete_since: Option<Instant>,
    budget: f64,
    refilled: Instant,
    earned: f64,
}

/// The work on a connection that earns its client credit for frames without data.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Credit {
    pub(crate) requests: usize,
    pub(crate) frames: usize,
    pub(crate) bytes: usize,
}

impl Credit {
    #[allow(clippy::cast_precision_loss, reason = "an estimate, from which only differences are taken")]
    fn frames_earned(self) -> f64 {
        self.requests as f64 * PER_REQUEST + self.frames as f64 * PER_FRAME + self.bytes as f64 / BYTES_EACH
    }
}

impl FrameMeter {
    pub(super) fn new() -> Self {
        FrameMeter {
            walk: Walk::new(PREFACE),
            has_begun: false,
            is_in_block: false,
            is_in_data: false,
            resets: 0,
            incomplete_since: None,
            budget: BURST,
            refilled: Instant::now(),
            earned: 0.0,
        }
    }

    /// Returns the number of streams that the client has reset.
    pub(super) fn resets(&self) -> usize {
        self.resets
    }

    /// Returns the number of bytes of the current frame that are still to come.
    pub(super) fn rest_of_frame(&self) -> usize {
        self.walk.payload
    }

    /// Returns the time when the incomplete header block, or the incomplete frame other than DATA,
    /// began; `None` if nothing of this kind is incomplete.
    pub(super) fn incomplete_since(&self) -> Option<Instant> {
        self.incomplete_since
    }

    /// Counts the frames in received bytes, and notes in `answers` the streams that the client has
    /// reset. Returns whether the connection may continue.
    pub(super) fn takes(
        &mut self,
        mut bytes: &[u8],
        answers: &mut OpenAnswers,
        credit: Credit,
        now: Instant,
    ) -> bool {
        let mut idle_frames = 0.0;
        while !bytes.is_empty() {
            let Some(head) = self.walk.next(&mut bytes) else { break };
            if !self.has_begun && head.kind != SETTINGS {
                return false;
            }
            self.has_begun = true;
            self.is_in_data = head.kind == DATA;
            if !self.is_in_block {
                self.incomplete_since = None;
            }
            if head.is_of_block() {
                self.is_in_block = head.flags & END_HEADERS == 0;
            }
            idle_frames += match head.kind {
                DATA if head.length > 0 => 0.0,
                HEADERS => 0.0,
                WINDOW_UPDATE => PER_WINDOW,
                RST_STREAM => {
                    answers.over(head.stream);
                    self.resets += 1;
                    1.0
                }
                _ => 1.0,
            };
        }
        let is_owed = self.is_in_block || (self.walk.is_amid() && !self.is_in_data);
        self.incomplete_since = is_owed.then(|| self.incomplete_since.unwrap_or(now));
        if idle_frames == 0.0 {
            return true;
        }
        self.refill(credit.frames_earned() + answers.frames_earned(), now);
        self.budget -= idle_frames;
        self.budget >= 0.0
    }

    fn refill(&mut self, earned: f64, now: Instant) {
        let elapsed = now.saturating_duration_since(self.refilled).as_secs_f64();
        self.refilled = now;
        let by_time = (self.budget + elapsed * PER_SECOND).min(BURST.max(self.budget));
        self.budget = (by_time + (earned - self.earned)).min(MOST);
        self.earned = earned;
    }
}

/// The streams whose answers are partly written to the socket.
///
/// If a client leaves no room in its window, h2 keeps the rest of an answer after hyper and our
/// code have finished the stream. Only the bytes written to the socket show that such an answer is
/// unsent.
#[derive(Debug)]
pub(super) struct OpenAnswers {
    walk: Walk,
    streams: Vec<u32>,
    /// The number of written DATA frames that are not empty.
    body_frames: u32,
}

impl OpenAnswers {
    pub(super) fn new() -> Self {
        OpenAnswers { walk: Walk::new(0), streams: Vec::new(), body_frames: 0 }
    }

    /// Notes the frames in `bytes`, which were written to the socket. Returns whether a DATA frame
    /// was among them.
    pub(super) fn wrote(&mut self, mut bytes: &[u8]) -> bool {
        let mut has_data = false;
        while !bytes.is_empty() {
            let Some(head) = self.walk.next(&mut bytes) else { break };
            match head.kind {
                HEADERS | DATA => {
                    has_data |= head.kind == DATA;
                    if head.kind == DATA && head.length > 0 {
                        self.body_frames = self.body_frames.saturating_add(1);
                    }
                    match head.flags & END_STREAM {
                        0 if head.kind == HEADERS => self.streams.push(head.stream),
                        0 => {}
                        _ => self.over(head.stream),
                    }
                }
                RST_STREAM => self.over(head.stream),
                _ => {}
            }
        }
        has_data
    }

    /// Notes that a stream has ended, on either side.
    fn over(&mut self, stream: u32) {
        // Searched from the end: the latest stream is the likeliest to end.
        if let Some(index) = self.streams.iter().rposition(|open| *open == stream) {
            self.streams.swap_remove(index);
        }
    }

    pub(super) fn count(&self) -> usize {
        self.streams.len()
    }

    fn frames_earned(&self) -> f64 {
        f64::from(self.body_frames) * PER_WRITTEN
    }
}

/// Returns a SETTINGS frame with SETTINGS_MAX_HEADER_LIST_SIZE set to `size` (RFC 9113, section
/// 6.5); `None` if `frame` is any other frame.
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
mod tests;
