//! How much of an HTTP/2 connection is read in a turn of its task.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Wire;
use crate::net::presence::Peered;

/// Under HTTP/2, other connections have a turn after so many bytes, however many there are to read.
const TURN_BYTES: usize = 128 * 1024;

/// … and until a good key came, after so many and what is left of one frame: the frames in these bytes can ask for some ten
/// streams, each of which holds some kilobytes until its task has had its turn.
const STRANGER_TURN_BYTES: usize = 128;
/// What is read at once of one frame.
const STRANGER_PIECE: usize = 4096;

impl<S: AsyncRead + AsyncWrite + Peered + Unpin> Wire<S> {
    /// Whether more may be read in this turn of the connection's task.
    pub(super) fn has_turn(&mut self, is_in_pieces: bool) -> bool {
        let turn = self.activity.turn();
        if turn != self.turn.number {
            (self.turn.number, self.turn.bytes) = (turn, 0);
        }
        self.turn.bytes < if is_in_pieces { STRANGER_TURN_BYTES } else { TURN_BYTES }
    }

    /// What is read at once of a stranger's connection.
    pub(super) fn piece(&self) -> usize {
        let rest = self.frames.as_ref().map_or(0, |frames| frames.received.rest_of_frame());
        rest.clamp(STRANGER_TURN_BYTES, STRANGER_PIECE)
    }

    /// Reads no more than a stranger's turn.
    pub(super) fn poll_piece(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let length = self.piece().min(buf.remaining());
        // On the stack, and only while something is read.
        let mut room = [0; STRANGER_PIECE];
        let mut piece = ReadBuf::new(room.get_mut(..length).unwrap_or_default());
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut piece);
        buf.put_slice(piece.filled());
        read
    }
}
