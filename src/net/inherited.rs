//! Sockets that a service manager has bound and passes to this process (systemd's socket
//! activation). New connections queue in these sockets between the end of one process and the start
//! of the next.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};

use listenfd::ListenFd;
use socket2::Socket;

use super::local::Local;
use crate::config::Address;

/// The inherited sockets that no listener uses yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<(Socket, Local)>);

impl Inherited {
    /// Takes over the sockets that the environment names (`LISTEN_FDS`; `sd_listen_fds(3)`).
    ///
    /// # Errors
    ///
    /// Fails if a descriptor is no stream socket, or if a socket has no address.
    pub(crate) fn from_environment() -> io::Result<Self> {
        let mut descriptors = ListenFd::from_env();
        let mut sockets = Vec::with_capacity(descriptors.len());
        for index in 0..descriptors.len() {
            let socket = match descriptors.take_tcp_listener(index) {
                Ok(Some(listener)) => Socket::from(listener),
                Ok(None) => continue,
                Err(_not_tcp) => match descriptors.take_unix_listener(index)? {
                    Some(listener) => Socket::from(listener),
                    None => continue,
                },
            };
            let address = socket.local_addr()?;
            let local = match (address.as_socket(), address.as_pathname()) {
                (Some(address), _) => Local::Tcp(address),
                (None, Some(path)) => Local::Unix(path.to_owned()),
                (None, None) => return Err(io::Error::other("an inherited socket has no address")),
            };
            sockets.push((socket, local));
        }
        Ok(Inherited(sockets))
    }

    /// Removes and returns the socket that is bound to `address`, if there is one.
    pub(super) fn take(&mut self, address: &Address) -> Option<(Socket, Local)> {
        let index = self.0.iter().position(|(_, local)| is_at(local, address))?;
        Some(self.0.swap_remove(index))
    }

    /// Returns the addresses of the sockets that no listener uses.
    pub(crate) fn left(&self) -> Vec<String> {
        self.0.iter().map(|(_, local)| local.to_string()).collect()
    }
}

/// Whether a socket's address is the configured one. `0.0.0.0` and `[::]` match any address.
fn is_at(local: &Local, address: &Address) -> bool {
    match (local, address) {
        (Local::Unix(path), Address::Unix(wanted)) => path == wanted,
        (Local::Tcp(local), Address::Tcp(wanted)) => {
            let is_same = |wanted: SocketAddr| {
                let is_any = local.ip().is_unspecified() || wanted.ip().is_unspecified();
                local.port() == wanted.port() && (is_any || local.ip() == wanted.ip())
            };
            wanted.to_socket_addrs().is_ok_and(|mut wanted| wanted.any(is_same))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_found_by_its_address() {
        let tcp = |address: &str| Local::Tcp(address.parse().unwrap());
        let wanted = |address: &str| Address::Tcp(address.to_owned());
        assert!(is_at(&tcp("127.0.0.1:80"), &wanted("127.0.0.1:80")));
        assert!(is_at(&tcp("[::]:80"), &wanted("0.0.0.0:80")));
        assert!(!is_at(&tcp("127.0.0.1:80"), &wanted("127.0.0.2:80")));
        assert!(!is_at(&tcp("127.0.0.1:80"), &wanted("127.0.0.1:81")));
        assert!(is_at(&Local::Unix("/a".into()), &Address::Unix("/a".into())));
        assert!(!is_at(&Local::Unix("/a".into()), &wanted("127.0.0.1:80")));
    }
}
