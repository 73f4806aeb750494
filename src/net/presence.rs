//! Whether the other end of a connection is still there.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A stream over a socket, of which the kernel knows more than was read.
pub(crate) trait Peered {
    /// The socket under the stream, while there is one.
    fn socket(&self) -> Option<BorrowedFd<'_>>;

    /// Whether the peer is gone while bytes of it are still unread.
    fn peer_has_left(&self) -> bool {
        let Some(socket) = self.socket() else { return true };
        let mut watched = [PollFd::new(&socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(1..))
    }

    /// Bytes that have arrived and are unread; it may be fewer than there are.
    fn unread(&self) -> u64 {
        self.socket().and_then(|socket| rustix::io::ioctl_fionread(socket).ok()).unwrap_or_default()
    }

    /// Makes the stream end with a reset (RFC 9293, section 3.10.7.4), which no client takes for
    /// the end of an answer.
    fn reset(&self) {
        let Some(socket) = self.socket() else { return };
        // On failure the socket ends as it would have.
        let _as_before = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
    }
}

impl Peered for TcpStream {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl Peered for UnixStream {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl<S: Peered> Peered for TlsStream<S> {
    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.get_ref().0.socket()
    }
}
