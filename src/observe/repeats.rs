//! Repeated refusals, with one entry for all refusals of a kind.
//!
//! Refusals are of one kind if they have the same code, reason and route, and the same caller: the
//! key, or the address of a caller without a key.
//!
//! Invariant: at most [`KINDS`] kinds are kept, each with at most [`EXAMPLES`] requests.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use jiff::Timestamp;

use super::refused::Refused;
use super::usage::network;

/// Maximum number of kinds that are kept. The kind that was refused longest ago makes room.
pub(crate) const KINDS: usize = 100;
/// Maximum number of different requests that are kept of one kind.
const EXAMPLES: usize = 3;

/// All refusals of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Repeated {
    pub(crate) count: u64,
    /// The number of the first refusal, which identifies the kind while it is kept.
    pub(crate) first_sequence: u64,
    pub(crate) first_at: Timestamp,
    /// The last refusal.
    pub(crate) last: Arc<Refused>,
    /// The last refusals that differ in address, credential, method, path or model, newest first.
    pub(crate) examples: Vec<Arc<Refused>>,
    /// Whether there were more different requests than the examples.
    pub(crate) has_others: bool,
}

/// The refusals of one worker, by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Repeats {
    by_kind: HashMap<u64, Repeated, RandomState>,
}

/// Code, reason, route and caller.
type Kind<'r> = (&'static str, &'r str, Option<&'r str>, Caller<'r>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Caller<'r> {
    Key(&'r str),
    /// The address of a caller without a key; `None` on a unix socket.
    Address(Option<IpAddr>),
}

impl Repeats {
    pub(super) fn add(&mut self, refused: &Arc<Refused>) {
        let kind = self.by_kind.hasher().hash_one(kind(refused));
        if let Some(repeated) = self.by_kind.get_mut(&kind) {
            repeated.add(refused);
            return;
        }
        if self.by_kind.len() >= KINDS {
            let oldest = self.by_kind.iter().min_by_key(|(_, repeated)| repeated.last.sequence);
            if let Some(oldest) = oldest.map(|(kind, _)| *kind) {
                self.by_kind.remove(&oldest);
            }
        }
        self.by_kind.insert(kind, Repeated::of(refused));
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Repeated> {
        self.by_kind.values()
    }
}

impl Repeated {
    fn of(refused: &Arc<Refused>) -> Self {
        Repeated {
            count: 1,
            first_sequence: refused.sequence,
            first_at: refused.at,
            last: refused.clone(),
            examples: vec![refused.clone()],
            has_others: false,
        }
    }

    fn add(&mut self, refused: &Arc<Refused>) {
        self.count += 1;
        self.last = refused.clone();
        self.examples.retain(|known| request(known) != request(refused));
        self.examples.insert(0, refused.clone());
        self.cut();
    }

    /// Adds the refusals of the same kind that another worker counted.
    fn merge(&mut self, other: Repeated) {
        self.count += other.count;
        if other.first_sequence < self.first_sequence {
            (self.first_sequence, self.first_at) = (other.first_sequence, other.first_at);
        }
        if other.last.sequence > self.last.sequence {
            self.last = other.last;
        }
        self.has_others |= other.has_others;
        self.examples.extend(other.examples);
        self.examples.sort_by_key(|refused| std::cmp::Reverse(refused.sequence));
        let mut seen: Vec<Arc<Refused>> = Vec::new();
        for refused in std::mem::take(&mut self.examples) {
            if seen.iter().all(|known| request(known) != request(&refused)) {
                seen.push(refused);
            }
        }
        self.examples = seen;
        self.cut();
    }

    fn cut(&mut self) {
        self.has_others |= self.examples.len() > EXAMPLES;
        self.examples.truncate(EXAMPLES);
    }
}

/// Adds up the refusals of all workers, by kind, and returns the last [`KINDS`], newest first.
pub(super) fn merged(mut all: Vec<Repeated>) -> Vec<Repeated> {
    all.sort_by(|a, b| kind(&a.last).cmp(&kind(&b.last)));
    let mut sums: Vec<Repeated> = Vec::new();
    for repeated in all {
        match sums.last_mut() {
            Some(sum) if kind(&sum.last) == kind(&repeated.last) => sum.merge(repeated),
            _ => sums.push(repeated),
        }
    }
    sums.sort_by_key(|repeated| std::cmp::Reverse(repeated.last.sequence));
    sums.truncate(KINDS);
    sums
}

fn kind(refused: &Refused) -> Kind<'_> {
    // Who guesses keys has a new credential for each guess, so an unknown credential is no caller.
    let caller = match refused.key_id.as_deref().filter(|_| refused.is_of_key) {
        Some(id) => Caller::Key(id),
        None => Caller::Address(refused.client.map(network)),
    };
    (refused.code, &refused.reason, refused.route.as_deref(), caller)
}

/// Returns the facts by which the requests of one kind differ.
fn request(refused: &Refused) -> (Option<IpAddr>, Option<&str>, &str, &str, Option<&str>) {
    let Refused { client, key_id, method, path, model, .. } = refused;
    (*client, key_id.as_deref(), method, path, model.as_deref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(sequence: u64, code: &'static str, path: &str) -> Arc<Refused> {
        Arc::new(Refused {
            sequence,
            at: Timestamp::from_second(i64::try_from(sequence).unwrap()).unwrap(),
            code,
            reason: "because".to_owned(),
            request_id: String::new(),
            client: Some("192.0.2.1".parse().unwrap()),
            method: "GET".to_owned(),
            path: path.to_owned(),
            is_of_key: false,
            key_id: None,
            claimed_key_id: None,
            route: None,
            model: None,
        })
    }

    fn paths(repeated: &Repeated) -> Vec<&str> {
        repeated.examples.iter().map(|refused| &*refused.path).collect()
    }

    #[test]
    fn refusals_of_one_kind_are_one_entry_of_all_workers() {
        let (mut one, mut other) = (Repeats::default(), Repeats::default());
        for sequence in 1..=40 {
            one.add(&refused(sequence, "ROUTE_NOT_FOUND", &format!("/{}", sequence % 2)));
        }
        other.add(&refused(0, "ROUTE_NOT_FOUND", "/first"));
        other.add(&refused(41, "ROUTE_NOT_FOUND", "/0"));
        other.add(&refused(20, "MISSING_API_KEY", "/0"));
        let all = merged(one.all().chain(other.all()).cloned().collect());
        let counts: Vec<(&str, u64)> = all.iter().map(|of| (of.last.code, of.count)).collect();
        assert_eq!(counts, [("ROUTE_NOT_FOUND", 42), ("MISSING_API_KEY", 1)]);
        assert_eq!((all[0].first_sequence, all[0].first_at.as_second()), (0, 0));
        assert_eq!((all[0].last.sequence, paths(&all[0])), (41, vec!["/0", "/1", "/first"]));
        assert!(!all[0].has_others);
    }

    #[test]
    fn another_key_reason_route_or_address_is_another_kind() {
        let first = refused(1, "MODEL_NOT_ALLOWED", "/");
        let mut of_key = (*first).clone();
        (of_key.is_of_key, of_key.key_id) = (true, Some("key_a".to_owned()));
        let mut of_key_elsewhere = of_key.clone();
        of_key_elsewhere.client = Some("198.51.100.1".parse().unwrap());
        let (mut reason, mut route, mut address) = ((*first).clone(), (*first).clone(), (*first).clone());
        reason.reason = "another".to_owned();
        route.route = Some("chat".to_owned());
        address.client = None;
        let mut repeats = Repeats::default();
        let mut guessed = (*first).clone();
        guessed.key_id = Some("key_of_no_one".to_owned());
        for refused in [(*first).clone(), guessed, of_key, of_key_elsewhere, reason, route, address] {
            repeats.add(&Arc::new(refused));
        }
        let mut counts: Vec<u64> = repeats.all().map(|repeated| repeated.count).collect();
        counts.sort_unstable();
        assert_eq!(
            counts,
            [1, 1, 1, 2, 2],
            "a key is one caller from all addresses, and guesses are one, too"
        );
    }

    #[test]
    fn kinds_and_examples_are_bounded_and_the_oldest_make_room() {
        let mut repeats = Repeats::default();
        for sequence in 0..10 {
            repeats.add(&refused(sequence, "URI_TOO_LONG", &format!("/{sequence}")));
        }
        for sequence in 10..300 {
            let mut other = (*refused(sequence, "BAD_REQUEST", "/")).clone();
            other.reason = sequence.to_string();
            repeats.add(&Arc::new(other));
            let mut same = (*refused(sequence + 1000, "URI_TOO_LONG", "/")).clone();
            same.path = format!("/{sequence}");
            repeats.add(&Arc::new(same));
        }
        let all = merged(repeats.all().cloned().collect());
        assert_eq!(all.len(), KINDS);
        assert_eq!((all[0].count, paths(&all[0])), (300, vec!["/299", "/298", "/297"]));
        assert!(all[0].has_others);
        assert_eq!(all.last().unwrap().last.reason, "201");
    }
}
