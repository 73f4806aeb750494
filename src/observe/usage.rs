//! Usage of each key, by the key's id, kept across all reloads.
//!
//! Usage is kept in memory only: one entry for each used key that is in the store or was removed
//! recently. An entry has at most [`MAX_ADDRESSES`] addresses.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use jiff::Timestamp;

use super::ledger::{KeyLedger, Ledger};
use crate::denial::Code;
use crate::token_report::Tokens;

/// Number of addresses that are remembered for one key. Further addresses are not reported as new.
const MAX_ADDRESSES: usize = 64;
/// Shortest time between two audit lines with the same finding about one key.
const REPORT_INTERVAL: Duration = Duration::from_secs(3600);

/// Usage of all keys.
#[derive(Debug)]
pub(crate) struct UsageBook {
    by_id: DashMap<Box<str>, Arc<Usage>>,
    labelled: Mutex<Labelled>,
    max_labels: usize,
    /// Where use is counted that survives a restart; `None` if nothing does.
    ledger: Option<Arc<Ledger>>,
}

/// Key ids that are labels in metrics, by the number of the label. No number is used twice.
#[derive(Debug, Default)]
struct Labelled {
    by_number: BTreeMap<u32, Arc<str>>,
    next: u32,
}

impl UsageBook {
    /// Creates an empty usage book. `max_labels`: how many keys have their own label in metrics.
    /// The keys that are used first get these labels.
    pub(crate) fn new(max_labels: usize) -> Self {
        UsageBook { by_id: DashMap::new(), labelled: Mutex::default(), max_labels, ledger: None }
    }

    /// Counts all use in a ledger, too.
    pub(crate) fn keeping(self, ledger: Option<Arc<Ledger>>) -> Self {
        UsageBook { ledger, ..self }
    }

    /// Whether use is counted by model, in a ledger.
    pub(crate) fn is_kept(&self) -> bool {
        self.ledger.is_some()
    }

    /// Returns the usage of the key with this id, and creates it if there is none.
    pub(crate) fn of(&self, key_id: &str) -> Arc<Usage> {
        if let Some(usage) = self.find(key_id) {
            return usage;
        }
        let label = || {
            let kept = self.ledger.as_ref().map(|ledger| (ledger.clone(), ledger.of(key_id)));
            let last = kept.as_ref().and_then(|(_, of_key)| of_key.last_used());
            let last_used = AtomicI64::new(last.map_or(0, Timestamp::as_microsecond));
            Arc::new(Usage { label: self.label(key_id), kept, last_used, ..Usage::default() })
        };
        self.by_id.entry(key_id.into()).or_insert_with(label).value().clone()
    }

    /// Returns the usage of the key with this id, if there is any.
    pub(crate) fn find(&self, key_id: &str) -> Option<Arc<Usage>> {
        self.by_id.get(key_id).map(|usage| usage.value().clone())
    }

    /// Returns when the key with this id was last used, also before the start if that was kept.
    pub(crate) fn last_used(&self, key_id: &str) -> Option<Timestamp> {
        let here = self.find(key_id).and_then(|usage| usage.last_used());
        here.or_else(|| self.ledger.as_ref()?.last_used(key_id))
    }

    fn label(&self, key_id: &str) -> KeyLabel {
        let mut labelled = self.labelled.lock().unwrap_or_else(PoisonError::into_inner);
        if labelled.by_number.len() >= self.max_labels {
            return KeyLabel::Other;
        }
        let number = labelled.next;
        labelled.next += 1;
        labelled.by_number.insert(number, key_id.into());
        KeyLabel::Id(number)
    }

    /// Returns the key ids that are labels in metrics, by the number of the label.
    pub(crate) fn labelled(&self) -> BTreeMap<u32, Arc<str>> {
        self.labelled.lock().unwrap_or_else(PoisonError::into_inner).by_number.clone()
    }

    /// Returns the ids of keys whose usage is referenced by no key in service and by no request.
    /// Such a key was removed, or was changed and not used since.
    pub(crate) fn unreferenced(&self) -> HashSet<String> {
        let unreferenced = self.by_id.iter().filter(|usage| Arc::strong_count(usage.value()) == 1);
        unreferenced.map(|usage| usage.key().to_string()).collect()
    }

    /// Drops the usage of a removed key, unless a key in service or a request refers to it again.
    /// Returns the key's label in metrics, if the key had a label of its own.
    pub(crate) fn forget(&self, key_id: &str) -> Option<KeyLabel> {
        let (_, usage) = self.by_id.remove_if(key_id, |_, usage| Arc::strong_count(usage) == 1)?;
        let KeyLabel::Id(number) = usage.label else { return None };
        self.labelled.lock().unwrap_or_else(PoisonError::into_inner).by_number.remove(&number);
        Some(usage.label)
    }
}

/// The label of a request's key in metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum KeyLabel {
    /// The request had no key, or an unknown one.
    #[default]
    None,
    /// The key has no label of its own.
    Other,
    /// The key has a label of its own, with this number.
    Id(u32),
}

/// Usage of one key.
#[derive(Debug, Default)]
pub(crate) struct Usage {
    label: KeyLabel,
    /// Number of permitted requests.
    requests: AtomicU64,
    /// When the last permitted request came, in microseconds since 1970; zero if none came.
    last_used: AtomicI64,
    /// Number of input and output tokens.
    tokens: AtomicU64,
    /// Whether samples of this usage are taken for the history of the key.
    is_watched: AtomicBool,
    addresses: Mutex<Addresses>,
    /// The ledger, and the part of it that is about this key.
    kept: Option<(Arc<Ledger>, Arc<KeyLedger>)>,
    /// Numbers of refused requests that had a secret of the key, by code.
    #[allow(clippy::box_collection, reason = "a pointer is a third of a map")]
    refusals: Mutex<Option<Box<BTreeMap<&'static str, u64>>>>,
    old_secret: Telling,
    old_age: Telling,
}

/// The addresses from which a key was used. The latest address has its own field, because most keys
/// are used from one address at a time.
#[derive(Debug, Default)]
struct Addresses {
    last: Option<IpAddr>,
    /// Most keys have none, and then no memory for them.
    #[allow(clippy::box_collection, reason = "a pointer is a third of a list")]
    others: Option<Box<Vec<IpAddr>>>,
}

impl Addresses {
    /// Records an address, and returns whether the address is new.
    fn note(&mut self, address: IpAddr) -> bool {
        if self.last == Some(address) {
            return false;
        }
        let Some(last) = self.last else {
            self.last = Some(address);
            return true;
        };
        let others = self.others.get_or_insert_default();
        let known = others.iter().position(|known| *known == address);
        let is_full = others.len() + 1 >= MAX_ADDRESSES;
        if let Some(index) = known {
            others.swap_remove(index);
        }
        self.last = Some(address);
        // If the list is full, the previous address is forgotten, and the new one is not reported
        // as new.
        if known.is_some() || !is_full {
            others.push(last);
        }
        known.is_none() && !is_full
    }
}

/// When a repeated audit line is due next, in nanoseconds of a monotonic clock.
#[derive(Debug, Default)]
struct Telling(AtomicU64);

impl Telling {
    /// Whether an audit line is due at `now`, in nanoseconds of a monotonic clock. Of several
    /// simultaneous callers, only one gets `true`.
    fn is_due(&self, now: u64) -> bool {
        let next = self.0.load(Ordering::Relaxed);
        // Zero means that no audit line of this kind was written yet.
        let after = now.saturating_add(u64::try_from(REPORT_INTERVAL.as_nanos()).unwrap_or(u64::MAX)).max(1);
        (next == 0 || now >= next)
            && self.0.compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Usage {
    /// Records a permitted request, and returns whether it is the first request from its address.
    pub(crate) fn note(&self, now: Timestamp, address: Option<IpAddr>) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.last_used.store(now.as_microsecond(), Ordering::Relaxed);
        let Some(address) = address.map(network) else { return false };
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).note(address)
    }

    /// Counts the tokens of a forwarded request that has ended. Counts the request in the ledger, if there
    /// is one: when it came, the group of its key, the model that it named, and its tokens.
    pub(super) fn ended(
        &self,
        request: (Timestamp, Option<&Arc<str>>, Option<&str>),
        tokens: Option<Tokens>,
    ) {
        if let Some(Tokens { input, output, .. }) = tokens {
            self.tokens.fetch_add(input.saturating_add(output), Ordering::Relaxed);
        }
        if let Some((ledger, of_key)) = &self.kept {
            ledger.note(of_key, request, tokens);
        }
    }

    /// Records a refused request that had a current or an old secret of the key.
    pub(super) fn refused(&self, code: Code) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        *refusals.get_or_insert_default().entry(code.name()).or_default() += 1;
    }

    /// Whether samples are taken for the history of the key.
    pub(super) fn is_watched(&self) -> bool {
        self.is_watched.load(Ordering::Relaxed)
    }

    /// Sets whether samples are taken. Returns whether this changed.
    pub(super) fn watch(&self, is_watched: bool) -> bool {
        self.is_watched.swap(is_watched, Ordering::Relaxed) != is_watched
    }

    /// Returns the counts of the key. `last`: the refusals of an earlier sample, which are shared if
    /// there were none since.
    pub(super) fn sums(&self, last: Option<Arc<[(&'static str, u64)]>>) -> KeySums {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let now = || refusals.iter().flat_map(|by_code| by_code.iter()).map(|(code, count)| (*code, *count));
        let refusals = last.filter(|last| last.iter().copied().eq(now())).unwrap_or_else(|| now().collect());
        KeySums { requests: self.requests(), tokens: self.tokens.load(Ordering::Relaxed), refusals }
    }

    pub(super) fn label(&self) -> KeyLabel {
        self.label
    }

    /// Returns the number of permitted requests.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Returns when the last permitted request came; `None` if none came.
    pub(crate) fn last_used(&self) -> Option<Timestamp> {
        let micros = self.last_used.load(Ordering::Relaxed);
        Timestamp::from_microsecond(micros).ok().filter(|_| micros != 0)
    }

    /// Returns the address of the last permitted request; of an IPv6 address, its /64.
    pub(crate) fn last_address(&self) -> Option<IpAddr> {
        self.addresses.lock().unwrap_or_else(PoisonError::into_inner).last
    }

    /// Returns the numbers of refused requests that had a secret of the key, by code.
    pub(crate) fn refusals(&self) -> BTreeMap<&'static str, u64> {
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.as_deref().cloned().unwrap_or_default()
    }

    /// Whether an audit line about the use of a rotated secret is due.
    pub(crate) fn tells_old_secret(&self, now: u64) -> bool {
        self.old_secret.is_due(now)
    }

    /// Whether an audit line about the key's age is due.
    pub(crate) fn tells_old_age(&self, now: u64) -> bool {
        self.old_age.is_due(now)
    }
}

/// Counts of one key at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KeySums {
    pub(super) requests: u64,
    pub(super) tokens: u64,
    /// Refused requests by code. Samples without new refusals share the list.
    pub(super) refusals: Arc<[(&'static str, u64)]>,
}

/// Returns the part of an address that counts as one client: of an IPv6 address its /64, all of
/// which one client may use.
pub(super) fn network(address: IpAddr) -> IpAddr {
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
        assert_eq!(book.labelled(), [(0, "key_a".into()), (1, "key_b".into())].into());
        assert!(book.find("key_d").is_none());
    }

    #[test]
    fn a_key_that_is_forgotten_makes_room_and_its_number_is_not_given_again() {
        let book = UsageBook::new(1);
        let in_service = book.of("key_a");
        assert_eq!(book.unreferenced(), HashSet::new());
        assert_eq!(book.forget("key_a"), None, "a request of it is under way");
        drop(in_service);
        assert_eq!(book.unreferenced(), ["key_a".to_owned()].into());
        assert_eq!(book.forget("key_a"), Some(KeyLabel::Id(0)));
        assert!(book.find("key_a").is_none() && book.labelled().is_empty());
        assert_eq!(book.of("key_b").label(), KeyLabel::Id(1));
    }

    #[test]
    fn a_repeated_finding_is_logged_once_an_hour() {
        let telling = Telling::default();
        let hour = u64::try_from(REPORT_INTERVAL.as_nanos()).unwrap();
        assert_eq!(
            [0, 1, hour - 1, hour, hour + 1].map(|now| telling.is_due(now)),
            [true, false, false, true, false]
        );
    }
}
