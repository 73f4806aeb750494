//! Connections on which no good key was presented yet, and which of them makes room when all places are taken.
//!
//! Whoever fills the places pushes out connections of its own address first. Of those that come into question the one that
//! has been idle for longest goes; where none is idle, the oldest: a client that keeps a request in service must not keep
//! its place with it. A connection on which a good key was presented stays, and so does one of a trusted proxy. It comes
//! into question again once a bad key is presented on it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::Exchanges;
use super::cut::Cut;
use crate::address::host_part;

/// Connections that are compared at most, from the oldest on: the search has to be short just when there are many. Where none of
/// them is idle, the oldest goes.
const COMPARED: usize = 256;
/// A client that has just connected has this long for a handshake and a first head before it goes like any other. Else whoever
/// keeps requests in service would have every newcomer go in its place.
const FRESH: Duration = Duration::from_secs(2);

/// All such connections.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    listed: Mutex<Listed>,
    /// One more is listed.
    more: Notify,
}

/// `None` as an address is a neighbour on a unix socket.
#[derive(Debug, Default)]
struct Listed {
    /// Counts up: a smaller number is an older connection.
    next: u64,
    by_age: BTreeMap<u64, Arc<Exchanges>>,
    by_address: BTreeMap<(Option<IpAddr>, u64), Arc<Exchanges>>,
}

/// A connection's entry; dropping it takes the connection off the list.
#[derive(Debug)]
pub(crate) struct Guest {
    guests: Arc<Guests>,
    address: Option<IpAddr>,
    number: u64,
}

impl Guests {
    /// Lists a connection, unless it is listed, until a good key is presented on it. Of IPv6, a /64 is one address.
    pub(crate) fn enter(self: &Arc<Self>, address: Option<IpAddr>, exchanges: &Arc<Exchanges>) {
        if exchanges.stranger.is_listed() {
            return;
        }
        let address = address.map(host_part);
        let number = {
            let mut listed = self.lock();
            let number = listed.next;
            listed.next += 1;
            listed.by_age.insert(number, exchanges.clone());
            listed.by_address.insert((address, number), exchanges.clone());
            number
        };
        exchanges.stranger.enlist(Guest { guests: self.clone(), address, number });
        self.more.notify_waiters();
    }

    /// Ends one connection to make room for another one, from `address`. Says whether there was one to end.
    pub(crate) fn make_room(&self, address: Option<IpAddr>) -> bool {
        let address = address.map(host_part);
        let listed = self.lock();
        let own = listed.by_address.range((address, 0)..=(address, u64::MAX));
        let found =
            dispensable(own.map(|(_, exchanges)| exchanges)).or_else(|| dispensable(listed.by_age.values()));
        let found = found.cloned();
        // Its end takes it off the list, which takes the lock.
        drop(listed);
        found.inspect(|exchanges| exchanges.cut(Cut::MadeRoom)).is_some()
    }

    /// Whether a connection is listed that could make room.
    pub(crate) fn may_make_room(&self) -> bool {
        dispensable(self.lock().by_age.values()).is_some()
    }

    /// Ready when one more is listed, counted from the call on.
    pub(crate) fn one_more(&self) -> Notified<'_> {
        self.more.notified()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The connection that goes first: one that was used without a good key, or had its time to be; of these one that is idle, since
/// when it was; then the oldest.
fn dispensable<'e>(exchanges: impl Iterator<Item = &'e Arc<Exchanges>>) -> Option<&'e Arc<Exchanges>> {
    // Those that are being ended already make room for somebody else.
    let staying = exchanges.filter(|exchanges| !exchanges.is_cut()).take(COMPARED);
    // The first of several equals is the oldest.
    staying.min_by_key(|exchanges| match exchanges.are_none() {
        true if exchanges.begun() == 0 && exchanges.stranger.idles_for() < FRESH => (2, 0),
        true => (0, exchanges.stranger.idle_since()),
        false => (1, 0),
    })
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut listed = self.guests.lock();
        listed.by_age.remove(&self.number);
        listed.by_address.remove(&(self.address, self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(guests: &Arc<Guests>, address: &str) -> Arc<Exchanges> {
        let exchanges = Arc::<Exchanges>::default();
        drop(exchanges.begin(false));
        guests.enter(Some(address.parse().unwrap()), &exchanges);
        exchanges
    }

    fn ends(connections: &[&Arc<Exchanges>]) -> Vec<bool> {
        connections.iter().map(|exchanges| exchanges.is_cut()).collect()
    }

    #[test]
    fn an_address_pushes_out_its_own_and_then_the_longest_idle_goes() {
        let guests = Arc::<Guests>::default();
        let others = connection(&guests, "192.0.2.1");
        let (first, second) = (connection(&guests, "192.0.2.2"), connection(&guests, "192.0.2.2"));
        assert!(guests.make_room(Some("192.0.2.2".parse().unwrap())));
        assert_eq!(ends(&[&others, &first, &second]), [false, true, false]);
        assert!(guests.make_room(Some("192.0.2.3".parse().unwrap())));
        assert_eq!(ends(&[&others, &first, &second]), [true, true, false]);
    }

    #[test]
    fn a_key_holder_makes_no_room_and_a_request_in_service_keeps_no_place() {
        let guests = Arc::<Guests>::default();
        let (holder, busy) = (connection(&guests, "192.0.2.1"), connection(&guests, "192.0.2.1"));
        let (other, idle) = (connection(&guests, "192.0.2.2"), connection(&guests, "192.0.2.2"));
        holder.stranger.note_good_key();
        let _in_service = (busy.begin(false), other.begin(false));
        let make_room = || guests.make_room(Some("192.0.2.3".parse().unwrap()));
        let all = [&holder, &busy, &other, &idle];
        assert!(make_room());
        assert_eq!(ends(&all), [false, false, false, true], "an idle one goes first");
        assert!(make_room());
        assert_eq!(ends(&all), [false, true, false, true], "and then the oldest");
        assert!(guests.make_room(Some("192.0.2.2".parse().unwrap())));
        assert!(!guests.may_make_room() && !make_room());
        assert_eq!(ends(&all), [false, true, true, true]);
    }

    #[test]
    fn a_client_that_has_just_connected_goes_last() {
        let guests = Arc::<Guests>::default();
        let busy = connection(&guests, "192.0.2.1");
        let _in_service = busy.begin(false);
        let fresh = Arc::<Exchanges>::default();
        guests.enter(Some("192.0.2.2".parse().unwrap()), &fresh);
        let make_room = || guests.make_room(Some("192.0.2.3".parse().unwrap()));
        assert!(make_room());
        assert_eq!(ends(&[&busy, &fresh]), [true, false]);
        assert!(make_room(), "where there is nobody else, it goes, too");
        assert_eq!(ends(&[&busy, &fresh]), [true, true]);
    }

    #[test]
    fn a_connection_whose_key_is_no_good_any_more_makes_room_again() {
        let guests = Arc::<Guests>::default();
        let holder = connection(&guests, "192.0.2.1");
        holder.stranger.note_good_key();
        assert!(!guests.may_make_room());
        guests.enter(Some("192.0.2.1".parse().unwrap()), &holder);
        assert!(guests.may_make_room());
        // Twice is once.
        guests.enter(Some("192.0.2.1".parse().unwrap()), &holder);
        assert_eq!(guests.lock().by_age.len(), 1);
        holder.stranger.note_good_key();
        assert!(!guests.may_make_room());
        holder.stranger.leave();
        guests.enter(Some("192.0.2.1".parse().unwrap()), &holder);
        assert!(guests.lock().by_age.is_empty() && guests.lock().by_address.is_empty());
    }
}
