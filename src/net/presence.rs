//! Asks the kernel about a connection: whether the peer has left, and how many bytes are unread.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A stream over a socket. Its methods ask the kernel about the connection, and read nothing from
/// the stream.
pub(crate) trait Peered {
    /// Returns the socket under the stream, while there is one.
    fn socket(&self) -> Option<BorrowedFd<'_>>;

    /// Whether the peer has closed its side, even if bytes from it are still unread.
    fn peer_has_left(&self) -> bool {
        let Some(socket) = self.socket() else { return true };
        let mut watched = [PollFd::new(&socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(1..))
    }

    /// Returns the number of received bytes that are unread. The real number may be larger.
    fn unread(&self) -> u64 {
        self.socket().and_then(|socket| rustix::io::ioctl_fionread(socket).ok()).unwrap_or_default()
    }

    /// Makes the connection end with a reset (RFC 9293, section 3.10.7.4). No client mistakes a
    /// reset for the regular end of an answer.
    fn reset(&self) {
        let Some(socket) = self.socket() else { return };
        // If the socket option can't be set, the socket is closed in the usual way, without a
        // reset.
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
