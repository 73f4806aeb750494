//! Connections of a balancer that begin with a PROXY header (`listeners[].proxy_protocol`). The client is
//! known, and counted, only when the header has been read.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::connections_by_address::{ConnectionsByAddress, Member};
use super::proxy_header::{self, Stated};
use super::standing::Standing;
use super::waits::grace_is_over;
use crate::forward::headers::address_value;
use crate::proxy::Peer;

/// The address of a client whose address nobody knows. It is not the balancer's, which may be trusted, and not
/// that of a unix socket either.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A connection of a balancer whose header has not been read yet.
#[derive(Debug)]
pub(crate) struct Proxied {
    pub(super) crowd: Arc<ConnectionsByAddress>,
}

impl Proxied {
    /// Reads the header, and makes `peer` the client that it states. Returns the connection, its client, and
    /// the connection's entry in the count of the client's address; `None` if the process stops.
    ///
    /// # Errors
    ///
    /// There is no header, or not in time; or the client has too many connections. The connection is then
    /// closed.
    pub(super) async fn identify(
        self,
        mut stream: TcpStream,
        mut peer: Peer,
        shutdown: watch::Receiver<bool>,
    ) -> io::Result<Option<(TcpStream, Peer, Option<Member>)>> {
        let patience = peer.gateway.snapshot.load().limits.header_timeout;
        let stated = tokio::select! {
            stated = timeout(patience, proxy_header::read(&mut stream)) => stated,
            () = grace_is_over(shutdown) => return Ok(None),
        };
        let stated = match stated.unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stated) => stated,
            Err(error) => {
                report(&peer, &error);
                return Err(error);
            }
        };
        let client = client_of(stated, peer.address);
        (peer.address, peer.address_value) = (client, client.and_then(address_value));
        peer.activity.unauthenticated_use.leave_list();
        let standing = Standing::of(peer.address, peer.door, &peer.gateway, &self.crowd, &peer.activity);
        let Some(Standing { is_trusted, member, over_limit }) = standing else {
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        if is_trusted {
            peer.activity.unauthenticated_use.note_authenticated();
        }
        (peer.is_trusted, peer.over_limit) = (is_trusted, over_limit);
        Ok(Some((stream, peer, member)))
    }
}

/// Returns the address of the client of a connection from `balancer`.
fn client_of(stated: Stated, balancer: Option<IpAddr>) -> Option<IpAddr> {
    let is_here = |address: IpAddr| address.to_canonical().is_loopback();
    match stated {
        // Whoever is on the balancer's machine is not on this one.
        Stated::Client(client) if is_here(client) && !balancer.is_some_and(is_here) => Some(NOBODY),
        Stated::Client(client) => Some(client.to_canonical()),
        Stated::Balancer => balancer,
        Stated::Unknown => Some(NOBODY),
    }
}

/// Tells the operator about a connection without a header: most likely, the balancer does not send any. A
/// balancer that connects and leaves, as for a health check, is not told of.
fn report(peer: &Peer, error: &io::Error) {
    if error.kind() == io::ErrorKind::UnexpectedEof || !peer.edge.without_header.is_due() {
        return;
    }
    let balancer = peer.address.map(|address| address.to_string()).unwrap_or_default();
    tracing::warn!(
        balancer,
        %error,
        "a connection from a network of `proxy_protocol` was closed: does the balancer send PROXY headers?"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_in_a_header_gains_no_trust_of_this_machine() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let stated = |text: &str| Stated::Client(address(text));
        for (stated, balancer, client) in [
            (stated("192.0.2.7"), "10.0.0.1", "192.0.2.7"),
            (stated("::ffff:192.0.2.7"), "10.0.0.1", "192.0.2.7"),
            (stated("127.0.0.1"), "10.0.0.1", "0.0.0.0"),
            (stated("::1"), "10.0.0.1", "0.0.0.0"),
            (stated("::ffff:127.0.0.1"), "10.0.0.1", "0.0.0.0"),
            (stated("127.0.0.2"), "127.0.0.1", "127.0.0.2"),
            (stated("127.0.0.2"), "::ffff:127.0.0.1", "127.0.0.2"),
            (Stated::Balancer, "10.0.0.1", "10.0.0.1"),
            (Stated::Unknown, "10.0.0.1", "0.0.0.0"),
            (Stated::Unknown, "127.0.0.1", "0.0.0.0"),
        ] {
            assert_eq!(client_of(stated, Some(address(balancer))), Some(address(client)), "{stated:?}");
        }
    }
}
