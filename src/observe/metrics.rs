//! The metrics for Prometheus, in the text form of OpenMetrics 1.0.
//!
//! The caller builds a [`Scrape`]; this file only writes it as text. Labels are names of the
//! configuration, codes, and ids of existing keys, never parts of a request.

mod certificates;
mod doors;
mod identities;
mod process;
mod queues;
mod sheet;

use std::collections::BTreeMap;
use std::fmt::Error;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::histogram::Histogram;
use super::observer::Levels;
use super::reloads::{PartState, State};
use super::tally::{STATUS_CLASSES, Tally};
use super::token_minute::OfModel;
use super::usage::KeyLabel;
use crate::denial::Code;
use crate::key_store::redis::Health;
pub(crate) use certificates::{AcmeSample, Certificate};
pub(crate) use identities::{IdentityFigures, IssuerSample};
use process::Process;
pub(crate) use queues::QueueSample;
use sheet::{Sheet, counted, counted_seconds, timed, valued};

/// The content type of [`Scrape::encoded`].
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All values of one scrape.
#[derive(Debug)]
pub(crate) struct Scrape {
    pub(crate) tally: Tally,
    pub(crate) levels: Levels,
    /// Key ids that are labels, by the number of the label.
    pub(crate) key_ids: BTreeMap<u32, Arc<str>>,
    pub(crate) reloads: State,
    pub(crate) keys: Keys,
    pub(crate) endpoints: Vec<EndpointSample>,
    pub(crate) queues: Vec<QueueSample>,
    pub(crate) certificates: Vec<Certificate>,
    /// Certificates that bearward gets from authorities.
    pub(crate) acme: Vec<AcmeSample>,
    /// What is known of holders of tokens and certificates; `None` if there are none.
    pub(crate) identities: Option<IdentityFigures>,
    /// Numbers of lost log lines, by destination.
    pub(crate) lost_lines: Vec<(String, u64)>,
    /// Numbers of left-out lines about requests without a valid key, by log.
    pub(crate) left_out_lines: [(&'static str, u64); 2],
    /// Numbers of threads that ended while the process ran, by purpose.
    pub(crate) ended_threads: Vec<(&'static str, u64)>,
    /// Number of lost spans; `None` if no spans are exported.
    pub(crate) lost_spans: Option<u64>,
    /// Figures of the limits of all replicas; `None` if they are not shared.
    pub(crate) shared: Option<SharedFigures>,
    /// Budgets of groups, and of keys whose ids are labels.
    pub(crate) budgets: Vec<BudgetSample>,
    /// Figures of the state directory; `None` if there is none.
    pub(crate) state: Option<StateFigures>,
}

/// A budget of a key or of a group.
#[derive(Clone, Debug)]
pub(crate) struct BudgetSample {
    /// The id of the key; empty for a budget of a group.
    pub(crate) key: String,
    /// The name of the group; empty for a budget of a key.
    pub(crate) group: String,
    pub(crate) policy: String,
    pub(crate) used: u64,
    pub(crate) limit: u64,
    pub(crate) resets_at: Timestamp,
}

/// Figures of the state directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct StateFigures {
    /// The length of the journals that are written now, in bytes.
    pub(crate) bytes: u64,
    /// When all that had changed was last written.
    pub(crate) written_at: Option<Timestamp>,
    pub(crate) failures: u64,
}

/// Figures of the limits of all replicas, and of the server that has them.
#[derive(Clone, Debug)]
pub(crate) struct SharedFigures {
    pub(crate) is_available: bool,
    pub(crate) replicas: usize,
    /// Keys of which units are held.
    pub(crate) leases: usize,
    /// Times of the asks that had an answer in time.
    pub(crate) answered: Histogram,
    pub(crate) unanswered: u64,
    /// Time without the server since the start.
    pub(crate) away: Duration,
    /// Requests that were granted meanwhile.
    pub(crate) granted_away: u64,
}

/// Figures of the key store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    pub(crate) keys: usize,
    pub(crate) secrets: usize,
    pub(crate) due_for_rotation: usize,
    /// Ids of the keys that expire next, each with the time at which the key expires.
    pub(crate) next_ends: Vec<(String, Timestamp)>,
    /// The health of the store, if it is in a Redis server.
    pub(crate) server: Option<Health>,
}

#[derive(Clone, Debug)]
pub(crate) struct EndpointSample {
    pub(crate) upstream: Arc<str>,
    /// The configured endpoint.
    pub(crate) endpoint: String,
    /// The resolved address of the endpoint, if the endpoint is configured by a host name.
    pub(crate) address: Option<String>,
    pub(crate) is_healthy: bool,
    /// Whether the endpoint has been checked or used since the process started.
    pub(crate) is_known: bool,
    /// Why the endpoint gets no requests, if it gets none.
    pub(crate) fault: Option<String>,
    /// Why the last lookup of the endpoint's name failed, if it failed.
    pub(crate) look_up_fault: Option<String>,
    pub(crate) in_flight: usize,
}

impl EndpointSample {
    fn labels(&self) -> Vec<(&str, &str)> {
        let address = self.address.as_deref().map(|address| ("address", address));
        [("upstream", &*self.upstream), ("endpoint", &*self.endpoint)].into_iter().chain(address).collect()
    }
}

impl Scrape {
    /// Returns the text of the answer to a scrape.
    pub(crate) fn encoded(self) -> String {
        let mut text = String::with_capacity(64 * 1024);
        let mut ours = Registry::with_prefix("bearward");
        ours.register_collector(Box::new(self));
        let mut of_process = Registry::default();
        of_process.register_collector(Box::new(Process));
        // Writing to a string does not fail.
        let _never = encode_registry(&mut text, &ours)
            .and_then(|()| encode_registry(&mut text, &of_process))
            .and_then(|()| encode_eof(&mut text));
        text
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let mut sheet = Sheet(encoder);
        self.requests(&mut sheet)?;
        self.times(&mut sheet)?;
        self.levels(&mut sheet)?;
        queues::write(&mut sheet, &self.queues, &self.tally, |key| self.key_id(key))?;
        doors::write(&mut sheet, &self.tally)?;
        self.keys(&mut sheet)?;
        self.shared(&mut sheet)?;
        self.kept(&mut sheet)?;
        self.files(&mut sheet)
    }
}

impl Scrape {
    fn requests(&self, sheet: &mut Sheet<'_>) -> Result<(), Error> {
        let mut family =
            sheet.counter("requests", "Requests that have ended, by key, route and class of status")?;
        for (route, of_route) in &self.tally.routes {
            for (key, classes) in &of_route.requests {
                let Some(key_id) = self.key_id(key) else { continue };
                for (class, count) in STATUS_CLASSES.iter().zip(classes).filter(|(_, count)| **count > 0) {
                    let labels = [("key_id", key_id), ("route", &**route), ("status", class)];
                    counted(&mut family, &labels, *count)?;
                }
            }
        }
        let mut family = sheet.counter("refusals", "Answers that bearward made itself, by code")?;
        // Codes with a count of zero are written, too: if they were missing, a query for an
        // increase would not see the first refusal.
        for code in Code::ALL {
            let count = self.tally.refusals.get(code.name()).copied().unwrap_or(0);
            counted(&mut family, &[("code", code.name())], count)?;
        }
        let help = "Requests that limits that only count would have refused, by code";
        let mut family = sheet.counter("would_refuse", help)?;
        for code in [Code::RateLimitExceeded, Code::TokensExceedLimit] {
            let count = self.tally.would_refuse.get(code.name()).copied().unwrap_or(0);
            counted(&mut family, &[("code", code.name())], count)?;
        }
        self.tokens(sheet)?;
        let mut family = sheet.counter("limit_refusals", "Requests that a rate limit refused, by policy")?;
        for (policy, exhausted) in &self.tally.exhausted {
            counted(&mut family, &[("policy", &**policy)], exhausted.count)?;
        }
        Ok(())
    }

    fn tokens(&self, sheet: &mut Sheet<'_>) -> Result<(), Error> {
        if self.tally.tokens.is_empty() {
            return Ok(());
        }
        let help = "Tokens of requests that have ended, by key, model, kind, and how they became known";
        let mut family = sheet.counter("tokens", help)?;
        for ((key, model, by), OfModel { input, cached, output }) in &self.tally.tokens {
            let Some(key_id) = self.key_id(key) else { continue };
            for (kind, count) in [("input", *input), ("cached", *cached), ("output", *output)] {
                let labels = [("key_id", key_id), ("model", &**model), ("kind", kind), ("by", by)];
                counted(&mut family, &labels, count)?;
            }
        }
        Ok(())
    }

    /// Returns the value of the label `key_id`. Returns `None` if the label of the key was dropped
    /// after the counts were read and before the key ids were read.
    fn key_id(&self, key: &KeyLabel) -> Option<&str> {
        match key {
            KeyLabel::None => Some("none"),
            KeyLabel::Other => Some("other"),
            KeyLabel::Id(number) => self.key_ids.get(number).map(|id| &**id),
        }
    }

    fn times(&self, sheet: &mut Sheet<'_>) -> Result<(), Error> {
        let Tally { routes, upstreams, added, .. } = &self.tally;
        let help = "From the head of a request to the end of its answer";
        let of_routes = routes.iter().map(|(route, of_route)| (&**route, &of_route.duration));
        sheet.histograms("request_duration_seconds", help, "route", of_routes)?;
        let help = "From the head of a request to the first byte of its answer's body";
        let of_routes = routes.iter().map(|(route, of_route)| (&**route, &of_route.first_byte));
        sheet.histograms("time_to_first_byte_seconds", help, "route", of_routes)?;
        let help = "How long requests waited for a new connection to upstream";
        let of_upstreams = upstreams.iter().map(|(upstream, of_one)| (&**upstream, &of_one.connect));
        sheet.histograms("upstream_connect_seconds", help, "upstream", of_upstreams)?;
        let help = "From a request that has a connection to the head of upstream's answer";
        let of_upstreams = upstreams.iter().map(|(upstream, of_one)| (&**upstream, &of_one.response));
        sheet.histograms("upstream_response_seconds", help, "upstream", of_upstreams)?;
        let help = "Time spent here and not with upstream, until an answer began";
        timed(&mut sheet.histogram("added_seconds", help)?, &[], added)
    }

    fn levels(&self, sheet: &mut Sheet<'_>) -> Result<(), Error> {
        let Levels { connections, connections_begun, in_flight, streams } = self.levels;
        sheet.level("requests_in_flight", "Requests whose answer has not ended", in_flight as f64)?;
        sheet.level("open_streams", "Requests whose answer has begun and not ended", streams as f64)?;
        sheet.level("connections", "Connections of clients", connections as f64)?;
        let mut family = sheet.counter("connections_accepted", "Connections of clients since the start")?;
        counted(&mut family, &[], connections_begun)?;
        let mut family = sheet
            .gauge("endpoint_up", "0 where an endpoint can't be connected to, or fails its health check")?;
        for endpoint in &self.endpoints {
            valued(&mut family, &endpoint.labels(), if endpoint.is_healthy { 1.0 } else { 0.0 })?;
        }
        let mut family = sheet.gauge(
            "endpoint_look_up_failing",
            "1 where the last lookup of an endpoint's name failed; its last known addresses are used",
        )?;
        for endpoint in &self.endpoints {
            let is_failing = endpoint.look_up_fault.is_some();
            valued(&mut family, &endpoint.labels(), if is_failing { 1.0 } else { 0.0 })?;
        }
        let mut family = sheet.gauge("endpoint_requests_in_flight", "Requests at an endpoint")?;
        for endpoint in &self.endpoints {
            valued(&mut family, &endpoint.labels(), endpoint.in_flight as f64)?;
        }
        let mut family = sheet.counter("log_lines_dropped", "Lost log lines, by destination")?;
        for (log, count) in &self.lost_lines {
            counted(&mut family, &[("log", log)], *count)?;
        }
        let help = "Lines about requests without a valid key that were left out for their number, by log";
        let mut family = sheet.counter("log_lines_left_out", help)?;
        for (log, count) in self.left_out_lines {
            counted(&mut family, &[("log", log)], count)?;
        }
        let mut family = sheet.counter("threads_ended", "Threads that ended while the process runs")?;
        for (thread, count) in &self.ended_threads {
            counted(&mut family, &[("thread", thread)], *count)?;
        }
        if let Some(count) = self.lost_spans {
            let mut family = sheet.counter("spans_dropped", "Spans that the collector did not accept")?;
            counted(&mut family, &[], count)?;
        }
        Ok(())
    }

    fn keys(&self, sheet: &mut Sheet<'_>) -> Result<(), Error> {
        let Keys { keys, secrets, due_for_rotation, next_ends, server } = &self.keys;
        sheet.level("keys", "Keys in the store, expired and disabled ones included", *keys as f64)?;
        sheet.level("secrets", "Secrets of keys, those in their grace included", *secrets as f64)?;
        let help = "Keys whose secret is older than it should be";
        sheet.level("keys_due_for_rotation", help, *due_for_rotation as f64)?;
        let help = "How long the keys that end next have left";
        let mut family = sheet.gauge("key_expires_in_seconds", help)?;
        let now = Timestamp::now();
        for (key_id, end) in next_ends {
            valued(&mut family, &[("key_id", key_id)], end.duration_since(now).as_secs_f64())?;
        }
        let Some(Health { is_reachable, generation, replicas }) = server else { return Ok(()) };
        let help = "Whether the Redis server with the keys can be reached";
        sheet.level("key_server_reachable", help, f64::from(*is_reachable))?;
        let help = "The generation of the keys in service, which grows with each edit; 0 if none were read";
        sheet.level("key_server_generation", help, generation.unwrap_or_default() as f64)?;
        let help = "Replicas that follow the key store in the Redis server";
        sheet.level("key_server_replicas", help, *replicas as f64)
    }

    fn shared(&self, sheet: &mut Sheet<'_>) -> Result<(), Error> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let help = "0 while the server that has the limits of all replicas can't be asked";
        sheet.level("shared_available", help, f64::from(u8::from(shared.is_available)))?;
        let help = "Replicas that share limits, as the server last knew them";
        sheet.level("shared_replicas", help, shared.replicas as f64)?;
        sheet.level("shared_leases", "Keys of which this replica holds units", shared.leases as f64)?;
        let help = "Asks of the server that had an answer in time";
        timed(&mut sheet.histogram("shared_ask_seconds", help)?, &[], &shared.answered)?;
        let mut family = sheet.counter("shared_asks_unanswered", "Asks without an answer in time")?;
        counted(&mut family, &[], shared.unanswered)?;
        let help = "Time without the server";
        counted_seconds(sheet, "shared_unavailable_seconds", help, shared.away.as_secs_f64())?;
        let help = "Requests that were granted by this replica's part of a limit, without the server";
        let mut family = sheet.counter("shared_granted_unavailable", help)?;
        counted(&mut family, &[], shared.granted_away)
    }

    fn kept(&self, sheet: &mut Sheet<'_>) -> Result<(), Error> {
        if !self.budgets.is_empty() {
            let help = "What was used of a budget in its period";
            self.of_budgets(sheet, "budget_used", help, |budget| budget.used as f64)?;
            let help = "What may be used of a budget in a period";
            self.of_budgets(sheet, "budget_limit", help, |budget| budget.limit as f64)?;
            let help = "When the next period of a budget begins, in seconds since 1970";
            self.of_budgets(sheet, "budget_resets_at_seconds", help, |budget| seconds(budget.resets_at))?;
        }
        let Some(state) = &self.state else { return Ok(()) };
        sheet.level("state_bytes", "Length of the journals of the state directory", state.bytes as f64)?;
        if let Some(written_at) = state.written_at {
            let help = "When all that had changed was last written, in seconds since 1970";
            sheet.level("state_written_at_seconds", help, seconds(written_at))?;
        }
        let mut family = sheet.counter("state_write_failures", "Writes of the state that failed")?;
        counted(&mut family, &[], state.failures)
    }

    fn of_budgets(
        &self,
        sheet: &mut Sheet<'_>,
        name: &str,
        help: &str,
        value: impl Fn(&BudgetSample) -> f64,
    ) -> Result<(), Error> {
        let mut family = sheet.gauge(name, help)?;
        self.budgets.iter().try_for_each(|budget| {
            let BudgetSample { key, group, policy, .. } = budget;
            valued(&mut family, &[("key", key), ("group", group), ("policy", policy)], value(budget))
        })
    }

    fn files(&self, sheet: &mut Sheet<'_>) -> Result<(), Error> {
        let State { generation, parts, .. } = &self.reloads;
        let mut family = sheet.counter("reloads", "Reloads by part and outcome")?;
        for part in parts {
            for (outcome, count) in [("applied", part.applied), ("refused", part.refused)] {
                counted(&mut family, &[("part", part.part), ("outcome", outcome)], count)?;
            }
        }
        let help = "Whether the files are served as they are: 0 where the last reload was refused";
        let mut family = sheet.gauge("reload_success", help)?;
        for part in parts {
            let is_good = if part.mismatch.is_none() { 1.0 } else { 0.0 };
            valued(&mut family, &[("part", part.part)], is_good)?;
        }
        let help = "When the part was last loaded, in seconds since 1970";
        let mut family = sheet.gauge("reload_success_timestamp_seconds", help)?;
        for part in parts {
            valued(&mut family, &[("part", part.part)], seconds(part.loaded_at))?;
        }
        let help =
            "How long the files of a part have not counted, since they can't be read; 0 where they can";
        let mut family = sheet.gauge("reload_stale_seconds", help)?;
        let now = Timestamp::now();
        for part in parts {
            valued(&mut family, &[("part", part.part)], part.stale_seconds(now).unwrap_or_default() as f64)?;
        }
        let help = "Keys in their last good form, since their entries in the store are at fault";
        sheet.level("keys_held", help, parts.iter().map(PartState::held).sum::<usize>() as f64)?;
        sheet.level(
            "generation",
            "Counts the changes that were applied since the start",
            *generation as f64,
        )?;
        certificates::write(sheet, &self.certificates, &self.acme)?;
        identities::write(sheet, self.identities.as_ref())?;
        let mut family = sheet.gauge("build_info", "1; the version stands in the label")?;
        valued(&mut family, &[("version", env!("CARGO_PKG_VERSION"))], 1.0)
    }
}

fn seconds(instant: Timestamp) -> f64 {
    instant.as_duration().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::reloads::Reloads;

    #[test]
    #[allow(clippy::too_many_lines, reason = "a table has a row for each family")]
    fn every_family_is_written_and_labels_cannot_break_out() {
        let scrape = Scrape {
            tally: Tally::default(),
            levels: Levels { connections: 3, ..Levels::default() },
            key_ids: BTreeMap::new(),
            reloads: Reloads::new(["keys"].into_iter()).state(),
            keys: Keys { next_ends: vec![("key_\"}\n#".to_owned(), Timestamp::MAX)], ..Keys::default() },
            endpoints: Vec::new(),
            queues: Vec::new(),
            certificates: Vec::new(),
            acme: vec![AcmeSample {
                domains: "a.example,b.example".to_owned(),
                issued: 2,
                failed: 3,
                is_failing: true,
            }],
            identities: Some(IdentityFigures::sample()),
            lost_lines: vec![("stderr".to_owned(), 7)],
            left_out_lines: [("access", 5), ("audit", 0)],
            ended_threads: vec![("log", 1)],
            lost_spans: Some(3),
            shared: Some(SharedFigures {
                is_available: false,
                replicas: 3,
                leases: 2,
                answered: Histogram::new(&[0.001]),
                unanswered: 5,
                away: Duration::from_millis(1500),
                granted_away: 9,
            }),
            budgets: vec![BudgetSample {
                key: String::new(),
                group: "team".to_owned(),
                policy: "group-team-tokens-month".to_owned(),
                used: 7,
                limit: 10,
                resets_at: Timestamp::UNIX_EPOCH,
            }],
            state: Some(StateFigures { bytes: 100, written_at: None, failures: 2 }),
        };
        let text = scrape.encoded();
        for line in [
            "# TYPE bearward_requests counter",
            "bearward_shared_available 0.0",
            "bearward_shared_replicas 3.0",
            "bearward_shared_asks_unanswered_total 5",
            "bearward_shared_unavailable_seconds_total 1.5",
            "bearward_shared_granted_unavailable_total 9",
            "bearward_budget_used{key=\"\",group=\"team\",policy=\"group-team-tokens-month\"} 7.0",
            "bearward_state_write_failures_total 2",
            "bearward_acme_attempts_total{domains=\"a.example,b.example\",outcome=\"failed\"} 3",
            "bearward_acme_failing{domains=\"a.example,b.example\"} 1.0",
            "bearward_identities 3.0",
            "bearward_tokens_verified 4.0",
            "bearward_issuer_keys{issuer=\"https://a.example\"} 2.0",
            "bearward_issuer_failing{issuer=\"https://a.example\"} 1.0",
            "bearward_connections 3.0",
            "bearward_reload_success{part=\"keys\"} 1.0",
            "bearward_reload_stale_seconds{part=\"keys\"} 0.0",
            "bearward_keys_held 0.0",
            "bearward_log_lines_dropped_total{log=\"stderr\"} 7",
            "bearward_log_lines_left_out_total{log=\"access\"} 5",
            "bearward_threads_ended_total{thread=\"log\"} 1",
            "bearward_spans_dropped_total 3",
            "bearward_key_expires_in_seconds{key_id=\"key_\\\"}\\n#\"}",
            "bearward_added_seconds_bucket{le=\"+Inf\"} 0",
            "process_cpu_seconds_total ",
            "process_open_fds ",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
    }
}
