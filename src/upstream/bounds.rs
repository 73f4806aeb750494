//! How much an upstream may send before it is read, and how much is asked of it at once.

/// Bytes of an answer's head, at most.
pub(super) const MAX_HEAD_BYTES: usize = 128 * 1024;
/// Bytes that one read of a large answer takes. Reads start small, and grow only where it pays.
pub(super) const MAX_READ_BYTES: usize = 256 * 1024;
/// Requests at once on one HTTP/2 connection, where the upstream does not allow fewer.
pub(super) const MAX_STREAMS: usize = 100;
/// Bytes of one answer that an upstream may send ahead of a slow client.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// Bytes of all streams at once: a client that stops reading must not hold up the others on its
/// connection.
pub(super) const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;
