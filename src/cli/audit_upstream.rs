//! `bearward audit-upstream`: asks a model server without a key, as somebody does who goes around bearward, and
//! says what stands open.

mod finding;
mod questions;
mod reach;
mod report;

use std::path::PathBuf;

use clap::Args;
use futures_util::StreamExt;
use futures_util::stream;

use super::failure::Failure;
use super::model_server;
use super::terminal::print;
use super::values;
use crate::config::EndpointAddress;
use crate::config::presets::Preset;
use crate::net::server_client::{CertificateFault, ServerClient};
use finding::{Audit, Finding};
use questions::Question;
use reach::Reach;

/// The number of questions at the same time.
const AT_ONCE: usize = 8;

const HELP: &str = "\
Changes nothing: each question is one that no model server acts on. Ask where the server runs: of an address of this
machine that leads to another one (`ssh -L`, `kubectl port-forward`), only this machine's side is seen.

Exit codes:
  0   safe: nothing is open, or only this machine (or this pod) can reach the server
  1   open to other machines, or not known to be closed; also if the server can't be reached, or its certificate is
      not accepted: then there is no verdict
  2   wrong usage
  78  a file is at fault";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(super) struct AuditUpstream {
    /// The URL of the model server: http://HOST:PORT or https://HOST:PORT
    #[arg(value_name = "URL", value_parser = url)]
    url: EndpointAddress,
    /// The kind of the server, if it does not tell: openai, vllm, llama-cpp, ollama, triton, sglang, tgi
    #[arg(long, value_name = "NAME", value_parser = values::preset)]
    routes: Option<Preset>,
    /// The authorities that may have signed the server's certificate, PEM
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print the outcome as JSON, with each question and its answer
    #[arg(long)]
    json: bool,
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
        let audit = runtime.block_on(audit(&client, &endpoint, self.routes));
        let audit = audit.map_err(|error| unreachable(&endpoint, &error, self.ca.is_some()))?;
        match self.json {
            true => print(&format!("{}\n", report::json(&audit)))?,
            false => print(&report::text(&audit))?,
        }
        if audit.is_safe() {
            return Ok(());
        }
        Err(Failure::Failed("the server may stand open to those who go around bearward".to_owned()))
    }
}

/// Parses the URL of a model server.
fn url(text: &str) -> Result<EndpointAddress, String> {
    let with_scheme = format!("http://{text}");
    EndpointAddress::parse(text).map_err(|fault| match EndpointAddress::parse(&with_scheme) {
        Ok(_) if !text.contains("://") => format!("write {with_scheme}"),
        _ => fault,
    })
}

/// Returns why a server was not asked, and what to do about its certificate.
fn unreachable(endpoint: &EndpointAddress, error: &anyhow::Error, has_ca: bool) -> Failure {
    let why = match CertificateFault::of(error) {
        None => error.to_string(),
        Some(CertificateFault::Expired) => "its certificate has expired".to_owned(),
        Some(CertificateFault::OtherName) => {
            "its certificate is for other names: ask it by a name in the certificate".to_owned()
        }
        Some(CertificateFault::UnknownAuthority) if has_ca => {
            "its certificate is not accepted: the authorities of --ca have not signed it".to_owned()
        }
        Some(CertificateFault::UnknownAuthority) => {
            "no authority of this system has signed its certificate: `--ca tls.crt` names the authority that has"
                .to_owned()
        }
    };
    Failure::Failed(format!("{endpoint}: {why}"))
}

async fn audit(
    client: &ServerClient,
    endpoint: &EndpointAddress,
    routes: Option<Preset>,
) -> anyhow::Result<Audit> {
    let addresses = match endpoint.host_and_port() {
        Some(host_and_port) => tokio::net::lookup_host(host_and_port).await?.collect(),
        None => Vec::new(),
    };
    let server = model_server::identify(client).await?;
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
