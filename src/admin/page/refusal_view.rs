//! The refusals that the pages read from the admin API, and methods that format them as text.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;

use super::figures::shortened;

/// Maximum number of characters that a page shows of a request's method, path or model. Clients
/// choose these texts.
const MAX_TEXT: usize = 96;
/// Maximum number of characters that a page shows of a reason, which may quote text of a peer.
const MAX_REASON: usize = 240;

/// All refusals of one kind, as an entry of `/api/v1/refusals/kinds`.
#[derive(Deserialize)]
pub(super) struct RefusalKind {
    pub(super) first_sequence: u64,
    pub(super) first_at: Timestamp,
    pub(super) last_at: Timestamp,
    pub(super) count: u64,
    pub(super) code: String,
    reason: String,
    pub(super) advice: String,
    pub(super) key_id: Option<String>,
    pub(super) examples: Vec<Refusal>,
    pub(super) has_others: bool,
}

/// One refused request.
#[derive(Deserialize)]
pub(super) struct Refusal {
    client: Option<String>,
    method: String,
    path: String,
    key_id: Option<String>,
    claimed_key_id: Option<String>,
    model: Option<String>,
}

impl RefusalKind {
    pub(super) fn reason(&self) -> String {
        shortened(&self.reason, MAX_REASON)
    }

    pub(super) fn first(&self, now: &Timestamp) -> String {
        clock(self.first_at, *now)
    }

    pub(super) fn last(&self, now: &Timestamp) -> String {
        clock(self.last_at, *now)
    }
}

impl Refusal {
    /// Returns where the request came from, and its credential if it is not the known key `of`.
    pub(super) fn from(&self, of: &Option<String>) -> String {
        let from = self.client.as_deref().unwrap_or("a unix socket");
        match (&self.key_id, &self.claimed_key_id) {
            (Some(id), _) if of.is_none() => format!("{id} from {from}"),
            (Some(_), _) => format!("from {from}"),
            (None, Some(claimed)) => {
                format!("a token that claims {}, from {from}", shortened(claimed, MAX_TEXT))
            }
            (None, None) => format!("no key, from {from}"),
        }
    }

    pub(super) fn what(&self) -> String {
        let [method, path] = [&self.method, &self.path].map(|text| shortened(text, MAX_TEXT));
        let model = self.model.as_ref().map(|model| format!(", model {}", shortened(model, MAX_TEXT)));
        format!("{method} {path}{}", model.unwrap_or_default())
    }
}

/// Formats a time in UTC, like the times in logs, with its day if that is not today.
fn clock(at: Timestamp, now: Timestamp) -> String {
    let [at, now] = [at, now].map(|time| time.to_zoned(TimeZone::UTC));
    let format = if at.date() == now.date() { "%H:%M:%S" } else { "%b %-d %H:%M:%S" };
    at.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_of_another_day_has_its_day() {
        let now: Timestamp = "2026-03-02T10:00:00Z".parse().unwrap();
        let clocks =
            ["2026-03-02T09:59:58.9Z", "2026-03-01T23:00:00Z"].map(|at| clock(at.parse().unwrap(), now));
        assert_eq!(clocks, ["09:59:58", "Mar 1 23:00:00"]);
    }
}
