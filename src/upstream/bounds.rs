//! Size limits of connections to upstream, shared by the pool and the socket under a connection.

/// Largest head of an upstream's answer, in bytes.
pub(super) const MAX_HEAD_BYTES: usize = 128 * 1024;
/// Largest single read from a connection to upstream, in bytes. Reads begin small, and grow for large
/// answers.
pub(super) const MAX_READ_BYTES: usize = 256 * 1024;
/// Largest number of concurrent requests on one HTTP/2 connection to upstream. The upstream's own
/// limit may be lower.
pub(super) const MAX_STREAMS: usize = 100;
/// HTTP/2 flow-control window of one stream, in bytes: how much an upstream may send before a slow
/// client has read any of it.
pub(super) const STREAM_WINDOW: u32 = 256 * 1024;
/// HTTP/2 flow-control window of one connection, in bytes. It has room for all streams, so a client
/// that stops reading does not block the other streams of the connection.
pub(super) const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;
