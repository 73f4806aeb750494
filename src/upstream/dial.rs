//! TCP connections to one of several addresses of a name: "happy eyeballs" (RFC 8305, section 5).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::net::TcpStream;
use tokio::time::sleep;

/// The recommended pause before the next address is tried as well (RFC 8305, section 8).
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// The pause between attempts, so that `count` addresses have their turn within `limit`.
pub(super) fn attempt_delay(limit: Duration, count: usize) -> Duration {
    ATTEMPT_DELAY.min(limit / u32::try_from(count + 1).unwrap_or(u32::MAX))
}

/// Connects to the first address that takes the connection. The next address is tried when one fails, or has not
/// answered for `delay`; those that were begun go on meanwhile.
///
/// Returns the connection and the index of its address. `failed` is called with the index of each address that refused,
/// and of each that a later one has overtaken.
///
/// # Errors
///
/// The last error, where no address could be connected to.
pub(super) async fn dial(
    addresses: &[SocketAddr],
    delay: Duration,
    mut failed: impl FnMut(usize, io::Error),
) -> io::Result<(TcpStream, usize)> {
    let mut waiting = addresses.iter().copied().enumerate();
    let mut attempts = FuturesUnordered::new();
    let mut begun: Vec<usize> = Vec::new();
    let mut last_error = io::Error::new(io::ErrorKind::AddrNotAvailable, "no address to connect to");
    loop {
        if let Some((index, address)) = waiting.next() {
            begun.push(index);
            attempts.push(async move { (index, TcpStream::connect(address).await) });
        } else if attempts.is_empty() {
            return Err(last_error);
        }
        let ended = tokio::select! {
            biased;
            ended = attempts.next() => ended,
            () = sleep(delay), if waiting.len() > 0 => None,
        };
        match ended {
            Some((index, Ok(stream))) => {
                for overtaken in begun.into_iter().take_while(|begun| *begun != index) {
                    failed(overtaken, io::Error::new(io::ErrorKind::TimedOut, "another address was faster"));
                }
                return Ok((stream, index));
            }
            Some((index, Err(error))) => {
                begun.retain(|begun| *begun != index);
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

    /// A listener whose queue is full: what else comes is dropped by the kernel.
    fn hole() -> (socket2::Socket, std::net::TcpStream, SocketAddr) {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let filling = std::net::TcpStream::connect(address).unwrap();
        (socket, filling, address)
    }

    async fn nowhere() -> SocketAddr {
        TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
    }

    #[tokio::test]
    async fn an_address_that_is_silent_or_refuses_holds_up_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_socket, _filling, silent) = hole();
        let addresses = [silent, nowhere().await, listener.local_addr().unwrap()];
        let mut failed = Vec::new();
        let began = std::time::Instant::now();
        let dialled = dial(&addresses, Duration::from_millis(20), |index, _| failed.push(index)).await;
        assert_eq!(dialled.unwrap().1, 2);
        assert!(began.elapsed() < Duration::from_millis(900), "the kernel sends a second SYN after a second");
        failed.sort_unstable();
        assert_eq!(failed, [0, 1]);
    }

    #[tokio::test]
    async fn where_all_refuse_the_error_is_theirs() {
        let addresses = [nowhere().await, nowhere().await];
        let mut failed = Vec::new();
        let error =
            dial(&addresses, Duration::from_secs(60), |index, _| failed.push(index)).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(failed, [0, 1]);
        let none = dial(&[], Duration::from_secs(1), |_, _| {}).await;
        assert!(none.is_err());
    }

    #[test]
    fn all_addresses_have_their_turn_within_the_time_to_connect() {
        assert_eq!(attempt_delay(Duration::from_secs(5), 2), ATTEMPT_DELAY);
        assert_eq!(attempt_delay(Duration::from_millis(300), 2), Duration::from_millis(100));
    }
}
