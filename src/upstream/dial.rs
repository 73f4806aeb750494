//! Connects to one of several addresses of a host name: "happy eyeballs" (RFC 8305, section 5).
//!
//! The pool calls [`dial`] if an endpoint is one of several addresses of a host name.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Delay before the next address of a host name is tried in parallel, as recommended by RFC 8305,
/// section 8.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// Returns the delay between two connection attempts: short enough that all `count` addresses are
/// tried within `limit`.
pub(super) fn attempt_delay(limit: Duration, count: usize) -> Duration {
    ATTEMPT_DELAY.min(limit / u32::try_from(count + 1).unwrap_or(u32::MAX))
}

/// Connects to the first address that accepts a connection. The next address is tried when an
/// attempt fails, or after `delay` without an answer. Earlier attempts go on in parallel.
///
/// Returns the connection and the index of its address. Calls `failed` with the index of each
/// address that refused the connection, and of each address that was tried before the accepting
/// address and has not answered.
///
/// # Errors
///
/// Returns the error of the last failed attempt, if no address accepted a connection.
pub(super) async fn dial(
    addresses: &[SocketAddr],
    delay: Duration,
    mut failed: impl FnMut(usize, io::Error),
) -> io::Result<(TcpStream, usize)> {
    let mut remaining = addresses.iter().copied().enumerate();
    let mut attempts = FuturesUnordered::new();
    let mut started: Vec<usize> = Vec::new();
    let mut last_error = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address to connect to");
    loop {
        if let Some((index, address)) = remaining.next() {
            started.push(index);
            attempts.push(async move { (index, TcpStream::connect(address).await) });
        } else if attempts.is_empty() {
            return Err(last_error);
        }
        let ended = tokio::select! {
            biased;
            ended = attempts.next() => ended,
            () = sleep(delay), if remaining.len() > 0 => None,
        };
        match ended {
            Some((index, Ok(stream))) => {
                for overtaken in started.into_iter().take_while(|started| *started != index) {
                    failed(overtaken, io::Error::new(io::ErrorKind::TimedOut, "another address was faster"));
                }
                return Ok((stream, index));
            }
            Some((index, Err(error))) => {
                started.retain(|started| *started != index);
                failed(index, io::Error::new(error.kind(), error.to_string()));
                last_error = error;
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Makes a listener whose queue is full, so that the kernel drops further connections.
    fn silent_listener() -> (socket2::Socket, std::net::TcpStream, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let filling = std::net::TcpStream::connect(address).unwrap();
        (socket, filling, address)
    }

    async fn closed_port() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn a_silent_or_refusing_address_delays_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_socket, _filling, silent) = silent_listener();
        let addresses = [silent, closed_port().await, listener.local_addr().unwrap()];
        let mut failed = Vec::new();
        let start = std::time::Instant::now();
        let dialled = dial(&addresses, Duration::from_millis(20), |index, _| failed.push(index)).await;
        assert_eq!(dialled.unwrap().1, 2);
        assert!(start.elapsed() < Duration::from_millis(900), "the kernel sends a second SYN after a second");
        failed.sort_unstable();
        assert_eq!(failed, [0, 1]);
    }

    #[tokio::test]
    async fn the_last_error_is_returned_if_all_addresses_refuse() {
        let addresses = [closed_port().await, closed_port().await];
        let mut failed = Vec::new();
        let error =
            dial(&addresses, Duration::from_secs(60), |index, _| failed.push(index)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(failed, [0, 1]);
        let none = dial(&[], Duration::from_secs(1), |_, _| {}).await;
        assert!(none.is_err());
    }

    #[test]
    fn all_addresses_are_tried_within_the_connect_timeout() {
        assert_eq!(attempt_delay(Duration::from_secs(5), 2), ATTEMPT_DELAY);
        assert_eq!(attempt_delay(Duration::from_millis(300), 2), Duration::from_millis(100));
    }
}
