//! The waits of a connection of HTTP/1 between two requests, and their limits.

use std::time::Duration;

use tokio::time::Instant;

/// Time limits of a connection's phases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireTimeouts {
    /// From a head's first byte to its last; for the first head, from the start of the connection.
    pub(crate) header: Duration,
    /// Without a request.
    pub(crate) idle: Duration,
    /// Without progress of a write of an answer.
    pub(crate) client_stall: Duration,
}

/// The part of a head that has come.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadSeen {
    pub(crate) bytes: usize,
    /// Ends of lines: zero within the request line.
    pub(crate) lines: usize,
}

impl HeadSeen {
    /// Whether these are empty lines, which may precede a head (RFC 9112, section 2.2).
    pub(super) fn is_blank(bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    pub(super) fn and(self, bytes: &[u8]) -> Self {
        let lines = memchr::memchr_iter(b'\n', bytes).count();
        HeadSeen { bytes: self.bytes + bytes.len(), lines: self.lines + lines }
    }
}

/// What a connection without a request in service waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// The first byte of the next head.
    Idle { since: Instant },
    /// The rest of a head.
    Head { since: Instant, seen: HeadSeen },
}

impl Phase {
    /// The phase after more bytes have come.
    pub(super) fn and(self, bytes: &[u8]) -> Self {
        match self {
            Phase::Idle { .. } if HeadSeen::is_blank(bytes) => self,
            Phase::Idle { .. } => Phase::Head { since: Instant::now(), seen: HeadSeen::default().and(bytes) },
            Phase::Head { since, seen } => Phase::Head { since, seen: seen.and(bytes) },
        }
    }

    /// The deadline of the wait.
    pub(super) fn end(self, timeouts: WireTimeouts) -> Instant {
        match self {
            Phase::Idle { since } => since + timeouts.idle,
            Phase::Head { since, .. } => since + timeouts.header,
        }
    }

    /// The received part of the head that is refused.
    pub(super) fn head(self) -> HeadSeen {
        match self {
            Phase::Head { seen, .. } => seen,
            // The head came along with an earlier request, and was not counted.
            Phase::Idle { .. } => HeadSeen { bytes: usize::MAX, lines: 1 },
        }
    }
}
