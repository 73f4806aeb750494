//! Whether the other end of a connection is still there.

use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::server::TlsStream;

/// A stream that can tell whether its peer is gone while bytes of it are still unread.
pub(crate) trait Peered {
    fn peer_has_left(&self) -> bool;
}

impl Peered for TcpStream {
    fn peer_has_left(&self) -> bool {
        has_hung_up(self)
    }
}

impl Peered for UnixStream {
    fn peer_has_left(&self) -> bool {
        has_hung_up(self)
    }
}

impl<S: Peered> Peered for TlsStream<S> {
    fn peer_has_left(&self) -> bool {
        self.get_ref().0.peer_has_left()
    }
}

fn has_hung_up(socket: &impl AsFd) -> bool {
    let mut watched = [PollFd::new(socket, PollFlags::RDHUP)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(rustix::event::poll(&mut watched, Some(&now)), Ok(1..))
}
