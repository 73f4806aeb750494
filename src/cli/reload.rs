//! `bearward reload`: makes a running bearward read its files again, and prints the outcome.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use http::Method;
use serde_json::Value;

use super::client;
use super::config_path::config_path;
use super::failure::Failure;
use super::terminal::{print, say};
use crate::config::{Address, Config};
use crate::reload::Part;

/// Maximum time to wait for the outcome of a reload. This time is long, because a store may have
/// many keys.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct Reload {
    /// The configuration, which names the admin listener and its token [default: $BEARWARD_CONFIG,
    /// ./bearward.yaml, /etc/bearward/config.yaml]
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The admin listener, if no configuration names it: HOST:PORT or unix:/PATH
    #[arg(long, value_name = "ADDRESS", requires = "token_file")]
    admin: Option<String>,
    /// The file with the admin token, or with a key that has the permission `admin` [default: the
    /// configuration's admin.token_file]
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print the outcome as JSON
    #[arg(long)]
    json: bool,
}

impl Reload {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (address, token_file) = self.whereabouts()?;
        let token = client::read_token(&token_file)?;
        let response = client::ask(&address, &Method::POST, "/api/v1/reload", Some(&token), PATIENCE)?;
        let (head, body) = response.into_parts();
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if self.json {
            print(&format!("{answer}\n"))?;
        }
        if head.status.is_success() && answer.pointer("/data/generation").is_some() {
            if !self.json {
                say_outcome(answer.get("data"));
            }
            return Ok(());
        }
        let error = answer.get("error");
        let details = error.and_then(|error| error.get("details"));
        if !self.json {
            say_outcome(details);
        }
        let message = error.and_then(|error| error.get("message")).and_then(Value::as_str);
        Err(Failure::Failed(message.unwrap_or("the answer is not from bearward").to_owned()))
    }

    fn whereabouts(&self) -> Result<(Address, PathBuf), Failure> {
        if let (Some(address), Some(token_file)) = (&self.admin, &self.token_file) {
            return Ok((client::address(address), token_file.clone()));
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

/// Prints a line for each part, for each fault, and for each changed field that needs a restart.
fn say_outcome(outcome: Option<&Value>) {
    let Some(outcome) = outcome else { return };
    for part in Part::ALL.map(Part::name) {
        if let Some(word) = outcome.get(part).and_then(Value::as_str) {
            say(&format!("{part}: {word}"));
        }
    }
    let items = |name: &str| outcome.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    for fault in items("faults") {
        let text = |name: &str| fault.get(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| fault.get(name).and_then(Value::as_u64).unwrap_or_default();
        let position = match number("line") {
            0 => String::new(),
            line => format!(":{line}:{}", number("column")),
        };
        let hint = Some(text("hint")).filter(|hint| !hint.is_empty());
        let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
        say(&format!("{}{position}: {}{hint}", text("file"), text("message")));
    }
    for field in items("needs_restart") {
        say(&format!("{} takes a restart", field.as_str().unwrap_or_default()));
    }
}
