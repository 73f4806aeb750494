//! The states of an HTTP/1 connection that waits for a request, and the time limits of these
//! states.

use std::time::Duration;

use tokio::time::Instant;

/// Time limits of a connection's phases.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WireTimeouts {
    /// Time limit from the first to the last byte of a request's head. For the first head of a
    /// connection, the time begins with the connection.
    pub(crate) header: Duration,
    /// Time limit of a connection without a request in service.
    pub(crate) idle: Duration,
    /// How long the write of an answer may make no progress.
    pub(crate) client_stall: Duration,
}

/// The size of the received part of a head.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct HeadSeen {
    pub(crate) bytes: usize,
    /// The number of line ends: zero while the request line is incomplete.
    pub(crate) lines: usize,
}

impl HeadSeen {
    /// Whether `bytes` are only empty lines, which may precede a head (RFC 9112, section 2.2).
    pub(super) fn is_blank(bytes: &[u8]) -> bool {
        bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    pub(super) fn and(self, bytes: &[u8]) -> Self {
        let lines = memchr::memchr_iter(b'\n', bytes).count();
        HeadSeen { bytes: self.bytes + bytes.len(), lines: self.lines + lines }
    }
}

/// The state of a connection without a request in service: what the connection waits for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Phase {
    /// The connection waits for the first byte of the next head.
    Idle { since: Instant },
    /// The connection waits for the rest of a head.
    Head { since: Instant, seen: HeadSeen },
}

impl Phase {
    /// Returns the phase after `bytes` were received.
    pub(super) fn and(self, bytes: &[u8]) -> Self {
        match self {
            Phase::Idle { .. } if HeadSeen::is_blank(bytes) => self,
            Phase::Idle { .. } => Phase::Head { since: Instant::now(), seen: HeadSeen::default().and(bytes) },
            Phase::Head { since, seen } => Phase::Head { since, seen: seen.and(bytes) },
        }
    }

    /// Returns the time at which the time limit of this phase ends.
    pub(super) fn end(self, timeouts: WireTimeouts) -> Instant {
        match self {
            Phase::Idle { since } => since + timeouts.idle,
            Phase::Head { since, .. } => since + timeouts.header,
        }
    }

    /// Returns the size of the received part of a head, for the answer that refuses the head.
    pub(super) fn head(self) -> HeadSeen {
        match self {
            Phase::Head { seen, .. } => seen,
            // The head arrived together with an earlier request, so its bytes were not counted.
            Phase::Idle { .. } => HeadSeen { bytes: usize::MAX, lines: 1 },
        }
    }
}
