//! `bearward audit-upstream`: asks a model server without a key, as somebody does who goes around bearward, and
//! says what stands open.

mod questions;
mod reach;

use std::path::PathBuf;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream;
use serde_json::{Value, json};

use super::failure::Failure;
use super::model_server::{self, ModelServer};
use super::terminal::print;
use super::values;
use crate::config::EndpointAddress;
use crate::config::presets::Preset;
use crate::net::server_client::ServerClient;
use questions::{Purpose, Question};
use reach::Reach;

/// The number of questions at the same time.
const AT_ONCE: usize = 8;

#[derive(Debug, Args)]
pub(super) struct AuditUpstream {
    /// The URL of the model server: http://HOST:PORT or https://HOST:PORT
    #[arg(value_name = "URL", value_parser = EndpointAddress::parse)]
    url: EndpointAddress,
    /// The kind of the server, if it does not tell: openai, vllm, llama-cpp, ollama, triton, sglang, tgi
    #[arg(long, value_name = "NAME", value_parser = values::preset)]
    routes: Option<Preset>,
    /// The authorities that may have signed the server's certificate, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

/// What a server's answer to a request without a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It asks for a key.
    Guarded,
    /// It acts without a key.
    Open,
    /// It has nothing at this path, or only by another method.
    Absent,
}

impl Verdict {
    fn of(status: u16) -> Self {
        match status {
            401 | 403 => Verdict::Guarded,
            404 => Verdict::Absent,
            _ => Verdict::Open,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Verdict::Guarded => "guarded",
            Verdict::Open => "open",
            Verdict::Absent => "absent",
        }
    }
}

/// A question and what the server answered; the answer is `None` if there was none.
struct Finding {
    question: Question,
    status: Option<u16>,
}

impl Finding {
    fn verdict(&self) -> Option<Verdict> {
        self.status.map(Verdict::of)
    }

    fn json(&self) -> Value {
        let Question { method, path, purpose, .. } = &self.question;
        let verdict = self.verdict().map(Verdict::name);
        json!({"method": method.as_str(), "path": path, "purpose": purpose.name(), "status": self.status, "verdict": verdict})
    }
}

/// The outcome of an audit.
struct Audit {
    url: String,
    server: ModelServer,
    /// The kinds of servers whose paths were asked for.
    kinds: Vec<Preset>,
    findings: Vec<Finding>,
    reach: Reach,
}

impl AuditUpstream {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let endpoint = self.url;
        let (EndpointAddress::Http(_) | EndpointAddress::Https(_)) = &endpoint else {
            let message = format!(
                "{endpoint}: only http:// and https:// are asked; a unix socket is guarded by its directory"
            );
            return Err(Failure::Usage(message));
        };
        if self.routes == Some(Preset::Any) {
            return Err(Failure::Usage("--routes any names no path that could be asked for".to_owned()));
        }
        let client = ServerClient::new(&endpoint.to_string(), self.ca.as_deref())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let audit = runtime.block_on(audit(&client, &endpoint, self.routes))?;
        match self.json {
            true => print(&format!("{}\n", audit.json()))?,
            false => print(&audit.text())?,
        }
        if audit.is_safe() {
            return Ok(());
        }
        Err(Failure::Failed("the server may stand open to those who go around bearward".to_owned()))
    }
}

async fn audit(
    client: &ServerClient,
    endpoint: &EndpointAddress,
    routes: Option<Preset>,
) -> Result<Audit, Failure> {
    let failed = |error: anyhow::Error| Failure::Failed(format!("{endpoint}: {error}"));
    let addresses = match endpoint.host_and_port() {
        Some(host_and_port) => tokio::net::lookup_host(host_and_port).await?.collect(),
        None => Vec::new(),
    };
    let server = model_server::identify(client).await.map_err(failed)?;
    let kinds = match routes.or(server.preset) {
        Some(preset) => vec![preset],
        // A server that does not tell what it is may be any of them, behind a key of its own.
        None => {
            Preset::ALL.iter().map(|(_, preset)| *preset).filter(|preset| *preset != Preset::Any).collect()
        }
    };
    let ask = |question: Question| async move {
        let seen = client.ask(&question.method, question.path, question.body).await;
        Finding { question, status: seen.ok().map(|seen| seen.status) }
    };
    let asked = stream::iter(questions::about(&kinds).into_iter().map(ask)).buffered(AT_ONCE);
    let findings = asked.collect().await;
    Ok(Audit { url: endpoint.to_string(), server, kinds, findings, reach: Reach::of(&addresses) })
}

impl Audit {
    fn with(&self, verdict: Verdict) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.verdict() == Some(verdict))
    }

    fn silent(&self) -> usize {
        self.findings.iter().filter(|finding| finding.status.is_none()).count()
    }

    /// Whether nobody who goes around bearward finds anything open. A server that tells nothing is not safe.
    fn is_safe(&self) -> bool {
        let is_guarded = self.with(Verdict::Guarded).next().is_some();
        let is_open = self.with(Verdict::Open).next().is_some();
        !self.reach.is_exposed() || (is_guarded && !is_open && self.silent() == 0)
    }

    fn kinds(&self) -> String {
        self.kinds.iter().map(|preset| preset.name()).collect::<Vec<_>>().join(", ")
    }

    fn json(&self) -> Value {
        let [reach, advice] = self.reach.lines();
        json!({
            "url": self.url,
            "server": self.server.name,
            "routes": self.kinds(),
            "answers": self.findings.iter().map(Finding::json).collect::<Vec<_>>(),
            "open": self.with(Verdict::Open).count(),
            "guarded": self.with(Verdict::Guarded).count(),
            "silent": self.silent(),
            "is_exposed": self.reach.is_exposed(),
            "reach": reach,
            "advice": advice,
            "is_safe": self.is_safe(),
        })
    }

    fn text(&self) -> String {
        let name = self.server.name.as_ref().map(|name| format!(", which calls itself {name}"));
        let kind = match self.server.preset {
            Some(preset) => format!("a server of the kind `{}`", preset.name()),
            None => format!("a server of an unknown kind; asked as {}", self.kinds()),
        };
        let mut text = format!("{}: {kind}{}\n\n", self.url, name.unwrap_or_default());
        for purpose in [Purpose::Operates, Purpose::Works, Purpose::Reads] {
            let of_purpose = self.findings.iter().filter(|finding| finding.question.purpose == purpose);
            let told: Vec<&Finding> =
                of_purpose.filter(|finding| finding.verdict() != Some(Verdict::Absent)).collect();
            if told.is_empty() {
                continue;
            }
            text.push_str(&format!("{}:\n", purpose.name()));
            for finding in told {
                text.push_str(&line(finding));
            }
        }
        let (open, guarded) = (self.with(Verdict::Open).count(), self.with(Verdict::Guarded).count());
        let summary = match (open, guarded) {
            _ if self.silent() > 0 => {
                format!("{} questions got no answer, so this says little", self.silent())
            }
            (0, 0) => "it has none of the paths that were asked for, so this says little".to_owned(),
            (0, _) => format!("{guarded} paths ask for a key, and none is open"),
            (_, 0) => "it asks for no key at all: whatever else it has is open, too".to_owned(),
            _ => format!("{open} paths are open, and {guarded} ask for a key"),
        };
        let [reach, advice] = self.reach.lines();
        text.push_str(&format!("\n{summary}\n{reach}\n{advice}\n"));
        text
    }
}

fn line(finding: &Finding) -> String {
    let Question { method, path, .. } = &finding.question;
    let (verdict, status) = match (finding.verdict(), finding.status) {
        (Some(verdict), Some(status)) => (verdict.name(), status.to_string()),
        _ => ("silent", "-".to_owned()),
    };
    format!("  {verdict:<8} {status:>3}  {method} {path}\n")
}
