//! A list of open connections, ordered by age and by address. Each connection owns its entry.
//!
//! The list is generic over the type of connections, because a connection contains its entry of the
//! list, and the list contains the connection.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A list of connections of type `C`.
#[derive(Debug)]
pub(super) struct ConnectionList<C>(Mutex<Listed<C>>);

/// The content of a [`ConnectionList`], which a mutex protects.
#[derive(Debug)]
pub(super) struct Listed<C> {
    /// The number that the next connection gets. The numbers increase, so an older connection has a
    /// smaller number.
    next: u64,
    /// Connections on which no valid key was presented, or on which an invalid key was presented
    /// after a valid key.
    pub(super) unauthenticated: Ordered<C>,
    /// Connections on which a valid key was presented.
    pub(super) holders: Ordered<C>,
    /// When `holders` was last searched for a connection to close.
    pub(super) holders_asked: Option<Instant>,
}

/// Connections, sorted by age: all connections together, and the connections of each address.
///
/// The address is `None` for clients on a unix socket.
#[derive(Debug)]
pub(super) struct Ordered<C> {
    by_age: BTreeMap<u64, Arc<C>>,
    pub(super) by_address: BTreeMap<(Option<IpAddr>, u64), Arc<C>>,
}

/// A connection's entry in a list. Dropping the entry removes the connection from the list.
#[derive(Debug)]
pub(super) struct ListEntry<C> {
    list: Arc<ConnectionList<C>>,
    address: Option<IpAddr>,
    number: u64,
}

impl<C> Default for ConnectionList<C> {
    fn default() -> Self {
        ConnectionList(Mutex::new(Listed {
            next: 0,
            unauthenticated: Ordered::default(),
            holders: Ordered::default(),
            holders_asked: None,
        }))
    }
}

impl<C> Default for Ordered<C> {
    fn default() -> Self {
        Ordered { by_age: BTreeMap::new(), by_address: BTreeMap::new() }
    }
}

impl<C> ConnectionList<C> {
    pub(super) fn lock(&self) -> MutexGuard<'_, Listed<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Ordered<C> {
    fn insert(&mut self, address: Option<IpAddr>, number: u64, connection: Arc<C>) {
        self.by_age.insert(number, connection.clone());
        self.by_address.insert((address, number), connection);
    }

    fn remove(&mut self, address: Option<IpAddr>, number: u64) -> Option<Arc<C>> {
        self.by_address.remove(&(address, number));
        self.by_age.remove(&number)
    }

    pub(super) fn len(&self) -> usize {
        self.by_age.len()
    }

    /// Returns all connections, the oldest first.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<C>> {
        self.by_age.values()
    }

    /// Returns the connections of one address, the oldest first.
    pub(super) fn of(&self, address: Option<IpAddr>) -> impl Iterator<Item = &Arc<C>> {
        self.by_address.range((address, 0)..=(address, u64::MAX)).map(|(_, connection)| connection)
    }
}

impl<C> ListEntry<C> {
    /// Adds a connection to the list as unauthenticated.
    pub(super) fn new(list: &Arc<ConnectionList<C>>, address: Option<IpAddr>, connection: Arc<C>) -> Self {
        let mut listed = list.lock();
        let number = listed.next;
        listed.next += 1;
        listed.unauthenticated.insert(address, number, connection);
        drop(listed);
        ListEntry { list: list.clone(), address, number }
    }

    /// Moves the connection to the key holders' connections, after a valid key was presented on it.
    pub(super) fn becomes_holders(&self) {
        let mut listed = self.list.lock();
        if let Some(connection) = listed.unauthenticated.remove(self.address, self.number) {
            listed.holders.insert(self.address, self.number, connection);
        }
    }
}

impl<C> Drop for ListEntry<C> {
    fn drop(&mut self) {
        let mut listed = self.list.lock();
        let connection = listed.unauthenticated.remove(self.address, self.number);
        let connection = connection.or_else(|| listed.holders.remove(self.address, self.number));
        // The connection is dropped after the lock is released, because it may own the last
        // reference to this list.
        drop(listed);
        drop(connection);
    }
}
