//! Counts of failed attempts by address.
//!
//! Invariants: a valid bearward token is never refused because of its address. Memory is bounded,
//! however many addresses fail: when the bound is reached, the addresses with the fewest failures
//! are forgotten.

use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use foldhash::quality::RandomState;

use crate::address::host_part;
use crate::config::AttemptQuota;

/// `SHELVES × SETS × WAYS` addresses are remembered, with 32 bytes each: 2 MiB in all. A shelf is
/// allocated when the first of its addresses fails, so a server that nobody attacks allocates no
/// shelf.
const SHELVES: usize = 256;
const SETS: usize = 32;
const WAYS: usize = 8;

/// The failed attempts of each address.
#[derive(Debug)]
pub(crate) struct FailedAttempts {
    shelves: Box<[OnceLock<Shelf>]>,
    /// Hasher with a random key, so that nobody can fill another address's set on purpose.
    hasher: RandomState,
}

type Shelf = Box<[Mutex<Set>]>;

/// Records of the addresses that have the same hash.
type Set = [Record; WAYS];

/// The failures of one address, counted from its first failure.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    address: u128,
    /// Time of the first failure, in nanoseconds of the monotonic clock.
    since: u64,
    /// Number of failures; zero if the record is free.
    failures: u32,
}

impl Default for FailedAttempts {
    fn default() -> Self {
        let shelves = (0..SHELVES).map(|_| OnceLock::new()).collect();
        FailedAttempts { shelves, hasher: RandomState::default() }
    }
}

impl FailedAttempts {
    /// Returns how long an address has to wait, if it has used up its failed attempts. Counts
    /// nothing.
    pub(super) fn waits(&self, address: IpAddr, quota: AttemptQuota, now: u64) -> Option<Duration> {
        let address = bits(address);
        let (shelf, set) = self.index_of(address);
        let set = self.shelves.get(shelf)?.get()?.get(set)?;
        let set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let record = set.iter().find(|record| record.failures > 0 && record.address == address)?;
        let end = record.since.saturating_add(nanos(quota.per));
        (record.failures >= quota.per_address && now < end).then(|| Duration::from_nanos(end - now))
    }

    /// Returns the index of an address's shelf, and the index of its set on that shelf.
    fn index_of(&self, address: u128) -> (usize, usize) {
        let hash = usize::try_from(self.hasher.hash_one(address)).unwrap_or(usize::MAX);
        (hash % SHELVES, hash / SHELVES % SETS)
    }

    /// Counts a failed attempt at `now`, in nanoseconds of the monotonic clock.
    ///
    /// # Errors
    ///
    /// Fails if the address has used up its failed attempts; the attempt is then not counted. The
    /// error is the time that the address has to wait.
    pub(super) fn note(&self, address: IpAddr, quota: AttemptQuota, now: u64) -> Result<(), Duration> {
        let address = bits(address);
        let (shelf, set) = self.index_of(address);
        let Some(shelf) = self.shelves.get(shelf) else { return Ok(()) };
        let sets = shelf.get_or_init(new_shelf);
        let Some(set) = sets.get(set) else { return Ok(()) };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let per = nanos(quota.per);
        let is_over = |record: &Record| now.saturating_sub(record.since) >= per;
        let Some(record) = find(&mut set, address, is_over) else { return Ok(()) };
        if record.address != address || record.failures == 0 || is_over(record) {
            *record = Record { address, since: now, failures: 1 };
            return Ok(());
        }
        if record.failures >= quota.per_address {
            return Err(Duration::from_nanos(record.since.saturating_add(per).saturating_sub(now)));
        }
        record.failures += 1;
        Ok(())
    }

    /// Records that an address has used up its failed attempts, in all replicas together, and has to
    /// wait so long.
    pub(crate) fn exhaust(&self, address: IpAddr, per: Duration, wait: Duration, now: u64) {
        let address = bits(address);
        let (shelf, set) = self.index_of(address);
        let Some(set) = self.shelves.get(shelf).and_then(|shelf| shelf.get_or_init(new_shelf).get(set))
        else {
            return;
        };
        let mut set = set.lock().unwrap_or_else(PoisonError::into_inner);
        let is_over = |record: &Record| now.saturating_sub(record.since) >= nanos(per);
        if let Some(record) = find(&mut set, address, is_over) {
            let since = now.saturating_add(nanos(wait)).saturating_sub(nanos(per));
            *record = Record { address, since, failures: u32::MAX };
        }
    }

    /// Returns the number of failures of an address in its window, and how long the window lasts.
    pub(super) fn failures(&self, address: IpAddr, quota: AttemptQuota, now: u64) -> (u32, Duration) {
        let address = bits(address);
        let (shelf, set) = self.index_of(address);
        let set = self.shelves.get(shelf).and_then(|shelf| shelf.get()?.get(set));
        let record = set.and_then(|set| {
            let set = set.lock().unwrap_or_else(PoisonError::into_inner);
            set.iter().find(|record| record.failures > 0 && record.address == address).copied()
        });
        let end = record.map_or(0, |record| record.since.saturating_add(nanos(quota.per)));
        let left = Duration::from_nanos(end.saturating_sub(now));
        (record.filter(|_| now < end).map_or(0, |record| record.failures), left)
    }
}

fn new_shelf() -> Shelf {
    (0..SETS).map(|_| Mutex::default()).collect()
}

/// Finds the record of an address. If there is none, returns a free record, or else the record with
/// the fewest failures.
fn find(set: &mut Set, address: u128, is_over: impl Fn(&Record) -> bool) -> Option<&mut Record> {
    let is_known = |record: &&mut Record| record.failures > 0 && record.address == address;
    // The set is searched twice, because the borrow checker does not let a mutable borrow end early
    // here.
    if set.iter_mut().any(|record| is_known(&record)) {
        return set.iter_mut().find(is_known);
    }
    set.iter_mut().min_by_key(|record| match record.failures == 0 || is_over(record) {
        true => (0, 0),
        false => (record.failures, record.since),
    })
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn bits(address: IpAddr) -> u128 {
    match host_part(address) {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => Ipv6Addr::to_bits(address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const QUOTA: AttemptQuota = AttemptQuota { per_address: 3, per: Duration::from_secs(60) };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_so_many_failures_and_then_waits_for_the_end_of_its_window() {
        let attempts = FailedAttempts::default();
        let (here, there) = (address("192.0.2.1"), address("192.0.2.2"));
        for second in 0..3 {
            assert_eq!(attempts.note(here, QUOTA, second * SECOND), Ok(()));
        }
        assert_eq!(attempts.note(here, QUOTA, 10 * SECOND), Err(Duration::from_secs(50)));
        assert_eq!(attempts.waits(here, QUOTA, 10 * SECOND), Some(Duration::from_secs(50)));
        assert_eq!(attempts.waits(there, QUOTA, 10 * SECOND), None);
        assert_eq!(attempts.waits(here, QUOTA, 60 * SECOND), None);
        assert_eq!(
            attempts.note(address("::ffff:192.0.2.1"), QUOTA, 59 * SECOND),
            Err(Duration::from_secs(1))
        );
        assert_eq!(attempts.note(there, QUOTA, 59 * SECOND), Ok(()));
        assert_eq!(attempts.note(here, QUOTA, 60 * SECOND), Ok(()), "what was refused did not prolong it");
    }

    #[test]
    fn a_few_addresses_take_little_memory() {
        let attempts = FailedAttempts::default();
        for host in 1..=9 {
            assert_eq!(attempts.note(address(&format!("192.0.2.{host}")), QUOTA, 0), Ok(()));
        }
        let taken = attempts.shelves.iter().filter(|shelf| shelf.get().is_some()).count();
        assert!((1..=9).contains(&taken), "{taken} shelves");
    }

    #[test]
    fn one_host_of_ipv6_has_one_count() {
        let attempts = FailedAttempts::default();
        for host in 1..=3 {
            assert_eq!(attempts.note(address(&format!("2001:db8::{host}")), QUOTA, 0), Ok(()));
        }
        assert!(attempts.note(address("2001:db8::ffff:1:2:3"), QUOTA, 0).is_err());
        assert_eq!(attempts.note(address("2001:db8:0:1::1"), QUOTA, 0), Ok(()));
    }

    #[test]
    fn a_flood_of_addresses_takes_no_more_memory_and_hides_no_offender() {
        let attempts = FailedAttempts::default();
        let offender = address("198.51.100.7");
        while attempts.note(offender, QUOTA, 1).is_ok() {}
        for host in 0..1_000_000u32 {
            let _counted = attempts.note(IpAddr::V4(host.into()), QUOTA, 2);
        }
        let sets = attempts.shelves.iter().flat_map(|shelf| shelf.get().unwrap());
        assert_eq!(sets.map(|set| set.lock().unwrap().len()).sum::<usize>(), SHELVES * SETS * WAYS);
        assert!(attempts.note(offender, QUOTA, 3).is_err(), "those with fewer failures went first");
    }
}
