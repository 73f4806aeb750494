//! `bearward reload`: has a running bearward read its files again, and says what came of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, HOST, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use zeroize::Zeroizing;

use super::{Failure, config_path, print, say};
use crate::config::{Address, Config};

/// A reload of many keys takes its time.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct Reload {
    /// The configuration, which names the admin listener and its token [default: $BEARWARD_CONFIG, ./bearward.yaml, /etc/bearward/config.yaml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin listener, where no configuration names it: HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDRESS", requires = "token_file")]
    admin: Option<String>,
    /// Holds the admin token, or a key with `admin` [default: the configuration's admin.token_file]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (address, token_file) = self.whereabouts()?;
        let token = read_token(&token_file)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(&address, &token)).await });
        let response = match asked {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(Failure::Failed(format!("{address}: {error}"))),
            Err(_elapsed) => return Err(Failure::Failed(format!("{address}: no answer within a minute"))),
        };
        let (head, body) = response.into_parts();
        let told: Value = serde_json::from_slice(&body).unwrap_or_default();
        if self.json {
            print(&format!("{told}\n"))?;
        }
        if head.status.is_success() {
            if !self.json {
                say_outcome(told.get("data"));
            }
            return Ok(());
        }
        let error = told.get("error");
        let details = error.and_then(|error| error.get("details"));
        if !self.json {
            say_outcome(details);
        }
        let message = error.and_then(|error| error.get("message")).and_then(Value::as_str);
        Err(Failure::Failed(message.unwrap_or("the answer is none of bearward's").to_owned()))
    }

    fn whereabouts(&self) -> Result<(Address, PathBuf), Failure> {
        if let (Some(address), Some(token_file)) = (&self.admin, &self.token_file) {
            let address = match address.strip_prefix("unix:") {
                Some(path) => Address::Unix(path.into()),
                None => Address::Tcp(address.clone()),
            };
            return Ok((address, token_file.clone()));
        }
        let config = Config::load(&config_path(self.config.clone())?)?;
        let Some(admin) = config.admin else {
            return Err(Failure::Failed("the admin listener is off; SIGHUP reloads, too".to_owned()));
        };
        let token_file = self.token_file.clone().or(admin.token_file).ok_or_else(|| {
            Failure::Failed(
                "a reload needs the admin token: set admin.token_file, or name a file with --token-file (SIGHUP reloads, too)"
                    .to_owned(),
            )
        })?;
        Ok((admin.address, token_file))
    }
}

fn read_token(path: &Path) -> Result<Zeroizing<String>, Failure> {
    match std::fs::read_to_string(path) {
        Ok(token) => Ok(Zeroizing::new(token)),
        Err(error) => Err(Failure::Failed(format!("{}: {error}", path.display()))),
    }
}

async fn ask(address: &Address, token: &str) -> anyhow::Result<Response<Bytes>> {
    match address {
        Address::Tcp(address) => post(TcpStream::connect(address).await?, token).await,
        Address::Unix(path) => post(UnixStream::connect(path).await?, token).await,
    }
}

async fn post<S>(stream: S, token: &str) -> anyhow::Result<Response<Bytes>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut credential = HeaderValue::try_from(format!("Bearer {}", token.trim()))?;
    credential.set_sensitive(true);
    let request = Request::builder()
        .method(Method::POST)
        .uri("/api/v1/reload")
        .header(HOST, "localhost")
        .header(AUTHORIZATION, credential)
        .body(Empty::<Bytes>::new())?;
    let (head, body) = sender.send_request(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

/// A line for each part, each fault, and what takes a restart.
fn say_outcome(outcome: Option<&Value>) {
    let Some(outcome) = outcome else { return };
    for part in ["config", "keys", "certificates"] {
        if let Some(word) = outcome.get(part).and_then(Value::as_str) {
            say(&format!("{part}: {word}"));
        }
    }
    let items = |name: &str| outcome.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for fault in items("faults") {
        let text = |name: &str| fault.get(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| fault.get(name).and_then(Value::as_u64).unwrap_or_default();
        let place = match number("line") {
            0 => String::new(),
            line => format!(":{line}:{}", number("column")),
        };
        let hint = Some(text("hint")).filter(|hint| !hint.is_empty());
        let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        say(&format!("{}{place}: {}{hint}", text("file"), text("message")));
    }
    for field in items("needs_restart") {
        say(&format!("{} takes a restart", field.as_str().unwrap_or_default()));
    }
}
