//! Counts the open connections of each client address, for `limits.connections_per_address`.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::address::host_part;

/// The number of open connections of each address. An address without connections has no entry.
#[derive(Debug, Default)]
pub(crate) struct ConnectionsByAddress(Mutex<HashMap<IpAddr, usize>>);

/// One counted connection of an address. Dropping it decrements the count.
#[derive(Debug)]
pub(crate) struct Member {
    crowd: Arc<ConnectionsByAddress>,
    address: IpAddr,
    /// The number of connections of the address at the time when this connection was counted,
    /// including this connection.
    pub(crate) count: usize,
}

impl ConnectionsByAddress {
    /// Counts a connection of `address`. All IPv6 addresses of a /64 share one count.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Member {
        let address = host_part(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        *count += 1;
        Member { crowd: self.clone(), address, count: *count }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_by_host_and_forgotten_when_they_end() {
        let crowd = Arc::new(ConnectionsByAddress::default());
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let first = enter("2001:db8::1");
        let second = enter("2001:db8::ffff:2");
        assert_eq!((first.count, second.count), (1, 2));
        assert_eq!(enter("2001:db8:0:1::1").count, 1);
        assert_eq!(enter("::ffff:192.0.2.1").count, 1);
        drop((first, second));
        assert!(crowd.0.lock().unwrap().is_empty());
    }
}
