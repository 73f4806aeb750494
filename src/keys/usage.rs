//! What is remembered of each key's use, by its id, across all reloads.
//!
//! In memory alone, and bounded: by the keys that were used, and for each by [`MAX_ADDRESSES`].

use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;

/// Addresses that are remembered of one key; past them, new ones are no news.
const MAX_ADDRESSES: usize = 64;
/// What is told of a key again and again is told so often.
const TELLING_INTERVAL: Duration = Duration::from_secs(3600);

/// The use of all keys.
#[derive(Debug, Default)]
pub(crate) struct UsageBook(DashMap<String, Arc<Usage>>);

impl UsageBook {
    pub(crate) fn of(&self, key_id: &str) -> Arc<Usage> {
        if let Some(usage) = self.0.get(key_id) {
            return usage.value().clone();
        }
        self.0.entry(key_id.to_owned()).or_default().value().clone()
    }
}

/// The use of one key.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    /// Requests that were let in.
    requests: AtomicU64,
    /// When the last of them came, in microseconds since 1970.
    last_used: AtomicI64,
    addresses: Mutex<Addresses>,
    old_secret: Telling,
    old_age: Telling,
}

/// Where a key was used from. The one that came last is at hand: most keys are used from one place at a time.
#[derive(Debug, Default)]
struct Addresses {
    last: Option<IpAddr>,
    others: Vec<IpAddr>,
}

impl Addresses {
    /// Notes an address; says whether it is new.
    fn note(&mut self, address: IpAddr) -> bool {
        if self.last == Some(address) {
            return false;
        }
        let known = self.others.iter().position(|known| *known == address);
        if known.is_none() && self.others.len() + usize::from(self.last.is_some()) >= MAX_ADDRESSES {
            return false;
        }
        if let Some(index) = known {
            self.others.swap_remove(index);
        }
        self.others.extend(self.last.replace(address));
        known.is_none()
    }
}

/// Whether something is told now, or was lately.
#[derive(Debug, Default)]
struct Telling(AtomicU64);

impl Telling {
    /// Whether to tell at `now`, in nanoseconds of a monotonic clock; one of several that ask at once is to.
    fn is_due(&self, now: u64) -> bool {
        let next = self.0.load(Ordering::Relaxed);
        // Zero stands for never yet.
        let after = now.saturating_add(u64::try_from(TELLING_INTERVAL.as_nanos()).unwrap_or(u64::MAX)).max(1);
        (next == 0 || now >= next)
            && self.0.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Usage {
    /// Notes a request that is let in; says whether it is the first from its address.
    pub(crate) fn note(&self, now: Timestamp, address: Option<IpAddr>) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.last_used.store(now.as_microsecond(), Ordering::Relaxed);
        let Some(address) = address.map(network) else { return false };
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).note(address)
    }

    /// Whether to tell now that the key is used by a secret that was rotated out.
    pub(crate) fn tells_old_secret(&self, now: u64) -> bool {
        self.old_secret.is_due(now)
    }

    /// Whether to tell now that the key is past its age.
    pub(crate) fn tells_old_age(&self, now: u64) -> bool {
        self.old_age.is_due(now)
    }
}

/// What counts as one address: of IPv6, a client has a whole /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::from((u128::from(v6) & !u128::from(u64::MAX)).to_be_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_news_once_and_the_memory_is_bounded() {
        let usage = UsageBook::default().of("key_a");
        let from = |address: String| usage.note(Timestamp::UNIX_EPOCH, Some(address.parse().unwrap()));
        assert!(from("192.0.2.1".to_owned()) && !from("192.0.2.1".to_owned()));
        assert!(from("2001:db8::1".to_owned()) && !from("2001:db8::2".to_owned()));
        assert!(!from("192.0.2.1".to_owned()));
        let news = (0..200).filter(|host| from(format!("10.0.0.{host}"))).count();
        assert_eq!(news, MAX_ADDRESSES - 2);
        assert!(!usage.note(Timestamp::UNIX_EPOCH, None), "a unix socket is no address");
    }

    #[test]
    fn what_goes_on_is_told_by_the_hour() {
        let telling = Telling::default();
        let hour = u64::try_from(TELLING_INTERVAL.as_nanos()).unwrap();
        assert_eq!(
            [0, 1, hour - 1, hour, hour + 1].map(|now| telling.is_due(now)),
            [true, false, false, true, false]
        );
    }
}
