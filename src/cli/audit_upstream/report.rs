//! The report of an audit: its verdict first, then the answers, those that are alike in one line.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::finding::{Audit, Conclusion, Finding, Verdict};
use super::questions::{Purpose, Question};
use crate::config::presets::Preset;

/// The most paths in a line.
const SHOWN: usize = 3;

/// Returns the report as JSON, with each question and its answer.
pub(super) fn json(audit: &Audit) -> Value {
    let answers = audit.findings.iter().map(|Finding { question, status }| {
        let Question { method, path, purpose, .. } = question;
        let verdict = status.map(|status| Verdict::of(status).name());
        let meaning = status.map(meaning);
        json!({
            "method": method.as_str(), "path": path, "purpose": purpose.name(), "status": status,
            "verdict": verdict, "meaning": meaning,
        })
    });
    let [why, advice] = verdict(audit);
    json!({
        "url": audit.url,
        "server": audit.server.name,
        "routes": audit.names_of_kinds(),
        "is_safe": audit.is_safe(),
        "verdict": audit.conclusion().name(),
        "why": why,
        "advice": advice,
        "is_exposed": audit.reach.is_exposed(),
        "reach": audit.reach.place(),
        "open": audit.count(Verdict::Open),
        "guarded": audit.count(Verdict::Guarded),
        "silent": audit.silent(),
        "answers": answers.collect::<Vec<_>>(),
    })
}

/// Returns the report as text.
pub(super) fn text(audit: &Audit) -> String {
    let name = audit.server.name.as_ref().map(|name| format!(", which calls itself {name}"));
    let kind = match audit.server.preset {
        Some(preset) => format!("a server of the kind `{}`", preset.name()),
        None => format!("a server of an unknown kind; asked as {}", audit.names_of_kinds()),
    };
    let [why, advice] = verdict(audit);
    let mut text =
        format!("{why}\n{advice}\n\n{}: {kind}{}\n{}\n", audit.url, name.unwrap_or_default(), summary(audit));
    let mut is_shortened = false;
    for purpose in [Purpose::Operates, Purpose::Works, Purpose::Reads] {
        let of_purpose = audit.findings.iter().filter(|finding| finding.question.purpose == purpose);
        let mut alike: BTreeMap<Option<u16>, Vec<&Finding>> = BTreeMap::new();
        for finding in of_purpose.filter(|finding| finding.verdict() != Some(Verdict::Absent)) {
            alike.entry(finding.status).or_default().push(finding);
        }
        if !alike.is_empty() {
            text.push_str(&format!("\n{}:\n", purpose.name()));
        }
        for (status, findings) in alike {
            is_shortened |= findings.len() > SHOWN;
            text.push_str(&line(status, &findings));
        }
    }
    if is_shortened {
        text.push_str("\n--json shows all paths\n");
    }
    text
}

/// Returns a line for questions with the same answer.
fn line(status: Option<u16>, findings: &[&Finding]) -> String {
    let paths = findings.iter().take(SHOWN).map(|Finding { question, .. }| {
        let Question { method, path, .. } = question;
        format!("{method} {path}")
    });
    let paths = paths.collect::<Vec<_>>().join(", ");
    let more = match findings.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (verdict, meaning) = match status {
        Some(status) => (Verdict::of(status).name(), format!("{status}, {}", meaning(status))),
        None => ("silent", "no answer".to_owned()),
    };
    format!("  {verdict:<8}{meaning}: {paths}{more}\n")
}

/// Returns what a status says about the key that was not given.
fn meaning(status: u16) -> &'static str {
    match status {
        401 => "asks for a key",
        403 => "refuses, which says nothing of keys",
        404 => "has nothing there",
        200..=299 => "answers without a key",
        300..=399 => "redirects without a key",
        405 => "asks for another method, but for no key",
        501 => "has it turned off, and asks for no key",
        400 | 413 | 415 | 422 => "finds fault with the body, and asks for no key",
        429 | 503 => "is too busy, and asks for no key",
        500..=599 => "fails, and asks for no key",
        _ => "refuses, and asks for no key",
    }
}

fn summary(audit: &Audit) -> String {
    let (open, guarded) = (audit.count(Verdict::Open), audit.count(Verdict::Guarded));
    let refused = audit.count(Verdict::Refused);
    match (open, guarded) {
        _ if audit.silent() > 0 => {
            format!("{} questions got no answer, so this says little", audit.silent())
        }
        (0, _) if refused > 0 => format!(
            "{refused} questions were refused with 403, perhaps for the name or the network that they came by: another may \
             be let in"
        ),
        (0, 0) => "it has none of the paths that were asked for, so this says little".to_owned(),
        (0, _) => format!("{guarded} paths ask for a key, and none is open"),
        (_, 0) => "it asks for no key at all: whatever else it has is open, too".to_owned(),
        _ => format!("{open} paths are open, and {guarded} ask for a key"),
    }
}

/// Returns the verdict, and what to do.
fn verdict(audit: &Audit) -> [String; 2] {
    let (place, advice) = (audit.reach.place(), audit.reach.advice());
    match audit.conclusion() {
        Conclusion::Guarded => [
            format!("Guarded: it asks for a key; {place}."),
            "Give its key to bearward alone (`upstreams[].credential`): whoever has it goes around bearward."
                .to_owned(),
        ],
        Conclusion::Local => {
            let without =
                if audit.count(Verdict::Open) > 0 { "use it without a key" } else { "connect to it" };
            [
                format!("Not reachable from other machines: {place} alone."),
                format!(
                    "Every user and every process of this machine, or of this pod, can {without}. If that matters: {}.",
                    own_means(audit.kind())
                ),
            ]
        }
        Conclusion::Open => [
            format!("OPEN: {place}, and whoever reaches it there can use it without a key, around bearward."),
            format!("To close it: {advice}."),
        ],
        Conclusion::Unknown => [
            format!(
                "NOT KNOWN, so it counts as open: {place}, and it did not tell whether it asks for a key."
            ),
            format!("What helps: {advice}."),
        ],
    }
}

/// Returns by what means a kind of server is closed to users of its own machine.
fn own_means(kind: Option<Preset>) -> &'static str {
    match kind {
        Some(Preset::LlamaCpp) => {
            "start llama-server with `--api-key-file FILE` (bearward sends the key: `upstreams[].credential`), or at a \
             unix socket in a directory of bearward's (`--host /run/llama/llama.sock`)"
        }
        Some(Preset::Vllm) => {
            "start vLLM at a unix socket in a directory of bearward's (`--uds /run/vllm/vllm.sock`), or with \
             VLLM_API_KEY, which guards /v1 and leaves other paths open (bearward sends the key: \
             `upstreams[].credential`)"
        }
        Some(Preset::SgLang | Preset::Tgi) => {
            "start it in a container or a network namespace that it shares with bearward alone; a key of its own on its \
             command line (`--api-key KEY`) is seen by every user of the machine"
        }
        Some(Preset::Ollama | Preset::Triton) => {
            "run it in a container or a network namespace that it shares with bearward alone"
        }
        _ => {
            "start it with a key of its own (llama-server `--api-key-file`, vLLM VLLM_API_KEY) or at a unix socket, or in \
             a container or a network namespace that it shares with bearward alone"
        }
    }
}
