//! Chooses the open connection that is closed when a new client connects and no connection permit
//! is free.
//!
//! The connection to close is searched in three groups, in this order: 1. unauthenticated
//! connections from the new client's address; 2. all unauthenticated connections; 3. key holders'
//! connections between two requests, so that no key can occupy all permits with idle connections.
//! In groups 1 and 2, the connection that has been idle for longest is closed. If no connection of
//! the group is idle, the oldest is closed, so that a client can't protect its connection by
//! keeping a request in service. A key holder's connection with a request in service is never
//! closed. Clients of other addresses that have just connected would push out each other during
//! their handshakes. As long as there are fewer unauthenticated connections than key holders'
//! connections, the connections of such clients are therefore closed last. Connections of trusted
//! proxies are not listed.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::ConnectionActivity;
use super::cut::CutReason;
use super::list::{ConnectionList, ListEntry, Listed};
use crate::address::host_part;

/// The maximum number of connections whose idle times are compared, beginning with the oldest
/// connection. This limit keeps the search short. If none of these connections is idle, the oldest
/// is closed.
const COMPARED: usize = 256;
/// The maximum number of connections that a search examines to find the connections to compare. If
/// that many old connections are all fresh (see [`FRESH`]), nearly all younger connections are
/// fresh, too.
const LOOKED_AT: usize = 1024;
/// How long a connection without a request counts as fresh. Fresh connections are closed last, so
/// that their clients have time for the handshake and the first head. Otherwise, every new
/// connection would be closed instead of older connections whose clients keep requests in service.
const FRESH: Duration = Duration::from_secs(2);

/// Minimum time between two searches for a key holder's connection to close. Without this pause, a
/// client that opens connections from many addresses could make bearward close all key holders'
/// connections. One search examines all of these connections, which may take a millisecond.
const BETWEEN_HOLDERS: Duration = Duration::from_millis(100);

/// All open connections that may be closed to make room for a new connection.
#[derive(Debug, Default)]
pub(crate) struct UnauthenticatedConnections {
    list: Arc<ConnectionList<ConnectionActivity>>,
    /// Notified when a connection is added to the list.
    more: Notify,
}

/// The open connection that was chosen to be closed for a new connection.
enum Dispensable {
    Unauthenticated(Arc<ConnectionActivity>),
    KeyHolders(Arc<ConnectionActivity>),
}

/// Which unauthenticated connections a search may choose from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Age {
    /// Connections that are not fresh: a request has begun on the connection, or the connection is
    /// older than [`FRESH`].
    Settled,
    /// All connections. A fresh connection is chosen only if all connections are fresh.
    Any,
}

impl Listed<ConnectionActivity> {
    /// Returns the open connection to close for a new connection from `address`.
    fn dispensable_for(&mut self, address: Option<IpAddr>) -> Option<Dispensable> {
        let unauthenticated = &self.unauthenticated;
        let settled = longest_idle(unauthenticated.of(address), Age::Settled)
            .or_else(|| longest_idle(unauthenticated.all(), Age::Settled))
            .or_else(|| longest_idle(unauthenticated.of(address), Age::Any));
        if let Some(activity) = settled {
            return Some(Dispensable::Unauthenticated(activity.clone()));
        }
        let are_few = unauthenticated.len() < self.holders.len();
        let holders = if are_few { self.at_rest_for(address) } else { None };
        let newcomers =
            || longest_idle(self.unauthenticated.all(), Age::Any).cloned().map(Dispensable::Unauthenticated);
        match holders.map(Dispensable::KeyHolders).or_else(newcomers) {
            None if !are_few => self.at_rest_for(address).map(Dispensable::KeyHolders),
            found => found,
        }
    }

    /// Returns the key holder's connection to close for a new connection from `address`. Returns
    /// `None` if the last search was less than [`BETWEEN_HOLDERS`] ago, or finds no connection.
    fn at_rest_for(&mut self, address: Option<IpAddr>) -> Option<Arc<ConnectionActivity>> {
        if !self.may_ask_holders() {
            return None;
        }
        self.holders_asked = Some(Instant::now());
        at_rest(self.holders.of(address)).or_else(|| at_rest(self.holders.all())).cloned()
    }

    fn may_ask_holders(&self) -> bool {
        self.holders_asked.is_none_or(|last| last.elapsed() >= BETWEEN_HOLDERS)
    }
}

impl UnauthenticatedConnections {
    /// Lists a connection as unauthenticated until a valid key is presented on it. Does nothing if
    /// the connection is already listed as unauthenticated. An IPv6 /64 counts as one address.
    pub(crate) fn enter(&self, address: Option<IpAddr>, activity: &Arc<ConnectionActivity>) {
        if activity.unauthenticated_use.is_listed() {
            return;
        }
        let entry = ListEntry::new(&self.list, address.map(host_part), activity.clone());
        activity.unauthenticated_use.enlist(entry);
        self.more.notify_waiters();
    }

    /// Closes one connection to make room for a new connection from `address`. Returns whether a
    /// connection to close was found.
    pub(crate) fn make_room(&self, address: Option<IpAddr>) -> bool {
        let address = address.map(host_part);
        let found = self.list.lock().dispensable_for(address);
        // The lock of the list is already released here, because a connection that ends locks the
        // list to remove itself.
        match &found {
            Some(Dispensable::Unauthenticated(activity)) => activity.cut(CutReason::MadeRoom),
            Some(Dispensable::KeyHolders(activity)) => activity.cut_where_idle(),
            None => {}
        }
        found.is_some()
    }

    /// Whether a listed connection could be closed to make room for a new connection.
    pub(crate) fn may_make_room(&self) -> bool {
        let listed = self.list.lock();
        longest_idle(listed.unauthenticated.all(), Age::Any).is_some()
            || (listed.may_ask_holders() && at_rest(listed.holders.all()).is_some())
    }

    /// Returns a future that completes when another connection is listed after this call.
    pub(crate) fn one_more(&self) -> Notified<'_> {
        self.more.notified()
    }
}

/// Returns the unauthenticated connection to close first: the one that has been idle for longest
/// or, if none is idle, the oldest.
fn longest_idle<'e>(
    activity: impl Iterator<Item = &'e Arc<ConnectionActivity>>,
    age: Age,
) -> Option<&'e Arc<ConnectionActivity>> {
    let is_fresh = |activity: &ConnectionActivity| {
        activity.has_no_request() && activity.begun() == 0 && activity.unauthenticated_use.idles_for() < FRESH
    };
    // A connection that is being closed already makes room for another new connection, so it is
    // skipped.
    let staying = activity.filter(|activity| !activity.is_cut()).take(LOOKED_AT);
    let in_question = staying.filter(|activity| age == Age::Any || !is_fresh(activity)).take(COMPARED);
    // `min_by_key` returns the first of several equals, which is the oldest.
    in_question.min_by_key(|activity| match activity.has_no_request() {
        true if is_fresh(activity) => (2, 0),
        true => (0, activity.unauthenticated_use.idle_since()),
        false => (1, 0),
    })
}

/// Returns the key holder's connection to close first: the oldest connection that has been without
/// a request for a while. For the next request, its client opens another connection, as after a
/// keep-alive timeout.
fn at_rest<'e>(
    mut activity: impl Iterator<Item = &'e Arc<ConnectionActivity>>,
) -> Option<&'e Arc<ConnectionActivity>> {
    activity.find(|activity| !activity.is_cut() && activity.is_at_rest())
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn connection(
        unauthenticated: &Arc<UnauthenticatedConnections>,
        address: &str,
    ) -> Arc<ConnectionActivity> {
        let activity = Arc::<ConnectionActivity>::default();
        drop(activity.begin(false));
        unauthenticated.enter(Some(address.parse().unwrap()), &activity);
        activity
    }

    /// Returns the numbers of listed unauthenticated connections and of key holders' connections.
    fn numbers(unauthenticated: &UnauthenticatedConnections) -> [usize; 2] {
        let listed = unauthenticated.list.lock();
        [&listed.unauthenticated, &listed.holders].map(|ordered| {
            assert_eq!(ordered.len(), ordered.by_address.len());
            ordered.len()
        })
    }

    fn ends(connections: &[&Arc<ConnectionActivity>]) -> Vec<bool> {
        connections.iter().map(|activity| activity.is_cut()).collect()
    }

    #[test]
    fn an_address_pushes_out_its_own_and_then_the_longest_idle_goes() {
        let unauthenticated = Arc::<UnauthenticatedConnections>::default();
        let others = connection(&unauthenticated, "192.0.2.1");
        let (first, second) =
            (connection(&unauthenticated, "192.0.2.2"), connection(&unauthenticated, "192.0.2.2"));
        assert!(unauthenticated.make_room(Some("192.0.2.2".parse().unwrap())));
        assert_eq!(ends(&[&others, &first, &second]), [false, true, false]);
        assert!(unauthenticated.make_room(Some("192.0.2.3".parse().unwrap())));
        assert_eq!(ends(&[&others, &first, &second]), [true, true, false]);
    }

    #[test]
    fn a_key_holder_makes_no_room_and_a_request_in_service_keeps_no_place() {
        let unauthenticated = Arc::<UnauthenticatedConnections>::default();
        let (holder, busy) =
            (connection(&unauthenticated, "192.0.2.1"), connection(&unauthenticated, "192.0.2.1"));
        let (other, idle) =
            (connection(&unauthenticated, "192.0.2.2"), connection(&unauthenticated, "192.0.2.2"));
        holder.unauthenticated_use.note_authenticated();
        let _in_service = (busy.begin(false), other.begin(false));
        let make_room = || unauthenticated.make_room(Some("192.0.2.3".parse().unwrap()));
        let all = [&holder, &busy, &other, &idle];
        assert!(make_room());
        assert_eq!(ends(&all), [false, false, false, true], "an idle one goes first");
        assert!(make_room());
        assert_eq!(ends(&all), [false, true, false, true], "and then the oldest");
        assert!(unauthenticated.make_room(Some("192.0.2.2".parse().unwrap())));
        assert_eq!(ends(&all), [false, true, true, true]);
        let in_service = holder.begin(false);
        assert!(!unauthenticated.may_make_room() && !make_room());
        drop(in_service);
        assert!(!unauthenticated.may_make_room() && !make_room());
        rests(&holder);
        unauthenticated.list.lock().holders_asked = None;
        assert!(unauthenticated.may_make_room() && make_room(), "a key holder's goes between two requests");
        assert!(holder.is_cut() && !unauthenticated.may_make_room());
    }

    /// Puts `activity` into the state of a connection that has been without a request for a while.
    fn rests(activity: &ConnectionActivity) {
        activity.note_resting(true);
    }

    #[test]
    fn key_holders_make_room_for_newcomers_until_they_are_half() {
        let unauthenticated = Arc::<UnauthenticatedConnections>::default();
        let holders: Vec<_> = (0..3).map(|_| connection(&unauthenticated, "192.0.2.1")).collect();
        holders.iter().for_each(|holder| holder.unauthenticated_use.note_authenticated());
        holders.iter().for_each(|holder| rests(holder));
        let newcomer = |address: &str| {
            let fresh = Arc::<ConnectionActivity>::default();
            unauthenticated.enter(Some(address.parse().unwrap()), &fresh);
            fresh
        };
        let (first, second) = (newcomer("192.0.2.2"), newcomer("192.0.2.2"));
        assert!(unauthenticated.make_room(Some("192.0.2.2".parse().unwrap())), "an address has its own go");
        assert_eq!(ends(&[&first, &second]), [true, false]);
        first.unauthenticated_use.end_connection();
        assert!(unauthenticated.make_room(Some("192.0.2.3".parse().unwrap())), "a key holder's goes");
        assert!(holders[0].is_cut() && !second.is_cut());
        holders[0].unauthenticated_use.end_connection();
        let third = newcomer("192.0.2.3");
        assert!(unauthenticated.make_room(Some("192.0.2.4".parse().unwrap())), "there are as many of both");
        assert_eq!(ends(&[&holders[1], &holders[2], &second, &third]), [false, false, true, false]);
    }

    #[test]
    fn a_request_that_begins_at_the_same_time_keeps_a_key_holders_connection() {
        let unauthenticated = Arc::<UnauthenticatedConnections>::default();
        let holder = connection(&unauthenticated, "192.0.2.1");
        holder.unauthenticated_use.note_authenticated();
        rests(&holder);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(unauthenticated.make_room(None) && !unauthenticated.make_room(None));
        let in_service = holder.begin(false);
        assert!(holder.poll_cut(&mut cx, &mut true).is_pending() && !holder.is_cut());
        drop(in_service);
        rests(&holder);
        assert!(holder.poll_cut(&mut cx, &mut true).is_pending(), "it stays until it is asked again");
        holder.cut_where_idle();
        assert!(holder.poll_cut(&mut cx, &mut true).is_ready());
    }

    #[test]
    fn of_key_holders_an_address_has_its_own_go_first_and_then_the_one_at_rest() {
        let unauthenticated = Arc::<UnauthenticatedConnections>::default();
        let holders: Vec<_> = ["192.0.2.1", "192.0.2.2", "192.0.2.2"]
            .map(|address| connection(&unauthenticated, address))
            .into();
        holders.iter().for_each(|holder| holder.unauthenticated_use.note_authenticated());
        rests(&holders[0]);
        rests(&holders[2]);
        let ends = || ends(&holders.iter().collect::<Vec<_>>());
        assert!(unauthenticated.make_room(Some("192.0.2.2".parse().unwrap())));
        assert_eq!(ends(), [false, false, true]);
        assert!(!unauthenticated.make_room(Some("192.0.2.3".parse().unwrap())), "not so soon again");
        unauthenticated.list.lock().holders_asked = None;
        assert!(unauthenticated.make_room(Some("192.0.2.3".parse().unwrap())));
        assert_eq!(ends(), [true, false, true]);
    }

    #[test]
    fn a_client_that_has_just_connected_goes_last() {
        let unauthenticated = Arc::<UnauthenticatedConnections>::default();
        let busy = connection(&unauthenticated, "192.0.2.1");
        let _in_service = busy.begin(false);
        let fresh = Arc::<ConnectionActivity>::default();
        unauthenticated.enter(Some("192.0.2.2".parse().unwrap()), &fresh);
        let make_room = || unauthenticated.make_room(Some("192.0.2.3".parse().unwrap()));
        assert!(make_room());
        assert_eq!(ends(&[&busy, &fresh]), [true, false]);
        assert!(make_room(), "where there is nobody else, it goes, too");
        assert_eq!(ends(&[&busy, &fresh]), [true, true]);
    }

    #[test]
    fn a_connection_whose_key_is_no_longer_valid_makes_room_again() {
        let unauthenticated = Arc::<UnauthenticatedConnections>::default();
        let holder = connection(&unauthenticated, "192.0.2.1");
        holder.unauthenticated_use.note_authenticated();
        let in_service = holder.begin(false);
        assert!(!unauthenticated.may_make_room());
        unauthenticated.enter(Some("192.0.2.1".parse().unwrap()), &holder);
        assert!(unauthenticated.may_make_room());
        // Listing a connection that is already listed has no effect.
        unauthenticated.enter(Some("192.0.2.1".parse().unwrap()), &holder);
        assert_eq!(numbers(&unauthenticated), [1, 0]);
        holder.unauthenticated_use.note_authenticated();
        assert!(!unauthenticated.may_make_room());
        assert_eq!(numbers(&unauthenticated), [0, 1]);
        drop(in_service);
        holder.unauthenticated_use.end_connection();
        unauthenticated.enter(Some("192.0.2.1".parse().unwrap()), &holder);
        assert_eq!(numbers(&unauthenticated), [0, 0]);
    }
}
