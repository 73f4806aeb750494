//! The audit log: one line for each refusal of a caller, with its real reason, and for each
//! suspicious request that is permitted.
//!
//! Invariant: a line contains key ids and the path without its query, never a secret or a digest.

use std::net::IpAddr;
use std::time::Instant;

use http::Method;
use serde::Serialize;

use super::line_quotas::{Kind, LineSource};
use super::log::{LogWriter, Logs};
use super::shown::{self, optional, timestamp, with_sources};
use crate::denial::Denial;

/// The reason why a permitted request is suspicious.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspicion {
    /// A key is used from an address for the first time since the process began.
    NewAddress,
    /// A rotated secret is still in use; logged once an hour.
    RotatedSecret,
    /// The request has a credential of a key, and beside it a credential that matches no key and
    /// was not seen before.
    UnknownBeside,
    /// A key is older than the configured age; logged once an hour.
    PastMaxAge,
}

impl Suspicion {
    fn event(self) -> &'static str {
        match self {
            Suspicion::NewAddress => "new_address",
            Suspicion::RotatedSecret => "rotated_secret_used",
            Suspicion::UnknownBeside => "unknown_credential_beside_key",
            Suspicion::PastMaxAge => "past_max_age",
        }
    }
}

/// The request that an audit line is about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    pub(crate) request_id: &'a str,
    pub(crate) client: Option<IpAddr>,
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) key_id: Option<&'a str>,
    /// The name of the holder of a token or certificate.
    pub(crate) key_name: Option<&'a str>,
    /// The key id in a bearward token that matches no key.
    pub(crate) claimed_key_id: Option<&'a str>,
    /// The id that the answer gave for the refused credential, if this id is not the id of the key.
    pub(crate) credential_id: Option<&'a str>,
    pub(crate) route: Option<&'a str>,
    /// The model that the request names.
    pub(crate) model: Option<&'a str>,
    /// The proxy that asks about the request.
    pub(crate) door: Option<&'a str>,
}

#[derive(Debug, Serialize)]
struct AuditLine<'a> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    request_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client: Option<IpAddr>,
    method: &'a str,
    path: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claimed_key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    credential_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    door: Option<&'a str>,
}

/// Whether the caller caused the refusal, and not upstream or bearward. The audit log contains only
/// refusals that callers caused.
pub(super) fn is_of_caller(denial: &Denial) -> bool {
    denial.code().status().is_client_error()
}

/// Writes an audit line for a refused request.
pub(super) fn refused(writer: &LogWriter, subject: Subject<'_>, denial: &Denial) {
    let reason = denial.cause().map(with_sources).unwrap_or_else(|| denial.message().to_owned());
    log(writer, subject, "refused", Some(denial.code().name()), Some(reason));
}

pub(super) fn suspected(writer: &LogWriter, subject: Subject<'_>, suspicion: Suspicion) {
    log(writer, subject, suspicion.event(), None, None);
}

/// Writes an audit line for a request that the admin listener refused. `is_known`: the caller has
/// presented the admin token or a valid key.
pub(crate) fn refused_at_admin(logs: &Logs, denial: &Denial, is_known: bool, subject: Subject<'_>) {
    let Some(writer) = logs.audit.as_ref().filter(|_| is_of_caller(denial)) else { return };
    let (source, now) = (LineSource::address(subject.client), Instant::now());
    if is_known || logs.line_quotas.may_log(&source, now) {
        refused(writer, subject, denial);
    } else {
        logs.line_quotas.leave_out(Kind::Audit, &source, now);
    }
}

/// A change to a key over the admin API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyChange {
    Created,
    Rotated,
    Revoked,
    Deleted,
}

impl KeyChange {
    fn event(self) -> &'static str {
        match self {
            KeyChange::Created => "key_created",
            KeyChange::Rotated => "key_rotated",
            KeyChange::Revoked => "key_revoked",
            KeyChange::Deleted => "key_deleted",
        }
    }
}

/// Writes an audit line for a change of a key over the admin API. `by`: who changed it.
pub(crate) fn changed(writer: &LogWriter, change: KeyChange, subject: Subject<'_>, by: &str) {
    log(writer, subject, change.event(), None, Some(format!("by {by}")));
}

/// A budget that has passed a share of its amount.
#[derive(Debug, Serialize)]
pub(crate) struct BudgetPassed<'a> {
    pub(crate) policy: &'a str,
    /// 80 or 100.
    pub(crate) percent: u8,
    pub(crate) used: u64,
    pub(crate) limit: u64,
    pub(crate) resets_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) group: Option<&'a str>,
}

/// Writes an audit line for a budget of which 80 or 100 per cent are used. The line is about no request.
pub(crate) fn budget_passed(writer: &LogWriter, passed: BudgetPassed<'_>) {
    #[derive(Serialize)]
    struct Line<'a> {
        timestamp: String,
        level: &'static str,
        message: &'static str,
        event: &'static str,
        #[serde(flatten)]
        passed: BudgetPassed<'a>,
    }
    let line =
        Line { timestamp: timestamp(), level: "WARN", message: "audit", event: "budget_passed", passed };
    writer.audit(&line, |line| {
        let Line { timestamp, level, event, passed, .. } = line;
        let BudgetPassed { policy, percent, used, limit, resets_at, key_id, group } = passed;
        format!(
            "{timestamp} {level:>5} audit {event} policy={policy} percent={percent} used={used} limit={limit} resets_at={resets_at}{}{}",
            optional("key", *key_id),
            optional("group", *group),
        )
    });
}

/// A certificate that was got from an authority, or was not.
#[derive(Debug, Serialize)]
pub(crate) struct CertificateEvent<'a> {
    /// `certificate_issued` or `certificate_failed`.
    pub(crate) event: &'static str,
    /// The names, with commas between them.
    pub(crate) domains: &'a str,
    pub(crate) directory: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<&'a str>,
}

/// Writes an audit line for a certificate. The line is about no request.
pub(crate) fn certificate_event(writer: &LogWriter, of: CertificateEvent<'_>) {
    #[derive(Serialize)]
    struct Line<'a> {
        timestamp: String,
        level: &'static str,
        message: &'static str,
        #[serde(flatten)]
        of: CertificateEvent<'a>,
    }
    let line = Line { timestamp: timestamp(), level: "WARN", message: "audit", of };
    writer.audit(&line, |line| {
        let Line { timestamp, level, of, .. } = line;
        let CertificateEvent { event, domains, directory, expires_at, reason } = of;
        format!(
            "{timestamp} {level:>5} audit {event} domains={domains} directory={directory}{}{}",
            optional("expires_at", expires_at.as_deref()),
            optional("reason", reason.map(shown::visible).as_deref()),
        )
    });
}

fn log(
    writer: &LogWriter,
    subject: Subject<'_>,
    event: &'static str,
    code: Option<&'static str>,
    reason: Option<String>,
) {
    let Subject {
        request_id,
        client,
        method,
        path,
        key_id,
        key_name,
        claimed_key_id,
        credential_id,
        route,
        model,
        door,
    } = subject;
    let (method, path) = (&*shown::method(method), &*shown::path(path));
    let reason = reason.map(|reason| shown::reason(&reason));
    let (timestamp, level, message) = (timestamp(), "WARN", "audit");
    let line = AuditLine {
        timestamp,
        level,
        message,
        event,
        code,
        reason,
        request_id,
        client,
        method,
        path,
        key_id,
        key_name,
        claimed_key_id,
        credential_id,
        route,
        model,
        door,
    };
    writer.audit(&line, pretty);
}

fn pretty(line: &AuditLine<'_>) -> String {
    let client = line.client.map(|client| client.to_string());
    format!(
        "{} {:>5} audit {} {} {}{}{}{}{}{}{}{}{}{}{} id={}",
        line.timestamp,
        line.level,
        line.event,
        line.method,
        // The path is escaped, so that it can't forge a log line.
        line.path.escape_debug(),
        optional("code", line.code),
        optional("reason", line.reason.as_deref().map(shown::visible).as_deref()),
        optional("key", line.key_id),
        optional("key_name", line.key_name.map(shown::visible).as_deref()),
        optional("claimed_key", line.claimed_key_id),
        optional("credential", line.credential_id),
        optional("route", line.route),
        optional("model", line.model.map(shown::visible).as_deref()),
        optional("client", client.as_deref()),
        optional("door", line.door),
        line.request_id,
    )
}
