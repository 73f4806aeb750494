//! How many lines of the logs are about requests without a good key.
//!
//! Whoever has no key could else fill a disk: over HTTP/2 a refused request costs a few bytes, and its lines some hundred.
//! In each window an address has lines for so many of its requests, all strangers together for so many, and one line tells
//! how many more there were. Requests of good keys are not counted here.
//!
//! Invariant: what is remembered of a window is bounded by [`REQUESTS_OF_ALL`]: an address has an entry once a request of
//! it has lines.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::address::host_part;

const WINDOW: Duration = Duration::from_secs(10);
/// Requests of one address that have lines in a window. IPv6 is counted by /64.
const REQUESTS_OF_ADDRESS: u32 = 20;
/// … and of all strangers together.
const REQUESTS_OF_ALL: u32 = 500;

/// A log that requests have lines in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Access,
    Audit,
}

impl Kind {
    pub(crate) const ALL: [Kind; 2] = [Kind::Access, Kind::Audit];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Access => "access",
            Kind::Audit => "audit",
        }
    }
}

/// Numbers of lines, by log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lines {
    access: u64,
    audit: u64,
}

impl Lines {
    fn of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Access => self.access,
            Kind::Audit => self.audit,
        }
    }

    fn add(&mut self, kind: Kind) {
        match kind {
            Kind::Access => self.access += 1,
            Kind::Audit => self.audit += 1,
        }
    }
}

/// The window that runs, and the lines that were left out since the start.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    window: Mutex<Option<Window>>,
    access: AtomicU64,
    audit: AtomicU64,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    /// Requests that have lines.
    requests: u32,
    by_host: HashMap<Host, OfHost>,
    /// Lines of hosts that have no entry.
    others: Lines,
}

/// Where requests come from; `None` behind a unix socket.
type Host = Option<IpAddr>;

#[derive(Debug, Default)]
struct OfHost {
    requests: u32,
    left_out: Lines,
}

/// Lines that were left out in a window that is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) kind: Kind,
    pub(super) of: Whose,
    pub(super) lines: u64,
    pub(super) seconds: u64,
}

/// Whose requests they are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whose {
    Address(IpAddr),
    UnixSockets,
    /// Addresses that came when all strangers together had had their lines.
    Others,
}

impl std::fmt::Display for Whose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Whose::Address(address @ IpAddr::V4(_)) => address.fmt(f),
            Whose::Address(network) => write!(f, "{network}/64"),
            Whose::UnixSockets => f.write_str("unix sockets"),
            Whose::Others => f.write_str("other addresses"),
        }
    }
}

impl Strangers {
    /// Whether a request from this address has lines.
    pub(super) fn may_tell(&self, address: Option<IpAddr>, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let window = window.get_or_insert_with(|| Window::begun(now));
        let host = address.map(host_part);
        let of_host = window.by_host.get(&host).map_or(0, |of_host| of_host.requests);
        if of_host >= REQUESTS_OF_ADDRESS || window.requests >= REQUESTS_OF_ALL {
            return false;
        }
        window.requests += 1;
        window.by_host.entry(host).or_default().requests += 1;
        true
    }

    /// Notes a line that is left out.
    pub(super) fn leave_out(&self, kind: Kind, address: Option<IpAddr>, now: Instant) {
        let total = match kind {
            Kind::Access => &self.access,
            Kind::Audit => &self.audit,
        };
        total.fetch_add(1, Ordering::Relaxed);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        // A long answer may end in another window than the one in which it was decided.
        let window = window.get_or_insert_with(|| Window::begun(now));
        match window.by_host.get_mut(&address.map(host_part)) {
            Some(of_host) if of_host.requests >= REQUESTS_OF_ADDRESS => of_host.left_out.add(kind),
            _ => window.others.add(kind),
        }
    }

    /// Lines that were left out since the start.
    pub(crate) fn left_out(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Access => self.access.load(Ordering::Relaxed),
            Kind::Audit => self.audit.load(Ordering::Relaxed),
        }
    }

    /// Ends the window where it is over, or at once where `now` is `None`; yields what was left out in it.
    pub(super) fn ended(&self, now: Option<Instant>) -> Vec<LeftOut> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = window.take_if(|window| now.is_none_or(|now| now >= window.began + WINDOW));
        drop(window);
        ended.map(|window| window.left_out(now.unwrap_or_else(Instant::now))).unwrap_or_default()
    }
}

impl Window {
    fn begun(now: Instant) -> Self {
        Window { began: now, requests: 0, by_host: HashMap::new(), others: Lines::default() }
    }

    fn left_out(self, now: Instant) -> Vec<LeftOut> {
        let seconds = now.duration_since(self.began).as_secs().max(1);
        let of_hosts = self
            .by_host
            .into_iter()
            .map(|(host, of_host)| (host.map_or(Whose::UnixSockets, Whose::Address), of_host.left_out));
        let mut all: Vec<(Whose, Lines)> = of_hosts.chain([(Whose::Others, self.others)]).collect();
        all.sort_unstable_by_key(|(of, _)| *of);
        let of_kind = |kind: Kind| {
            let all = all.iter().map(move |(of, lines)| (*of, lines.of(kind)));
            all.filter(|(_, lines)| *lines > 0).map(move |(of, lines)| LeftOut { kind, of, lines, seconds })
        };
        Kind::ALL.into_iter().flat_map(of_kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    /// How many of so many requests have lines; the others' are left out.
    fn told(strangers: &Strangers, now: Instant, addresses: impl Iterator<Item = Option<IpAddr>>) -> usize {
        let mut told = 0;
        for address in addresses {
            match strangers.may_tell(address, now) {
                true => told += 1,
                false => strangers.leave_out(Kind::Access, address, now),
            }
        }
        told
    }

    #[test]
    fn an_address_has_so_many_requests_told_and_then_a_count() {
        let (strangers, start) = (Strangers::default(), Instant::now());
        assert_eq!(told(&strangers, start, (0..1000).map(|_| address("192.0.2.1"))), 20);
        assert_eq!(told(&strangers, start, (0..1000).map(|_| None)), 20);
        let of_a_network = |host: usize| address(&format!("2001:db8::{host:x}"));
        assert_eq!(told(&strangers, start, (1..=1000).map(of_a_network)), 20, "one host has a whole /64");
        assert_eq!(told(&strangers, start, [address("192.0.2.2")].into_iter()), 1);
        strangers.leave_out(Kind::Audit, address("192.0.2.1"), start);
        assert_eq!(strangers.ended(Some(start + WINDOW / 2)), []);
        let left_out = strangers.ended(Some(start + WINDOW));
        let told: Vec<String> = left_out
            .iter()
            .map(|left_out| {
                let LeftOut { kind, of, lines, seconds } = left_out;
                format!("{} {lines} more of {of} in {seconds} s", kind.name())
            })
            .collect();
        let expected = [
            "access 980 more of 192.0.2.1 in 10 s",
            "access 980 more of 2001:db8::/64 in 10 s",
            "access 980 more of unix sockets in 10 s",
            "audit 1 more of 192.0.2.1 in 10 s",
        ];
        assert_eq!(told, expected);
        assert_eq!((strangers.left_out(Kind::Access), strangers.left_out(Kind::Audit)), (2940, 1));
        assert!(strangers.may_tell(address("192.0.2.1"), start + WINDOW), "the next window is its own");
    }

    #[test]
    fn however_many_addresses_come_lines_and_memory_are_bounded() {
        let (strangers, start) = (Strangers::default(), Instant::now());
        let many = (0..1_000_000u32).map(|host| Some(IpAddr::V4(host.into())));
        assert_eq!(told(&strangers, start, many), 500);
        let window = strangers.window.lock().unwrap();
        assert_eq!(window.as_ref().unwrap().by_host.len(), 500);
        drop(window);
        let left_out = strangers.ended(None);
        assert_eq!(left_out.len(), 1);
        assert_eq!((left_out[0].of, left_out[0].lines), (Whose::Others, 999_500));
        assert_eq!(strangers.ended(None), []);
    }
}
