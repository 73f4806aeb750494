//! Why an attempt to get a certificate failed, and what an operator does about it.

use std::fmt::Write;
use std::io;
use std::time::Duration;

use instant_acme::{Error, Problem};

use super::schedule::Kind;

/// Longest text of an authority that is shown, in characters.
const LONGEST_TEXT: usize = 400;
/// The beginning of the types of an authority's faults (RFC 8555, section 6.7).
const URN: &str = "urn:ietf:params:acme:error:";

/// Why an attempt failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) kind: Kind,
    pub(super) message: String,
    pub(super) advice: String,
    /// The time that the authority asks to wait.
    pub(super) retry_after: Option<Duration>,
    pub(super) cause: Cause,
}

/// What a failure means for what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The authority does not know the account.
    UnknownAccount,
    /// Another process has the lock now.
    TakenOver,
    /// The authority refused a nonce, and asks for the same with another one.
    RefusedNonce,
    Other,
}

impl Failure {
    pub(super) fn new(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Failure {
            kind: Kind::Other,
            message: message.into(),
            advice: advice.into(),
            retry_after: None,
            cause: Cause::Other,
        }
    }

    /// Makes the failure of a file of the storage.
    pub(super) fn of_storage(error: &io::Error) -> Self {
        let advice = "make `acme.storage` a directory that bearward may write to; is the disk full?";
        Failure::here(format!("the storage can't be written: {error}"), advice)
    }

    /// Makes a failure of this machine: nobody was asked.
    pub(super) fn here(message: impl Into<String>, advice: impl Into<String>) -> Self {
        Failure { kind: Kind::Here, ..Failure::new(message, advice) }
    }

    /// Makes the failure of a process whose lock another one has taken. It is noted nowhere.
    pub(super) fn taken_over() -> Self {
        Failure {
            cause: Cause::TakenOver,
            ..Failure::new("another process has taken over the order", "nothing")
        }
    }

    /// Makes the failure of a step. `asked`: the time that the authority asks to wait.
    pub(super) fn of(doing: &str, error: &Error, asked: Option<Duration>) -> Self {
        let failure = match error {
            Error::Api(problem) => Failure::of_problem(doing, problem),
            Error::Timeout(_) => Failure::new(
                format!("{doing}: the authority was not ready in time"),
                "nothing; the next attempt goes on with the same order",
            ),
            Error::Json(_) | Error::Str(_) => Failure::new(
                format!("{doing}: the answer is none of an ACME server ({})", shown(&error.to_string())),
                "check `acme.directory`: it is the URL of the directory itself",
            ),
            other => Failure::new(
                format!("{doing}: {}", shown(&with_sources(other))),
                "check that this machine reaches the server of `acme.directory`, and `acme.ca` if its \
                 certificate is of an authority of your own",
            ),
        };
        Failure { retry_after: asked, ..failure }
    }

    /// Whether a problem means that the authority knows a resource no more.
    pub(super) fn is_gone(problem: &Problem) -> bool {
        let name = problem.r#type.as_deref().and_then(|name| name.strip_prefix(URN));
        problem.status == Some(404) || matches!(name, Some("malformed" | "unauthorized"))
    }

    /// Whether a problem means that the authority was asked too often.
    pub(super) fn is_rate_limit(problem: &Problem) -> bool {
        problem.r#type.as_deref().and_then(|name| name.strip_prefix(URN)) == Some("rateLimited")
    }

    /// Whether a problem says nothing of what was asked: the nonce was refused (RFC 8555, section 6.5).
    pub(super) fn is_of_nonce(problem: &Problem) -> bool {
        problem.r#type.as_deref().and_then(|name| name.strip_prefix(URN)) == Some("badNonce")
    }

    /// Makes the failure of what the authority has answered.
    pub(super) fn of_problem(doing: &str, problem: &Problem) -> Self {
        let kind_name = problem.r#type.as_deref().unwrap_or_default();
        let name = kind_name.strip_prefix(URN).unwrap_or(kind_name);
        let mut text = problem.detail.clone().unwrap_or_default();
        for sub in &problem.subproblems {
            let _never_fails = write!(text, " {sub}");
        }
        let what = if name.is_empty() { String::new() } else { format!(" ({})", shown(name)) };
        let failure = Failure::new(format!("{doing}: {}{what}", shown(&text)), advice(name));
        let kind = if Failure::is_rate_limit(problem) { Kind::RateLimited } else { Kind::Other };
        let cause = match name {
            "accountDoesNotExist" => Cause::UnknownAccount,
            _ if Failure::is_of_nonce(problem) => Cause::RefusedNonce,
            _ => Cause::Other,
        };
        Failure { kind, cause, ..failure }
    }
}

/// Returns what an operator does about a type of fault.
fn advice(name: &str) -> &'static str {
    match name {
        "connection" => {
            "the authority can't reach this server under that name: port 443 (tls-alpn-01) or port 80 (http-01) \
             has to lead to bearward, through firewalls and balancers"
        }
        "dns" => "the name does not resolve at the authority: add its A or AAAA record, and wait for it",
        "tls" | "incorrectResponse" | "unauthorized" => {
            "another server answers under that name, or the account was deactivated: check where its A and AAAA \
             records lead; a new account is made when its file in `accounts/` of the storage is removed"
        }
        "rateLimited" => {
            "wait: bearward asks again when the authority allows it; use its staging directory for tests"
        }
        "caa" => "a CAA record of the domain forbids this authority: change it, or `acme.directory`",
        "externalAccountRequired" => "add `acme.external_account` with what the authority has given you",
        "rejectedIdentifier" | "unsupportedIdentifier" => {
            "the authority certifies no such name: remove it from `acme.domains`"
        }
        "invalidContact" | "unsupportedContact" => "change `acme.email`",
        "accountDoesNotExist" => "nothing; bearward makes a new account",
        "userActionRequired" => "open the URL in the message, and agree to the authority's new terms",
        _ => "read the message of the authority; bearward asks again by itself",
    }
}

/// Returns a text of the authority as one line without control characters.
pub(super) fn shown(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST_TEXT).collect()
}

fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            let _never_fails = write!(text, ": {more}");
        }
        source = error.source();
    }
    text
}
