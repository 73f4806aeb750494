//! Counts of requests in flight: those of the whole process, and those without a key.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::address::host_part;

/// Counts requests in flight, up to a limit.
#[derive(Clone, Debug, Default)]
pub(super) struct InFlight(Arc<AtomicUsize>);

/// The permit of one request in flight. Dropping the permit gives it back.
#[derive(Debug)]
pub(crate) struct InFlightPermit(Arc<AtomicUsize>);

impl InFlight {
    /// Acquires one of `limit` permits; `None` if all of them are in use.
    pub(super) fn enter(&self, limit: usize) -> Option<InFlightPermit> {
        // The request is counted first, and the count is compared afterwards. A refused request is
        // therefore counted for a moment, during which it may cause the refusal of another one. A
        // compare-and-swap loop would cost several more instructions under contention.
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let place = InFlightPermit(self.0.clone());
        (before < limit).then_some(place)
    }
}

impl Drop for InFlightPermit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All requests without a key share a quarter of all permits (1 / `PUBLIC_SHARE`), and one address
/// may use a quarter of this share. Clients without a key can therefore never use up the permits of
/// key holders.
const PUBLIC_SHARE: usize = 4;
/// Largest number of permits for requests without a key. An answer that its client does not read
/// occupies about 40 KiB of this process's memory, and the request for it costs the client a few
/// bytes.
const MOST_PUBLIC: usize = 1024;

/// Counts the requests in flight without a key, for each address and in total. The map of addresses
/// never has more entries than there are requests in flight without a key.
#[derive(Clone, Debug, Default)]
pub(super) struct PublicInFlight(Arc<Mutex<Public>>);

#[derive(Debug, Default)]
struct Public {
    all: usize,
    /// Number of requests by address. All addresses of an IPv6 /64 are counted as one. `None` is a
    /// client behind a unix socket.
    by_address: HashMap<Option<IpAddr>, usize>,
}

/// The permit of one request without a key. Dropping the permit gives it back.
#[derive(Debug)]
pub(crate) struct PublicInFlightPermit {
    permits: PublicInFlight,
    address: Option<IpAddr>,
}

impl PublicInFlight {
    /// Acquires a permit for a request without a key. `limit` is the number of permits for all
    /// requests; requests without a key may use a share of these permits.
    ///
    /// # Errors
    ///
    /// Fails if all permits of the address, or all permits for requests without a key, are in use.
    /// The error is the number of these permits.
    pub(super) fn enter(&self, address: Option<IpAddr>, limit: usize) -> Result<PublicInFlightPermit, usize> {
        let address = address.map(host_part);
        let share = (limit / PUBLIC_SHARE).clamp(1, MOST_PUBLIC);
        // A unix socket may use the whole share, because its peer is usually a proxy with many
        // clients.
        let of_address = if address.is_some() { (share / PUBLIC_SHARE).max(1) } else { share };
        let mut public = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if public.all >= share {
            return Err(share);
        }
        let count = public.by_address.entry(address).or_default();
        if *count >= of_address {
            return Err(of_address);
        }
        *count += 1;
        public.all += 1;
        Ok(PublicInFlightPermit { permits: self.clone(), address })
    }
}

impl Drop for PublicInFlightPermit {
    fn drop(&mut self) {
        let mut public = self.permits.0.lock().unwrap_or_else(PoisonError::into_inner);
        public.all -= 1;
        if let Some(count) = public.by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                public.by_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_without_a_key_have_a_share_and_one_address_a_share_of_it() {
        let permits = PublicInFlight::default();
        let enter = |address: &str| permits.enter(Some(address.parse().unwrap()), 64);
        let held: Vec<PublicInFlightPermit> =
            (0..4).map(|host| enter(&format!("2001:db8::{host}")).unwrap()).collect();
        assert_eq!(enter("2001:db8::ffff").unwrap_err(), 4, "one network of IPv6 is one address");
        let others: Vec<PublicInFlightPermit> =
            (0..12).map(|host| enter(&format!("192.0.2.{host}")).unwrap()).collect();
        assert_eq!(enter("192.0.2.99").unwrap_err(), 16, "the share of all");
        drop(held);
        let _again = enter("192.0.2.99").unwrap();
        drop(others);
        assert_eq!(permits.0.lock().unwrap().by_address.len(), 1);
        assert!(PublicInFlight::default().enter(None, 1).is_ok(), "at least one");
        let many = PublicInFlight::default();
        let all: Vec<_> = (0..2000).map_while(|_| many.enter(None, 100_000).ok()).collect();
        assert_eq!(all.len(), MOST_PUBLIC);
    }

    #[test]
    fn there_are_no_more_permits_than_the_limit_and_each_comes_back() {
        let permits = InFlight::default();
        let first = permits.enter(2).unwrap();
        let _second = permits.enter(2).unwrap();
        assert!(permits.enter(2).is_none());
        assert!(permits.enter(2).is_none(), "who was refused has left nothing behind");
        drop(first);
        assert!(permits.enter(2).is_some());
    }
}
