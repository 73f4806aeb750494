//! Endpoints: the addresses of an upstream, each with its own health and its own connections.
//!
//! If a host name is configured, each of its addresses is an endpoint, and the addresses may change
//! while the process runs. `app::lookups` resolves host names outside the worker threads. A request
//! uses the result of the last lookup, and waits for a lookup only if no lookup of the host name
//! has ended yet.
//! Invariant: a failed lookup changes no address.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use http::HeaderValue;
use tokio::sync::{Notify, watch};

use super::health::Health;
use super::slots::Slots;
use super::tls::ClientTls;
use crate::config;

/// Largest number of addresses of one host name that are used. A resolver may return more.
const MAX_ADDRESSES: usize = 256;

/// One address of an upstream.
#[derive(Debug)]
pub(crate) struct Endpoint {
    /// Number under which a pool stores the connections of this endpoint, unique in the process.
    pub(crate) id: u64,
    /// The configured endpoint that this address belongs to.
    pub(crate) address: config::EndpointAddress,
    /// The IP address and port to connect to; `None` for a unix socket.
    pub(super) socket: Option<SocketAddr>,
    /// Whether this address was found by a lookup of a host name, and not configured itself.
    is_resolved: bool,
    /// TLS settings of the endpoint; `None` unless its URL begins with `https://`.
    pub(super) tls: Option<ClientTls>,
    /// Whether the last new connection to this endpoint used HTTP/1.1.
    pub(super) is_http1: AtomicBool,
    /// Health of the endpoint, shared with the endpoint of the same address in an earlier snapshot.
    pub(crate) health: Arc<Health>,
}

impl Endpoint {
    fn new(address: &config::EndpointAddress, socket: Option<SocketAddr>, tls: Option<&ClientTls>) -> Self {
        static NEXT_ID: AtomicU64 = AtomicU64::new(0);
        Endpoint {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address: address.clone(),
            socket,
            is_resolved: false,
            tls: tls.cloned(),
            is_http1: AtomicBool::new(false),
            health: Arc::default(),
        }
    }

    /// Returns the address of this endpoint, if a lookup of a host name found the address; `None`
    /// if the address itself is configured.
    pub(crate) fn resolved_address(&self) -> Option<SocketAddr> {
        self.socket.filter(|_| self.is_resolved)
    }

    /// Returns the Host that a request gets if neither the configuration nor the client provides a
    /// Host.
    pub(super) fn authority(&self) -> HeaderValue {
        authority_of(Some(&self.address))
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.resolved_address() {
            Some(socket) => write!(f, "{} ({socket})", self.address),
            None => self.address.fmt(f),
        }
    }
}

/// Returns the authority of an endpoint's address, for use as a Host; `localhost` for a unix
/// socket.
pub(super) fn authority_of(address: Option<&config::EndpointAddress>) -> HeaderValue {
    let authority = address.and_then(config::EndpointAddress::authority).unwrap_or("localhost");
    let value = HeaderValue::try_from(authority);
    debug_assert!(value.is_ok(), "{authority} is a valid authority");
    value.unwrap_or_else(|_| HeaderValue::from_static("localhost"))
}

/// The endpoints that belong to one configured endpoint: one endpoint if an address is configured,
/// one for each address if a host name is configured.
#[derive(Debug)]
pub(crate) struct EndpointSet {
    pub(crate) address: config::EndpointAddress,
    /// The slots of these endpoints together; without a limit if they have none of their own.
    pub(crate) slots: Arc<Slots>,
    tls: Option<ClientTls>,
    members: Members,
}

#[derive(Debug)]
enum Members {
    /// The only endpoint, if an IP address or a unix socket is configured.
    Fixed(Arc<Endpoint>),
    Named(Named),
}

/// A host name and its last known addresses.
#[derive(Debug)]
pub(crate) struct Named {
    host: String,
    port: u16,
    current: ArcSwap<Vec<Arc<Endpoint>>>,
    /// Result of the last lookup of the host name.
    last_look_up: watch::Sender<LookUp>,
    /// Whether an early lookup was requested because a connection attempt failed.
    is_look_up_requested: AtomicBool,
    wake: Arc<Notify>,
}

/// Result of the last lookup of a host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LookUp {
    /// The first lookup of the host name has not ended.
    Pending,
    /// The resolver returned addresses for the host name.
    Found,
    /// The resolver returned this error for the host name.
    Failed(String),
}

impl EndpointSet {
    fn new(
        address: &config::EndpointAddress,
        slots: Option<u32>,
        tls: Option<&ClientTls>,
        wake: &Arc<Notify>,
        before: Option<&EndpointSet>,
    ) -> Self {
        let slots = match before {
            Some(before) => before.slots.clone(),
            None => Arc::new(Slots::new(slots.unwrap_or(u32::MAX))),
        };
        let members = match address.host_and_port() {
            Some((host, port)) => match host.parse::<IpAddr>() {
                Ok(ip) => {
                    Members::Fixed(fixed_endpoint(address, Some(SocketAddr::new(ip, port)), tls, before))
                }
                Err(_) => Members::Named(Named::new(host, port, wake, address, tls, before)),
            },
            None => Members::Fixed(fixed_endpoint(address, None, tls, before)),
        };
        EndpointSet { address: address.clone(), slots, tls: tls.cloned(), members }
    }

    /// Returns the only endpoint, if the configured endpoint needs no lookup.
    pub(super) fn fixed(&self) -> Option<&Arc<Endpoint>> {
        match &self.members {
            Members::Fixed(endpoint) => Some(endpoint),
            Members::Named(_) => None,
        }
    }

    pub(super) fn tls(&self) -> Option<&ClientTls> {
        self.tls.as_ref()
    }

    /// Returns the host name and its addresses, if the configured endpoint needs lookups.
    pub(crate) fn named(&self) -> Option<&Named> {
        match &self.members {
            Members::Fixed(_) => None,
            Members::Named(named) => Some(named),
        }
    }

    /// Calls `visit` with each endpoint until one call returns false. Returns whether all calls
    /// returned true.
    pub(super) fn visit(&self, mut visit: impl FnMut(&Arc<Endpoint>) -> bool) -> bool {
        match &self.members {
            Members::Fixed(endpoint) => visit(endpoint),
            Members::Named(named) => named.current.load().iter().all(visit),
        }
    }

    /// Returns all current endpoints of the set.
    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        let mut all = Vec::new();
        self.visit(|endpoint| {
            all.push(endpoint.clone());
            true
        });
        all
    }

    /// Whether at least one endpoint of the set is healthy.
    pub(super) fn has_healthy(&self) -> bool {
        !self.visit(|endpoint| !endpoint.health.is_healthy())
    }

    /// Whether the endpoint is in the set. A lookup may have removed the endpoint.
    pub(super) fn contains(&self, endpoint: &Arc<Endpoint>) -> bool {
        !self.visit(|known| !Arc::ptr_eq(known, endpoint))
    }

    /// Applies the result of a lookup of the set's host name. Endpoints whose address is in the
    /// result keep their health and their connections.
    ///
    /// Returns whether the addresses changed.
    pub(crate) fn apply_look_up(&self, found: io::Result<Vec<IpAddr>>) -> bool {
        let Members::Named(named) = &self.members else {
            debug_assert!(false, "{} is no name", self.address);
            return false;
        };
        let found = found.and_then(|found| match found.is_empty() {
            true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
            false => Ok(found),
        });
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                named.last_look_up.send_replace(LookUp::Failed(error.to_string()));
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
                    Arc::new(Endpoint { is_resolved: true, ..endpoint })
                }
            })
            .collect();
        let is_same = after.len() == before.len()
            && after.iter().all(|endpoint| before.iter().any(|known| Arc::ptr_eq(known, endpoint)));
        if !is_same {
            named.current.store(Arc::new(after));
        }
        named.last_look_up.send_replace(LookUp::Found);
        !is_same
    }
}

/// Makes the endpoint of a configured address or unix socket. The new endpoint shares the health of
/// the earlier endpoint in `before`, but not the connections, because the TLS settings of the two
/// endpoints differ.
fn fixed_endpoint(
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
        // The addresses of the earlier set are used until the next lookup.
        let known = before.map(EndpointSet::endpoints).unwrap_or_default();
        let endpoints = known.iter().map(|earlier| {
            let endpoint = Endpoint::new(address, earlier.socket, tls);
            Arc::new(Endpoint { is_resolved: true, health: earlier.health.clone(), ..endpoint })
        });
        let last_look_up = before.and_then(EndpointSet::named).map_or(LookUp::Pending, Named::look_up);
        Named {
            host: host.to_owned(),
            port,
            current: ArcSwap::from_pointee(endpoints.collect()),
            last_look_up: watch::Sender::new(last_look_up),
            is_look_up_requested: AtomicBool::new(false),
            wake: wake.clone(),
        }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn has_addresses(&self) -> bool {
        !self.current.load().is_empty()
    }

    /// Returns the result of the last lookup of the host name.
    pub(crate) fn look_up(&self) -> LookUp {
        self.last_look_up.borrow().clone()
    }

    /// Returns the error of the last lookup of the host name, if the lookup failed.
    pub(crate) fn fault(&self) -> Option<String> {
        match self.look_up() {
            LookUp::Failed(fault) => Some(fault),
            LookUp::Pending | LookUp::Found => None,
        }
    }

    /// Waits until the first lookup of the host name has ended.
    pub(super) async fn first_look_up(&self) {
        let mut ended = self.last_look_up.subscribe();
        let _sender_lives = ended.wait_for(|ended| *ended != LookUp::Pending).await;
    }

    /// Requests an early lookup of the host name, before the interval between two lookups has
    /// passed.
    pub(super) fn request_look_up(&self) {
        if !self.is_look_up_requested.swap(true, Ordering::Relaxed) {
            self.wake.notify_one();
        }
    }

    /// Whether an early lookup was requested since the previous call of this function.
    pub(crate) fn take_look_up_request(&self) -> bool {
        self.is_look_up_requested.swap(false, Ordering::Relaxed)
    }
}

/// Sorts addresses in the order in which to connect to them: the resolver's order (RFC 6724), with
/// IPv6 and IPv4 alternating (RFC 8305, section 4). Duplicates are dropped.
fn in_order(mut found: Vec<IpAddr>) -> impl Iterator<Item = IpAddr> {
    let mut seen = std::collections::HashSet::new();
    found.retain(|ip| seen.insert(*ip));
    let begins_with_v6 = found.first().is_some_and(IpAddr::is_ipv6);
    let (first, second): (Vec<_>, Vec<_>) = found.into_iter().partition(|ip| ip.is_ipv6() == begins_with_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut takes_first = false;
    std::iter::from_fn(move || {
        takes_first = !takes_first;
        match takes_first {
            true => first.next().or_else(|| second.next()),
            false => second.next().or_else(|| first.next()),
        }
    })
    .take(MAX_ADDRESSES)
}

/// All endpoint sets in use, by the upstream's name and the configured address. A reload finds the
/// sets of unchanged endpoints here.
#[derive(Debug, Default)]
pub(crate) struct Endpoints {
    known: Mutex<HashMap<(String, config::EndpointAddress), Arc<EndpointSet>>>,
    /// Wakes `app::lookups` when a lookup is requested.
    pub(crate) wake: Arc<Notify>,
}

impl Endpoints {
    /// Returns the endpoint set in use for a configured endpoint, or makes a new one. A new set is
    /// in use only after [`Endpoints::adopt`], because its configuration may still be refused.
    pub(super) fn find_or_make(
        &self,
        upstream: &str,
        endpoint: &config::ConfiguredEndpoint,
        tls: Option<&ClientTls>,
    ) -> Arc<EndpointSet> {
        let config::ConfiguredEndpoint { url: address, slots } = endpoint;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known.get(&(upstream.to_owned(), address.clone()));
        match before.filter(|set| set.tls.as_ref() == tls) {
            Some(same) => same.clone(),
            None => Arc::new(EndpointSet::new(address, *slots, tls, &self.wake, before.map(AsRef::as_ref))),
        }
    }

    /// Replaces the endpoint sets in use, each of which has the given number of slots from now on; `None`: as many
    /// as before, because the upstream has slots for all of them together.
    pub(crate) fn adopt<'s>(
        &self,
        in_use: impl Iterator<Item = (&'s str, &'s Arc<EndpointSet>, Option<u32>)>,
    ) {
        let adopted = in_use
            .map(|(upstream, set, slots)| {
                slots.into_iter().for_each(|slots| set.slots.set_limit(slots));
                ((upstream.to_owned(), set.address.clone()), set.clone())
            })
            .collect();
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
        EndpointSet::new(&address, None, None, &Arc::default(), None)
    }

    fn sockets(set: &EndpointSet) -> Vec<String> {
        set.endpoints().iter().map(|endpoint| endpoint.to_string()).collect()
    }

    #[test]
    fn address_families_alternate_and_duplicates_are_dropped() {
        let ordered = |texts| in_order(ips(texts)).map(|ip| ip.to_string()).collect::<Vec<_>>();
        assert_eq!(ordered(&["::1", "::2", "::1", "1.1.1.1"]), ["::1", "1.1.1.1", "::2"]);
        assert_eq!(
            ordered(&["1.1.1.1", "1.1.1.2", "1.1.1.3", "::1"]),
            ["1.1.1.1", "::1", "1.1.1.2", "1.1.1.3"]
        );
        assert!(ordered(&[]).is_empty());
    }

    #[test]
    fn a_failed_look_up_changes_no_address_and_a_kept_address_keeps_its_endpoint() {
        let set = named();
        assert!(set.endpoints().is_empty() && set.fixed().is_none());
        assert!(!set.apply_look_up(Err(io::Error::other("no answer"))));
        assert_eq!(set.named().unwrap().fault().as_deref(), Some("no answer"));
        assert!(set.apply_look_up(Ok(ips(&["10.0.0.1", "10.0.0.2"]))));
        let before = set.endpoints();
        assert_eq!(
            sockets(&set),
            ["http://model.internal:81 (10.0.0.1:81)", "http://model.internal:81 (10.0.0.2:81)"]
        );
        for failed in [Err(io::Error::other("no answer")), Ok(Vec::new())] {
            assert!(!set.apply_look_up(failed));
            assert!(set.named().unwrap().fault().is_some());
            assert_eq!(set.endpoints().len(), 2);
        }
        assert!(!set.apply_look_up(Ok(ips(&["10.0.0.2", "10.0.0.1"]))), "another order is no change");
        assert!(set.apply_look_up(Ok(ips(&["10.0.0.3", "10.0.0.2"]))));
        let after = set.endpoints();
        assert!(Arc::ptr_eq(&after[1], &before[1]) && !set.contains(&before[0]));
        assert_eq!(set.named().unwrap().fault(), None);
    }

    #[test]
    fn an_address_or_unix_socket_is_one_endpoint() {
        let made = |address| EndpointSet::new(&address, None, None, &Arc::default(), None);
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
