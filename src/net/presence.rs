//! Whether the other end of a connection is still there.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A stream that can tell whether its peer is gone while bytes of it are still unread.
pub(crate) trait Peered {
    fn peer_has_left(&self) -> bool;

    /// Bytes that have arrived and that nobody has read; it may be less than there are.
    fn unread(&self) -> u64;

    /// Has the stream's end be a reset (RFC 9293, section 3.10.7.4), which nobody takes for the end of an answer.
    fn reset(&self);
}

impl Peered for TcpStream {
    fn peer_has_left(&self) -> bool {
        has_hung_up(self)
    }

    fn unread(&self) -> u64 {
        unread(self)
    }

    fn reset(&self) {
        end_by_reset(self);
    }
}

impl Peered for UnixStream {
    fn peer_has_left(&self) -> bool {
        has_hung_up(self)
    }

    fn unread(&self) -> u64 {
        unread(self)
    }

    fn reset(&self) {
        end_by_reset(self);
    }
}

impl<S: Peered> Peered for TlsStream<S> {
    fn peer_has_left(&self) -> bool {
        self.get_ref().0.peer_has_left()
    }

    fn unread(&self) -> u64 {
        self.get_ref().0.unread()
    }

    fn reset(&self) {
        self.get_ref().0.reset();
    }
}

fn has_hung_up(socket: &impl AsFd) -> bool {
    let mut watched = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(1..))
}

fn unread(socket: &impl AsFd) -> u64 {
    rustix::io::ioctl_fionread(socket).unwrap_or_default()
}

fn end_by_reset(socket: &impl AsFd) {
    // A socket that can't be told ends as it would have.
    let _as_before = SockRef::from(socket).set_linger(Some(Duration::ZERO));
}
