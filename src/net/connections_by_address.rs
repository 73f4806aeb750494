//! The number of connections of each client address, where it is limited.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::address::host_part;

/// Connections by address. It holds no more entries than there are connections.
#[derive(Debug, Default)]
pub(crate) struct ConnectionsByAddress(Mutex<HashMap<IpAddr, usize>>);

/// One connection of an address; dropping it ends it.
#[derive(Debug)]
pub(crate) struct Member {
    crowd: Arc<ConnectionsByAddress>,
    address: IpAddr,
    /// The connections of the address, this one among them.
    pub(crate) count: usize,
}

impl ConnectionsByAddress {
    /// Counts a connection. IPv6 is counted by /64.
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
