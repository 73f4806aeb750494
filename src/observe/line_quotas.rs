//! Quotas of log lines about requests without a valid key.
//!
//! Such requests could otherwise fill a disk: over HTTP/2 a refused request costs a few bytes, and
//! its lines some hundred. In each window, each address has lines for a limited number of its
//! requests, all addresses together for a limited number, and one line reports how many more there
//! were. Each existing key that is refused, such as an expired one, has a quota of its own, and all
//! of these keys share one as large as that of all addresses: so clients that guess, from one
//! address or many, can't hide its lines. Requests with valid keys are not counted.
//!
//! Invariant: the state of a window is bounded by twice [`REQUESTS_OF_ALL`], since a source has an
//! entry only once one of its requests has lines.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::address::host_part;

const WINDOW: Duration = Duration::from_secs(10);
/// Requests of one source that have lines in a window.
const REQUESTS_OF_SOURCE: u32 = 20;
/// Requests that have lines in a window, of all addresses together, and of all refused keys
/// together.
const REQUESTS_OF_ALL: u32 = 100;

/// A log with lines about requests.
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

/// The present window, and the lines that were left out since the start.
#[derive(Debug, Default)]
pub(crate) struct LineQuotas {
    window: Mutex<Option<Window>>,
    access: AtomicU64,
    audit: AtomicU64,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    /// Requests that have lines, of addresses and of keys.
    of_addresses: u32,
    of_keys: u32,
    by_source: HashMap<LineSource, LinesOfSource>,
    /// Lines of sources without an entry.
    others: Lines,
}

/// The source that requests are counted by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum LineSource {
    /// A client's address; IPv6 is cut to its /64.
    Address(IpAddr),
    UnixSockets,
    /// The id of an existing key, of which a secret was presented.
    Key(String),
}

impl LineSource {
    pub(super) fn address(address: Option<IpAddr>) -> Self {
        address.map_or(LineSource::UnixSockets, |address| LineSource::Address(host_part(address)))
    }
}

#[derive(Debug, Default)]
struct LinesOfSource {
    requests: u32,
    left_out: Lines,
}

/// Lines that were left out in a window that has ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LeftOut {
    pub(super) kind: Kind,
    /// The source of the requests; `None` for sources that came after the quota of all was used up.
    pub(super) of: Option<LineSource>,
    pub(super) lines: u64,
    pub(super) seconds: u64,
}

impl LeftOut {
    /// The source of the requests, for people.
    pub(super) fn whose(&self) -> String {
        match &self.of {
            Some(LineSource::Address(address @ IpAddr::V4(_))) => address.to_string(),
            Some(LineSource::Address(network)) => format!("{network}/64"),
            Some(LineSource::UnixSockets) => "unix sockets".to_owned(),
            Some(LineSource::Key(id)) => id.clone(),
            None => "other addresses".to_owned(),
        }
    }
}

impl LineQuotas {
    /// Whether a request of this source has lines.
    pub(super) fn may_log(&self, source: &LineSource, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let window = window.get_or_insert_with(|| Window::begun(now));
        let of_source = window.by_source.get(source).map_or(0, |of_source| of_source.requests);
        let of_all = match source {
            LineSource::Key(_) => &mut window.of_keys,
            LineSource::Address(_) | LineSource::UnixSockets => &mut window.of_addresses,
        };
        if of_source >= REQUESTS_OF_SOURCE || *of_all >= REQUESTS_OF_ALL {
            return false;
        }
        *of_all += 1;
        window.by_source.entry(source.clone()).or_default().requests += 1;
        true
    }

    /// Notes a line that is left out.
    pub(super) fn leave_out(&self, kind: Kind, source: &LineSource, now: Instant) {
        let total = match kind {
            Kind::Access => &self.access,
            Kind::Audit => &self.audit,
        };
        total.fetch_add(1, Ordering::Relaxed);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        // A long answer may end in a later window than the one of its decision.
        let window = window.get_or_insert_with(|| Window::begun(now));
        match window.by_source.get_mut(source) {
            Some(of_source) if of_source.requests >= REQUESTS_OF_SOURCE => of_source.left_out.add(kind),
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

    /// Ends the window where its time is over, or at once where `now` is `None`. Returns the lines
    /// that were left out in it.
    pub(super) fn ended(&self, now: Option<Instant>) -> Vec<LeftOut> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = window.take_if(|window| now.is_none_or(|now| now >= window.began + WINDOW));
        drop(window);
        ended.map(|window| window.left_out(now.unwrap_or_else(Instant::now))).unwrap_or_default()
    }
}

impl Window {
    fn begun(now: Instant) -> Self {
        Window {
            began: now,
            of_addresses: 0,
            of_keys: 0,
            by_source: HashMap::new(),
            others: Lines::default(),
        }
    }

    fn left_out(self, now: Instant) -> Vec<LeftOut> {
        let seconds = now.duration_since(self.began).as_secs().max(1);
        let mut sources: Vec<(Option<LineSource>, Lines)> = self
            .by_source
            .into_iter()
            .map(|(source, of_source)| (Some(source), of_source.left_out))
            .collect();
        sources.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        sources.push((None, self.others));
        let of_kind = |kind: Kind| {
            let all = sources.iter().map(move |(of, lines)| (of, lines.of(kind)));
            let left_out = all.filter(|(_, lines)| *lines > 0);
            left_out.map(move |(of, lines)| LeftOut { kind, of: of.clone(), lines, seconds })
        };
        Kind::ALL.into_iter().flat_map(of_kind).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> LineSource {
        LineSource::address(Some(text.parse().unwrap()))
    }

    /// How many of so many requests have lines; the others' are left out.
    fn logged(line_quotas: &LineQuotas, now: Instant, sources: impl Iterator<Item = LineSource>) -> usize {
        let mut logged = 0;
        for source in sources {
            match line_quotas.may_log(&source, now) {
                true => logged += 1,
                false => line_quotas.leave_out(Kind::Access, &source, now),
            }
        }
        logged
    }

    #[test]
    fn an_address_has_a_quota_of_logged_requests_and_then_a_count() {
        let (line_quotas, start) = (LineQuotas::default(), Instant::now());
        assert_eq!(logged(&line_quotas, start, (0..1000).map(|_| address("192.0.2.1"))), 20);
        assert_eq!(logged(&line_quotas, start, (0..1000).map(|_| LineSource::UnixSockets)), 20);
        assert_eq!(logged(&line_quotas, start, (0..1000).map(|_| LineSource::Key("key_a".to_owned()))), 20);
        let of_a_network = |host: usize| address(&format!("2001:db8::{host:x}"));
        assert_eq!(logged(&line_quotas, start, (1..=1000).map(of_a_network)), 20, "one host has a whole /64");
        assert_eq!(logged(&line_quotas, start, [address("192.0.2.2")].into_iter()), 1);
        line_quotas.leave_out(Kind::Audit, &address("192.0.2.1"), start);
        assert_eq!(line_quotas.ended(Some(start + WINDOW / 2)), []);
        let left_out = line_quotas.ended(Some(start + WINDOW));
        let logged: Vec<String> = left_out
            .iter()
            .map(|left_out| {
                let LeftOut { kind, lines, seconds, .. } = left_out;
                format!("{} {lines} more of {} in {seconds} s", kind.name(), left_out.whose())
            })
            .collect();
        let expected = [
            "access 980 more of 192.0.2.1 in 10 s",
            "access 980 more of 2001:db8::/64 in 10 s",
            "access 980 more of unix sockets in 10 s",
            "access 980 more of key_a in 10 s",
            "audit 1 more of 192.0.2.1 in 10 s",
        ];
        assert_eq!(logged, expected);
        assert_eq!((line_quotas.left_out(Kind::Access), line_quotas.left_out(Kind::Audit)), (3920, 1));
        assert!(line_quotas.may_log(&address("192.0.2.1"), start + WINDOW), "the next window is its own");
    }

    #[test]
    fn however_many_addresses_come_lines_and_memory_are_bounded() {
        let (line_quotas, start) = (LineQuotas::default(), Instant::now());
        let many = (0..1_000_000u32).map(|host| LineSource::address(Some(IpAddr::V4(host.into()))));
        assert_eq!(logged(&line_quotas, start, many), 100);
        let keys = (0..20).map(|_| LineSource::Key("key_revoked".to_owned()));
        assert_eq!(
            logged(&line_quotas, start, keys),
            20,
            "a refused key's lines are not used up by unauthenticated clients"
        );
        let window = line_quotas.window.lock().unwrap();
        assert_eq!(window.as_ref().unwrap().by_source.len(), 101);
        drop(window);
        let left_out = line_quotas.ended(None);
        assert_eq!(left_out.len(), 1);
        assert_eq!((left_out[0].whose(), left_out[0].lines), ("other addresses".to_owned(), 999_900));
        assert_eq!(line_quotas.ended(None), []);
    }
}
