//! The data of a key that the pages read from the admin API, and methods that format it as text.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use super::figures::count;
use crate::ago::{ahead_or_ago, span};

/// The fields of `/api/v1/keys` that the status page shows.
#[derive(Deserialize)]
pub(super) struct Keys {
    pub(super) keys: Vec<Key>,
    pub(super) next_after: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Key {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) state: String,
    pub(super) permissions: Vec<String>,
    pub(super) environment: Option<String>,
    pub(super) group: Option<String>,
    pub(super) created_at: Option<Timestamp>,
    pub(super) not_before: Option<Timestamp>,
    pub(super) expires_at: Option<Timestamp>,
    pub(super) rotation_due_at: Option<Timestamp>,
    pub(super) rotation_due: bool,
    pub(super) old_secrets_until: Vec<Timestamp>,
    pub(super) allow_from: Vec<String>,
    pub(super) routes: Option<Vec<String>>,
    pub(super) models: Option<Vec<String>>,
    pub(super) request: Option<OutputCap>,
    pub(super) priority: Option<String>,
    pub(super) weight: Option<u64>,
    pub(super) limits: Limits,
    pub(super) usage: Usage,
}

#[derive(Deserialize)]
pub(super) struct OutputCap {
    max_output_tokens: u64,
    on_excess: String,
}

#[derive(Deserialize)]
pub(super) struct Limits {
    pub(super) rate_limits: Vec<Window>,
    pub(super) concurrent: Option<Concurrent>,
    pub(super) budgets: Vec<Budget>,
}

#[derive(Deserialize)]
pub(super) struct Window {
    pub(super) policy: String,
    unit: String,
    limit: u64,
    window_seconds: u64,
    pub(super) burst: u64,
    pub(super) remaining: u64,
    full_in_seconds: f64,
}

#[derive(Deserialize)]
pub(super) struct Concurrent {
    pub(super) limit: u64,
    pub(super) in_flight: u64,
}

/// A budget of a key or of a group.
#[derive(Deserialize)]
pub(super) struct Budget {
    pub(super) policy: String,
    pub(super) limit: u64,
    pub(super) used: u64,
    pub(super) resets_at: Timestamp,
}

#[derive(Deserialize)]
pub(super) struct Usage {
    pub(super) requests: u64,
    pub(super) refusals: BTreeMap<String, u64>,
    pub(super) last_used_at: Option<Timestamp>,
    pub(super) last_address: Option<String>,
}

impl Key {
    pub(super) fn title(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    pub(super) fn class(&self) -> &'static str {
        if self.state == "active" { "good" } else { "bad" }
    }

    pub(super) fn permissions(&self) -> String {
        self.permissions.join(", ")
    }

    pub(super) fn ends(&self, now: &Timestamp) -> String {
        self.expires_at
            .map_or_else(|| "never ends".to_owned(), |end| format!("ends {}", ahead_or_ago(*now, end)))
    }

    pub(super) fn used(&self, now: &Timestamp) -> String {
        let Usage { requests, last_used_at, last_address, .. } = &self.usage;
        let Some(at) = last_used_at else { return "not used since the start".to_owned() };
        let from = last_address.as_ref().map(|address| format!(" from {address}")).unwrap_or_default();
        let plural = if *requests == 1 { "" } else { "s" };
        format!("{} request{plural}, the last {}{from}", count(*requests), ahead_or_ago(*now, *at))
    }

    pub(super) fn has_limits(&self) -> bool {
        let Limits { rate_limits, concurrent, budgets } = &self.limits;
        !rate_limits.is_empty() || concurrent.is_some() || !budgets.is_empty()
    }

    /// Returns the names and values of everything about the key except its limits.
    pub(super) fn facts(&self, now: Timestamp) -> Vec<(&'static str, String)> {
        let exact = |at: Timestamp| format!("{at:.0}, {}", ahead_or_ago(now, at));
        let list = |list: &[String]| list.join(", ");
        let ends = self.expires_at.map_or_else(|| "never".to_owned(), exact);
        let old: Vec<String> = self.old_secrets_until.iter().copied().map(exact).collect();
        let due = self.rotation_due_at.map(|at| match self.rotation_due {
            true => format!("due since {}", exact(at)),
            false => exact(at),
        });
        let cap = self.request.as_ref().map(|cap| {
            let excess = if cap.on_excess == "lower" { "more is lowered" } else { "more is refused" };
            format!("at most {}; {excess}", count(cap.max_output_tokens))
        });
        let facts = [
            ("Permissions", Some(self.permissions())),
            ("Ends", Some(ends)),
            ("Valid from", self.not_before.map(exact)),
            ("Secret made", self.created_at.map(exact)),
            ("Rotation", due),
            ("Old secrets valid until", (!old.is_empty()).then(|| old.join("; "))),
            ("Environment", self.environment.clone()),
            ("Group", self.group.clone()),
            ("Routes", self.routes.as_deref().map(list)),
            ("Models", self.models.as_deref().map(list)),
            ("Networks", (!self.allow_from.is_empty()).then(|| list(&self.allow_from))),
            ("Output tokens", cap),
            ("Priority", self.priority.clone()),
            ("Weight", self.weight.map(count)),
            ("Used since the start", Some(self.used(&now))),
            ("Refused since the start", (!self.usage.refusals.is_empty()).then(|| self.refused())),
        ];
        facts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    fn refused(&self) -> String {
        let codes = self.usage.refusals.iter().map(|(code, number)| format!("{} {code}", count(*number)));
        codes.collect::<Vec<_>>().join(", ")
    }
}

impl Window {
    /// Returns how many units of the burst are used.
    pub(super) fn taken(&self) -> u64 {
        self.burst.saturating_sub(self.remaining)
    }

    /// Returns the number of used units above which a page shows the burst as nearly used up.
    pub(super) fn high(&self) -> u64 {
        self.burst - self.burst / 5
    }

    /// Returns the limit in words.
    pub(super) fn terms(&self) -> String {
        let Window { unit, limit, window_seconds, burst, .. } = self;
        let per = span(Duration::from_secs(*window_seconds));
        format!("{} {} in {per}, {} at once", count(*limit), unit.replace('_', " "), count(*burst))
    }

    /// Returns when nothing of the burst is used any more; an empty text if nothing is used.
    pub(super) fn full(&self) -> String {
        let left = Duration::try_from_secs_f64(self.full_in_seconds.ceil()).unwrap_or_default();
        if left.is_zero() { String::new() } else { format!(", all of them in {}", span(left)) }
    }
}

impl Budget {
    pub(super) fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    /// Returns the number of used units above which a page shows the budget as nearly used up.
    pub(super) fn high(&self) -> u64 {
        self.limit - self.limit / 5
    }
}
