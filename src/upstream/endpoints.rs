//! The addresses of an upstream: each one is an endpoint, with its own health and its own connections.
//!
//! A configured endpoint that names a host stands for all addresses of that name, which may change while the process
//! runs. `app::lookups` looks names up, outside the worker threads; a request only reads the last result.
//! Invariant: a failed look-up changes no address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::{Notify, watch};

use super::health::Health;
use super::tls::ClientTls;
use crate::config;

/// Addresses of one name that are used; the resolver may return any number.
const MAX_ADDRESSES: usize = 256;

/// One address of an upstream.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Tells pools apart; never used twice in a process.
    pub(crate) id: u64,
    /// The configured endpoint that it belongs to.
    pub(crate) address: config::EndpointAddress,
    /// Where it is connected to; `None` for a unix socket.
    pub(super) socket: Option<SocketAddr>,
    /// The configured endpoint is a name, and this is one of its addresses.
    is_looked_up: bool,
    /// For `https://` alone.
    pub(super) tls: Option<ClientTls>,
    /// It spoke HTTP/1.1 last.
    pub(super) is_http1: AtomicBool,
    /// Shared with the endpoints of this address that went before.
    pub(crate) health: Arc<Health>,
}

impl Endpoint {
    fn new(address: &config::EndpointAddress, socket: Option<SocketAddr>, tls: Option<&ClientTls>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Endpoint {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address: address.clone(),
            socket,
            is_looked_up: false,
            tls: tls.cloned(),
            is_http1: AtomicBool::new(false),
            health: Arc::default(),
        }
    }

    /// The address, where the configuration has a name instead.
    pub(crate) fn looked_up(&self) -> Option<SocketAddr> {
        self.socket.filter(|_| self.is_looked_up)
    }

    /// The name that it is asked by where no client has named one.
    pub(super) fn authority(&self) -> HeaderValue {
        let authority = self.address.authority().unwrap_or("localhost");
        HeaderValue::try_from(authority).unwrap_or_else(|_| HeaderValue::from_static("localhost"))
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.looked_up() {
            Some(socket) => write!(f, "{} ({socket})", self.address),
            None => self.address.fmt(f),
        }
    }
}

/// The endpoints that one configured endpoint stands for.
#[derive(Debug)]
pub(crate) struct EndpointSet {
    pub(crate) address: config::EndpointAddress,
    tls: Option<ClientTls>,
    members: Members,
}

#[derive(Debug)]
enum Members {
    /// An address, or a unix socket.
    Fixed(Arc<Endpoint>),
    Named(Named),
}

/// A name and its last known addresses.
#[derive(Debug)]
pub(crate) struct Named {
    host: String,
    port: u16,
    current: ArcSwap<Vec<Arc<Endpoint>>>,
    /// How the last look-up ended.
    ended: watch::Sender<Looked>,
    /// An address could not be connected to: the name may have moved.
    is_suspected: AtomicBool,
    wake: Arc<Notify>,
}

/// How the last look-up of a name ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Looked {
    NotYet,
    Found,
    Failed(String),
}

impl EndpointSet {
    fn new(
        address: &config::EndpointAddress,
        tls: Option<&ClientTls>,
        wake: &Arc<Notify>,
        before: Option<&EndpointSet>,
    ) -> Self {
        let members = match address.host_and_port() {
            Some((host, port)) => match host.parse::<IpAddr>() {
                Ok(ip) => Members::Fixed(member(address, Some(SocketAddr::new(ip, port)), tls, before)),
                Err(_) => Members::Named(Named::new(host, port, wake, address, tls, before)),
            },
            None => Members::Fixed(member(address, None, tls, before)),
        };
        EndpointSet { address: address.clone(), tls: tls.cloned(), members }
    }

    /// The one endpoint of an address that needs no look-up.
    pub(super) fn fixed(&self) -> Option<&Arc<Endpoint>> {
        match &self.members {
            Members::Fixed(endpoint) => Some(endpoint),
            Members::Named(_) => None,
        }
    }

    pub(super) fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    pub(crate) fn named(&self) -> Option<&Named> {
        match &self.members {
            Members::Fixed(_) => None,
            Members::Named(named) => Some(named),
        }
    }

    /// Calls `visit` with each endpoint, until it returns false.
    pub(super) fn visit(&self, mut visit: impl FnMut(&Arc<Endpoint>) -> bool) -> bool {
        match &self.members {
            Members::Fixed(endpoint) => visit(endpoint),
            Members::Named(named) => named.current.load().iter().all(visit),
        }
    }

    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let mut all = Vec::new();
        self.visit(|endpoint| {
            all.push(endpoint.clone());
            true
        });
        all
    }

    /// Whether one of its endpoints is well.
    pub(super) fn has_healthy(&self) -> bool {
        !self.visit(|endpoint| !endpoint.health.is_healthy())
    }

    pub(super) fn contains(&self, endpoint: &Arc<Endpoint>) -> bool {
        !self.visit(|known| !Arc::ptr_eq(known, endpoint))
    }

    /// Takes the result of a look-up of its name. Endpoints whose address is still there stay as they are.
    ///
    /// Returns whether the addresses changed.
    pub(crate) fn looked_up(&self, found: io::Result<Vec<IpAddr>>) -> bool {
        let Members::Named(named) = &self.members else { return false };
        let found = found.and_then(|found| match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            false => Ok(found),
        });
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                named.ended.send_replace(Looked::Failed(error.to_string()));
                return false;
            }
        };
        let before = named.current.load_full();
        let after: Vec<Arc<Endpoint>> = in_order(found)
            .map(|ip| SocketAddr::new(ip, named.port))
            .map(|socket| match before.iter().find(|known| known.socket == Some(socket)) {
                Some(same) => same.clone(),
                None => {
                    let endpoint = Endpoint::new(&self.address, Some(socket), self.tls.as_ref());
                    Arc::new(Endpoint { is_looked_up: true, ..endpoint })
                }
            })
            .collect();
        let is_same = after.len() == before.len()
            && after.iter().all(|endpoint| before.iter().any(|known| Arc::ptr_eq(known, endpoint)));
        if !is_same {
            named.current.store(Arc::new(after));
        }
        named.ended.send_replace(Looked::Found);
        !is_same
    }
}

/// The endpoint of an address that is configured. With other TLS, connections must not be shared; health may be.
fn member(
    address: &config::EndpointAddress,
    socket: Option<SocketAddr>,
    tls: Option<&ClientTls>,
    before: Option<&EndpointSet>,
) -> Arc<Endpoint> {
    let mut endpoint = Endpoint::new(address, socket, tls);
    if let Some(earlier) = before.and_then(EndpointSet::fixed) {
        endpoint.health = earlier.health.clone();
    }
    Arc::new(endpoint)
}

impl Named {
    fn new(
        host: &str,
        port: u16,
        wake: &Arc<Notify>,
        address: &config::EndpointAddress,
        tls: Option<&ClientTls>,
        before: Option<&EndpointSet>,
    ) -> Self {
        // The addresses that are known stay known.
        let known = before.map(EndpointSet::endpoints).unwrap_or_default();
        let again = known.iter().map(|earlier| {
            let endpoint = Endpoint::new(address, earlier.socket, tls);
            Arc::new(Endpoint { is_looked_up: true, health: earlier.health.clone(), ..endpoint })
        });
        let looked = before.and_then(EndpointSet::named).map_or(Looked::NotYet, Named::ended);
        Named {
            host: host.to_owned(),
            port,
            current: ArcSwap::from_pointee(again.collect()),
            ended: watch::Sender::new(looked),
            is_suspected: AtomicBool::new(false),
            wake: wake.clone(),
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn has_addresses(&self) -> bool {
        !self.current.load().is_empty()
    }

    /// How the last look-up ended.
    pub(crate) fn ended(&self) -> Looked {
        self.ended.borrow().clone()
    }

    /// Why the last look-up failed, if it did.
    pub(crate) fn fault(&self) -> Option<String> {
        match self.ended() {
            Looked::Failed(fault) => Some(fault),
            Looked::NotYet | Looked::Found => None,
        }
    }

    /// Waits for the end of the first look-up.
    pub(super) async fn first_end(&self) {
        let mut ended = self.ended.subscribe();
        let _it_lives = ended.wait_for(|ended| *ended != Looked::NotYet).await;
    }

    /// Asks for a look-up ahead of its time.
    pub(super) fn suspect(&self) {
        if !self.is_suspected.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Whether a look-up was asked for since the last call.
    pub(crate) fn take_suspicion(&self) -> bool {
        self.is_suspected.swap(false, Ordering::Relaxed)
    }
}

/// Addresses in the order in which they are tried: as the resolver sorts them (RFC 6724), with the two families taking
/// turns (RFC 8305, section 4).
fn in_order(mut found: Vec<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let mut seen = std::collections::HashSet::new();
    found.retain(|ip| seen.insert(*ip));
    let begins_with_v6 = found.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|ip| ip.is_ipv6() == begins_with_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut is_firsts_turn = false;
    std::iter::from_fn(move || {
        is_firsts_turn = !is_firsts_turn;
        match is_firsts_turn {
            true => first.next().or_else(|| second.next()),
            false => second.next().or_else(|| first.next()),
        }
    })
    .take(MAX_ADDRESSES)
}

/// All endpoints in use, by upstream and configured endpoint: a reload finds those again that it leaves as they were.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    known: Mutex<HashMap<(String, config::EndpointAddress), Arc<EndpointSet>>>,
    /// Wakes the look-ups.
    pub(crate) wake: Arc<Notify>,
}

impl Endpoints {
    /// Those in use already, or new ones. What is in use changes only by [`Endpoints::adopt`]: a configuration that is
    /// compiled may be refused yet.
    pub(super) fn find_or_make(
        &self,
        upstream: &str,
        address: &config::EndpointAddress,
        tls: Option<&ClientTls>,
    ) -> Arc<EndpointSet> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&(upstream.to_owned(), address.clone()));
        match before.filter(|set| set.tls.as_ref() == tls) {
            Some(same) => same.clone(),
            None => Arc::new(EndpointSet::new(address, tls, &self.wake, before.map(AsRef::as_ref))),
        }
    }

    /// The endpoints of these upstreams are in use from here on, and no others.
    pub(crate) fn adopt<'s>(&self, in_use: impl Iterator<Item = (&'s str, &'s Arc<EndpointSet>)>) {
        let adopted =
            in_use.map(|(upstream, set)| ((upstream.to_owned(), set.address.clone()), set.clone())).collect();
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = adopted;
        self.wake.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn named() -> EndpointSet {
        let address = config::EndpointAddress::Http("model.internal:81".to_owned());
        EndpointSet::new(&address, None, &Arc::default(), None)
    }

    fn sockets(set: &EndpointSet) -> Vec<String> {
        set.endpoints().iter().map(|endpoint| endpoint.to_string()).collect()
    }

    #[test]
    fn the_families_of_addresses_take_turns_and_none_stands_twice() {
        let ordered = |texts| in_order(ips(texts)).map(|ip| ip.to_string()).collect::<Vec<_>>();
        assert_eq!(ordered(&["::1", "::2", "::1", "1.1.1.1"]), ["::1", "1.1.1.1", "::2"]);
        assert_eq!(
            ordered(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1"]),
            ["1.1.1.1", "::1", "1.1.1.2", "1.1.1.3"]
        );
        assert!(ordered(&[]).is_empty());
    }

    #[test]
    fn a_failed_look_up_changes_no_address_and_one_that_stays_keeps_its_endpoint() {
        let set = named();
        assert!(set.endpoints().is_empty() && set.fixed().is_none());
        assert!(!set.looked_up(Err(io::Error::other("no answer"))));
        assert_eq!(set.named().unwrap().fault().as_deref(), Some("no answer"));
        assert!(set.looked_up(Ok(ips(&["10.0.0.1", "10.0.0.2"]))));
        let before = set.endpoints();
        assert_eq!(
            sockets(&set),
            ["http://model.internal:81 (10.0.0.1:81)", "http://model.internal:81 (10.0.0.2:81)"]
        );
        for failed in [Err(io::Error::other("no answer")), Ok(Vec::new())] {
            assert!(!set.looked_up(failed));
            assert!(set.named().unwrap().fault().is_some());
            assert_eq!(set.endpoints().len(), 2);
        }
        assert!(!set.looked_up(Ok(ips(&["10.0.0.2", "10.0.0.1"]))), "another order is no change");
        assert!(set.looked_up(Ok(ips(&["10.0.0.3", "10.0.0.2"]))));
        let after = set.endpoints();
        assert!(Arc::ptr_eq(&after[1], &before[1]) && !set.contains(&before[0]));
        assert_eq!(set.named().unwrap().fault(), None);
    }

    #[test]
    fn what_needs_no_look_up_is_one_endpoint() {
        let made = |address| EndpointSet::new(&address, None, &Arc::default(), None);
        for (address, socket) in [
            (config::EndpointAddress::Http("127.0.0.1".to_owned()), "127.0.0.1:80"),
            (config::EndpointAddress::Https("[::1]:8443".to_owned()), "[::1]:8443"),
            (config::EndpointAddress::H2c("[::1]".to_owned()), "[::1]:80"),
        ] {
            let set = made(address);
            assert_eq!(set.fixed().unwrap().socket, Some(socket.parse().unwrap()));
        }
        assert_eq!(made(config::EndpointAddress::Unix("/a".into())).fixed().unwrap().socket, None);
    }
}
