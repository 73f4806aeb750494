//! Types for the API data that the status page reads, and methods that format this data as text.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::figures::shortened;
use super::key_view::{Budget, Key};
use crate::ago::ahead_or_ago;
use crate::denial::Denial;

/// Remaining lifetime below which the page marks a certificate. Below `CERTIFICATE_LATE`, the page
/// shows the certificate as a fault.
const CERTIFICATE_SOON: Duration = Duration::from_secs(30 * 86_400);
const CERTIFICATE_LATE: Duration = Duration::from_secs(7 * 86_400);

/// Maximum number of characters that the page shows of a model in a table. Clients choose models.
const MAX_MODEL: usize = 40;

/// Converts JSON data of the admin API into a type of the page.
pub(super) fn read<T: DeserializeOwned>(value: Value) -> Result<T, Denial> {
    serde_json::from_value(value).map_err(|error| Denial::internal().caused_by(error.to_string()))
}

/// The fields of `/api/v1/status` that the page shows.
#[derive(Deserialize)]
pub(super) struct Status {
    pub(super) version: String,
    pub(super) uptime_seconds: u64,
    pub(super) is_ready: bool,
    pub(super) is_draining: bool,
    pub(super) generation: u64,
    pub(super) reloads: Vec<Reload>,
    pub(super) needs_restart: Vec<String>,
    pub(super) connections: u64,
    pub(super) requests: u64,
    pub(super) requests_in_flight: u64,
    pub(super) open_streams: u64,
    pub(super) refusals: BTreeMap<String, u64>,
    pub(super) keys: KeyCounts,
    pub(super) endpoints: Vec<EndpointView>,
    pub(super) queues: Vec<QueueView>,
    pub(super) doors: Vec<DoorView>,
    pub(super) certificates: Vec<Certificate>,
    pub(super) acme: Vec<AcmeView>,
    pub(super) identities: Option<IdentitiesView>,
    pub(super) log_lines_dropped: BTreeMap<String, u64>,
    pub(super) trend: Trend,
    pub(super) tokens_last_minute: Vec<TokenUse>,
    pub(super) store: Store,
    pub(super) groups: Vec<GroupView>,
    pub(super) state: Option<Kept>,
    pub(super) shared: Option<Shared>,
}

/// A group of keys.
#[derive(Deserialize)]
pub(super) struct GroupView {
    pub(super) name: String,
    pub(super) requests_in_flight: u64,
    pub(super) budgets: Vec<Budget>,
}

/// The directory with the state that survives a restart.
#[derive(Deserialize)]
pub(super) struct Kept {
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) written_at: Option<Timestamp>,
    pub(super) write_failures: u64,
    pub(super) trouble: Option<String>,
}

/// The replicas that share limits, and the server that has these.
#[derive(Deserialize)]
pub(super) struct Shared {
    pub(super) server: String,
    pub(super) is_available: bool,
    pub(super) trouble: Option<String>,
    pub(super) unavailable_seconds: f64,
    pub(super) granted_unavailable: u64,
    pub(super) replicas: Vec<Replica>,
    pub(super) leases: u64,
    pub(super) asks_per_second: f64,
    pub(super) asks_unanswered: u64,
    pub(super) ask_p99_seconds: Option<f64>,
}

#[derive(Deserialize)]
pub(super) struct Replica {
    pub(super) id: String,
    pub(super) is_this: bool,
    pub(super) generation: u64,
    pub(super) configuration: String,
}

#[derive(Deserialize)]
pub(super) struct Reload {
    pub(super) part: String,
    pub(super) is_current: bool,
    pub(super) loaded_at: Timestamp,
    pub(super) refused_at: Option<Timestamp>,
    /// The time since which nothing in the part's files is in effect; `None` if the files are in
    /// effect, or only some of their entries are at fault.
    pub(super) stale_since: Option<Timestamp>,
    pub(super) held: u64,
    pub(super) faults: Vec<Fault>,
}

#[derive(Deserialize)]
pub(super) struct Fault {
    pub(super) file: String,
    /// The line of the fault; zero for a fault of the whole file.
    pub(super) line: u64,
    pub(super) column: u64,
    pub(super) message: String,
    pub(super) hint: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct KeyCounts {
    pub(super) keys: u64,
    pub(super) due_for_rotation: u64,
}

#[derive(Deserialize)]
pub(super) struct EndpointView {
    pub(super) upstream: String,
    pub(super) endpoint: String,
    pub(super) address: Option<String>,
    pub(super) is_healthy: bool,
    pub(super) was_asked: bool,
    pub(super) fault: Option<String>,
    pub(super) look_up_fault: Option<String>,
    pub(super) requests_in_flight: u64,
}

/// The queue of an upstream.
#[derive(Deserialize)]
pub(super) struct QueueView {
    pub(super) upstream: String,
    pub(super) slots: u64,
    pub(super) slots_taken: u64,
    pub(super) waiting: Waiting,
}

/// A listener at which another proxy asks.
#[derive(Deserialize)]
pub(super) struct DoorView {
    pub(super) address: String,
    pub(super) asked_by: String,
    pub(super) unenforceable: String,
    pub(super) granted: u64,
    pub(super) refused: u64,
}

/// Requests that wait in a queue, by class.
#[derive(Deserialize)]
pub(super) struct Waiting {
    pub(super) interactive: u64,
    pub(super) standard: u64,
    pub(super) batch: u64,
}

#[derive(Deserialize)]
pub(super) struct Certificate {
    pub(super) listener: String,
    pub(super) file: String,
    pub(super) expires_at: Timestamp,
}

/// A certificate that bearward gets from an authority.
#[derive(Deserialize)]
pub(super) struct AcmeView {
    pub(super) domains: Vec<String>,
    pub(super) directory: String,
    pub(super) due_at: Option<Timestamp>,
    pub(super) is_asking: bool,
    pub(super) fault: Option<AcmeFault>,
}

/// Why the last attempt to get a certificate failed.
#[derive(Deserialize)]
pub(super) struct AcmeFault {
    pub(super) message: String,
    pub(super) advice: String,
    pub(super) at: Timestamp,
}

/// Issuers, and holders of tokens and certificates.
#[derive(Deserialize)]
pub(super) struct IdentitiesView {
    pub(super) issuers: Vec<IssuerView>,
    pub(super) holders: u64,
    pub(super) denied: u64,
    pub(super) latest: Vec<HolderView>,
}

/// An issuer of tokens.
#[derive(Deserialize)]
pub(super) struct IssuerView {
    pub(super) issuer: String,
    pub(super) kinds: String,
    pub(super) unusable: Vec<String>,
    pub(super) are_used: bool,
    pub(super) confirmed_at: Option<Timestamp>,
    pub(super) fault: Option<IssuerFault>,
}

/// Why the last request for an issuer's keys failed.
#[derive(Deserialize)]
pub(super) struct IssuerFault {
    pub(super) message: String,
    pub(super) at: Timestamp,
}

/// The holder of a token or certificate.
#[derive(Deserialize)]
pub(super) struct HolderView {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) group: Option<String>,
    pub(super) permissions: Vec<String>,
    pub(super) requests: u64,
    pub(super) last_used_at: Option<Timestamp>,
}

#[derive(Deserialize)]
pub(super) struct Trend {
    pub(super) requests_per_second: Vec<f64>,
    pub(super) tokens_per_minute: Vec<f64>,
    pub(super) refusals_per_second: Vec<f64>,
    pub(super) added_p95_seconds: Vec<Option<f64>>,
    pub(super) requests_in_flight: Vec<u64>,
}

/// Tokens that one key used of one model in the last minute.
#[derive(Deserialize)]
pub(super) struct TokenUse {
    pub(super) key_id: String,
    model: String,
    pub(super) input_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) output_tokens: u64,
}

#[derive(Deserialize)]
pub(super) struct Store {
    pub(super) path: String,
    pub(super) is_writable: bool,
    pub(super) why_not: Option<String>,
    pub(super) server: Option<Server>,
}

/// The Redis server with the keys.
#[derive(Deserialize)]
pub(super) struct Server {
    pub(super) is_reachable: bool,
    pub(super) generation: Option<u64>,
    pub(super) replicas: u64,
}

pub(super) struct ShownCertificate {
    pub(super) listener: String,
    pub(super) file: String,
    pub(super) ends: String,
    pub(super) class: &'static str,
}

impl Certificate {
    pub(super) fn shown(&self, now: Timestamp) -> ShownCertificate {
        let left = Duration::try_from(self.expires_at.duration_since(now)).unwrap_or_default();
        let class = match () {
            () if left < CERTIFICATE_LATE => "bad",
            () if left < CERTIFICATE_SOON => "mark",
            () => "good",
        };
        let (listener, file) = (self.listener.clone(), self.file.clone());
        ShownCertificate { listener, file, ends: ahead_or_ago(now, self.expires_at), class }
    }
}

impl Fault {
    pub(super) fn shown(&self) -> String {
        let Fault { file, line, column, message, hint } = self;
        let position = if *line > 0 { format!("{file}:{line}:{column}") } else { file.clone() };
        let hint = hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        format!("{position}: {message}{hint}")
    }
}

impl EndpointView {
    pub(super) fn fault_text(&self) -> &str {
        self.fault.as_deref().unwrap_or("left out")
    }
}

impl TokenUse {
    pub(super) fn model(&self) -> String {
        shortened(&self.model, MAX_MODEL)
    }

    /// Returns the key's name among the shown keys, else its id.
    pub(super) fn title<'k>(&'k self, keys: &'k [Key]) -> &'k str {
        keys.iter().find(|key| key.id == self.key_id).map_or(&self.key_id, Key::title)
    }
}
