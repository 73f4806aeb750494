//! What is remembered of each key's use, by its id, across all reloads.
//!
//! In memory alone, and bounded: by the keys that are used, and for each by [`MAX_ADDRESSES`]. What is remembered of a key
//! that is gone is forgotten after [`RETENTION`].

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;

use crate::denial::Code;

/// Addresses that are remembered of one key; past them, new ones are no news.
const MAX_ADDRESSES: usize = 64;
/// A key that is gone may come back for so long with its history: a file may be written in two steps.
const RETENTION: Duration = Duration::from_secs(3600);
/// What is told of a key again and again is told so often.
const TELLING_INTERVAL: Duration = Duration::from_secs(3600);

/// The use of all keys.
#[derive(Debug)]
pub(crate) struct UsageBook {
    by_id: DashMap<String, Arc<Usage>>,
    /// The ids that metrics name, each at its label's place.
    labelled: Mutex<Vec<Arc<str>>>,
    max_labels: usize,
}

impl UsageBook {
    /// `max_labels`: how many keys metrics tell apart. Those that come first have them.
    pub(crate) fn new(max_labels: usize) -> Self {
        UsageBook { by_id: DashMap::new(), labelled: Mutex::default(), max_labels }
    }

    /// What is remembered of this key, from now on at the latest.
    pub(crate) fn of(&self, key_id: &str) -> Arc<Usage> {
        if let Some(usage) = self.find(key_id) {
            return usage;
        }
        let label = || Arc::new(Usage { label: self.label(key_id), ..Usage::default() });
        self.by_id.entry(key_id.to_owned()).or_insert_with(label).value().clone()
    }

    /// What is remembered of this key, where there is anything.
    pub(crate) fn find(&self, key_id: &str) -> Option<Arc<Usage>> {
        self.by_id.get(key_id).map(|usage| usage.value().clone())
    }

    /// The ids of keys that no request and no key in service has a hold on.
    pub(crate) fn unheld(&self) -> impl Iterator<Item = String> + '_ {
        let unheld = self.by_id.iter().filter(|entry| Arc::strong_count(entry.value()) == 1);
        unheld.map(|entry| entry.key().clone())
    }

    /// Forgets those of the keys that are `gone` which have been so for long. `now`: nanoseconds of a monotonic clock.
    pub(crate) fn forget(&self, gone: &HashSet<String>, now: u64) {
        let retention = u64::try_from(RETENTION.as_nanos()).unwrap_or(u64::MAX);
        self.by_id.retain(|id, usage| {
            // Looked at again under the map's own lock: nobody takes hold of it meanwhile.
            if Arc::strong_count(usage) > 1 || !gone.contains(id) {
                usage.gone_since.store(0, Ordering::Relaxed);
                return true;
            }
            // Zero stands for not gone.
            let since = match usage.gone_since.load(Ordering::Relaxed) {
                0 => now.max(1),
                since => since,
            };
            usage.gone_since.store(since, Ordering::Relaxed);
            now.saturating_sub(since) < retention
        });
    }

    fn label(&self, key_id: &str) -> KeyLabel {
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        // A key that was forgotten and came back has the label that it had.
        if let Some(number) = labelled.iter().position(|id| &**id == key_id) {
            return KeyLabel::Id(number);
        }
        if labelled.len() >= self.max_labels {
            return KeyLabel::Other;
        }
        labelled.push(key_id.into());
        KeyLabel::Id(labelled.len() - 1)
    }

    /// The ids that labels stand for.
    pub(crate) fn labelled(&self) -> Vec<Arc<str>> {
        self.labelled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// How metrics name a request's key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum KeyLabel {
    /// Nobody's, or nobody's that is known.
    #[default]
    None,
    /// One of too many.
    Other,
    /// By its number among those that are told apart.
    Id(usize),
}

/// The use of one key.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    label: KeyLabel,
    /// Requests that were let in.
    requests: AtomicU64,
    /// When the last of them came, in microseconds since 1970.
    last_used: AtomicI64,
    addresses: Mutex<Addresses>,
    /// Requests with the key's secret that were refused, by code.
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    old_secret: Telling,
    old_age: Telling,
    /// Since when no key has this id, in nanoseconds of a monotonic clock; zero while one has.
    gone_since: AtomicU64,
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
        let is_full = self.others.len() + usize::from(self.last.is_some()) >= MAX_ADDRESSES;
        if let Some(index) = known {
            self.others.swap_remove(index);
        }
        let before = self.last.replace(address);
        // Where there is no room for one more, the one before is forgotten, and no news.
        if known.is_some() || !is_full {
            self.others.extend(before);
        }
        known.is_none() && !is_full
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

    /// Notes a request that was refused although it had a secret of the key, an old one perhaps.
    pub(super) fn refused(&self, code: Code) {
        *self.refusals.lock().unwrap_or_else(PoisonError::into_inner).entry(code.name()).or_default() += 1;
    }

    pub(super) fn label(&self) -> KeyLabel {
        self.label
    }

    /// How many requests were let in.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// When the last of them came, if any did.
    pub(crate) fn last_used(&self) -> Option<Timestamp> {
        let micros = self.last_used.load(Ordering::Relaxed);
        Timestamp::from_microsecond(micros).ok().filter(|_| micros != 0)
    }

    /// Where the last of them came from, of IPv6 the network.
    pub(crate) fn last_address(&self) -> Option<IpAddr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// The requests with the key's secret that were refused, by code.
    pub(crate) fn refusals(&self) -> BTreeMap<&'static str, u64> {
        self.refusals.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        let usage = UsageBook::new(1).of("key_a");
        let from = |address: String| usage.note(Timestamp::UNIX_EPOCH, Some(address.parse().unwrap()));
        assert!(from("192.0.2.1".to_owned()) && !from("192.0.2.1".to_owned()));
        assert!(from("2001:db8::1".to_owned()) && !from("2001:db8::2".to_owned()));
        assert!(!from("192.0.2.1".to_owned()));
        let news = (0..200).filter(|host| from(format!("10.0.0.{host}"))).count();
        assert_eq!(news, MAX_ADDRESSES - 2);
        assert_eq!(usage.last_address(), Some("10.0.0.199".parse().unwrap()));
        assert!(!usage.note(Timestamp::UNIX_EPOCH, None), "a unix socket is no address");
    }

    #[test]
    fn the_first_keys_have_labels_and_the_others_share_one() {
        let book = UsageBook::new(2);
        let labels = ["key_a", "key_b", "key_a", "key_c"].map(|id| book.of(id).label());
        assert_eq!(labels, [KeyLabel::Id(0), KeyLabel::Id(1), KeyLabel::Id(0), KeyLabel::Other]);
        assert_eq!(book.labelled(), ["key_a".into(), "key_b".into()]);
        assert!(book.find("key_d").is_none());
    }

    #[test]
    fn a_key_that_is_gone_is_forgotten_after_a_while_and_no_other() {
        let book = UsageBook::new(1);
        let held = book.of("key_held");
        for id in ["key_gone", "key_in_service", "key_back"] {
            book.of(id);
        }
        let ids = || {
            let mut ids: Vec<String> = book.by_id.iter().map(|entry| entry.key().clone()).collect();
            ids.sort();
            ids
        };
        let unheld: HashSet<String> = book.unheld().collect();
        assert_eq!(unheld.len(), 3, "the one that a request holds is none of them");
        let gone = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<HashSet<_>>();
        let hour = u64::try_from(RETENTION.as_nanos()).unwrap();
        book.forget(&gone(&["key_gone", "key_back", "key_held"]), 5);
        book.forget(&gone(&["key_gone", "key_held"]), 4 + hour);
        assert_eq!(ids(), ["key_back", "key_gone", "key_held", "key_in_service"], "its time is not over");
        book.forget(&gone(&["key_gone", "key_back", "key_held"]), 5 + hour);
        assert_eq!(ids(), ["key_back", "key_held", "key_in_service"], "one that came back begins anew");
        drop(held);
        for later in [hour, 2 * hour] {
            book.forget(&gone(&["key_held", "key_back"]), 5 + hour + later);
        }
        assert_eq!(ids(), ["key_in_service"]);
        assert_eq!(
            book.of("key_held").label(),
            KeyLabel::Id(0),
            "its label in metrics is the one that it had"
        );
        assert_eq!(book.labelled().len(), 1);
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
