//! Limits on the bytes of an HTTP/2 connection that are read in one poll of its task.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Wire;
use crate::net::presence::Peered;

/// The most bytes that are read in one poll, after which other connections have their turn.
const TURN_BYTES: usize = 128 * 1024;

/// The most bytes that are read in one poll until a valid key was presented on the connection, not
/// counting the rest of one frame. Frames in these bytes can begin about ten streams, each of which
/// uses some kilobytes until its task is polled.
const UNAUTHENTICATED_TURN_BYTES: usize = 128;
/// The most bytes of one frame that are read at once from an unauthenticated client.
const UNAUTHENTICATED_PIECE: usize = 4096;

impl<S: AsyncRead + AsyncWrite + Peered + Unpin> Wire<S> {
    /// Whether more bytes may be read from the socket in this poll of the connection's task.
    pub(super) fn has_turn(&mut self, is_in_pieces: bool) -> bool {
        let turn = self.activity.turn();
        if turn != self.turn.number {
            (self.turn.number, self.turn.bytes) = (turn, 0);
        }
        self.turn.bytes < if is_in_pieces { UNAUTHENTICATED_TURN_BYTES } else { TURN_BYTES }
    }

    /// Returns how many bytes to read at once from an unauthenticated client.
    pub(super) fn piece(&self) -> usize {
        let rest = self.frames.as_ref().map_or(0, |frames| frames.received.rest_of_frame());
        rest.clamp(UNAUTHENTICATED_TURN_BYTES, UNAUTHENTICATED_PIECE)
    }

    /// Reads at most [`Self::piece`] bytes from an unauthenticated client.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = self.piece().min(buf.remaining());
        // The buffer is on the stack, and exists only during a read.
        let mut room = [0; UNAUTHENTICATED_PIECE];
        let mut piece = ReadBuf::new(room.get_mut(..length).unwrap_or_default());
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut piece);
        buf.put_slice(piece.filled());
        read
    }
}
