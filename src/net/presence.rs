//! Whether the other end of a connection is still there.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A stream over a socket, of which the kernel knows more than what was read.
pub(crate) trait Peered {
    /// The socket under the stream.
    fn socket(&self) -> BorrowedFd<'_>;

    /// Whether its peer is gone while bytes of it are still unread.
    fn peer_has_left(&self) -> bool {
        let socket = self.socket();
        let mut watched = [PollFd::new(&socket, PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(1..))
    }

    /// Bytes that have arrived and that nobody has read; it may be less than there are.
    fn unread(&self) -> u64 {
        rustix::io::ioctl_fionread(self.socket()).unwrap_or_default()
    }

    /// Has the stream's end be a reset (RFC 9293, section 3.10.7.4), which nobody takes for the end of an answer.
    fn reset(&self) {
        // A socket that can't be told ends as it would have.
        let _as_before = SockRef::from(&self.socket()).set_linger(Some(Duration::ZERO));
    }
}

impl Peered for TcpStream {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

impl Peered for UnixStream {
    fn socket(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

impl<S: Peered> Peered for TlsStream<S> {
    fn socket(&self) -> BorrowedFd<'_> {
        self.get_ref().0.socket()
    }
}
