//! Quotas of log lines about requests without a valid key.
//!
//! Without quotas, such requests could fill a disk: over HTTP/2, a refused request has a few bytes,
//! and its log lines have some hundred bytes. In each window of time, a limited number of requests
//! from one address have log lines, and a limited number of requests from all addresses together. A
//! further line reports how many lines were left out. Each existing key that is refused, such as an
//! expired key, has its own quota, and all refused keys share a quota that is as large as the quota
//! of all addresses. Therefore clients that guess, from one address or many, can't hide the lines
//! of a refused key. Requests with valid keys are not counted.
//!
//! Invariant: a window has at most twice [`REQUESTS_OF_ALL`] entries, because a source gets an
//! entry only when one of its requests has log lines.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::address::host_part;

const WINDOW: Duration = Duration::from_secs(10);
/// Maximum number of requests from one source (an address or a refused key) that have log lines in
/// one window.
const REQUESTS_OF_SOURCE: u32 = 20;
/// Maximum number of requests from all addresses together that have log lines in one window. The
/// same maximum applies to all refused keys together.
const REQUESTS_OF_ALL: u32 = 100;

/// One of the two logs that have lines about requests.
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

/// The number of lines in the access log, and the number of lines in the audit log.
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

/// The current window, and the numbers of log lines that were left out since the start.
#[derive(Debug, Default)]
pub(crate) struct LineQuotas {
    window: Mutex<Option<Window>>,
    access: AtomicU64,
    audit: AtomicU64,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    /// Number of requests that have log lines and count towards an address. `of_keys`: number of
    /// requests that have log lines and count towards a refused key.
    of_addresses: u32,
    of_keys: u32,
    by_source: HashMap<LineSource, LinesOfSource>,
    /// Numbers of left-out log lines of all sources that have not used up their own quota.
    others: Lines,
}

/// The source of a request, which decides the quota that the request counts towards.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum LineSource {
    /// A client's address; of an IPv6 address, its /64.
    Address(IpAddr),
    UnixSockets,
    /// The id of an existing key whose secret was presented.
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
    /// The source of the requests; `None` for all sources that have not used up their own quota.
    pub(super) of: Option<LineSource>,
    pub(super) lines: u64,
    pub(super) seconds: u64,
}

impl LeftOut {
    /// Returns the source of the requests as text for people.
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
    /// Whether a request from this source may have log lines. If so, the request is counted.
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

    /// Counts a log line that is left out.
    pub(super) fn leave_out(&self, kind: Kind, source: &LineSource, now: Instant) {
        let total = match kind {
            Kind::Access => &self.access,
            Kind::Audit => &self.audit,
        };
        total.fetch_add(1, Ordering::Relaxed);
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        // A new window may have begun since the request was counted, because the answer may have
        // lasted long.
        let window = window.get_or_insert_with(|| Window::begun(now));
        match window.by_source.get_mut(source) {
            Some(of_source) if of_source.requests >= REQUESTS_OF_SOURCE => of_source.left_out.add(kind),
            _ => window.others.add(kind),
        }
    }

    /// Returns how many lines of this log were left out since the start.
    pub(crate) fn left_out(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Access => self.access.load(Ordering::Relaxed),
            Kind::Audit => self.audit.load(Ordering::Relaxed),
        }
    }

    /// Ends the window if its time is over, or at once if `now` is `None`. Returns the lines that
    /// were left out in the ended window.
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

    /// Makes one request of each source, and returns how many of these requests have lines.
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
