//! The send window of an HTTP/2 connection to upstream (RFC 9113, section 5.2), computed from the
//! frames on the connection.
//!
//! hyper does not expose the send window. A body that the server does not read uses up a part of
//! the window, so one client could use up all of it and stop all other uploads of the connection.
//! For requests with a body, the pool skips a connection whose window is used up.

/// Smallest window in which a new body is started, in bytes: the largest frame that every server
/// accepts.
const LEAST_ROOM: i64 = 16 * 1024;
/// Initial send window of a connection, in bytes (RFC 9113, section 6.9.2).
const INITIAL_WINDOW: i64 = 65_535;
/// Length of the preface that a client sends before its first frame, in bytes (RFC 9113, section
/// 3.4).
const PREFACE: usize = 24;
/// Length of a frame's header, in bytes (RFC 9113, section 4.1).
const HEADER: usize = 9;
const DATA: u8 = 0;
const WINDOW_UPDATE: u8 = 8;
/// Length of the payload of a `WINDOW_UPDATE`, in bytes.
const INCREMENT: usize = 4;

/// The send window of one HTTP/2 connection.
#[derive(Debug)]
pub(super) struct Window {
    /// Number of bytes of bodies that may still be sent.
    left: i64,
    sent: Frames,
    received: Frames,
}

impl Default for Window {
    fn default() -> Self {
        let sent = Frames { skip: PREFACE, ..Frames::default() };
        Window { left: INITIAL_WINDOW, sent, received: Frames::default() }
    }
}

impl Window {
    /// Whether the window has room for a complete frame of a new body.
    pub(super) fn has_room(&self) -> bool {
        self.left >= LEAST_ROOM
    }

    /// Subtracts the lengths of the DATA frames in `bytes` from the window. `bytes` were just
    /// written.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let left = &mut self.left;
        self.sent.read(bytes, |frame| {
            if frame.kind == DATA {
                *left -= i64::from(frame.length);
            }
        });
    }

    /// Adds the increments of the connection's `WINDOW_UPDATE` frames in `bytes` to the window.
    /// `bytes` were just read.
    pub(super) fn received(&mut self, bytes: &[u8]) {
        let left = &mut self.left;
        self.received.read(bytes, |frame| {
            if frame.kind == WINDOW_UPDATE && frame.stream == 0 {
                *left += i64::from(frame.increment);
            }
        });
    }
}

/// The fields of a frame that change the window.
struct Frame {
    kind: u8,
    length: u32,
    stream: u32,
    increment: u32,
}

/// Parser of the frames in one direction. A frame may be split across several reads.
#[derive(Debug, Default)]
struct Frames {
    /// Header of the frame that is being parsed, and, for a `WINDOW_UPDATE`, the payload after the
    /// header.
    head: [u8; HEADER + INCREMENT],
    /// Number of bytes of `head` that have been filled.
    filled: usize,
    /// Number of payload bytes that are still to be skipped.
    skip: usize,
}

impl Frames {
    fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            debug_assert!(
                skipped <= bytes.len() && self.filled <= self.wanted(),
                "offsets are within bounds"
            );
            bytes = bytes.get(skipped..).unwrap_or_default();
            let wanted = self.wanted();
            let taken = bytes.len().min(wanted - self.filled);
            let (part, rest) = bytes.split_at(taken);
            if let Some(room) = self.head.get_mut(self.filled..self.filled + taken) {
                room.copy_from_slice(part);
            }
            self.filled += taken;
            bytes = rest;
            if taken > 0 && self.filled == self.wanted() {
                let frame = self.frame();
                self.skip = (frame.length as usize).saturating_sub(self.filled - HEADER);
                self.filled = 0;
                found(frame);
            }
        }
    }

    /// Returns how many bytes of the current frame `head` must contain before the frame can be
    /// evaluated.
    fn wanted(&self) -> usize {
        let [.., l0, l1, l2, kind] = [0, self.head[0], self.head[1], self.head[2], self.head[3]];
        let length = u32::from_be_bytes([0, l0, l1, l2]) as usize;
        match self.filled >= HEADER && kind == WINDOW_UPDATE {
            true => HEADER + length.min(INCREMENT),
            false => HEADER,
        }
    }

    fn frame(&self) -> Frame {
        let [l0, l1, l2, kind, _flags, s0, s1, s2, s3, i0, i1, i2, i3] = self.head;
        // The highest bit of the stream id and of the increment is reserved, so both bits are
        // cleared.
        Frame {
            kind,
            length: u32::from_be_bytes([0, l0, l1, l2]),
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
            increment: u32::from_be_bytes([i0 & 0x7f, i1, i2, i3]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, 0];
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    #[test]
    fn the_window_is_counted_however_the_frames_are_split() {
        let sent =
            [vec![b'P'; PREFACE], frame(4, 0, &[]), frame(DATA, 1, &[8; 50_000]), frame(1, 3, &[0; 40])];
        let sent = sent.concat();
        let received = [
            frame(4, 0, &[0; 12]),
            frame(8, 1, &[0, 1, 0, 0]),
            frame(8, 0, &[0x80, 0, 1, 0]),
            frame(6, 0, &[0; 8]),
        ];
        let received = received.concat();
        for piece in [1, 2, 3, 7, 9, 10, 13, 1000, usize::MAX] {
            let mut window = Window::default();
            for bytes in sent.chunks(piece.min(sent.len())) {
                window.sent(bytes);
            }
            assert_eq!(window.left, INITIAL_WINDOW - 50_000, "{piece}");
            assert!(!window.has_room());
            for bytes in received.chunks(piece.min(received.len())) {
                window.received(bytes);
            }
            assert_eq!(window.left, INITIAL_WINDOW - 50_000 + 256, "{piece}");
            window.received(&frame(8, 0, &[0, 0, 0x40, 0]));
            assert!(window.has_room());
        }
    }
}
